"""The multitask model: one shared encoder, one shared feature module, one head per task."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from models.bert import Encoder
from models.features import Features
from models.hierarchical import HierarchicalEncoder
from models.lora import LowRankAdapters, merged
from models.mixture import MixtureEncoder
from tasks import Batch, Task


class MultitaskBert(nn.Module):
    """Encoder, then features, then the head of the task.

    Modules without a trainable parameter always run in eval mode, so a frozen encoder returns the
    same states every time.

    Args:
        encoder: `BertModel` or a wrapper around it.
        features: turns the encoder's states into sentence vectors.
        heads: task name -> head.
        pair_encoding: `cross` encodes a pair as one row; `bi` encodes its sentences as two rows and
            gives the head both vectors. Rows of all first sentences precede those of all second
            ones.
        pals: task name -> projected attention layers, which are the encoder's `residual` for that
            task. None for an encoder without them.
    """

    def __init__(
        self,
        encoder: Encoder,
        features: Features,
        heads: Mapping[str, nn.Module],
        pair_encoding: str = "cross",
        pals: Mapping[str, nn.Module] | None = None,
        adapters: LowRankAdapters | None = None,
    ) -> None:
        super().__init__()
        self.pair_encoding = pair_encoding
        self.encoder = encoder
        self.features = features
        self.heads = nn.ModuleDict(heads)
        self.pals = nn.ModuleDict(pals or {})
        self.adapters = adapters
        self.base_names: frozenset[str] = frozenset()
        if adapters is not None:
            frozen = (n for n, p in encoder.named_parameters("encoder") if not p.requires_grad)
            self.base_names = frozenset(frozen)
            # torch does not annotate these two.
            self.register_state_dict_post_hook(drop_base)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_post_hook(keep_base)  # type: ignore[no-untyped-call]
        self.train()

    def train(self, mode: bool = True) -> "MultitaskBert":
        """Set training or eval mode; frozen modules stay in eval mode."""
        super().train(mode)
        for module in self.modules() if mode else ():
            if {p.requires_grad for p in module.parameters()} == {False}:
                module.train(False)
        return self

    def forward(self, task: Task, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """Return the logits [B, C] of a batch in float32.

        Args:
            task: the batch's task.
            batch: rows of this task, as `inputs.batches` describes them.
            embeddings: [B, L, H], replaces what `embed` would return.
        """
        return self.suffix(task, *self.prefix(task, batch, embeddings), batch.get("lengths"))

    def embed(self, batch: Batch) -> Tensor:
        """Return the encoder's embeddings [B, L, H]."""
        return self.encoder.embed(
            batch["input_ids"],
            batch["attention_mask"],
            batch["token_type_ids"],
            batch.get("tag_ids"),
        )

    def prefix(
        self, task: Task, batch: Batch, embeddings: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run everything up to the first trainable parameters after the encoder.

        A batch that holds cached `states` (and `states_mask`) skips the encoder.

        Returns:
            Selected states [B, L, H] and their mask [B, L] if the features have parameters, else
            sentence vectors [B, F] and None. Pairs under `bi` have 2B rows.
        """
        if "states" in batch:
            return batch["states"], batch.get("states_mask")
        if self.adapters is not None:
            self.adapters.choose(task.name)
        known = {}
        if isinstance(self.encoder, HierarchicalEncoder) and "lengths" in batch:
            known = {"num_segments": int(batch["lengths"].sum())}  # lengths are on the CPU
        output = self.encoder(
            batch["input_ids"],
            batch["attention_mask"],
            embeddings=self.embed(batch) if embeddings is None else embeddings,
            residual=self.pals[task.name] if self.pals else None,
            output_hidden_states=self.features.reads_hidden_states,
            **known,
        )
        states, mask = self.features.states(output)
        if self.features.has_parameters:
            return states, mask
        return self.features(states, mask), None

    def suffix(
        self, task: Task, states: Tensor, mask: Tensor | None, lengths: Tensor | None = None
    ) -> Tensor:
        """Turn the result of `prefix`, and the batch's lengths, into logits [B, C] in float32."""
        # [B, F]; pairs in bi: [2B, F]
        x = states if mask is None else self.features(states, mask, lengths)
        # [2B, F] -> u and v [B, F]
        vectors = x.chunk(2) if task.is_pair and self.pair_encoding == "bi" else (x,)
        logits: Tensor = self.heads[task.name](*vectors).float()
        return logits

    def mixtures(self) -> list[MixtureEncoder]:
        """Return the mixture that the encoder is or contains, or nothing."""
        return [module for module in self.modules() if isinstance(module, MixtureEncoder)]

    @contextmanager
    def without_statistics(self) -> Iterator[None]:
        """Exclude the forward passes inside the block from `epoch_statistics`."""
        for mixture in self.mixtures():
            mixture.is_counting = False
        try:
            yield
        finally:
            for mixture in self.mixtures():
                mixture.is_counting = True

    def epoch_statistics(self) -> dict[str, list[float]]:
        """Return the mean gate weights of a mixture since the last call, and start again.

        They join the epoch's line in metrics.jsonl. Other encoders have no statistics.
        """
        return {"gate": mixture.take_gate_means() for mixture in self.mixtures()}

    def merged_encoder(self, task: Task) -> Encoder:
        """Return the encoder as the task uses it: itself, or a plain copy with adapters merged."""
        return self.encoder if self.adapters is None else merged(self.encoder, task.name)

    def unfreeze_layer(self, number: int) -> list[nn.Parameter]:
        """Train one layer of the encoder, and return its parameters that were frozen.

        Args:
            number: counted from the top layer, which is 0.
        """
        index = self.encoder.config.num_hidden_layers - 1 - number
        layer = self.encoder.get_submodule(f"layer.{index}")
        frozen = [p for p in layer.parameters() if not p.requires_grad]
        layer.requires_grad_(True)
        return frozen

    def named_shared_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return names and parameters that all tasks train, in the order of the modules.

        The pooler is missing: no features read its output, so no loss reaches it.
        """
        return [
            (name, p)
            for name, p in self.named_parameters()
            if name.startswith(("encoder.", "features."))
            and ".pooler." not in name
            and p.requires_grad
            and self.adapter_owner(name) is None
        ]

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that all tasks train. Flattened, they are the shared vector [P]."""
        return [p for _, p in self.named_shared_parameters()]

    def task_parameters(self, task: Task) -> list[nn.Parameter]:
        """Return the trainable parameters of the task's own head, attention layers and adapter."""
        modules = [parts[task.name] for parts in (self.heads, self.pals) if parts]
        own = [p for module in modules for p in module.parameters() if p.requires_grad]
        named = self.encoder.named_parameters("encoder")
        return own + [p for name, p in named if self.adapter_owner(name) == task.name]

    def adapter_owner(self, name: str) -> str | None:
        """Return the task whose adapter a parameter of this name is; None if it is no task's."""
        return None if self.adapters is None else self.adapters.owner(name)

    def parameter_groups(self) -> dict[str, slice]:
        """Return which slice of the shared vector [P] belongs to which part of the model.

        Parts are `embeddings`, `layer.0`, …, `features`, in this order. Parts without trainable
        parameters are missing.
        """
        sizes: Counter[str] = Counter()  # in the order of the modules
        for name, p in self.named_shared_parameters():
            sizes[group_name(name)] += p.numel()
        ends = accumulate(sizes.values())
        return {group: slice(end - size, end) for (group, size), end in zip(sizes.items(), ends)}


def drop_base(model: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    """Leave the frozen weights under the adapters out of a state that is being saved."""
    assert isinstance(model, MultitaskBert), f"a hook of a model, not of a {type(model).__name__}"
    for name in model.base_names:
        del state[prefix + name]


def keep_base(model: nn.Module, keys: Any) -> None:
    """Do not miss the frozen weights under the adapters in a state that is being loaded."""
    assert isinstance(model, MultitaskBert), f"a hook of a model, not of a {type(model).__name__}"
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in model.base_names]


def group_name(name: str) -> str:
    """Return the group of a shared parameter.

    Examples: encoder.layer.3.output.bias is in layer.3, encoder.experts.1.layer.3.output.bias in
    experts.1.layer.3, and every parameter of the features in features. In encoders of transformers,
    encoder.model.encoder.layer.3.output.dense.bias is in layer.3, too.
    """
    expert, theirs = r"(experts\.\d+\.|gate\.)?", r"(?:model\.(?:encoder\.|transformer\.)?)?"
    match = re.match(rf"(?:encoder\.(?:inner\.)?)?{expert}{theirs}(?:layers?\.(\d+)|(\w+))", name)
    assert match is not None, f"{name} is no parameter of a model"
    wrapper, layer, other = match.groups(default="")
    return wrapper + (f"layer.{layer}" if layer else other)
