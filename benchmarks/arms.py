"""Our training loop, and what it is compared with: a loop around transformers' encoder."""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.setup import build_seeded_model, kernels_of_a_run, run_updates
from inputs.batches import TokenizedTask
from models import MultitaskBert
from optimizers import build_optimizer
from reporting.run_log import RunLog
from reporting.start import Start
from tasks import Batch, Task, to_device
from training import build_training

Plan = list[dict[str, np.ndarray]]  # of each update, the row numbers [B] by task


class ReferenceModel(nn.Module):
    """transformers' encoder under our features and heads."""

    def __init__(self, encoder: nn.Module, ours: MultitaskBert) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = ours.features
        self.heads = ours.heads

    def forward(self, task: Task, batch: Batch) -> Tensor:
        """Return logits [B, C] in float32."""
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
        states = self.encoder(**inputs).last_hidden_state  # [B, L, H]
        logits: Tensor = self.heads[task.name](self.features(states, batch["attention_mask"]))
        return logits.float()


def build_reference(start: Start) -> ReferenceModel:
    """Return the model in training mode: the same weights as ours, the same dropout."""
    from transformers import BertModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would stand between the lines of a table
    dropout = start.args.hidden_dropout_prob
    encoder = BertModel.from_pretrained(
        start.source, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    ours = build_seeded_model(start)
    return ReferenceModel(encoder, ours).to(next(ours.parameters()).device).train()


class OurArm:
    """Our loop over its own scheduler, which draws the rows of `plan_rounds` in their order."""

    def __init__(self, start: Start, data: dict[str, TokenizedTask], log: RunLog) -> None:
        self.training = build_training(start.args, build_seeded_model(start), {**data})
        self.log = log

    def run(self, updates: Plan) -> None:
        """Train on the next updates."""
        with kernels_of_a_run(self.training.device.type == "cuda"):
            run_updates(self.training, self.log, len(updates))

    @property
    def num_layer_parameters(self) -> int:
        """The number of the encoder's parameters without embeddings and pooler."""
        named = self.training.model.encoder.named_parameters()
        return sum(p.numel() for name, p in named if name.startswith("layer."))


class ReferenceArm:
    """A plain loop around transformers' encoder, over the rows that it is given."""

    def __init__(self, start: Start, data: dict[str, TokenizedTask]) -> None:
        self.model = build_reference(start)
        self.optimizer = build_optimizer(start.args, self.model)
        self.clip = start.args.clip
        self.use_amp = start.args.use_amp
        self.data = data
        self.device = next(self.model.parameters()).device

    def run(self, updates: Plan) -> None:
        """Train on these updates."""
        for update in updates:
            self.optimizer.zero_grad()
            for name, rows in update.items():
                task, batch = self.data[name].task, self.data[name].batch(rows)
                batch = to_device(batch, self.device)
                with torch.autocast(self.device.type, torch.bfloat16, self.use_amp):
                    loss = task.loss(self.model(task, batch), batch["labels"])
                loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
