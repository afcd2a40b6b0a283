"""What the results say in words: findings, rows at the majority class, too few seeds, and more."""

import json
from itertools import combinations

import numpy as np

from benchmarks.cost_file import Costs
from experiments.comparison import MEAN, SEVERAL, Method, differences, more_examples
from experiments.result_files import is_score, revisions_of
from experiments.row_files import BASELINE, MIN_SEEDS
from experiments.tables import difference_text, number
from options.task_table import built_in_tasks
from tasks.metrics import accuracy, pearson

NEAR = 0.01  # of the majority class
SEARCH_SEED = 11  # of the runs that learning rates were chosen by


def findings(methods: dict[str, Method]) -> str:
    """Return one line per finding, as Markdown: of the mean and of every task."""
    parts, num_compared, num_found = [], 0, 0
    texts = {name: others_text(methods, name) for name in methods}
    others = {name: f"; differs in: {text}" if text else "" for name, text in texts.items()}
    for name in (MEAN, *built_in_tasks()):
        of_task = differences(methods, name)
        num_compared += sum(found.num_runs >= MIN_SEEDS for found in of_task.values())
        lines = [
            f"- `{row}` − `{methods[row].control}`: {difference_text(found)}, "
            f"{len(found.by_seed)} seeds{others[row]}"
            for row, found in of_task.items()
            if found.is_finding
        ]
        num_found += len(lines)
        parts.append("\n\n".join([f"**{name}**", "\n".join(lines) or "None yet."]))
    head = (
        "A finding is a difference to the control whose 95 % interval excludes 0 and whose sign is "
        f"that of every one of at least {MIN_SEEDS} seeds. Nothing else is called one. An average "
        "of several runs is one model, whatever their number, so its difference is none. "
        f"{num_compared} differences have so many seeds, {num_found} of them are findings. The "
        "intervals are not corrected for their number, and they exclude the chance of the seed, "
        f"for which the signs stand: {MIN_SEEDS} seeds agree in sign by chance in 1 of "
        f"{2 ** (MIN_SEEDS - 1)} cases."
    )
    return "\n\n".join([head, *parts]) if num_found else f"{head}\n\nNone yet."


def others_text(methods: dict[str, Method], name: str) -> str:
    """Return in what a method differs from its control, if in more than one thing."""
    method = methods[name]
    budget = more_examples(method, methods.get(method.control))
    return ", ".join(filter(None, [method.row.differs_in, budget]))


def several_differences(methods: dict[str, Method]) -> str:
    """Return which methods differ from their controls in more than one thing; empty if none do."""
    texts = [
        f"`{name}` ({others_text(methods, name)})"
        for name, method in methods.items()
        if method.row.differs_in and method.control in methods
    ]
    if not texts:
        return ""
    return (
        f"{SEVERAL} marks the control of a row that differs from it in more than one thing, so the "
        f"difference is not that of one technique: {', '.join(texts)}."
    )


def longer_rows(methods: dict[str, Method], costs: Costs) -> str:
    """Return which methods with a time train on more or fewer examples than the plain sum."""
    groups: dict[str, list[str]] = {}
    for name, method in methods.items():
        budget = more_examples(method, methods.get(BASELINE))
        if budget and costs.find(method.row.cost) is not None:
            groups.setdefault(budget, []).append(f"`{name}`")
    texts = [f"{', '.join(names)} ({budget})" for budget, names in groups.items()]
    return (
        f"To compare whole trainings, multiply the time of these rows: {'; '.join(texts)}."
        if texts
        else ""
    )


def at_majority(methods: dict[str, Method], majority: dict[str, float]) -> str:
    """Return the runs that beat the best constant prediction of some task by at most `NEAR`.

    Args:
        methods: the methods by name.
        majority: the score of that prediction by task, as far as known.
    """
    lines = []
    for method in methods.values():
        near = []
        for name, share in majority.items():
            scores = np.nan_to_num(method.values(name))  # nan counts as 0, as in the mean
            labels = [f"seed {seed}" for seed in method.seeds(name)]
            low = [
                f"{number(score)} ({label})"
                for score, label in zip(scores, ["average"] if method.is_average else labels)
                if score <= share + NEAR
            ]
            if low:
                near.append(f"{name} {', '.join(low)}")
        reason = method.row.at_majority or "not explained yet"
        if near:
            lines.append(f"- `{method.name}`: {', '.join(near)}: {reason}")
    known = ", ".join(f"{name} {number(score)}" for name, score in majority.items())
    unknown = [name for name in built_in_tasks() if name not in majority]
    text = f"The best constant prediction, chosen on dev itself, scores: {known}."
    if unknown:
        text += f" Not known of {', '.join(unknown)}: the labels' file is of an older version."
    if not lines:
        return f"{text} Every run is better by more than {number(NEAR)}."
    return "\n".join([f"{text} Runs that are not better by more than {number(NEAR)}:\n", *lines])


