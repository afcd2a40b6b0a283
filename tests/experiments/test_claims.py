"""What another project claims, beside the results."""

import pytest
from result_folder import TASKS

from experiments import claims
from experiments.claims import GAINS, LOSES, NO_GAIN, Claim
from experiments.comparison import MEAN, Difference
from experiments.report import ROOT
from experiments.row_files import MIN_SEEDS, read_rows


@pytest.mark.parametrize(
    ("interval", "gains", "loses", "no_gain"),
    [
        ((0.01, 0.03), "seen", "opposite", "opposite"),
        ((-0.03, -0.01), "opposite", "seen", "not contradicted"),
        ((-0.01, 0.03), "not seen", "not seen", "not contradicted"),
        ((0.0, 0.04), "not seen", "not seen", "not contradicted"),  # 0 is in it
    ],
)
def test_a_verdict_is_about_the_claimed_side(interval, gains, loses, no_gain):
    found = Difference(sum(interval) / 2, interval, [sum(interval) / 2], 1)
    verdicts = [claims.verdict(found, claimed) for claimed in (GAINS, LOSES, NO_GAIN)]
    assert verdicts == [gains, loses, no_gain]


def test_only_findings_support_or_refute_a_claim():
    better = Difference(0.02, (0.01, 0.03), [0.02] * MIN_SEEDS, MIN_SEEDS)
    worse = Difference(-0.02, (-0.03, -0.01), [-0.02] * MIN_SEEDS, MIN_SEEDS)
    of_better = [claims.verdict(better, claimed) for claimed in (GAINS, LOSES, NO_GAIN)]
    assert of_better == ["supported", "refuted", "refuted"]
    of_worse = [claims.verdict(worse, claimed) for claimed in (GAINS, LOSES, NO_GAIN)]
    assert of_worse == ["refuted", "supported", "not contradicted"]
    of_two_signs = better._replace(by_seed=[0.02, 0.02, -0.01])
    assert claims.verdict(of_two_signs, GAINS) == "seen"


def test_each_claim_has_its_line(folder, monkeypatch, capsys):
    folder.add("joint", 1, sst=5)
    folder.add("joint", 2, sst=5)
    folder.add("fast", 1, sst=9)
    folder.add("fast", 2, sst=9)
    for task in TASKS:
        folder.add(f"single_{task}", 1, sst=9)
    assert claims.claims_table(folder.methods()) == ""  # about no row of this folder
    folder.report()
    assert "### Claims" not in capsys.readouterr().out
    (folder.rows / "surgery.txt").write_text(
        "# Surgery\n# family: gradient surgery\n# differs in: two things\n--projection mgda\n"
    )
    folder.add("surgery", 3)
    texts = [
        Claim("fast gains", "fast", "sst", GAINS),
        Claim("fast gains over one task", "fast", "sst", GAINS, "single_task"),
        Claim("slow gains", "slow", "sst", GAINS),
        Claim("surgery has no seed in common", "surgery", MEAN, NO_GAIN),
        Claim("large loses", "large", MEAN, LOSES),
        Claim("nobody gains", "no_such_row", "sst", GAINS),
    ]
    monkeypatch.setattr(claims, "CLAIMS", texts)
    folder.report()
    section = capsys.readouterr().out.partition("### Claims of the project that we follow\n\n")[2]
    legend, table = section.split("\n\n")[:2]
    assert legend == claims.LEGEND
    fast, own, slow, surgery, large = [
        line.strip("| ").split(" | ") for line in table.splitlines()[2:]
    ]
    assert fast[:3] == ["fast gains", "sst", "not seen: .000 [.000, .000]"]
    assert fast[3].startswith("seen: +.400 [+") and fast[3].endswith("]; +.400 to +.400")
    assert fast[4] == "joint"
    assert own[2:] == [fast[2], fast[2], "single_task ‡"]
    assert slow[2:] == ["not run here", "not run here", "fast"]
    assert surgery[2:] == ["–", "–", "joint ‡"]
    assert large[2:4] == ["not testable here", "not testable here"]


def test_claims_are_about_rows_and_tasks_of_the_table():
    methods = {row.method for row in read_rows(ROOT / "experiments" / "rows").values()}
    assert claims.REFERENCE in methods
    assert {claim.row for claim in claims.CLAIMS} <= methods
    assert {claim.task for claim in claims.CLAIMS} <= {MEAN, *TASKS}
    assert {claim.control for claim in claims.CLAIMS} <= {"", *methods}
    assert {claim.claimed for claim in claims.CLAIMS} == {GAINS, LOSES, NO_GAIN}
    about = [(claim.row, claim.task) for claim in claims.CLAIMS]
    assert len(about) == len({*about})
