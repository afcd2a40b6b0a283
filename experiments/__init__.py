"""The results table: what is run for it, and how it is written."""

import runtime.startup  # noqa: F401  # first, for a Ctrl-C during the other imports
