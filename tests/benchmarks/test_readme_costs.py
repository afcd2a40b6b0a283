"""The README's times and memories are those of the committed file of costs."""

from pathlib import Path

import pytest

from benchmarks.cost_file import read_costs

ROOT = Path(__file__).resolve().parents[2]
COSTS = ROOT / "experiments" / "results" / "costs.json"
AGGREGATORS = ("mgda", "imtl_g", "aligned_mtl", "upgrad", "dualproj", "cagrad", "nash_mtl")
AGGREGATORS += ("fairgrad", "pcd", "krum")
FEATURES = ("attention", "bilstm", "cnn")
# What the cell of flags starts with -> arms. A tuple in it is one figure, the range of its arms.
ARMS: dict[str, list[str | tuple[str, ...]]] = {
    "`--projection pcgrad`": ["pcgrad"],
    "`--projection vaccine`": ["vaccine"],
    "`--log_conflicts": ["conflict log"],
    "`--projection cagrad`": [AGGREGATORS],
    "`--loss_weighting": [("uncertainty", "dwa", "rlw", "imtl_l"), "gradnorm", "famo"],
    "`--task_scheduler pal`": ["pal scheduler", "temperature"],
    "`--use_smart": ["smart", "rdrop"],
    "`--average_weights": ["average of weights", "layer decay"],
    "`--use_pal`": ["pal"],
    "`--lora_rank 8`": ["lora", "lora per task"],
    "`--optimizer sophiah`": ["sophiah"],
    "`--extension attention`": [*FEATURES],
    "`--extension hierarchical`": ["hierarchical", "combined"],
    "`--additional_input`": ["pos ner"],
    "`--option pretrain`": ["frozen"],
    "`--gradient_checkpointing`": ["gradient checkpointing"],
}


def shown(figures: list[float], form: str) -> str:
    ends = dict.fromkeys(f"{end:{form}}".replace("-", "−") for end in (min(figures), max(figures)))
    return " to ".join(ends)


@pytest.mark.parametrize("flags", ARMS)
def test_the_readme_quotes_the_file_of_costs(flags):
    costs = read_costs(COSTS)
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith("| ") and f"| {flags}" in line]
    groups = [[arms] if isinstance(arms, str) else arms for arms in ARMS[flags]]
    found = [[costs.arms[name] for name in group] for group in groups]
    times = "; ".join(shown([cost.time for cost in group], ".2f") for group in found)
    memories = "; ".join(shown([cost.memory for cost in group], "+z.1f") for group in found)
    assert [cell.strip() for cell in line.strip("|").split(" | ")][-2:] == [times, memories]
