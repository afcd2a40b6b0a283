"""models/lora.py: adapters computed by hand, what they train, and what of them is saved."""

import copy
import sys

import pytest
import torch
from torch import nn

from models import build_model
from models.bert import BertModel
from models.bert_config import BertConfig
from models.lora import digest_of, inject, merged
from options.run_options import get_pal_args_parser
from options.task_table import built_in_tasks
from runtime import checkpoint

TASKS = built_in_tasks()
RANK, ALPHA = 3, 6.0
SHARED = f"--lora_rank {RANK} --lora_alpha {ALPHA}"
OWN = f"{SHARED} --lora_per_task"


@pytest.fixture
def build(sizes):
    """build(flags): a model on an encoder with random weights, the same one each time."""

    def build(flags: str = "", dropout: float = 0.0, seed: int = 0):
        args = get_pal_args_parser().parse_args(flags.split())
        args.tasks, args.pal_size, args.hidden_dropout_prob = TASKS, 12, dropout
        dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        torch.manual_seed(seed)
        return build_model(args, BertModel(BertConfig(**sizes, initializer_range=0.2, **dropouts)))

    return build


def adapters_of(model) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


def randomize(model, std: float = 0.3) -> None:
    """Give the adapters weights as training does; B starts at zero."""
    torch.manual_seed(3)
    for p in adapters_of(model).values():
        nn.init.normal_(p, std=std)


def by_hand(plain, model, adapter: str):
    """The plain model with W + (α / R) B A in place of W."""
    plain = copy.deepcopy(plain)
    given = adapters_of(model)
    for name, p in plain.named_parameters():
        if name.endswith(("attention.query.weight", "attention.value.weight")):
            start = name.removesuffix("weight")
            A, B = (given[f"{start}lora_{part}.{adapter}.weight"].detach() for part in "AB")
            p.data += ALPHA / RANK * torch.einsum("or,ri->oi", B, A)
    return plain


@pytest.mark.parametrize("flags", [SHARED, OWN, f"{SHARED} --extension hierarchical"])
@pytest.mark.parametrize("use_amp", [False, True])
def test_step_0_equals_the_plain_model_to_the_last_bit(build, make_batch, flags, use_amp):
    plain, model = build(flags.removeprefix(OWN).removeprefix(SHARED)), build(flags)
    batch = make_batch([4, 9, 2], 400)
    if "hierarchical" in flags:
        batch = {name: tensor.view(3, 3, 3) for name, tensor in batch.items()}
    for task in TASKS.values():
        with torch.autocast("cpu", torch.bfloat16, use_amp):
            assert torch.equal(model(task, batch), plain(task, batch))


@pytest.mark.parametrize("flags", [SHARED, OWN])
def test_adapted_and_merged_equal_the_formula(build, make_batch, flags):
    plain, model = build(), build(flags)
    randomize(model)
    model.eval()
    batch = make_batch([4, 9, 2], 400)
    for task in TASKS.values():
        expected = by_hand(plain, model, task.name if flags == OWN else "shared").eval()
        logits = model(task, batch)
        assert (logits - expected(task, batch)).abs().max() <= 1e-5
        assert (logits - plain.eval()(task, batch)).abs().max() > 1e-2

        encoder = model.merged_encoder(task)
        assert encoder.state_dict().keys() == plain.encoder.state_dict().keys()
        assert not hasattr(encoder, "peft_config")
        for name, weight in expected.encoder.state_dict().items():
            torch.testing.assert_close(encoder.state_dict()[name], weight, atol=1e-6, rtol=0)
        plain.encoder, kept = encoder.eval(), plain.encoder
        assert (logits - plain(task, batch)).abs().max() <= 1e-5
        plain.encoder = kept
    assert torch.equal(model(task, batch), logits)  # merging has not changed the model itself


def test_merging_reaches_into_a_wrapper_and_copies_a_plain_encoder(build):
    model = build(f"{SHARED} --extension hierarchical")
    inner = merged(model.encoder, "sst").inner
    assert inner.state_dict().keys() == build().encoder.state_dict().keys()
    plain = build().encoder
    assert digest_of(merged(plain, "sst")).equal(digest_of(plain))


