"""models/multitask.py and `build_model`: from a batch to logits, and which options do what."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import train_multitask
from inputs.batches import PAIR_ENCODINGS
from models import POOLINGS, build_model
from models.attention import Dropout
from models.bert import BertModel
from models.bert_config import BertConfig
from models.heads import HEADS
from options.task_table import built_in_tasks

TASKS = built_in_tasks()


@pytest.fixture
def build(parse, sizes):
    """Build a model from command line flags, on a small random encoder."""

    def build_from_flags(*flags):
        args = parse(*flags)
        torch.manual_seed(0)
        return build_model(args, BertModel(BertConfig(**sizes, initializer_range=0.2)))

    return build_from_flags


def select(batch, rows):
    return {name: tensor[rows] for name, tensor in batch.items()}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_logits_depend_on_no_batch_mate(build, task, pair_encoding, pooling, make_batch):
    """Logits [B, C] are float32 and equal, to 1e-5, those of each example alone, unpadded."""
    model = build("--pair_encoding", pair_encoding, "--pooling", pooling).eval()
    lengths = [5, 11, 2, 7, 3, 9]
    batch = make_batch(lengths, 400)
    is_two_rows = task.is_pair and pair_encoding == "bi"
    examples = [[0, 3], [1, 4], [2, 5]] if is_two_rows else [[row] for row in range(6)]
    logits = model(task, batch)
    assert logits.shape == (len(examples), task.num_outputs) and logits.dtype == torch.float32
    for i, rows in enumerate(examples):
        alone = select(batch, rows)
        longest = max(lengths[row] for row in rows)
        alone = {name: tensor[:, :longest] for name, tensor in alone.items()}
        assert (model(task, alone)[0] - logits[i]).abs().max() <= 1e-5


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.is_pair], ids=lambda t: t.name)
def test_bi_pairs_are_the_first_and_the_second_half_of_the_batch(build, task, make_batch):
    model = build("--pair_encoding", "bi").eval()
    batch = make_batch([4, 6, 5, 3], 400)
    x = model.features(*model.features.states(model.encoder(**batch)))
    assert torch.equal(model(task, batch), model.heads[task.name](x[[0, 1]], x[[2, 3]]))


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
def test_every_task_has_the_head_it_names_and_shares_the_rest(build, pair_encoding):
    model = build("--pair_encoding", pair_encoding)
    assert list(model.heads) == list(TASKS)
    for name, task in TASKS.items():
        assert type(model.heads[name]) is HEADS[task.heads[pair_encoding]]
    assert len({id(head) for head in model.heads.values()}) == len(TASKS)


def test_a_run_on_one_task_has_one_head(build):
    assert list(build("--task", "sts").heads) == ["sts"]


def test_token_types_and_mask_reach_the_encoder(build, make_batch):
    model, batch, task = build().eval(), make_batch([6, 4], 400), TASKS["para"]
    logits = model(task, batch)
    for name, other in (("token_type_ids", 1 - batch["token_type_ids"]), ("attention_mask", None)):
        other = batch[name].roll(1, 0) if other is None else other
        assert not torch.allclose(model(task, batch | {name: other}), logits, atol=1e-4)


def test_embeddings_replace_the_token_ids(build, make_batch):
    model, batch, task = build().eval(), make_batch([6, 4], 400), TASKS["sst"]
    embeddings = model.encoder.embed(**batch)
    logits = model(task, batch | {"input_ids": None}, embeddings=embeddings)
    assert torch.equal(logits, model(task, batch))


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_logits_are_float32_under_autocast(build, make_batch, task, pair_encoding):
    model, batch = build("--pair_encoding", pair_encoding).eval(), make_batch([6, 4], 400)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(task, batch).dtype == torch.float32


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_trains_the_encoder_and_its_own_head(build, task, pair_encoding, make_batch):
    model = build("--pair_encoding", pair_encoding)
    model(task, make_batch([6, 4, 3, 5], 400)).square().sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    heads = {name.split(".")[1] for name in reached if name.startswith("heads.")}
    assert heads == ({task.name} if list(model.heads[task.name].parameters()) else set())
    encoder = {name for name, _ in model.named_parameters() if name.startswith("encoder.")}
    assert encoder - reached == {"encoder.pooler.weight", "encoder.pooler.bias"}


# What is frozen


def trained(model):
    return {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "flags, parts",
    [
        ([], ["encoder", "heads"]),
        (["--option", "pretrain"], ["heads"]),
        (["--no_train_classifier"], ["encoder"]),
    ],
    ids=str,
)
def test_options_freeze(build, flags, parts):
    assert sorted(trained(build(*flags))) == parts


@pytest.mark.parametrize(
    "flags, frozen",
    [(["--option", "pretrain"], "encoder"), (["--no_train_classifier"], "heads")],
    ids=str,
)
def test_what_is_frozen_runs_in_eval_mode(build, flags, frozen):
    model = build(*flags, "--hidden_dropout_prob", 0.5).train()
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            assert module.training == (not name.startswith(frozen)), name
    model.eval()
    assert not any(module.training for module in model.modules())


def test_a_frozen_encoder_gives_the_same_states_every_time(build, make_batch):
    model, batch = build("--option", "pretrain").train(), make_batch([6, 4], 400)
    first, second = (model.encoder(**batch).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)


def test_a_layer_frozen_alone_runs_in_eval_mode(build):
    model = build()
    model.encoder.layer[0].requires_grad_(False)
    model.train()
    assert not model.encoder.layer[0].dropout.training
    assert model.encoder.layer[1].dropout.training


# Options that reach their modules


def linear_layers(head):
    return sum(isinstance(module, nn.Linear) for module in head.modules())


def test_hidden_layers_and_added_layers(build):
    """--n_hidden_layers concerns every head, --add_layers only tasks that take added layers."""
    plain = build()
    model = build("--n_hidden_layers", 2, "--add_layers", 3)
    for name, task in TASKS.items():
        added = linear_layers(model.heads[name]) - linear_layers(plain.heads[name])
        assert added == (5 if task.takes_added_layers else 2)


def test_pooling_follows_its_option(build, make_batch):
    model, batch = build("--pooling", "cls").eval(), make_batch([6, 4], 400)
    expected = model.heads["sst"](model.encoder(**batch).last_hidden_state[:, 0])
    assert torch.equal(model(TASKS["sst"], batch), expected)


def test_hidden_dropout_prob_reaches_every_dropout(parse, monkeypatch):
    """Check embeddings, attention, layers and heads of the model that a run builds."""
    args = parse("--hidden_dropout_prob", 0.37, "--n_hidden_layers", 1, "--pair_encoding", "bi")

    class Built(Exception):
        pass

    def stop(args, encoder):
        raise Built(build_model(args, encoder))

    monkeypatch.setattr("train_multitask.build_model", stop)
    with pytest.raises(Built) as caught:
        train_multitask.main(args)
    model = caught.value.args[0]
    dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
    assert [module.p for module in dropouts] == [0.37] * len(dropouts)
    num_heads = sum(bool(list(head.parameters())) for head in model.heads.values())
    assert len(dropouts) == 1 + 3 * len(model.encoder.layer) + 2 * num_heads


def test_cosine_logits_are_five_times_the_cosine_of_the_sentences(build, make_batch):
    model = build("--pair_encoding", "bi").eval()
    batch = make_batch([4, 6, 5, 3], 400)
    x = model.features(*model.features.states(model.encoder(**batch)))
    expected = 5 * F.cosine_similarity(x[:2], x[2:])
    torch.testing.assert_close(model(TASKS["sts"], batch)[:, 0], expected)
