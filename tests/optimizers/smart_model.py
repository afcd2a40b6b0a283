"""A small model with SMART, and batches for it."""

import torch

from models.bert import BertModel
from models.bert_config import BertConfig
from models.features import Features
from models.heads import HEADS
from models.multitask import MultitaskBert
from optimizers.smart import Smart
from options.task_table import built_in_tasks

TASKS = built_in_tasks()

SIZES = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 40}
LENGTHS = [7, 4, 9, 2, 6, 3]


def new_batch(vocab_size=200, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(1)
    shape = len(lengths), max(lengths)
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, vocab_size, shape, generator=generator) * mask
    types = torch.randint(2, shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def new_model(pair_encoding="cross", encoder=None, extension="none"):
    """A model in training mode with dropout 0.1, on a small random encoder unless one is given."""
    torch.manual_seed(0)
    if encoder is None:
        config = BertConfig(vocab_size=200, num_hidden_layers=2, initializer_range=0.2, **SIZES)
        encoder = BertModel(config)
    features = Features(encoder.config, extension=extension)
    size = features.num_features
    heads = {
        name: HEADS[task.heads[pair_encoding]](size, task.num_outputs, 0, 0.1)
        for name, task in TASKS.items()
    }
    return MultitaskBert(encoder, features, heads, pair_encoding).train()


def new_smart(model, weight=1.0, radius=1.0, mu=0.0, **options):
    return Smart(model, weight, radius, mu, **options)


def penalty_of(smart, task, batch, seed=3):
    torch.manual_seed(seed)
    return smart.penalty(task, batch, smart.logits(task, batch))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
