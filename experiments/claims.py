"""What the project that we follow reports, beside what the results here say.

That is github.com/FrederikHennecke/DeepLearning4NLP. Its README has one run per method and compares
it with single-task training. So a method is compared with `REFERENCE` here, and with the control of
its row.
"""

from typing import NamedTuple

from experiments.comparison import MEAN, SEVERAL, Difference, Method, difference
from experiments.row_files import BASELINE
from experiments.tables import NONE, NOT_RUN, difference_text

REFERENCE = "single_task"
NOT_TESTABLE = "not testable here"  # the row is not run by default
GAINS, LOSES, NO_GAIN = "gains", "loses", "does not gain"
LEGEND = (
    f"Each claim is compared with `{REFERENCE}`, as that project does, and with a control here; "
    f"{SEVERAL} marks a control from which the row differs in more than one thing. A claim is "
    '"seen" if the difference has the claimed sign and an interval without 0, "opposite" if it has '
    'the other sign and an interval without 0, and "not seen" if the interval includes 0. Only a '
    'finding makes it "supported" or "refuted". That a method does not gain is "not contradicted" '
    "unless the interval is above 0. Differences of a single seed have no range of seeds."
)


class Claim(NamedTuple):
    """One claim about one task.

    Attributes:
        text: what is claimed, with the project's score if it gives one.
        row: the method that it is about.
        task: a task's name, or `MEAN`.
        claimed: `GAINS`, `LOSES` or `NO_GAIN`.
        control: the method that it is compared with besides `REFERENCE`, from which the row differs
            in more than one thing; empty for the row's own control.
    """

    text: str
    row: str
    task: str
    claimed: str
    control: str = ""


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
    Claim("SophiaH with tags gains (82.5 %)", "sophiah_pos_ner", "para", GAINS, BASELINE),
    Claim("SophiaH with tags gains (.843)", "sophiah_pos_ner", "sts", GAINS, BASELINE),
    Claim("SophiaH with tags loses (48.8 %)", "sophiah_pos_ner", "sst", LOSES, BASELINE),
    Claim("BERT-large gains (82.4 %)", "bert_large", "para", GAINS),
    Claim("BERT-large gains (.853)", "bert_large", "sts", GAINS),
    Claim("BERT-large loses (51.2 %)", "bert_large", "sst", LOSES),
    Claim("the mean of the last four layers gains", "last_four_layers", "sst", GAINS),
    Claim("a CNN over tokens loses", "cnn", MEAN, LOSES),
    Claim("tags do not help AdamW", "pos_ner", MEAN, NO_GAIN),
    Claim("SophiaH learns more slowly than AdamW", "sophiah", MEAN, LOSES),
)


def verdict(found: Difference, claimed: str) -> str:
    """Return what a difference says of a claim, in the words of `LEGEND`.

    Args:
        found: the difference to what the claim is compared with.
        claimed: `GAINS`, `LOSES` or `NO_GAIN`.
    """
    low, high = found.interval
    if claimed == LOSES:
        low, high = -high, -low
    if claimed == NO_GAIN:
        if low <= 0:
            return "not contradicted"
        return "refuted" if found.is_finding else "opposite"
    if low <= 0 <= high:
        return "not seen"
    if found.is_finding:
        return "supported" if low > 0 else "refuted"
    return "seen" if low > 0 else "opposite"


def claims_table(methods: dict[str, Method]) -> str:
    """Return the claims as Markdown, one line each.

    Claims about other rows are left out, since a table of one's own rows has none of them. Without
    any claim, the text is empty.

    Args:
        methods: the methods by name, also those without a run.
    """
    lines = []
    for claim in CLAIMS:
        if claim.row not in methods:
            continue
        method = methods[claim.row]
        control = claim.control or method.control
        cells = [claim_cell(claim, method, methods.get(name)) for name in (REFERENCE, control)]
        cells.append(f"{claim.control} {SEVERAL}" if claim.control else method.control_label)
        lines.append(f"| {claim.text} | {claim.task} | {' | '.join(cells)} |")
    if not lines:
        return ""
    header = f"| claim (the score, if given) | task | to `{REFERENCE}` | to the control | control |"
    table = "\n".join([header, "| --- | --- | --- | --- | --- |", *lines])
    return f"{LEGEND}\n\n{table}"


def claim_cell(claim: Claim, method: Method, other: Method | None) -> str:
    """Return the verdict of one comparison, and the difference."""
    if not method.seeds(claim.task):
        return NOT_TESTABLE if method.row.obstacle else NOT_RUN
    found = difference(method, other, claim.task)
    return NONE if found is None else f"{verdict(found, claim.claimed)}: {difference_text(found)}"
