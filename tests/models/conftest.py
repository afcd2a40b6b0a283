"""A small encoder's sizes, random token ids for it, and how a user's mistake must read."""

import pytest
import torch

from errors import InputError


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On tensors this small a second thread only waits, seconds where the cores are busy."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def sizes():
    """Arguments of our BertConfig and of transformers' ones."""
    return {
        "vocab_size": 400,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
    }


@pytest.fixture(scope="session")
def make_batch():
    """make_batch(lengths, vocab_size, ...) -> random ids and types of these lengths, padded."""

    def make(lengths, vocab_size, pad_token_id=0, num_types=2):
        generator = torch.Generator().manual_seed(1)
        shape = len(lengths), max(lengths)
        mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
        ids = torch.randint(5, vocab_size, shape, generator=generator)
        return {
            "input_ids": torch.where(mask == 1, ids, pad_token_id),
            "attention_mask": mask,
            "token_type_ids": torch.randint(num_types, shape, generator=generator) * mask,
        }

    return make


@pytest.fixture(scope="session")
def one_line():
    """one_line(call, *arguments) -> the message of the InputError that it raises: one line."""

    def message_of(call, *arguments):
        with pytest.raises(InputError) as caught:
            call(*arguments)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return message_of
