"""--gradient_checkpointing: the same gradients to the last bit, and fewer tensors kept for them."""

import pytest
import torch

from models import build_model
from models.bert import BertModel
from models.bert_config import BertConfig
from optimizers.smart import Smart
from options.run_options import get_pal_args_parser
from options.task_table import built_in_tasks
from runtime import checkpoint

TASKS = built_in_tasks()


@pytest.fixture
def pair(sizes):
    """pair(flags): a model in training mode, without and with recomputed layers."""

    def build(flags: str):
        args = get_pal_args_parser().parse_args(flags.split())
        args.tasks, args.pal_size, args.lora_alpha = TASKS, 12, 8.0
        torch.manual_seed(0)
        return build_model(args, BertModel(BertConfig(**sizes))).train()

    return lambda flags: (build(flags), build(f"{flags} --gradient_checkpointing"))


def run(model, batch, task, use_amp: bool = False, smart: bool = False) -> dict:
    """Gradients of a loss with dropout, the bytes kept for them, and the numbers drawn after it."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    regularizer = Smart(model, 1.0, 0.1, 1.0) if smart else None
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, use_amp):
            logits = (regularizer.logits if regularizer else model)(task, batch)
            loss = task.loss(logits, torch.arange(len(logits)) % 2)
            if regularizer:
                loss = loss + regularizer.penalty(task, batch, logits)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"gradients": gradients, "bytes": sum(kept.values()), "next": torch.rand(3)}


@pytest.mark.parametrize(
    "flags, options",
    [
        ("", {}),
        ("", {"use_amp": True}),
        ("", {"smart": True}),
        ("--use_pal", {}),
        ("--train_mode single_layers --layers 1 3", {}),
        ("--combined_models", {}),
        ("--lora_rank 3 --lora_per_task", {"smart": True}),
    ],
)
def test_gradients_stay_the_same_to_the_last_bit(pair, make_batch, flags, options):
    batch = make_batch([9, 14, 5, 3], 400)
    plain, lean = (run(model, batch, TASKS["para"], **options) for model in pair(flags))
    assert plain["gradients"].keys() == lean["gradients"].keys()
    for name, gradient in plain["gradients"].items():
        assert torch.equal(gradient, lean["gradients"][name]), name
    assert torch.equal(plain["next"], lean["next"])


def test_less_is_kept_for_the_backward_pass(pair, make_batch):
    batch = make_batch([30] * 32, 400)
    plain, lean = (run(model, batch, TASKS["sst"])["bytes"] for model in pair(""))
    assert lean < 0.4 * plain


def test_second_derivatives_stay_the_same(pair, make_batch):
    products = []
    for model in pair(""):
        torch.manual_seed(2)
        loss = model(TASKS["sst"], make_batch([9, 4], 400)).square().sum()
        shared = model.shared_parameters()
        first = torch.autograd.grad(loss, shared, create_graph=True)
        total = sum(gradient.square().sum() for gradient in first)
        products.append(torch.autograd.grad(total, shared))
    for one, other in zip(*products, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_an_estimate_of_the_hessian_stays_the_same(train, tiny_checkpoint):
    """Without dropout, attention is fused. That kernel has no second derivative in either pass."""
    flags = f"--model_name {tiny_checkpoint('electra')} --optimizer sophiah --hess_interval 1"
    flags += " --hidden_dropout_prob 0 --num_batches_per_epoch 2 --batch_size 4 --epochs 1"
    flags += " --dev_samples 8 --no_tensorboard --no_test_predictions"
    plain, lean = (
        checkpoint.load(train(*flags.split(), *more) / "checkpoints" / "last.pt")["model"]
        for more in ([], ["--gradient_checkpointing"])
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(lean[name], tensor, rtol=1e-6, atol=1e-9)


def test_an_evaluation_recomputes_nothing(pair, make_batch, monkeypatch):
    _, lean = pair("")
    monkeypatch.setattr("models.bert.checkpoint", None)
    batch = make_batch([9, 4], 400)
    with torch.no_grad():
        lean(TASKS["sst"], batch)
    with pytest.raises(TypeError):
        lean(TASKS["sst"], batch)
