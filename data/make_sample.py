"""Write `data/sample/`: nine small files of generated English in the format of the real ones.

    python data/make_sample.py
    python data/make_sample.py --out runs/other_sample --seed 7

Every sentence comes from the small grammars below, none from a data set. A label is the result of
a composition, so that no single word, length or overlap of words gives it away:

sst: the grade of one or two clauses about a film, after negation, intensifiers, "but", "although".
para: whether two questions agree in every slot, whatever the wording and the order.
sts: how many parts of two events agree; related words, and a part told only once, count half.
"""

import argparse
import csv
import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

SPLITS = {"train": 600, "dev": 200, "test-student": 200}

# Vocabularies: ";" separates groups of related concepts, "," concepts, "/" wordings of a concept.

# SST. Value of a word: adjectives; nouns; verbs.
GRADED_WORDS = {
    2: "superb, brilliant, magnificent, gorgeous, unforgettable, dazzling; "
    "triumph, masterpiece, revelation, knockout; dazzle, soar, shine, enchant",
    1: "good, funny, charming, clever, tender, lively; "
    "treat, pleasure, success, crowd-pleaser; charm, amuse, convince, work",
    -1: "bad, dull, clumsy, shallow, muddled, predictable; "
    "chore, letdown, muddle, misfire; drag, stumble, bore, disappoint",
    -2: "dreadful, unbearable, abysmal, atrocious, insufferable, hopeless; "
    "disaster, fiasco, catastrophe, travesty; collapse, infuriate, repel, backfire",
}
# A word of value v counts scale * v - shift * sign(v): "not bad" is good, "not superb" lukewarm.
MODIFIERS = (
    (1.0, 0.0, "is {}, feels {}; is a {}, turns out to be a {}; {}s, manages to {}"),
    (1.4, 0.0, "is truly {}, is utterly {}; is a real {}, is an absolute {}; always {}s"),
    (0.5, 0.0, "is rather {}, is a little {}; is something of a {}; occasionally {}s"),
    (1.0, 1.6, "is not {}, is hardly {}; is no {}, is hardly a {}; does not exactly {}"),
    (-0.9, 0.0, "is anything but {}, is far from {}; is anything but a {}; never {}s, fails to {}"),
)
MODIFIER_WEIGHTS = (6, 3, 1, 2, 1)
# Weights of clauses a and b, the sign their product must have (0: any) and the sentence.
JOINS = (
    (1.0, 0.0, 0, "{a}."),
    (1.0, 0.0, 0, "{opening}, {a}."),
    (0.6, 0.6, 1, "{a}, and {b}."),
    (0.3, 0.8, -1, "{a}, but {b}."),
    (0.3, 0.8, -1, "although {a}, {b}."),
    (0.8, 0.3, -1, "{a}, even if {b}."),
    (0.0, 1.0, 0, "I was told that {a}; in truth {b}."),
    (-0.8, 0.0, 0, "{opening}, I wish I could say that {a}."),
)
JOIN_WEIGHTS = (4, 4, 5, 1, 1, 1, 1, 1)
LABEL_BOUNDS = (-1.25, -0.45, 0.45, 1.25)
LABEL_SHARES = (15, 25, 20, 25, 15)
SUBJECTS = (
    "the acting, the plot, the dialogue, the music, the camera work, the pacing, the editing, "
    "the humour, the script, the lead actor, the young cast, the villain, the love story; "
    "the film, the picture, the whole thing, the debut, the remake, the finale, the first act; "
    "the story, the second half, the opening scene, the long chase, the director, the ending"
)
OPENINGS = "at two hours, on a small screen, after a slow start, for a western, for a sequel"

