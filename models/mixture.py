"""Combined models: three BERT experts, mixed with weights that a fourth BERT computes.

Axis letters: B batch, L tokens, H hidden.
"""

import copy

import torch
from torch import Tensor, nn

from models.auto import TransformersEncoder
from models.bert import BertModel, BertOutput, Encoder, Residual

NUM_EXPERTS = 3
NOISE = 0.01  # in standard deviations of each weight tensor
GATE_STD = 0.02


class MixtureEncoder(Encoder):
    """An encoder whose states are Σ g_e · (states of expert e), with g = softmax(W h + b) [B, 3].

    h is the first token's state in the gate's own encoder. All four encoders start from the same
    weights. The second and third expert get noise on top: while the experts are equal, the gate
    does not influence the output and its gradient is exactly zero.

    `embed` returns the embeddings of the experts and of the gate's encoder side by side,
    [B, L, 4H]. Projected attention layers (`residual`) are not supported.

    The weights of all training examples are summed up in the buffers `gate_sum` [3] and
    `gate_count` [], as long as `is_counting` is true.

    Args:
        encoder: becomes the encoder of the gate; the experts are copies of it.
        seed: of the noise and of W.
    """

    def __init__(self, encoder: BertModel | TransformersEncoder, seed: int = 0) -> None:
        super().__init__()
        self.config = encoder.config
        self.experts = nn.ModuleList(copy.deepcopy(encoder) for _ in range(NUM_EXPERTS))
        self.gate = encoder
        self.gate_output = nn.Linear(encoder.config.hidden_size, NUM_EXPERTS)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.gate_output.weight, std=GATE_STD, generator=generator)
        nn.init.zeros_(self.gate_output.bias)
        with torch.no_grad():
            for p in self.experts[1:].parameters():
                noise = torch.randn(p.shape, generator=generator)
                p.add_(NOISE * p.std(correction=0) * noise)
        self.is_counting = True
        self.gate_sum = nn.Buffer(torch.zeros(NUM_EXPERTS, dtype=torch.float64))
        self.gate_count = nn.Buffer(torch.zeros((), dtype=torch.float64))

    def encoders(self) -> list[Encoder]:
        """Return the experts, then the gate's encoder."""
        inner = (module for module in self.modules() if module is not self)
        return [module for module in inner if isinstance(module, Encoder)]

    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tag_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the embeddings [B, L, 4H] of the experts and the gate; see `Encoder.embed`."""
        parts = [
            encoder.embed(input_ids, attention_mask, token_type_ids, tag_ids)
            for encoder in self.encoders()
        ]
        return torch.cat(parts, dim=-1)  # four times [B, L, H] -> [B, L, 4H]

    def encode(
        self,
        embeddings: Tensor,
        attention_mask: Tensor,
        residual: Residual | None = None,
        output_hidden_states: bool = False,
    ) -> BertOutput:
        """Run all four encoders on embeddings [B, L, 4H]; see `Encoder.encode`."""
        assert residual is None, "combined models take no projected attention layers"
        *experts, gate = self.encoders()
        *parts, gate_part = embeddings.chunk(NUM_EXPERTS + 1, dim=-1)  # [B, L, H] each
        gate_states = gate.encode(gate_part, attention_mask).last_hidden_state
        weights: Tensor = self.gate_output(gate_states[:, 0]).float().softmax(-1)  # [B, 3]
        if self.training and self.is_counting:
            self.gate_sum.add_(weights.detach().sum(0))
            self.gate_count.add_(len(weights))
        outputs = [
            expert.encode(part, attention_mask, None, output_hidden_states)
            for expert, part in zip(experts, parts)
        ]

        def mixed(states: tuple[Tensor, ...]) -> Tensor:
            """Return the weighted sum [B, ...] of the experts' states, each [B, ...]."""
            stacked = torch.stack(states, dim=1)  # [B, 3, ...]
            shape = weights.shape + (1,) * (stacked.ndim - 2)  # [B, 3, 1, ...]
            return (weights.to(stacked.dtype).view(shape) * stacked).sum(1)

        return BertOutput(
            mixed(tuple(output.last_hidden_state for output in outputs)),
            mixed(tuple(output.pooler_output for output in outputs)),
            tuple(map(mixed, zip(*(output.hidden_states for output in outputs)))),
            attention_mask,
        )

    def take_gate_means(self) -> list[float]:
        """Return each expert's mean weight since the last call, and start again at zero."""
        means: list[float] = (self.gate_sum / self.gate_count.clamp(min=1)).tolist()
        self.gate_sum.zero_()
        self.gate_count.zero_()
        return means
