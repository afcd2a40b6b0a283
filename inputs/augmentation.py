"""Easy Data Augmentation (EDA; Wei and Zou, 2019, arXiv:1901.11196): more training rows.

In a task of one of several classes, every sentence of a small class gets variants in which a few
words are changed. In a task of sentence pairs, every pair gets one variant: the same two sentences
in swapped order, unless the task's table calls its pairs ordered. Development and test rows are
never augmented.
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
from typing import IO, TYPE_CHECKING

from runtime.errors import InputError
from runtime.packages import missing_package
from tasks import Example, Label, Task

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

Synonyms = Callable[[str], list[str]]  # word -> its synonyms, sorted; none for a function word

ALPHA = 0.1  # share of the words of a sentence that one operation changes
MAX_TRIES = 10  # operations that may be tried for each variant
DEBIAN_WORDNET = Path("/usr/share/wordnet")
PUNCTUATION = string.punctuation + "“”‘’…–—"
# Function words, and the parts of contractions that are split ("ca n't"). Only those stand here for
# which WordNet has an entry of another meaning: "a" is ampere, "us" the country, "ca" calcium.
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
    """Add variants to a training split, and print how many.

    A variant has the label of its original. Its id is `<id>-eda1`, `<id>-eda2` and so on; numbers
    whose id exists already in the file are skipped. All random numbers come from `seed`: the same
    rows, seed and WordNet give the same variants.

    Args:
        examples: the training rows.
        task: their task. Single sentences without a class, and ordered pairs, get no variants.
        num_variants: variants of each sentence of a small class. A sentence gets fewer if not
            enough different ones are found. A pair gets one for any number above 0. 0 adds nothing.
        seed: of all random choices.

    Returns:
        The originals, unchanged and in order, then the variants.

    Raises:
        InputError: the task has classes, and NLTK or WordNet is not installed.
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
    """Yield each original together with the texts of one of its variants."""
    if num_variants < 1:
        return
    if task.is_pair:
        for original in () if task.is_ordered else examples:
            if original.texts[0] != original.texts[1]:
                yield original, original.texts[::-1]
    elif task.has_classes:
        classes = small_classes(examples)
        synonyms = functools.cache(functools.partial(find_synonyms, open_wordnet()))
        for original in examples:
            if original.label in classes:
                for text in eda(original.texts[0], num_variants, synonyms, generator):
                    yield original, (text,)


def small_classes(examples: list[Example]) -> set[Label | None]:
    """Return the classes with fewer examples than the median class; empty classes do not count."""
    sizes = Counter(example.label for example in examples)
    median = statistics.median(sizes.values())
    return {label for label, size in sizes.items() if size < median}


def eda(sentence: str, num_variants: int, synonyms: Synonyms, generator: Random) -> list[str]:
    """Return at most `num_variants` variants of a sentence, all of them different.

    The four operations take turns, so that each makes about the same number of variants, as in the
    code of the paper. Their order is drawn anew for every sentence. If a result is equal to the
    sentence or to an earlier variant, the next operation is tried.

    White space becomes single blanks. Tokens that are only punctuation are never changed and do not
    count as words. A synonym of several words counts as one token.
    """
    words = sentence.split()
    found = {" ".join(words): None}  # a dict, because it keeps the order
    order = generator.sample(OPERATIONS, len(OPERATIONS))
    for operation in itertools.islice(itertools.cycle(order), MAX_TRIES * num_variants):
        if len(found) > num_variants:
            break
        found[" ".join(operation(words, synonyms, generator))] = None
    return list(found)[1:]


def synonym_replacement(words: list[str], synonyms: Synonyms, generator: Random) -> list[str]:
    """Replace n words by a synonym each, or all words that have synonyms if there are fewer."""
    replaced = list(words)
    places = [place for place, word in enumerate(words) if synonyms(word)]
    for place in generator.sample(places, min(num_changes(words), len(places))):
        synonym = generator.choice(synonyms(words[place]))
        core = bare(words[place])
        synonym = synonym.capitalize() if core[0].isupper() else synonym
        replaced[place] = words[place].replace(core, synonym, 1)
    return replaced


