"""Fixtures of the runner's and the report's tests."""

from result_folder import folder  # noqa: F401
from small_rows import invoke, one_thread, place  # noqa: F401
