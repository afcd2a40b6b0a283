"""Write `data/sample/`: nine small files of generated English in the format of the real ones.

    python data/make_sample.py
    python data/make_sample.py --out runs/other_sample --seed 7

The sentences come from the small grammars below and not from any data set. Each label follows from
the meaning of the whole text. No single word, length or word overlap determines it:

- sst: how good a film is said to be. One or two clauses with negations and intensifiers are
  graded, and words such as "but" and "although" decide how much each clause counts.
- para: whether two questions ask the same thing. They do if they agree in every slot, however
  they are worded and ordered.
- sts: how many parts two events share. Related words count half, and so does a part that only
  one sentence mentions.

The sst training file is the largest, because its labels take the most examples to learn. Two epochs
of `python train_multitask.py` are enough for all three tasks.
"""

import argparse
import csv
import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

# In the vocabularies below, ";" separates groups of related concepts, "," separates concepts, and
# "/" separates wordings of one concept.

# The sst grammar. Each value lists adjectives, then nouns, then verbs.
GRADED_WORDS = {
    2: "superb, wonderful, brilliant, excellent; triumph, masterpiece; dazzle, soar",
    1: "good, funny, charming, clever; treat, pleasure; charm, please",
    -1: "bad, dull, boring, clumsy; chore, letdown; drag, stumble",
    -2: "terrible, awful, dreadful, horrible; disaster, catastrophe; collapse, repel",
}
# Weight of the modifier, scale, shift, and its forms for adjectives, nouns and verbs. A word of
# value v gets the value scale * v - shift * sign(v). So "not bad" is good and "not superb" is
# neutral.
MODIFIERS = (
    (6, 1, 0, "is {}, feels {}; is a {}, turns out to be a {}; {}s, manages to {}"),
    (3, 1.4, 0, "is truly {}, is utterly {}; is a real {}, is an absolute {}; always {}s"),
    (1, 0.5, 0, "is rather {}, is a little {}; is something of a {}; occasionally {}s"),
    (2, 1, 1.6, "is not {}, is hardly {}; is no {}, is hardly a {}; does not exactly {}"),
    (1, -0.9, 0, "is anything but {}, is far from {}; is far from a {}; never {}s, fails to {}"),
)
# Weight of the join, weights of the values of clauses a and b, the required sign of the product of
# the two values (0: any), and the sentence.
JOINS = (
    (10, 1.0, 0.0, 0, "{a}."),
    (8, 1.0, 0.0, 0, "{opening}, {a}."),
    (8, 0.6, 0.6, 1, "{a}, and {b}."),
    (3, 0.3, 0.8, -1, "{a}, but {b}."),
    (3, 0.3, 0.8, -1, "although {a}, {b}."),
    (2, 0.8, 0.3, -1, "{a}, even if {b}."),
    (2, 0.0, 1.0, 0, "I was told that {a}; in truth {b}."),
    (2, -0.8, 0.0, 0, "{opening}, I wish I could say that {a}."),
)
LABEL_BOUNDS = (-1.25, -0.45, 0.45, 1.25)  # between the scores of labels 0, 1, 2, 3 and 4
LABEL_WEIGHTS = (15, 25, 20, 25, 15)
SUBJECTS = (
    "the acting, the plot, the dialogue, the music, the camera work, the pacing, the editing, "
    "the humour, the script, the lead actor, the young cast, the villain, the love story; "
    "the film, the picture, the whole thing, the debut, the remake, the finale, the first act; "
    "the story, the second half, the opening scene, the long chase, the director, the ending"
)
OPENINGS = "at two hours, on a small screen, after a slow start, for a western, for a sequel"

# The para grammar. A block has one line of templates, separated by "|", and then one line per slot.
# Slots a and b share one line. Exchanging their concepts gives a different question where the line
# is named `a>b`, and the same question where it is named `a=b`.
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
DUPLICATE_PROBABILITY = 0.44
UNRELATED_PROBABILITY = 0.35  # that a pair with label 0 consists of two unrelated questions
KEEP_PROBABILITY = 0.5  # that the second question keeps a template or wording of the first
SWAP_PROBABILITY = 0.5  # that a and b are exchanged where the label allows it

# The sts grammar. Verbs are stems that take -ing and -ed. Each slot needs at least two groups, and
# each group at least two concepts.
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
# Weights of whether a place or time is mentioned in the first and in the second sentence.
MENTIONED = {(1, 1): 70, (1, 0): 5, (0, 1): 5, (0, 0): 20}
NOISE = 0.3  # largest random change of a score


