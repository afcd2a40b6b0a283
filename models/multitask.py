"""One shared encoder, one sentence-vector module, a head a task."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from models.features import Features
from models.mixture import MixtureEncoder
from tasks import Batch, Task


class MultitaskBert(nn.Module):
    """Encoder -> features -> the task's head.

    encoder: `BertModel`, or a wrapper with its signature. heads: task name -> head. pals: task name
    -> projected attention layers, the encoder's residual for that task; None for the plain encoder.
    What has no trainable parameter runs in eval mode, always: a frozen encoder gives the same
    states every time.
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: Features,
        heads: dict[str, nn.Module],
        pair_encoding: str = "cross",
        pals: dict[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.pair_encoding = pair_encoding
        self.encoder = encoder
        self.features = features
        self.heads = nn.ModuleDict(heads)
        self.pals = nn.ModuleDict(pals or {})
        self.train()

    def train(self, mode: bool = True) -> "MultitaskBert":
        super().train(mode)
        for module in self.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.train(False)
        return self

    def forward(self, task: Task, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """Logits [B, C] in float32. `embeddings` [B, L, H] replace those of `embed`."""
        return self.suffix(task, *self.prefix(task, batch, embeddings))

    def embed(self, batch: Batch) -> Tensor:
        """The encoder's embeddings [B, L, H]."""
        return self.encoder.embed(
            batch["input_ids"],
            batch["attention_mask"],
            batch["token_type_ids"],
            batch.get("tag_ids"),
        )

    def prefix(
        self, task: Task, batch: Batch, embeddings: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The way to the first parameters after the encoder: states [B, L, H] and their mask.

        Where features have no parameters: sentence vectors [B, F] and None. A batch may bring them
        along, as `states` and `states_mask`. Under bi pair encoding a pair has 2B rows.
        """
        if "states" in batch:
            return batch["states"], batch.get("states_mask")
        output = self.encoder(
            batch["input_ids"],
            batch["attention_mask"],
            embeddings=self.embed(batch) if embeddings is None else embeddings,
            residual=self.pals[task.name] if self.pals else None,
            output_hidden_states=self.features.reads_hidden_states,
        )
        states, mask = self.features.states(output)
        return (
            (states, mask) if self.features.has_parameters else (self.features(states, mask), None)
        )

    def suffix(self, task: Task, states: Tensor, mask: Tensor | None) -> Tensor:
        """From what `prefix` gives to logits [B, C] in float32."""
        x = states if mask is None else self.features(states, mask)  # [B, F], [2B, F] under bi
        head = self.heads[task.name]
        if task.is_pair and self.pair_encoding == "bi":
            return head(*x.chunk(2)).float()
        return head(x).float()

    @contextmanager
    def without_statistics(self) -> Iterator[None]:
        """Count nothing for the epoch's line: these are passes beside the one that is trained."""
        mixtures = [m for m in self.encoder.modules() if isinstance(m, MixtureEncoder)]
        for mixture in mixtures:
            mixture.is_counting = False
        try:
            yield
        finally:
            for mixture in mixtures:
                mixture.is_counting = True

    def epoch_statistics(self) -> dict[str, list[float]]:
        """What the encoder has counted since the last call, for the epoch's line."""
        for module in self.encoder.modules():
            if isinstance(module, MixtureEncoder):
                return {"gate": module.take_gate_means()}
        return {}

    def unfreeze_layer(self, number: int) -> list[nn.Parameter]:
        """Train the encoder's number-th layer from the top, from 0; returns what was frozen."""
        layer = self.encoder.layer[-1 - number]
        frozen = [p for p in layer.parameters() if not p.requires_grad]
        layer.requires_grad_(True)
        return frozen

    def named_shared_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """What all tasks train together, with names; the order is that of the modules.

        Without the pooler: no features read it, so no loss reaches it.
        """
        return [
            (name, p)
            for name, p in self.named_parameters()
            if name.startswith(("encoder.", "features."))
            and ".pooler." not in name
            and p.requires_grad
        ]

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of encoder and features: flattened, the shared vector [P]."""
        return [p for _, p in self.named_shared_parameters()]

    def task_parameters(self, task: Task) -> list[nn.Parameter]:
        """The trainable parameters of the task's own head and projected attention layers."""
        modules = [parts[task.name] for parts in (self.heads, self.pals) if parts]
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def parameter_groups(self) -> dict[str, slice]:
        """Name -> slice of the shared vector: embeddings, layer.0 …, features; none empty."""
        groups: dict[str, slice] = {}
        end = 0
        for name, p in self.named_shared_parameters():
            group = group_name(name)
            start = groups[group].start if group in groups else end
            end += p.numel()
            groups[group] = slice(start, end)
        return groups


def group_name(name: str) -> str:
    """encoder.layer.3.output.bias -> layer.3, encoder.experts.1.layer.3… -> experts.1.layer.3."""
    part, *path = name.replace("encoder.inner.", "encoder.").split(".")
    if part == "features":
        return part
    num_outer = {"experts": 2, "gate": 1}.get(path[0], 0)
    num_inner = 2 if path[num_outer] == "layer" else 1
    return ".".join(path[: num_outer + num_inner])
