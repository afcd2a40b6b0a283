"""What the project that we follow reports, beside what the results here say.

That is github.com/FrederikHennecke/DeepLearning4NLP. Its README has one run per method and compares
it with single-task training. So a method is compared with `REFERENCE` here, and with the control of
its row, from which it differs in less.
"""

from typing import NamedTuple

from experiments.comparison import MEAN, Difference, Method, difference
from experiments.tables import NONE, NOT_RUN, number

REFERENCE = "single_task"
NOT_TESTABLE = "not testable here"  # a row with an obstacle
GAINS, LOSES, NO_GAIN = 1, -1, 0


class Claim(NamedTuple):
    """One claim about one task.

    Attributes:
        text: what is claimed, with the project's score.
        row: the method that it is about.
        task: a task's name, or `MEAN`.
        sign: `GAINS`, `LOSES` or `NO_GAIN`.
    """

    text: str
    row: str
    task: str
    sign: int


CLAIMS = (
    Claim("PCGrad gains (86.4 %)", "pcgrad", "para", GAINS),
    Claim("PCGrad gains (.890)", "pcgrad", "sts", GAINS),
    Claim("PCGrad loses (47.9 %)", "pcgrad", "sst", LOSES),
    Claim("GradVac gains (85.9 %)", "vaccine", "para", GAINS),
    Claim("GradVac gains (.893)", "vaccine", "sts", GAINS),
    Claim("GradVac loses (50.4 %)", "vaccine", "sst", LOSES),
    Claim("three combined models gain (85.7 %)", "combined", "para", GAINS),
    Claim("three combined models gain (.851)", "combined", "sts", GAINS),
    Claim("three combined models lose (49.1 %)", "combined", "sst", LOSES),
    Claim("attention over tokens gains (84.4 %)", "attention", "para", GAINS),
    Claim("attention over tokens gains (.858)", "attention", "sts", GAINS),
    Claim("attention over tokens loses (50.2 %)", "attention", "sst", LOSES),
    Claim("BiLSTM gains (83.9 %)", "bilstm", "para", GAINS),
    Claim("BiLSTM gains (.807)", "bilstm", "sts", GAINS),
    Claim("BiLSTM gains (53.0 %)", "bilstm", "sst", GAINS),
    Claim("max pooling gains (81.9 %)", "max_pooling", "para", GAINS),
    Claim("max pooling gains (.534)", "max_pooling", "sts", GAINS),
    Claim("max pooling gains (52.8 %)", "max_pooling", "sst", GAINS),
    Claim("hierarchical segments lose (75.6 %)", "hierarchical", "para", LOSES),
    Claim("hierarchical segments gain (.714)", "hierarchical", "sts", GAINS),
    Claim("hierarchical segments lose (48.7 %)", "hierarchical", "sst", LOSES),
    Claim("annealed sampling gains (83.1 %)", "pal_scheduler", "para", GAINS),
    Claim("annealed sampling gains (.865)", "pal_scheduler", "sts", GAINS),
    Claim("annealed sampling loses (45.0 %)", "pal_scheduler", "sst", LOSES),
    Claim("SophiaH with tags gains (82.5 %)", "sophiah_pos_ner", "para", GAINS),
    Claim("SophiaH with tags gains (.843)", "sophiah_pos_ner", "sts", GAINS),
    Claim("SophiaH with tags loses (48.8 %)", "sophiah_pos_ner", "sst", LOSES),
    Claim("BERT-large gains (82.4 %)", "bert_large", "para", GAINS),
    Claim("BERT-large gains (.853)", "bert_large", "sts", GAINS),
    Claim("BERT-large loses (51.2 %)", "bert_large", "sst", LOSES),
    Claim("the mean of the last four layers gains", "last_four_layers", "sst", GAINS),
    Claim("a CNN over tokens loses", "cnn", MEAN, LOSES),
    Claim("tags do not help AdamW", "pos_ner", MEAN, NO_GAIN),
    Claim("SophiaH learns more slowly than AdamW", "sophiah", MEAN, LOSES),
)


def verdict(found: Difference, sign: int) -> str:
    """Return what a difference says of a claim.

    Returns:
        "seen" if the interval is on the claimed side of 0, "opposite" if it is on the other side,
        and "not seen" if it includes 0. A finding is "supported" or "refuted" instead. `NO_GAIN` is
        "seen" unless the interval is above 0.
    """
    low, high = found.interval
    if sign == NO_GAIN:
        if low <= 0:
            return "seen"
        return "refuted" if found.is_finding else "opposite"
    if sign == LOSES:
        low, high = -high, -low
    if low <= 0 <= high:
        return "not seen"
    words = ("seen", "supported") if low > 0 else ("opposite", "refuted")
    return words[found.is_finding]


def claims_table(methods: dict[str, Method]) -> str:
    """Return the claims about these methods as Markdown, one line each; empty without any.

    Args:
        methods: the methods by name, also those without a run.
    """
    reference = methods.get(REFERENCE)
    lines = [
        f"| claim (that project's score) | task | to `{REFERENCE}` | to the control | control |",
        "| --- | --- | --- | --- | --- |",
    ]
    known = [claim for claim in CLAIMS if claim.row in methods]
    for claim in known:
        method = methods[claim.row]
        others = (reference, methods.get(method.control))
        cells = [claim_cell(method, other, claim) for other in others]
        lines.append(
            f"| {claim.text} | {claim.task} | {' | '.join(cells)} | {method.control_label} |"
        )
    return "\n".join(lines) if known else ""


def claim_cell(method: Method, other: Method | None, claim: Claim) -> str:
    """Return the verdict of one comparison, and the difference with its interval and seeds."""
    if not method.seeds(claim.task):
        return NOT_TESTABLE if method.row.obstacle else NOT_RUN
    found = difference(method, other, claim.task)
    if found is None:
        return NONE
    low, high = (number(end, "+") for end in found.interval)
    num_seeds = len(found.by_seed)
    seeds = f", {num_seeds} seeds" if num_seeds > 1 else ""
    text = f"{number(found.mean, '+')} [{low}, {high}]{seeds}"
    return f"{verdict(found, claim.sign)}: {text}"
