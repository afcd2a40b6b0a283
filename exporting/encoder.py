"""Format `transformers`: the encoder under its published names, with config and tokenizer.

`AutoModel` and `AutoTokenizer` load the directory. The other formats add modules to it.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from exporting.obstacles import ENCODER_OBSTACLES, Obstacle
from models.auto import TransformersEncoder
from models.bert import BertModel
from models.pretrained import published_name
from models.weight_file import encoder_shapes
from predicting.run import Run
from runtime.errors import InputError
from runtime.files import atomic_write, write_json
from tasks import Task

ARCHITECTURES = {"bert": "BertModel", "roberta": "RobertaModel"}
PROBE = "a"  # any text: of its tokens, only the special ones around it are read


class EncoderExport:
    """One directory to write.

    Args:
        source: the finished run.
        task: whose encoder it is, if low-rank updates make a different one for each task.

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

    def __init__(self, source: Run, task: Task | None = None) -> None:
        self.source, self.task = source, task

    @cached_property
    def encoder(self) -> BertModel | TransformersEncoder:
        """The run's encoder, low-rank updates merged, once `check` has found no wrapper."""
        task = self.task or next(iter(self.source.tasks.values()))
        encoder = self.source.model.merged_encoder(task)
        assert isinstance(encoder, BertModel | TransformersEncoder), "check() has not been called"
        return encoder

    @property
    def max_length(self) -> int:
        """The largest number of tokens in a row."""
        return self.encoder.config.max_tokens

    def check(self) -> None:
        """Raise InputError if the format has no place for a part of the model."""
        for obstacle in self.obstacles:
            if obstacle.stands(self.source.args):
                raise self.refusal(obstacle.reason)
        if self.source.args.lora_per_task and self.task is None:
            raise self.refusal(
                "its low-rank updates make another encoder for each task (--lora_per_task), and "
                "only --format cross-encoder is of one task"
            )
        shapes = {n: tuple(w.shape) for n, w in self.encoder.state_dict().items()}
        if shapes != encoder_shapes(self.encoder.config):
            raise self.refusal("its encoder has other weights than a published one")

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
        write_weights(folder / "model.safetensors", published_weights(self.encoder))

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
        if first != "[CLS]":  # RoBERTa and its kin call the same tokens so, too
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
        own: dict[str, Any] = {"architectures": [class_name(self.encoder)]}
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
            "No task trains the pooler, so `pooler_output` is that of the base model, or random "
            "where that has none.",
        ]


def class_name(encoder: BertModel | TransformersEncoder) -> str:
    """Return the name of the class of transformers that an encoder becomes."""
    if isinstance(encoder, TransformersEncoder):
        return type(encoder.model).__name__
    return ARCHITECTURES[encoder.config.model_type]


def published_weights(encoder: BertModel | TransformersEncoder) -> dict[str, Tensor]:
    """Return an encoder's weights under their published names."""
    weights = encoder.state_dict()
    if isinstance(encoder, TransformersEncoder):
        return {name.removeprefix("model."): weight for name, weight in weights.items()}
    return {published_name(name): weight for name, weight in weights.items()}


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
