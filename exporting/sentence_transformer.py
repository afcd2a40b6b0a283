"""Format `sentence-transformers`: encoder and pooling, which SentenceTransformer loads.

Encoding a text gives the vector that the run's heads read. Under `--pair_encoding bi`, the cosine
of two such vectors is what the run predicts a similarity from.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from exporting.encoder import EncoderExport, write_weights
from exporting.obstacles import ENCODER_OBSTACLES, VECTOR_OBSTACLES
from predicting.run import Run
from runtime.files import atomic_write, write_json
from tasks import Task

# Our pooling -> its key in the config of the module Pooling, in the form that every version reads.
POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
}


class Module(NamedTuple):
    """A module after the encoder.

    Attributes:
        name: of its class in `sentence_transformers.models`.
        config: its config.json.
        weights: its parameters by name; empty for a module without any.
    """

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]


class SentenceTransformerExport(EncoderExport):
    """A directory that SentenceTransformer loads: Transformer → Pooling [→ Normalize].

    Args:
        source: the finished run.
        task: see `EncoderExport`.
        is_normalized: scale the vectors to length 1.

    Class attributes:
        model_type: what sentence-transformers calls it.
        settings: what else config_sentence_transformers.json says.
    """

    name = "sentence-transformers"
    library = "sentence-transformers"
    pipeline_tag = "sentence-similarity"
    model_type = "SentenceTransformer"
    settings = {"similarity_fn_name": "cosine"}
    obstacles = ENCODER_OBSTACLES + VECTOR_OBSTACLES

    def __init__(self, source: Run, task: Task | None = None, is_normalized: bool = False) -> None:
        super().__init__(source, task)
        self.is_normalized = is_normalized

    @property
    def max_length(self) -> int:
        """The run's own limit: longer texts are cut as in training."""
        return self.source.args.max_length

    def modules(self) -> list[Module]:
        """Return the modules after the encoder."""
        flags = {key: ours == self.source.args.pooling for ours, key in POOLING_KEYS.items()}
        size = {"word_embedding_dimension": self.encoder.config.hidden_size}
        normalize = [Module("Normalize", {}, {})] if self.is_normalized else []
        return [Module("Pooling", size | flags, {}), *normalize]

    def model_config(self) -> dict[str, Any]:
        """Return config_sentence_transformers.json."""
        own: dict[str, Any] = {
            "model_type": self.model_type,
            "prompts": {},
            "default_prompt_name": None,
        }
        return own | self.settings

    def write(self, folder: Path) -> None:
        """Write the encoder, and each module to a folder of its own."""
        super().write(folder)
        write_json(folder / "config_sentence_transformers.json", self.model_config())
        limits = {"max_seq_length": self.max_length, "do_lower_case": False}
        write_json(folder / "sentence_bert_config.json", limits)
        rows = [module_row(0, "Transformer", "")]
        for number, module in enumerate(self.modules(), start=1):
            path = f"{number}_{module.name}"
            rows.append(module_row(number, module.name, path))
            (folder / path).mkdir()
            write_json(folder / path / "config.json", module.config)
            if module.weights:
                write_weights(folder / path / "model.safetensors", module.weights)
        with atomic_write(folder / "modules.json") as file:
            json.dump(rows, file, indent=2)

    def usage(self, name: str) -> str:
        """Return the lines of Python that load the directory."""
        return (
            "from sentence_transformers import SentenceTransformer\n\n"
            f"model = SentenceTransformer({name!r})\n"
            'vectors = model.encode(["a fine film", "a good movie"])\n'
            "cosine = model.similarity(vectors[:1], vectors[1:])"
        )

    def notes(self) -> list[str]:
        """Return what a reader of the model card should know."""
        args = self.source.args
        cosines = [t for t in args.tasks.values() if t.heads[args.pair_encoding] == "cosine"]
        found = []
        for task in cosines:
            low, high = task.label_range
            start = f"{low:g} + " if low else ""
            found.append(f"`{task.name}` is {start}{high - low:g} · cosine of the two vectors.")
        if not cosines:
            found.append(
                "The run was not trained on the cosine of two vectors (--pair_encoding bi), so the "
                "cosine need not be a good similarity."
            )
        return [*found, "The heads of the tasks are not in it."]


def module_row(number: int, name: str, path: str) -> dict[str, Any]:
    """Return one entry of modules.json."""
    kind = f"sentence_transformers.models.{name}"
    return {"idx": number, "name": str(number), "path": path, "type": kind}
