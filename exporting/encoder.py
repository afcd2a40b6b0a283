"""Format `transformers`: the encoder under its published names, with config and tokenizer.

`AutoModel` and `AutoTokenizer` load the directory. The other formats add modules to it.
"""

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from exporting.source import ENCODER_OBSTACLES, Obstacle, Source
from models.bert import BertModel
from models.pretrained import published_name
from models.weight_file import encoder_shapes
from runtime.errors import InputError
from runtime.files import atomic_write, write_json

ARCHITECTURES = {"bert": "BertModel", "roberta": "RobertaModel"}
PROBE = "a"  # any text: of its tokens, only the special ones around it are read


class EncoderExport:
    """One directory to write.

    Args:
        source: the finished run.

    Class attributes:
        name: of the format, on the command line.
        library: what loads it, as model cards call it.
        pipeline_tag: what it is for, as model cards call it.
        obstacles: what the format has no place for.
    """

    name = "transformers"
    library = "transformers"
    pipeline_tag = "feature-extraction"
    obstacles: tuple[Obstacle, ...] = ENCODER_OBSTACLES

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def encoder(self) -> BertModel:
        """The run's encoder, once `check` has found no wrapper around it."""
        assert isinstance(self.source.model.encoder, BertModel), "check() has not been called"
        return self.source.model.encoder

    @property
    def max_length(self) -> int:
        """The largest number of tokens in a row."""
        return self.encoder.config.max_tokens

    def check(self) -> None:
        """Raise InputError if the format has no place for a part of the model."""
        for obstacle in self.obstacles:
            if obstacle.stands(self.source.args):
                raise self.refusal(obstacle.reason)
        encoder = self.source.model.encoder
        shapes = {n: tuple(w.shape) for n, w in encoder.state_dict().items()}
        if not isinstance(encoder, BertModel) or shapes != encoder_shapes(encoder.config):
            raise self.refusal(f"its encoder, a {type(encoder).__name__}, is no plain BERT")

    def refusal(self, reason: str) -> InputError:
        """Return the error of a model that the format cannot hold."""
        return InputError(
            f"{self.source.directory}: --format {self.name} cannot hold this run's model: "
            f"{reason}; evaluation.py predicts with it"
        )

    def write(self, folder: Path) -> None:
        """Write the files into an empty folder.

        Raises:
            InputError: the tokenizer has no token for padding.
            OSError: a file cannot be written.
        """
        tokenizer = self.source.tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        with atomic_write(folder / "tokenizer.json") as file:
            file.write(tokenizer.to_str(pretty=True))
        write_json(folder / "tokenizer_config.json", self.tokenizer_config())
        write_json(folder / "config.json", self.config())
        weights = {published_name(n): w for n, w in self.encoder.state_dict().items()}
        write_weights(folder / "model.safetensors", weights)

    def tokenizer_config(self) -> dict[str, Any]:
        """Return tokenizer_config.json.

        The class is the one that takes tokenizer.json as it is. BERT's own would build another
        normalizer from options that a run does not have.
        """
        tokenizer, config = self.source.tokenizer, self.encoder.config
        first, *_, last = tokenizer.encode(PROBE).tokens
        padding = tokenizer.id_to_token(config.pad_token_id)
        if padding is None:
            raise self.refusal(
                f"its tokenizer has no token of id {config.pad_token_id} to pad with"
            )
        names = {"cls_token": first, "sep_token": last, "pad_token": padding}
        if config.model_type == "roberta":
            names |= {"bos_token": first, "eos_token": last}
        # Only tokens that are special already: naming another one would make it special.
        special = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
        for name, known in (("unk_token", "[UNK] <unk>"), ("mask_token", "[MASK] <mask>")):
            names |= {name: token for token in known.split() if token in special}
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        if config.type_vocab_size == 1:  # then a pair's second sentence shares the type
            inputs.remove("token_type_ids")
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            "model_input_names": inputs,
            "padding_side": "right",
            "truncation_side": "right",
            "clean_up_tokenization_spaces": False,
            **names,
        }

    def config(self) -> dict[str, Any]:
        """Return config.json as transformers reads it."""
        config = self.encoder.config
        own: dict[str, Any] = {"architectures": [ARCHITECTURES[config.model_type]]}
        own |= config.to_dict() | {"dtype": "float32"}
        if config.model_type == "roberta":  # its defaults are the ids of the published vocabulary
            first, *_, last = self.source.tokenizer.encode(PROBE).ids
            own |= {"bos_token_id": first, "eos_token_id": last}
        return own

    def usage(self, name: str) -> str:
        """Return the lines of Python that load the directory; `name`: its own, or that of a hub."""
        return (
            "from transformers import AutoModel, AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({name!r})\n"
            f"model = AutoModel.from_pretrained({name!r})\n"
            'batch = tokenizer(["a film to remember"], padding=True, return_tensors="pt")\n'
            "hidden_states = model(**batch).last_hidden_state  # [batch, tokens, hidden]"
        )

    def notes(self) -> list[str]:
        """Return what a reader of the model card should know, one sentence or two each."""
        return [
            "It is the encoder alone. The heads of the tasks, and what lies between them and the "
            "encoder, are not in it.",
            "No task trains the pooler, so `pooler_output` is that of the base model.",
        ]


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write tensors to a safetensors file, and wait until it is on the disk. Raises OSError."""
    try:
        save_file({n: w.contiguous() for n, w in weights.items()}, path, {"format": "pt"})
        with open(path, "rb") as file:
            os.fchmod(file.fileno(), path.parent.stat().st_mode & 0o666)  # it is private so far
            os.fsync(file.fileno())
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path}: cannot be written: {reason}") from None
