"""Format `cross-encoder`: the encoder, the run's pooling and one head, which CrossEncoder loads.

The head becomes Dense modules, so this needs sentence-transformers 6. `predict` returns the head's
logits.
"""

from typing import Any

from torch import nn

from exporting.markdown import cell
from exporting.sentence_transformer import Module, SentenceTransformerExport
from models.heads import ClassifyHead
from predicting.run import Run
from tasks import KINDS, Task

IDENTITY = "torch.nn.modules.linear.Identity"
RELU = "torch.nn.modules.activation.ReLU"
MEANINGS = {  # what the logits of a kind of task are
    "classification": "one logit per class; their softmax is the probability of each",
    "binary": "the logit of class 1; its sigmoid is the probability of class 1",
    "regression": "the number itself; the run clips it to {low:g} … {high:g}",
    "multilabel": "one logit per class; the sigmoid of each is its probability",
}


class CrossEncoderExport(SentenceTransformerExport):
    """A directory that CrossEncoder loads: Transformer → Pooling → Dense for each layer of a head.

    Args:
        source: the finished run.
        task: whose head it holds.
    """

    name = "cross-encoder"
    pipeline_tag = "text-classification"
    model_type = "CrossEncoder"
    settings = {"activation_fn": IDENTITY}  # without it, a single logit passes a sigmoid

    task: Task

    def __init__(self, source: Run, task: Task) -> None:
        super().__init__(source, task)

    def check(self) -> None:
        """Raise InputError if the format has no place for the model, or for the task's head."""
        super().check()
        if not isinstance(self.head, ClassifyHead):
            key = self.task.heads[self.source.args.pair_encoding]
            raise self.refusal(
                f"the {key} head of task {self.task.name} reads two sentence vectors "
                "(--pair_encoding bi), and a CrossEncoder one of both sentences"
            )

    @property
    def head(self) -> nn.Module:
        """The head of the task."""
        return self.source.model.heads[self.task.name]

    def modules(self) -> list[Module]:
        """Return the modules after the encoder: pooling, and the layers of the head."""
        assert isinstance(self.head, ClassifyHead), "check() has not been called"
        hidden = [layer for layer in self.head.hidden if isinstance(layer, nn.Linear)]
        layers = [dense(layer, RELU, "sentence_embedding") for layer in hidden]
        return [*super().modules(), *layers, dense(self.head.output, IDENTITY, "scores")]

    def config(self) -> dict[str, Any]:
        """Return config.json, with the names of the classes if there is one logit for each."""
        task = self.task
        if task.num_outputs == 1:
            return super().config()
        names = {str(number): task.class_label(number) for number in range(task.num_outputs)}
        numbers = {name: int(number) for number, name in names.items()}
        return super().config() | {"id2label": names, "label2id": numbers}

    def usage(self, name: str) -> str:
        """Return the lines of Python that load the directory."""
        load = f"from sentence_transformers import CrossEncoder\n\nmodel = CrossEncoder({name!r})\n"
        if self.task.is_pair:
            return load + 'logits = model.predict([("a fine film", "a good movie")])'
        return load + (
            "# One text per call: a list of texts would be one input of several parts.\n"
            'logits = [model.predict(text) for text in ["a film to remember"]]'
        )

    def notes(self) -> list[str]:
        """Return what a reader of the model card should know."""
        low, high = self.task.label_range
        kind = next(name for name, kind in KINDS.items() if isinstance(self.task, kind))
        names = ", ".join(map(cell, self.task.class_names or ()))
        classes = f" The classes, from 0, are: {names}." if names else ""
        return [
            f"It predicts the task `{self.task.name}`. `predict` returns "
            f"{MEANINGS[kind].format(low=low, high=high)}.{classes}",
            "It needs sentence-transformers 6 or newer.",
            *self.differences(),
        ]

    def differences(self) -> list[str]:
        """Return in what its predictions differ from those that the scores are of."""
        found = []
        if self.source.args.symmetric_pairs and self.task.is_unordered_pair:
            found.append(
                "The scores are of predictions that are the mean over both orders of a pair; this "
                "model predicts the order that it is given."
            )
        return found


def dense(layer: nn.Linear, activation: str, output: str) -> Module:
    """Return a Linear and its activation as a module.

    Args:
        layer: the Linear.
        activation: the class of the activation.
        output: where the result goes: `scores`, or the vector that the next module reads.
    """
    config = {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": True,
        "activation_function": activation,
        "module_input_name": "sentence_embedding",
        "module_output_name": output,
    }
    weights = {f"linear.{name}": weight for name, weight in layer.state_dict().items()}
    return Module("Dense", config, weights)