# Para. A line of templates, then the slots. Asking with a and b exchanged is another question where
# both are named `a>b`, and the same question where they are named `a=b`.
QUESTIONS = """
{q} {v} {s} {w}? | {w}, {q} {v} {s}? | this is about {s}. {q} {v} it {w}?
q: how can I/how do I/what is the best way to, why should I/is there a good reason to, when can I
v: learn/study, teach/give lessons in, enjoy/have fun with, earn money with/make money with
s: chess, the violin/the fiddle, woodwork/carpentry, coding/programming, algebra, baking, pottery
w: on my own/by myself, in a group/together with others, at fifty, at home/in my house, on a budget

{q} to {v} from {a} to {b} by {m}? | by {m}, {q} to {v} to {b} from {a}?
q: how long does it take/how much time does it take, how much does it cost/how expensive is it
v: travel/go/get, send a parcel/ship a package, move house/relocate
a>b: Zürich, Kraków, São Paulo, Lisbon, Nairobi, Osaka, Glasgow, Montréal, Lima, Oslo
m: train/rail, bus/coach, car/automobile, boat/ship, plane/air

what is the difference {c} between {a} and {b}? | how do {a} and {b} differ {c}?
a=b: coffee, green tea, cocoa/hot chocolate, lemonade, apple juice, cider, soda/fizzy drinks, milk
c: in price/in cost, in taste/in flavour, in calories/in energy, in popularity, in colour

is {a} {c} than {b} for {w}? | compared with {b}, is {a} {c} for {w}?
a>b: tennis, rowing, cycling/riding a bike, swimming, jogging/running, yoga, boxing, football/soccer
c: harder/tougher/more difficult, easier/simpler, cheaper/less expensive, safer/less dangerous
w: children/kids, beginners/newcomers, retired people/pensioners, office workers

{q} a {d} that {p}? | my {d} {p}. {q} it? | what if a {d} {p}: {q} it?
q: how can I repair/how do I fix, is it worth repairing/should I bother to mend, who can repair
d: laptop/notebook, phone/mobile, kettle, washing machine/washer, fridge/refrigerator, printer, lamp
p: does not start/refuses to start, sounds odd/makes a strange noise, overheats/gets too hot

why is it {p} to {v} {t}? | {t}, why is it {p} to {v}? | what makes it {p} to {v} {t}?
p: wise/sensible/a good idea, unwise/foolish/a bad idea, legal/allowed, illegal/against the law
v: take a nap/have a short sleep, go running/go for a run, quarrel/argue, buy shoes/shop for shoes
t: before breakfast, late at night/in the late evening, after work, on holiday/during a vacation

which {w} {n} {v} in {c}? | in {c}, what kind of {w} {n} {v}?
w: visitors/guests, students/pupils, drivers/motorists, residents/locals, pensioners
n: can/may/are allowed to, cannot/may not/are not allowed to, want to/wish to, refuse to/decline to
v: park for free/park without paying, vote, use the library, rent a flat/rent an apartment
c: Zürich, Kraków, São Paulo, Lisbon, Nairobi, Osaka, Glasgow, Montréal, Lima, Oslo

what does "{x}" mean {c}? | what is the meaning of "{x}" {c}? | {c}, what does "{x}" mean?
x: rain check, cold feet, déjà vu, piece of cake, under the weather, small talk, naïve
c: at work/in the office, in a letter/in writing, in a film/in a movie, among friends/with friends
"""
QUESTION_WEIGHTS = (4, 4, 4, 4, 4, 4, 4, 1)
DUPLICATE_SHARE = 0.44
EASY_SHARE = 0.35  # of the negatives: two unrelated questions
KEEP_SHARE = 0.5  # of the templates and wordings that both questions have
SWAP_SHARE = 0.5

# STS. Verbs are stems that take -ing and -ed; a group needs two concepts, a slot two groups.
EVENTS = """
{a} is {v}ing {o} {p} {t} | {o} is being {v}ed by {a} {p} {t} | {t}, {a} is {v}ing {o} {p}
a: a man/a guy, a boy; a woman/a lady, a girl; a cook/a chef, a waiter; a soldier, a sailor/a seaman
v: chopp/dic, slic; wash/clean, peel; roast/grill, boil; smell/sniff, tast
o: an onion, a carrot; a pear, an apple; a potato/a spud, a pumpkin; a fish, a chicken
p: in the kitchen, in the pantry; at a café, at a bar; on a boat/aboard a ship, on a raft
t: at night/after dark, in the evening; in the morning/before noon, at dawn/at sunrise

{a} is {v}ing {o} {p} {t} | {o} is being {v}ed by {a} {p} {t} | {p}, {a} is {v}ing {o} {t}
a: a man/a guy, a boy; a woman/a lady, a girl; a teenager/an adolescent, a child/a kid
v: wash/clean, polish; push/shov, pull/haul; repair/mend, paint; photograph/film, sketch
o: a bike/a bicycle, a scooter; a car/an automobile, a van; a fence, a gate; a piano, a harp
p: in the garden/in the yard, in the park; on the beach/on the shore, by the lake
t: at night/after dark, in the evening; in the morning/before noon, at dawn/at sunrise

{a} is {v}ing {o} {p} {t} | {o} is being {v}ed by {a} {p} {t} | {t}, {a} is {v}ing {o} {p}
a: a dog/a hound, a puppy; a cat, a kitten; a donkey/a mule, a horse; a fox, a wolf
v: chas/pursu, follow; sniff/smell, lick; watch/observ, approach
o: a ball, a stick; a bird, a duck; a pig/a hog, a cow; a child/a kid, a baby/an infant
p: in the garden/in the yard, in the park; on the beach/on the shore, at a lake; in a hut, in a tent
t: at night/after dark, in the evening; in the morning/before noon, at dawn/at sunrise

{a} {v}ed {o} {p} {t} | {o} was {v}ed by {a} {p} {t} | {t}, {a} {v}ed {o} {p}
a: the government/the cabinet, the parliament; the court, the judge; the union, the workers
v: back/endors/support, accept; reject/veto, block; delay/postpon, suspend; discuss/debat, question
o: the budget, the tax plan; the trade deal/the pact, the treaty; the "Clean Sea" law, the ban
p: in Geneva, in Zürich; in Lima, in São Paulo; at the summit, at the congress
t: on Monday, on Sunday; in March, in April; last year/a year ago, last week
"""
# Whether place and time are told in the first and in the second sentence, with weights.
TOLD = {(1, 1): 70, (1, 0): 5, (0, 1): 5, (0, 0): 20}
NOISE = 0.3


