"""SMART on an encoder: masks, random states, gradients, proximal term, saved state."""

import copy
from argparse import Namespace

import pytest
import torch
from smart_model import gradients, new_batch, new_model, new_smart, penalty_of

from inputs.batches import PAIR_ENCODINGS
from models.pretrained import load_pretrained
from optimizers import build_regularizer
from options.task_table import built_in_tasks
from runtime import checkpoint

TASKS = built_in_tasks()

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
every_pairing = pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)


# The encoder: masks, states, gradients


@every_task
@every_pairing
def test_penalty_changes_the_gradient(task, pair_encoding):
    batch, found = new_batch(), []
    for weight in (0.0, 1.0, None):
        model = new_model(pair_encoding)
        smart = new_smart(model, weight or 0.0, radius=0.1)
        torch.manual_seed(3)
        logits = model(task, batch) if weight is None else smart.logits(task, batch)
        penalty = 0.0 if weight is None else smart.penalty(task, batch, logits)
        (logits.square().mean() + penalty).backward()
        found.append(gradients(model))
    without, with_penalty, plain = found
    assert penalty_of(smart, task, batch) == 0
    assert without.keys() == with_penalty.keys() == plain.keys()
    for name, gradient in plain.items():
        assert torch.equal(without[name], gradient), name
        assert with_penalty[name].isfinite().all()
    changed = [name for name in plain if not torch.allclose(with_penalty[name], plain[name])]
    assert "encoder.embeddings.word_embeddings.weight" in changed
    assert "encoder.layer.1.output.weight" in changed


@every_task
@every_pairing
@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_all_passes_share_their_dropout_masks(task, pair_encoding, mu):
    """While neither input nor weights move, all passes in training mode are bit-equal."""
    model, batch = new_model(pair_encoding), new_batch()
    assert penalty_of(new_smart(model, radius=0.0, mu=mu), task, batch) == 0
    first, second = model(task, batch), model(task, batch)
    assert not torch.equal(first, second)
    assert penalty_of(new_smart(model, radius=0.1), task, batch) > 0


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_random_state_is_that_of_a_plain_step(mu):
    model, batch, task = new_model(), new_batch(), TASKS["para"]
    torch.manual_seed(3)
    logits = model(task, batch)
    state = torch.get_rng_state()
    smart = new_smart(model, mu=mu)
    torch.manual_seed(3)
    assert torch.equal(smart.logits(task, batch), logits)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)  # numbers that the caller draws in between are not drawn again
    state = torch.get_rng_state()
    smart.penalty(task, batch, logits)
    assert torch.equal(torch.get_rng_state(), state)


def test_penalty_computes_no_gradient_of_a_weight():
    model, batch, task = new_model(), new_batch(), TASKS["sts"]
    touched = []
    for p in model.parameters():
        p.register_hook(lambda gradient: touched.append(gradient))
    penalty = penalty_of(new_smart(model, mu=1.0), task, batch)
    assert not touched and not gradients(model)
    penalty.backward()
    assert touched


@pytest.mark.parametrize("mu, num_embeds, num_passes", [(0.0, 1, 3), (1.0, 2, 4)])
def test_costs_an_ascent_a_second_output_and_no_more(mu, num_embeds, num_passes):
    model, calls = new_model(), []
    model.encoder.embeddings.register_forward_hook(lambda *_: calls.append("embed"))
    model.encoder.layer[0].register_forward_hook(lambda *_: calls.append("pass"))
    penalty_of(new_smart(model, mu=mu), TASKS["para"], new_batch())
    assert (calls.count("embed"), calls.count("pass")) == (num_embeds, num_passes)


@every_task
@every_pairing
def test_every_real_token_moves_by_the_radius_and_padding_stays(task, pair_encoding):
    model, batch = new_model(pair_encoding), new_batch()
    smart = new_smart(model, radius=0.25)
    delta = smart.perturbation(task, batch, smart.logits(task, batch))
    assert delta.dtype == torch.float32 and not delta.requires_grad
    largest = delta.abs().amax(-1)  # [B, L]
    torch.testing.assert_close(largest, 0.25 * batch["attention_mask"].float())
    assert (largest[batch["attention_mask"] == 0] == 0).all()


@pytest.fixture(scope="module")
def minilm():
    return load_pretrained("minilm-l6")


@every_task
@every_pairing
def test_delta_points_along_the_gradient_of_a_real_encoder(minilm, task, pair_encoding):
    """Each token is compared with the gradient at x + ν in float64, its sign included."""
    model, batch = new_model(pair_encoding, minilm), new_batch(20_000)
    torch.manual_seed(3)
    smart = new_smart(model)
    logits = smart.logits(task, batch)
    torch.manual_seed(3)
    x = model.encoder.embed(**batch).detach().double()
    state = torch.get_rng_state()
    exact = copy.deepcopy(model).double()
    outputs = []
    smart.num_rows = 0
    noise = smart.draw_noise(x, batch, len(logits)) * batch["attention_mask"][..., None]
    start = (x + noise).requires_grad_()
    for embeddings in (x, start):
        torch.set_rng_state(state)
        states = exact.encoder(**batch, embeddings=embeddings)
        features = exact.features(*exact.features.states(states))
        is_bi = task.is_pair and pair_encoding == "bi"
        outputs.append(exact.heads[task.name](*(features.chunk(2) if is_bi else [features])))
    divergence = task.divergence(outputs[0].detach(), outputs[1]).sum()
    [gradient] = torch.autograd.grad(divergence, start)
    smart.num_rows = 0
    delta = smart.perturbation(task, batch, logits)
    real = batch["attention_mask"].bool()
    directions = gradient[real] / gradient[real].abs().amax(-1, keepdim=True)
    cosines = torch.cosine_similarity(delta[real].double(), directions)
    assert cosines.min() > 0.99, cosines