def agreements(methods: dict[str, Method]) -> str:
    """Return how much the members of averages agree, as Markdown; empty without averages."""
    seeds: dict[str, set[int]] = {}  # of the averages of each method
    for method in methods.values():
        if method.row.average_of in methods:  # a row that is only part of a method is not
            seeds.setdefault(method.row.average_of, set()).update(method.runs)
    lines = [
        f"| `{name}` | {' | '.join(map(number, agreement(methods[name], sorted(chosen))))} |"
        for name, chosen in seeds.items()
        if chosen
    ]
    if not lines:
        return ""
    tasks = built_in_tasks()
    head = (
        "An average corrects only errors that its members do not share. The table shows how much "
        "two members of an ensemble or a soup agree, as the mean over all pairs. For classes it is "
        "the share of the dev examples on which both are right or both wrong, even if they name "
        "different wrong classes. For scores it is the correlation of the two predictions."
    )
    header = [f"| runs of | {' | '.join(tasks)} |", f"| --- |{' --- |' * len(tasks)}"]
    return "\n".join([head, "", *header, *lines])


def agreement(method: Method, seeds: list[int]) -> list[float]:
    """Return of each task how much two runs of a method agree, as the mean over pairs of seeds.

    The correlation with a constant prediction counts as 0.
    """
    result = []
    for name, task in built_in_tasks().items():
        runs = [method.runs[seed].predictions[name] for seed in seeds]
        metric = pearson if is_score(task) else accuracy
        values = [metric(one, two) for one, two in combinations(runs, 2)]
        result.append(float(np.mean(np.nan_to_num(values))))
    return result


def too_few_seeds(methods: dict[str, Method]) -> str:
    """Return a list of the methods with fewer complete seeds than the protocol asks for."""
    few: dict[tuple[int, int], list[str]] = {}
    for method in methods.values():
        complete, wanted = len(method.seeds(MEAN)), method.row.num_seeds
        if complete < wanted:
            few.setdefault((complete, wanted), []).append(f"`{method.name}`")
    if not few:
        return "Every row here has the seeds that the protocol asks for."
    lines = [
        f"- {complete} of {wanted}: {', '.join(names)}"
        for (complete, wanted), names in sorted(few.items())
    ]
    return "\n".join(["Fewer seeds than the protocol asks for:\n", *lines])


def searched_rates(results: list[dict]) -> str:
    """Return the means on dev by which learning rates were chosen, a line for each row.

    Args:
        results: of all settings, also of rows that have other flags by now.
    """
    groups: dict[str, list[dict]] = {}  # what differs in more than the rate is not compared
    for result in results:
        if result["seed"] == SEARCH_SEED and result["settings"]["lr"] is not None:
            settings = result["settings"] | {"lr": None, "data": result["data"]}
            groups.setdefault(json.dumps(settings, sort_keys=True), []).append(result)
    if not groups:
        return "No learning rates were searched yet."
    searched = max(groups.values(), key=len)
    rates: dict[str, dict[float, float]] = {}
    for result in searched:
        rates.setdefault(result["row"], {})[result["options"]["lr"]] = result["mean"]
    lines = ["| row | dev mean by learning rate |", "| --- | --- |"]
    for row, means in rates.items():
        best = max(means.values())
        cells = [f"{lr:g}: {number(mean)}" for lr, mean in sorted(means.items())]
        shown = [f"**{c}**" if m == best else c for c, (_, m) in zip(cells, sorted(means.items()))]
        lines.append(f"| `{row}` | {', '.join(shown)} |")
    head = (
        f"Seed {SEARCH_SEED}, code {', '.join(f'`{name[:12]}`' for name in revisions_of(searched))}"
        ". Since then, the row files hold the chosen rates, where they are not the defaults."
    )
    return "\n".join([head, "", *lines])
