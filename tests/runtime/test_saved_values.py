"""Values of a checkpoint: parts of one buffer are fine, and what grows when it is read is not."""

import pytest
import torch

from runtime.saved_values import MAX_DEPTH, check_kinds


def test_tensors_may_be_parts_of_one_buffer():
    """On a GPU, the weights of an LSTM are."""
    buffer = torch.zeros(10)
    check_kinds({"model": {"a": buffer[:4], "b": buffer[4:]}})


def test_tensors_may_not_hold_the_same_numbers():
    buffer = torch.zeros(10)
    with pytest.raises(ValueError, match="shares its numbers with another tensor"):
        check_kinds({"model": {"a": buffer[:6], "b": buffer[4:]}})


def test_values_are_not_nested_without_end():
    nested: list = []
    for _ in range(MAX_DEPTH + 2):
        nested = [nested]
    with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} times"):
        check_kinds(nested)