# The proximal term


def move(model, step=0.01):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(step)


@every_task
def test_proximal_term_is_mu_times_the_divergence_from_the_average(task):
    model, batch = new_model(), new_batch()
    smart = new_smart(model, weight=0.0, mu=0.5)
    torch.manual_seed(3)
    previous = model(task, batch).detach()
    move(model)
    penalty = penalty_of(smart, task, batch)
    torch.manual_seed(3)
    logits = model(task, batch)
    expected = 0.5 * task.divergence(logits, previous).mean()
    assert penalty > 0 and torch.equal(penalty, expected)
    penalty.backward()
    found = gradients(model)
    model.zero_grad()
    expected.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient)
    assert not any(average.requires_grad for average in smart.average.values())


def test_average_follows_the_weights_slower_after_a_tenth():
    model = new_model()
    smart = new_smart(model, mu=1.0)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert smart.average.keys() == start.keys()
    share = 0.0
    for progress, rate in ((0.05, 0.01), (0.0999, 0.01), (0.1, 0.001), (1.0, 0.001)):
        move(model)
        smart.after_step(progress)
        moved = model.heads["sst"].output.bias[0] - start["heads.sst.output.bias"][0]
        share += rate * (moved - share)
        for name, average in smart.average.items():
            assert average.dtype == torch.float32
            found = average - start[name]
            torch.testing.assert_close(found, share.expand_as(found), atol=3e-7, rtol=0)


def test_without_mu_there_is_no_average():
    smart = new_smart(new_model())
    smart.after_step(0.5)
    assert smart.average == smart.state_dict()["average"] == {}


# Noise


def rows_of(batch, rows):
    """A batch of some rows, without columns that hold only padding."""
    chosen = {key: tensor[rows] for key, tensor in batch.items()}
    length = int(chosen["attention_mask"].sum(1).max())
    return {key: tensor[:, :length] for key, tensor in chosen.items()}


@every_pairing
def test_micro_batches_and_workers_draw_the_noise_of_the_whole_batch(pair_encoding):
    """Here a pair's first sentences are rows 0 to 2, and its second ones rows 3 to 5."""
    batch, task = new_batch(), TASKS["para"]
    is_bi = pair_encoding == "bi"
    num_rows = 3 if is_bi else 6
    whole = new_smart(new_model(pair_encoding))

    def noise_of(smart, rows, is_own=None):
        rows = rows + [row + 3 for row in rows] if is_bi else rows
        part = rows_of(batch, rows) | ({} if is_own is None else {"is_own": is_own})
        logits = smart.logits(task, part)
        noise = smart.draw_noise(smart.x, part, len(logits))
        return {row: noise[place] for place, row in enumerate(rows)}

    expected = noise_of(whole, list(range(num_rows)))
    assert len({tuple(noise.flatten().tolist()) for noise in expected.values()}) == 6
    micro = new_smart(new_model(pair_encoding))
    parts = [noise_of(micro, [0, 1])]
    parts += [noise_of(micro, list(range(2, num_rows)))]
    for rank in range(2):
        is_own = torch.arange(num_rows) % 2 == rank
        worker = new_smart(new_model(pair_encoding))
        parts += [noise_of(worker, is_own.nonzero().flatten().tolist(), is_own)]
        assert worker.num_rows == num_rows
    assert micro.num_rows == whole.num_rows == num_rows
    for part in parts:
        for row, noise in part.items():
            assert torch.equal(noise, expected[row][: len(noise)])
    again = noise_of(whole, list(range(num_rows)))
    assert not torch.equal(again[0], expected[0])


# State


def test_saved_state_gives_the_next_penalty_bit_for_bit(tmp_path):
    model, batch, task = new_model(), new_batch(), TASKS["para"]
    smart = new_smart(model, mu=1.0)
    penalty_of(smart, task, batch)
    move(model)
    smart.after_step(0.0)
    state = {"smart": smart.state_dict(), "model": model.state_dict()}
    checkpoint.save(tmp_path / "last.pt", state)
    penalty = penalty_of(smart, task, batch)
    assert state["smart"]["num_rows"] == 6
    state = checkpoint.load(tmp_path / "last.pt")
    model = new_model()
    resumed = new_smart(model, mu=1.0, seed=0)
    model.load_state_dict(state["model"])
    resumed.load_state_dict(state["smart"])
    assert torch.equal(penalty_of(resumed, task, batch), penalty)


@pytest.mark.parametrize("name", ["weight", "radius", "mu", "noise_std", "step_size"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=-1"):
        new_smart(new_model(), **{name: -1.0})


def test_no_noise_is_refused():
    with pytest.raises(ValueError, match="noise_std > 0"):
        new_smart(new_model(), noise_std=0.0)


def test_penalty_of_another_batch_is_refused():
    smart, task = new_smart(new_model()), TASKS["sst"]
    logits = smart.logits(task, new_batch())
    with pytest.raises(AssertionError, match="of another batch"):
        smart.penalty(task, new_batch(lengths=[3] * 6), logits)


def test_the_options_seed_reaches_the_noise():
    names = "use_smart_regularization smart_weight_regularization smart_radius smart_mu seed"
    args = Namespace(**dict(zip(names.split(), (True, 1.0, 0.1, 0.0, 7))), rdrop_weight=0.0)
    assert build_regularizer(args, new_model()).seed == 7
