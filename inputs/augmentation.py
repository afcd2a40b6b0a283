"""More training rows by Easy Data Augmentation (Wei and Zou, 2019, arXiv:1901.11196).

Sentences of a classification task's small classes get variants with a few words changed; a pair is
only turned round. Development and test rows are never augmented.
"""

import contextlib
import functools
import io
import itertools
import statistics
import string
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from runtime.errors import InputError
from tasks import Example, Task

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

Synonyms = Callable[[str], list[str]]  # word -> its synonyms, sorted; empty where none may stand

ALPHA = 0.1  # share of a sentence's words that an operation changes
MAX_TRIES = 10  # operations tried per variant asked for
DEBIAN_WORDNET = Path("/usr/share/wordnet")
PUNCTUATION = string.punctuation + "“”‘’…–—"
# Function words, and parts of contractions cut in two ("ca n't"), as far as WordNet has entries for
# them: it takes "a" for ampere, "us" for the country and "ca" for calcium.
STOP_WORDS = frozenset("""
    a an some any no nobody nothing nowhere someone somebody each all most more much less several
    other another same own enough i me us he it its one ones who why or but so yet while as about
    above across after along around at before behind below beneath between by despite down except in
    inside like near off on out outside over past through throughout till under up within am is are
    was were be been being do does did doing done have has had having can may might must will not
    never there here then now too very just only also even ever again quite rather almost once s t d
    m re ca ai em oh
    """.split())


def augment(examples: list[Example], task: Task, num_variants: int, seed: int) -> list[Example]:
    """Add variants to a training split; print how many.

    The originals come first, untouched and in order. A variant keeps its original's label; its id
    is `<id>-eda1`, `<id>-eda2`, ..., without the numbers that the file's own ids take.
    num_variants: per sentence of the classes smaller than the median class, if the task has class
    names; a pair gets one more row, its sentences swapped; 0 adds nothing. A variant equal to its
    original, or to another of its variants, is left out. Seeded here: equal rows, seed and WordNet
    give equal variants. Raises InputError where a task with classes finds no WordNet.
    """
    taken = {example.id for example in examples}
    variants = []
    for original, texts in vary(examples, task, num_variants, Random(seed)):
        ids = (f"{original.id}-eda{number}" for number in itertools.count(1))
        variant_id = next(candidate for candidate in ids if candidate not in taken)
        taken.add(variant_id)
        variants.append(replace(original, id=variant_id, texts=texts))
    print(f"{task.name}: {len(variants):,} variants added to {len(examples):,} training examples")
    return [*examples, *variants]


def vary(
    examples: list[Example], task: Task, num_variants: int, generator: Random
) -> Iterator[tuple[Example, tuple[str, ...]]]:
    """Pairs of an original and the texts of one variant of it."""
    if num_variants < 1:
        return
    if task.is_pair:
        for original in examples:
            if original.texts[0] != original.texts[1]:
                yield original, original.texts[::-1]
    elif task.class_names is not None:
        classes = small_classes(examples)
        synonyms = functools.cache(functools.partial(find_synonyms, open_wordnet()))
        for original in examples:
            if original.label in classes:
                for text in eda(original.texts[0], num_variants, synonyms, generator):
                    yield original, (text,)


def small_classes(examples: list[Example]) -> list[int]:
    """Classes with fewer examples than the median of the classes that have any."""
    sizes = Counter(example.label for example in examples)
    median = statistics.median(sizes.values())
    return sorted(label for label, size in sizes.items() if size < median)


def eda(sentence: str, num_variants: int, synonyms: Synonyms, generator: Random) -> list[str]:
    """At most num_variants different variants of a sentence, its white space made single blanks.

    Variants go round the four operations in an order drawn for each sentence, for even shares as in
    the paper's code; one that is nothing new is tried again with the next operation. Punctuation
    tokens stay and do not count as words; a synonym of several words is one token.
    """
    words = sentence.split()
    order = generator.sample(OPERATIONS, len(OPERATIONS))
    variants: list[str] = []
    for operation in itertools.islice(itertools.cycle(order), MAX_TRIES * num_variants):
        variant = " ".join(operation(words, synonyms, generator))
        if variant not in (" ".join(words), *variants):
            variants.append(variant)
        if len(variants) == num_variants:
            break
    return variants