def random_insertion(words: list[str], synonyms: Synonyms, generator: Random) -> list[str]:
    """Insert a synonym of a random word at a random place, n times.

    If no word has a synonym, nothing is inserted.
    """
    inserted = list(words)
    sources = [word for word in words if synonyms(word)]
    for _ in range(num_changes(words) if sources else 0):
        synonym = generator.choice(synonyms(generator.choice(sources)))
        inserted.insert(generator.randint(0, len(inserted)), synonym)
    return inserted


def random_swap(words: list[str], synonyms: Synonyms, generator: Random) -> list[str]:
    """Swap two random words, n times."""
    swapped = list(words)
    places = word_places(words)
    for _ in range(num_changes(words) if len(places) > 1 else 0):
        i, j = generator.sample(places, 2)
        swapped[i], swapped[j] = swapped[j], swapped[i]
    return swapped


def random_deletion(words: list[str], synonyms: Synonyms, generator: Random) -> list[str]:
    """Delete each word with probability ALPHA. If all were deleted, keep a random one."""
    places = word_places(words)
    deleted = [place for place in places if generator.random() < ALPHA]
    if places and deleted == places:
        deleted.remove(generator.choice(places))
    return [word for place, word in enumerate(words) if place not in deleted]


OPERATIONS = (synonym_replacement, random_insertion, random_swap, random_deletion)


def num_changes(words: list[str]) -> int:
    """Return n of the paper: the share ALPHA of the words, rounded, and at least 1."""
    return max(1, round(ALPHA * len(word_places(words))))


def word_places(words: list[str]) -> list[int]:
    """Return the positions of the tokens that are not only punctuation."""
    return [place for place, word in enumerate(words) if bare(word)]


def bare(word: str) -> str:
    """Return a token without the punctuation around it: "" if it is only punctuation."""
    return word.strip(PUNCTUATION)


def find_synonyms(wordnet: "WordNetCorpusReader", word: str) -> list[str]:
    """Return the lemmas of all synsets of a word, without the word itself, lower case and sorted.

    A function word has none. WordNet looks up base forms, so a plural may get a singular synonym.
    """
    name = bare(word).lower()
    if not name or name in STOP_WORDS:
        return []
    lemmas = [lemma for synset in wordnet.synsets(name) for lemma in synset.lemma_names()]
    return sorted({lemma.replace("_", " ").lower() for lemma in lemmas} - {name})


def open_wordnet() -> "WordNetCorpusReader":
    """Open WordNet in NLTK's data directories, or else in Debian's package.

    Raises:
        InputError: NLTK is not installed, or WordNet is in neither place.
    """
    try:
        import nltk
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
    except ImportError as error:
        raise missing_package("--augment", error) from None

    class WordNet(WordNetCorpusReader):
        """NLTK's reader, without what Debian's package lacks and synonyms do not need."""

        def open(self, file: str) -> IO[str]:
            """Open a file of WordNet. The names of the lexicographers' files are made up."""
            if file == "lexnames":
                return io.StringIO("".join(f"{number:02d} unnamed 0\n" for number in range(45)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """Map no synsets to those of another WordNet, which only other languages need."""

    roots = []
    for resource in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        with contextlib.suppress(LookupError):
            roots.append(nltk.data.find(resource))
    if DEBIAN_WORDNET.is_dir():
        roots.append(str(DEBIAN_WORDNET))
        nltk.data.path.append(str(DEBIAN_WORDNET))  # NLTK refuses files outside its data path
    if not roots:
        raise InputError(
            f"--augment needs WordNet, which is neither in NLTK's data directories nor in "
            f"{DEBIAN_WORDNET}: run python -m nltk.downloader wordnet, or apt install wordnet-base"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The multilingual functions", UserWarning)
        return WordNet(roots[0], omw_reader=None)
