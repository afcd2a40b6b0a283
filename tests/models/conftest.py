"""Tests of the models run on one thread."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On tensors this small a second thread only waits, seconds where the cores are busy."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