def synonym_replacement(words: list[str], synonyms: Synonyms, generator: Random) -> list[str]:
    """Replace n words, or all that have synonyms if they are fewer, by one of theirs each."""
    replaced = list(words)
    places = [place for place, word in enumerate(words) if synonyms(word)]
    for place in generator.sample(places, min(num_changes(words), len(places))):
        synonym = generator.choice(synonyms(words[place]))
        core = bare(words[place])
        synonym = synonym.capitalize() if core[0].isupper() else synonym
        replaced[place] = words[place].replace(core, synonym, 1)
    return replaced


def random_insertion(words: list[str], synonyms: Synonyms, generator: Random) -> list[str]:
    """Insert, n times, a synonym of one of the words anywhere; nothing if no word has any."""
    inserted = list(words)
    sources = [word for word in words if synonyms(word)]
    for _ in range(num_changes(words) if sources else 0):
        synonym = generator.choice(synonyms(generator.choice(sources)))
        inserted.insert(generator.randint(0, len(inserted)), synonym)
    return inserted


def random_swap(words: list[str], synonyms: Synonyms, generator: Random) -> list[str]:
    """Swap two words, n times."""
    swapped = list(words)
    places = word_places(words)
    for _ in range(num_changes(words) if len(places) > 1 else 0):
        i, j = generator.sample(places, 2)
        swapped[i], swapped[j] = swapped[j], swapped[i]
    return swapped


def random_deletion(words: list[str], synonyms: Synonyms, generator: Random) -> list[str]:
    """Delete each word with probability ALPHA; one drawn at random stays if all would go."""
    places = word_places(words)
    deleted = [place for place in places if generator.random() < ALPHA]
    if places and deleted == places:
        deleted.remove(generator.choice(places))
    return [word for place, word in enumerate(words) if place not in deleted]


OPERATIONS = (synonym_replacement, random_insertion, random_swap, random_deletion)


def num_changes(words: list[str]) -> int:
    """n of the paper: a share ALPHA of the words, at least one."""
    return max(1, round(ALPHA * len(word_places(words))))


def word_places(words: list[str]) -> list[int]:
    return [place for place, word in enumerate(words) if bare(word)]


def bare(word: str) -> str:
    """The word without the punctuation around it; empty where it is nothing else."""
    return word.strip(PUNCTUATION)


def find_synonyms(wordnet: "WordNetCorpusReader", word: str) -> list[str]:
    """Lemmas of the word's synsets but the word itself, in lower case, sorted.

    None for function words. WordNet looks up base forms, so a plural may get a singular.
    """
    name = bare(word).lower()
    if not name or name in STOP_WORDS:
        return []
    lemmas = [lemma for synset in wordnet.synsets(name) for lemma in synset.lemma_names()]
    return sorted({lemma.replace("_", " ").lower() for lemma in lemmas} - {name})


def open_wordnet() -> "WordNetCorpusReader":
    """Read WordNet from NLTK's data directories, else from Debian's package.

    Raises InputError if neither is there, or NLTK is not.
    """
    try:
        import nltk
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
    except ImportError as error:
        raise InputError(f"--augment needs NLTK ({error}): pip install nltk==3.10.4") from None

    class WordNet(WordNetCorpusReader):
        """NLTK's reader without what synonyms do not need and Debian's package does not have."""

        def open(self, file: str):
            if file == "lexnames":  # names of the lexicographers' files; the reader wants some
                return io.StringIO("".join(f"{number:02d} unnamed 0\n" for number in range(45)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """No map to another WordNet's synsets: it serves other languages only."""

    roots = []
    for resource in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        with contextlib.suppress(LookupError):
            roots.append(nltk.data.find(resource))
    if DEBIAN_WORDNET.is_dir():
        roots.append(str(DEBIAN_WORDNET))
        nltk.data.path.append(str(DEBIAN_WORDNET))  # NLTK opens no file outside its data path
    if not roots:
        raise InputError(
            f"--augment needs WordNet, and neither NLTK's data directories nor {DEBIAN_WORDNET} "
            "have it: run python -m nltk.downloader wordnet, or apt install wordnet-base"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The multilingual functions", UserWarning)
        return WordNet(roots[0], omw_reader=None)
