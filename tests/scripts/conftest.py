"""Bare machines for the tests of the shell scripts."""

import pytest
from bare_machine import BareMachine


@pytest.fixture
def bare(tmp_path):
    """A machine without any Python."""
    return BareMachine(tmp_path)


@pytest.fixture
def machine(bare):
    """A machine with one good python3."""
    bare.add_python("python3")
    return bare