def make_sample(out_dir: Path, seed: int) -> None:
    """Write the nine files into `out_dir`, made if missing; equal seeds give equal bytes."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for stem, (columns, line_end, draw) in FILES.items():
        # A generator a task: changing one grammar leaves the other tasks' files alone.
        rng = random.Random(f"{stem} {seed}")
        examples = distinct_examples(rng, draw)
        for split, num_rows in SPLITS.items():
            num_columns = len(columns) - (split == "test-student")  # the label stands last
            with open(out_dir / f"{stem}-{split}.csv", "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter="\t", lineterminator=line_end)
                writer.writerow(columns[:num_columns])
                for _ in range(num_rows):
                    writer.writerow((f"{rng.getrandbits(100):025x}", *next(examples))[:num_columns])


def distinct_examples(rng: random.Random, draw: Callable) -> Iterator[tuple[str, ...]]:
    """Yield texts and label of examples that never repeat; an exchanged pair is a repetition."""
    seen = set()
    while True:
        *texts, label = draw(rng)
        key = frozenset(texts)
        if key not in seen and len(key) == len(texts):
            seen.add(key)
            yield *texts, label


def draw_sst(rng: random.Random) -> tuple[str, str]:
    """Return a film sentence and its grade, 0 to 4."""
    label = rng.choices(range(5), LABEL_SHARES)[0]
    while True:
        weight_a, weight_b, sign, template = rng.choices(JOINS, JOIN_WEIGHTS)[0]
        (a, value_a), (b, value_b) = draw_clause(rng), draw_clause(rng)
        score = weight_a * value_a + weight_b * value_b
        grade = sum(score > bound for bound in LABEL_BOUNDS)
        if grade == label and value_a * value_b * sign >= 0:
            opening = rng.choice(OPENINGS.split(", "))
            return sentence(template.format(a=a, b=b, opening=opening)), str(label)


def draw_clause(rng: random.Random) -> tuple[str, float]:
    """Return a clause such as "the plot is not bad" and its value in [-2, 2]."""
    kind = rng.randrange(3)
    value = rng.choice(list(GRADED_WORDS))
    scale, shift, forms = rng.choices(MODIFIERS, MODIFIER_WEIGHTS)[0]
    texts = (SUBJECTS, forms, GRADED_WORDS[value])
    subject, form, word = (rng.choice(text.split("; ")[kind].split(", ")) for text in texts)
    value = scale * value - shift * (1 if value > 0 else -1)
    return f"{subject} {form.format(word)}", max(-2.0, min(2.0, value))


def draw_para(rng: random.Random) -> tuple[str, str, str]:
    """Return two questions and whether they ask the same thing, "1.0" or "0.0"."""
    kinds = parse_grammar(QUESTIONS)
    (templates, swap, slots), other = rng.choices(kinds, QUESTION_WEIGHTS, k=2)
    is_duplicate = rng.random() < DUPLICATE_SHARE
    first = draw_meaning(rng, slots)
    template, wordings = rng.choice(templates), {c: rng.choice(c) for c in first.values()}
    text = other_text = template.format(**{slot: wordings[c] for slot, c in first.items()})
    if is_duplicate or other[2] is slots or rng.random() > EASY_SHARE:
        second = vary_meaning(rng, swap, slots, first, is_duplicate)
    else:
        templates, second = other[0], draw_meaning(rng, other[2])
    while other_text == text:
        if template not in templates or rng.random() > KEEP_SHARE:
            template = rng.choice(templates)
        # Both labels keep templates and wordings equally often, or overlap would be a cue.
        kept = {c: wording for c, wording in wordings.items() if rng.random() < KEEP_SHARE}
        other_text = template.format(**{s: kept.get(c, rng.choice(c)) for s, c in second.items()})
    return sentence(text), sentence(other_text), f"{is_duplicate:.1f}"


def draw_meaning(rng: random.Random, slots: dict) -> dict[str, tuple[str, ...]]:
    """Fill every slot of a question; a and b never get the same concept."""
    meaning = {}
    for slot, groups in slots.items():
        meaning[slot] = rng.choice([c for c in groups[0] if c not in meaning.values()])
    return meaning


def vary_meaning(rng: random.Random, swap: str, slots: dict, meaning: dict, same: bool) -> dict:
    """Return an equal meaning, or one with a new concept in one slot or a and b exchanged."""
    if swap == (">", "=")[same] and rng.random() < SWAP_SHARE:
        return meaning | {"a": meaning["b"], "b": meaning["a"]}
    if same:
        return meaning
    slot = rng.choice(list(slots))
    return meaning | {slot: rng.choice([c for c in slots[slot][0] if c not in meaning.values()])}


def draw_sts(rng: random.Random) -> tuple[str, str, str]:
    """Return two events and their similarity, "0.0" to "5.0"."""
    templates, _, slots = rng.choice(parse_grammar(EVENTS))
    closeness = rng.random()
    weights = (closeness, 0.35 * (1 - closeness), 0.65 * (1 - closeness))
    first, second, agreements = {}, {}, []
    for slot, groups in slots.items():
        group, other_group = rng.sample(groups, 2)
        concept, related = rng.sample(group, 2)
        agreement = rng.choices((1.0, 0.5, 0.0), weights)[0]
        partner = {1.0: concept, 0.5: related, 0.0: rng.choice(other_group)}[agreement]
        told = rng.choices(list(TOLD), TOLD.values())[0] if slot in "pt" else (1, 1)
        wording = rng.choice(concept)
        rewording = rng.choice([w for w in partner if w != wording] or partner)
        first[slot], second[slot] = wording * told[0], rewording * told[1]
        if any(told):
            agreements.append(agreement if all(told) else 0.5)
    score = 5 * sum(agreements) / len(agreements) + rng.uniform(-NOISE, NOISE)
    texts = (sentence(rng.choice(templates).format(**event)) + "." for event in (first, second))
    return *texts, f"{max(0.0, min(5.0, score)):.1f}"


def sentence(text: str) -> str:
    """Close the gaps that empty slots leave and start every sentence with a capital."""
    text = " ".join(text.split()).strip(" ,")
    return re.sub(r"(^|[.?] )(\w)", lambda match: match[1] + match[2].upper(), text)


@cache
def parse_grammar(text: str) -> list[tuple[list[str], str, dict[str, list]]]:
    """Return each block's templates, its mark between a and b ("" if none) and its slots."""
    blocks = []
    for block in text.strip().split("\n\n"):
        templates, *lines = block.split("\n")
        swap, slots = "", {}
        for names, _, words in (line.partition(": ") for line in lines):
            swap += names[1:2]
            groups = [[tuple(c.split("/")) for c in g.split(", ")] for g in words.split("; ")]
            slots.update((name, groups) for name in re.findall("[a-z]", names))
        blocks.append((templates.split(" | "), swap, slots))
    return blocks


PAIR = ("id", "sentence1", "sentence2")
FILES = {  # stem: columns with the label last, line end, grammar
    "sst-sentiment": (("id", "sentence", "sentiment"), "\r\n", draw_sst),
    "quora-paraphrase": ((*PAIR, "is_duplicate"), "\n", draw_para),
    "sts-similarity": ((*PAIR, "similarity"), "\r\n", draw_sts),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default="data/sample", help="folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=2024, help="other sentences (%(default)s)")
    args = parser.parse_args()
    make_sample(args.out, args.seed)
    print(f"{args.out}: {len(FILES) * len(SPLITS)} files from seed {args.seed}")
