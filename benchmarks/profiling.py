"""Where the time of a part of a benchmark goes, by group of operations."""

from collections.abc import Callable

import torch

OPERATIONS = {  # group of --profile -> the operations that it sums up
    "matrix products of the layers": ("aten::mm", "aten::addmm"),
    "attention products": ("aten::bmm", "aten::baddbmm"),
    "dropout masks": ("aten::random_", "aten::ge"),
    "gelu": ("aten::gelu", "aten::gelu_backward"),
    "softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
    "layer norm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "optimizer and clipping": ("aten::_fused_adamw_", "aten::linalg_vector_norm"),
    "copies and casts": ("aten::copy_",),
    "fresh zeros": ("aten::fill_", "aten::zero_"),
    "embedding gradient": ("aten::embedding_dense_backward",),
}


def print_profile(what: str, run: Callable[[], object]) -> None:
    """Print where the time of a call goes. `what` names the call."""
    with torch.profiler.profile() as profile:
        run()
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    total = rest = sum(times.values())
    print(f"\nprofile of {what}")
    for group, names in OPERATIONS.items():
        share = sum(times.get(name, 0.0) for name in names)
        rest -= share
        print(f"  {group:<32}{share / total:>7.1%}")
    print(f"  {'everything else':<32}{rest / total:>7.1%}")