def make_sample(out_dir: Path, seed: int) -> None:
    """Write the nine files into `out_dir`, which is made if it is missing.

    Equal seeds give equal bytes.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    for stem, (columns, line_end, num_train, draw) in FILES.items():
        # Each task has its own generator, so changing one grammar leaves the other files alone.
        rng = random.Random(f"{stem} {seed}")
        examples = distinct_examples(rng, draw)
        for split, num_rows in {"train": num_train, **NUM_HELD_OUT}.items():
            num_columns = len(columns) - (split == "test-student")  # test files have no label
            with open(out_dir / f"{stem}-{split}.csv", "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter="\t", lineterminator=line_end)
                writer.writerow(columns[:num_columns])
                for _ in range(num_rows):
                    writer.writerow((f"{rng.getrandbits(100):025x}", *next(examples))[:num_columns])


def distinct_examples(rng: random.Random, draw: Callable) -> Iterator[tuple[str, ...]]:
    """Yield the texts and label of examples that never repeat.

    A pair repeats another pair if it has the same two sentences, in either order. Pairs of two
    equal sentences are dropped.
    """
    seen = set()
    while True:
        *texts, label = draw(rng)
        key = frozenset(texts)
        if key not in seen and len(key) == len(texts):
            seen.add(key)
            yield *texts, label


def draw_sst(rng: random.Random) -> tuple[str, str]:
    """Return a sentence about a film and its label, "0" (very negative) to "4" (very positive)."""
    label = rng.choices(range(5), LABEL_WEIGHTS)[0]
    while True:
        weight_a, weight_b, sign, template = weighted_choice(rng, JOINS)
        (a, value_a), (b, value_b) = draw_clause(rng), draw_clause(rng)
        score = weight_a * value_a + weight_b * value_b
        grade = sum(score > bound for bound in LABEL_BOUNDS)
        if grade == label and value_a * value_b * sign >= 0:
            opening = rng.choice(OPENINGS.split(", "))
            return sentence(template.format(a=a, b=b, opening=opening)), str(label)


def draw_clause(rng: random.Random) -> tuple[str, float]:
    """Return a clause such as "the plot is not bad" and its value in [-2, 2]."""
    kind = rng.randrange(3)  # adjective, noun or verb
    value = rng.choice(list(GRADED_WORDS))
    scale, shift, forms = weighted_choice(rng, MODIFIERS)
    texts = (SUBJECTS, forms, GRADED_WORDS[value])
    subject, form, word = (rng.choice(text.split("; ")[kind].split(", ")) for text in texts)
    value = scale * value - shift * (1 if value > 0 else -1)
    return f"{subject} {form.format(word)}", max(-2.0, min(2.0, value))


def weighted_choice(rng: random.Random, rows: tuple[tuple, ...]) -> tuple:
    """Draw a row by the weight in its first column and return its other columns."""
    return rng.choices(rows, [row[0] for row in rows])[0][1:]


def draw_para(rng: random.Random) -> tuple[str, str, str]:
    """Return two questions and "1.0" if they ask the same thing, else "0.0"."""
    kinds = parse_grammar(QUESTIONS)
    (templates, swap, slots), other = rng.choices(kinds, QUESTION_WEIGHTS, k=2)
    is_duplicate = rng.random() < DUPLICATE_PROBABILITY
    first = draw_meaning(rng, slots)
    template, wordings = rng.choice(templates), {c: rng.choice(c) for c in first.values()}
    text = other_text = template.format(**{slot: wordings[c] for slot, c in first.items()})
    if is_duplicate or other[2] is slots or rng.random() > UNRELATED_PROBABILITY:
        second = vary_meaning(rng, swap, slots, first, is_duplicate)
    else:
        templates, second = other[0], draw_meaning(rng, other[2])
    while other_text == text:
        if template not in templates or rng.random() > KEEP_PROBABILITY:
            template = rng.choice(templates)
        # Both labels keep templates and wordings equally often. Otherwise the overlap of words
        # would give the label away.
        kept = {c: wording for c, wording in wordings.items() if rng.random() < KEEP_PROBABILITY}
        other_text = template.format(**{s: kept.get(c, rng.choice(c)) for s, c in second.items()})
    return sentence(text), sentence(other_text), f"{is_duplicate:.1f}"


def draw_meaning(rng: random.Random, slots: dict) -> dict[str, tuple[str, ...]]:
    """Return a concept for every slot of a question. Slots a and b get different concepts."""
    meaning: dict[str, tuple[str, ...]] = {}
    for slot, groups in slots.items():
        meaning[slot] = rng.choice([c for c in groups[0] if c not in meaning.values()])
    return meaning


def vary_meaning(rng: random.Random, swap: str, slots: dict, meaning: dict, same: bool) -> dict:
    """Return an equal meaning (`same`) or one that differs in one slot or in the order of a and b.

    Args:
        rng: draws the change.
        swap: ">" if exchanging a and b changes the meaning, "=" if it does not, "" without a and b.
        slots: the groups of concepts of each slot.
        meaning: the concept in each slot.
        same: whether the result must mean the same.
    """
    if swap == (">", "=")[same] and rng.random() < SWAP_PROBABILITY:
        return meaning | {"a": meaning["b"], "b": meaning["a"]}
    if same:
        return meaning
    slot = rng.choice(list(slots))
    return meaning | {slot: rng.choice([c for c in slots[slot][0] if c not in meaning.values()])}


def draw_sts(rng: random.Random) -> tuple[str, str, str]:
    """Return two sentences about events and their similarity, "0.0" to "5.0"."""
    templates, _, slots = rng.choice(parse_grammar(EVENTS))
    closeness = rng.random()
    weights = (closeness, 0.35 * (1 - closeness), 0.65 * (1 - closeness))
    first, second, agreements = {}, {}, []
    for slot, groups in slots.items():
        group, other_group = rng.sample(groups, 2)
        concept, related = rng.sample(group, 2)
        agreement = rng.choices((1.0, 0.5, 0.0), weights)[0]
        partner = {1.0: concept, 0.5: related, 0.0: rng.choice(other_group)}[agreement]
        mentioned = (1, 1)
        if slot in "pt":
            mentioned = rng.choices(list(MENTIONED), list(MENTIONED.values()))[0]
        wording = rng.choice(concept)
        rewording = rng.choice([w for w in partner if w != wording] or partner)
        first[slot], second[slot] = wording * mentioned[0], rewording * mentioned[1]
        if any(mentioned):
            agreements.append(agreement if all(mentioned) else 0.5)
    score = 5 * sum(agreements) / len(agreements) + rng.uniform(-NOISE, NOISE)
    one, two = (sentence(rng.choice(templates).format(**event)) + "." for event in (first, second))
    return one, two, f"{max(0.0, min(5.0, score)):.1f}"


def sentence(text: str) -> str:
    """Close the gaps that empty slots leave and capitalize the first letter of each sentence."""
    text = " ".join(text.split()).strip(" ,")
    return re.sub(r"(^|[.?] )(\w)", lambda match: match[1] + match[2].upper(), text)


@cache
def parse_grammar(text: str) -> list[tuple[list[str], str, dict[str, list]]]:
    """Return the templates, the mark between a and b, and the slots of each block.

    The mark is "" if the block has no line for both a and b. The slots map a name to its groups of
    concepts, and a concept is a tuple of wordings.
    """
    blocks = []
    for block in text.strip().split("\n\n"):
        templates, *lines = block.split("\n")
        swap = ""
        slots: dict[str, list] = {}
        for names, _, words in (line.partition(": ") for line in lines):
            swap += names[1:2]
            groups = [[tuple(c.split("/")) for c in g.split(", ")] for g in words.split("; ")]
            slots.update((name, groups) for name in re.findall("[a-z]", names))
        blocks.append((templates.split(" | "), swap, slots))
    return blocks


NUM_HELD_OUT = {"dev": 200, "test-student": 200}  # rows of each task
PAIR = ("id", "sentence1", "sentence2")
FILES = {  # stem: columns with the label last, line end, number of training rows, grammar
    "sst-sentiment": (("id", "sentence", "sentiment"), "\r\n", 1800, draw_sst),
    "quora-paraphrase": ((*PAIR, "is_duplicate"), "\n", 600, draw_para),
    "sts-similarity": ((*PAIR, "similarity"), "\r\n", 600, draw_sts),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default="data/sample", help="folder for the files (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=2024, help="another seed gives other sentences (%(default)s)"
    )
    args = parser.parse_args()
    make_sample(args.out, args.seed)
    print(f"{args.out}: {len(FILES) * (1 + len(NUM_HELD_OUT))} files from seed {args.seed}")
