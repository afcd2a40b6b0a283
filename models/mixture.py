"""Combined models: three BERT experts, mixed by the weights that a fourth BERT gives them.

Axis letters: B batch, L tokens, H hidden.
"""

import copy

import torch
from torch import Tensor, nn

from models.bert import BertConfig, BertModel, BertOutput, Residual

NUM_EXPERTS = 3
NOISE = 0.01  # of each weight's standard deviation
GATE_STD = 0.02


class MixtureEncoder(nn.Module):
    """An encoder of four with `BertModel`'s signature: states are Σ g_e · expert e's states,
    g = softmax(W h + b) [B, 3], h the gate encoder's first state.

    `embed` puts the embeddings of the experts and the gate side by side, [B, L, 4H]. All start from
    the same weights; the second and third expert get noise, seeded, without which all outputs are
    equal and the gate's gradient is exactly zero. `gate_sum` and `gate_count` add up the weights of
    training examples, for the log, while `is_counting`. No `residual`: projected attention layers
    have one encoder.
    """

    def __init__(self, encoder: BertModel, seed: int = 0) -> None:
        super().__init__()
        self.experts = nn.ModuleList(copy.deepcopy(encoder) for _ in range(NUM_EXPERTS))
        self.gate = encoder
        self.gate_output = nn.Linear(encoder.config.hidden_size, NUM_EXPERTS)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.gate_output.weight, std=GATE_STD, generator=generator)
        nn.init.zeros_(self.gate_output.bias)
        with torch.no_grad():
            for expert in self.experts[1:]:
                for p in expert.parameters():
                    noise = torch.randn(p.shape, generator=generator)
                    p += NOISE * p.std(correction=0) * noise
        self.is_counting = True
        self.register_buffer("gate_sum", torch.zeros(NUM_EXPERTS, dtype=torch.float64))
        self.register_buffer("gate_count", torch.zeros((), dtype=torch.float64))

    @property
    def config(self) -> BertConfig:
        return self.gate.config

    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tag_ids: Tensor | None = None,
    ) -> Tensor:
        """Embeddings [B, L, 4H]: the experts', then the gate's."""
        encoders = [*self.experts, self.gate]
        parts = (input_ids, attention_mask, token_type_ids, tag_ids)
        return torch.cat([encoder.embed(*parts) for encoder in encoders], dim=-1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        residual: Residual | None = None,
        output_hidden_states: bool = False,
    ) -> BertOutput:
        assert residual is None, "combined models take no projected attention layers"
        if embeddings is None:
            embeddings = self.embed(input_ids, attention_mask, token_type_ids)
        *parts, gate_part = embeddings.chunk(NUM_EXPERTS + 1, dim=-1)  # [B, L, H] each
        gate_states = self.gate(input_ids, attention_mask, embeddings=gate_part).last_hidden_state
        weights = self.gate_output(gate_states[:, 0]).float().softmax(-1)  # [B, 3]
        if self.training and self.is_counting:
            self.count(weights.detach())
        outputs = [
            expert(
                input_ids,
                attention_mask,
                embeddings=part,
                output_hidden_states=output_hidden_states,
            )
            for expert, part in zip(self.experts, parts)
        ]

        def mixed(states: tuple[Tensor, ...]) -> Tensor:
            """The experts' [B, ...] -> [B, ...]."""
            stacked = torch.stack(states, dim=1)  # [B, 3, ...]
            shape = weights.shape + (1,) * (stacked.ndim - 2)
            return (weights.to(stacked.dtype).view(shape) * stacked).sum(1)

        hidden_states = None
        if output_hidden_states:
            hidden_states = tuple(map(mixed, zip(*(output.hidden_states for output in outputs))))
        return BertOutput(
            mixed(tuple(output.last_hidden_state for output in outputs)),
            mixed(tuple(output.pooler_output for output in outputs)),
            hidden_states,
            attention_mask,
        )

    def count(self, weights: Tensor) -> None:
        self.gate_sum += weights.sum(0)
        self.gate_count += len(weights)

    def take_gate_means(self) -> list[float]:
        """Each expert's mean weight over the training examples since the last call."""
        means = (self.gate_sum / self.gate_count.clamp(min=1)).tolist()
        self.gate_sum.zero_()
        self.gate_count.zero_()
        return means