@pytest.mark.parametrize("flags, copies", [(SHARED, 1), (OWN, len(TASKS))])
def test_what_is_trained(build, sizes, flags, copies):
    """Four matrices of R · H numbers per layer: A and B of query and value."""
    model = build(flags)
    given = adapters_of(model)
    count = copies * sizes["num_hidden_layers"] * 4 * RANK * sizes["hidden_size"]
    assert sum(p.numel() for p in given.values()) == count
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {*given, *(n for n, _ in model.named_parameters() if n.startswith("heads"))}


def test_parameters_for_bert_base():
    """The paper counts 0.3 M for RoBERTa-base at rank 8."""
    with torch.device("meta"):
        layers = inject(BertModel(BertConfig()), 8, 8.0, ["shared"])
    sizes = [
        p.numel() for layer in layers for name, p in layer.named_parameters() if "lora" in name
    ]
    assert len(layers) == 24 and sum(sizes) == 294_912


@pytest.mark.parametrize("flags", [SHARED, OWN])
def test_a_loss_reaches_the_adapter_of_its_task_alone(build, make_batch, flags):
    model = build(flags)
    randomize(model)
    task = TASKS["para"]
    for other in TASKS.values():  # which has to change nothing about who trains what
        model(other, make_batch([4], 400))
    model(task, make_batch([4, 6], 400)).square().sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    own = model.task_parameters(task)
    shared = model.shared_parameters()
    names = {p: name for name, p in model.named_parameters()}
    assert reached == {names[p] for p in [*shared, *own]}
    adapters = {name for name in adapters_of(model) if flags == SHARED or ".para." in name}
    assert {name for name in reached if ".lora_" in name} == adapters
    assert len(shared) == (len(adapters) if flags == SHARED else 0)
    layers = [f"layer.{i}" for i in range(3)] if flags == SHARED else []
    assert list(model.parameter_groups()) == layers


def test_frozen_parts_are_in_eval_mode_and_adapted_layers_keep_their_dropout(build, make_batch):
    model = build(SHARED, dropout=0.5).train()
    assert not model.encoder.embeddings.training and not model.encoder.layer[0].output.training
    assert all(layer.dropout.training for layer in model.encoder.layer)
    batch = make_batch([4, 9], 400)
    assert torch.equal(model.embed(batch), model.embed(batch))
    states = (model.encoder(batch["input_ids"], batch["attention_mask"])[0] for _ in range(2))
    assert not torch.equal(*states)


# What is saved


@pytest.mark.parametrize("flags", [SHARED, f"{OWN} --additional_input --no_train_classifier"])
def test_a_checkpoint_holds_all_but_the_frozen_encoder_and_restores_it(build, flags):
    model, other = build(flags), build(flags)
    randomize(model)
    state = copy.deepcopy(model.state_dict())
    kept = {n for n, _ in model.named_parameters() if n.startswith("heads.") or ".lora_" in n}
    kept |= {n for n, _ in model.named_parameters() if "tag_embeddings" in n}
    assert state.keys() == kept | {"adapters._extra_state"}
    checkpoint.restore_weights(state, other)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_of_other_frozen_weights_is_refused(build, one_line):
    model, other = build(SHARED), build(SHARED, seed=1)
    message = one_line(checkpoint.restore_weights, model.state_dict(), other)
    assert "holds updates of other encoder weights than --model_name has now" in message


@pytest.mark.parametrize("digest", [None, torch.zeros(3), "text", torch.zeros(32)])
def test_a_damaged_digest_is_refused(build, one_line, digest):
    model = build(SHARED)
    state = model.state_dict() | {"adapters._extra_state": digest}
    message = one_line(checkpoint.restore_weights, state, model)
    assert "'adapters._extra_state'" in message


def test_the_digest_sees_every_weight_but_the_pooler(build):
    encoder = build().encoder
    known = digest_of(encoder)
    for name, p in encoder.named_parameters():
        kept = p.detach().clone()
        with torch.no_grad():
            p.view(-1)[-1] += 1e-3
        assert digest_of(encoder).equal(known) == name.startswith("pooler."), name
        with torch.no_grad():
            p.copy_(kept)
    assert digest_of(encoder).equal(known)


def test_a_missing_package_is_named(build, monkeypatch, one_line):
    monkeypatch.setitem(sys.modules, "peft", None)
    message = one_line(build, SHARED)
    assert message.startswith("--lora_rank: ") and "requirements-extras.txt" in message
