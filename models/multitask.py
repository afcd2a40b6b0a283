"""One shared encoder, one sentence-vector module, a head a task."""

from torch import Tensor, nn

from batches import Batch
from models.bert import BertModel
from models.features import Features
from tasks import Task


class MultitaskBert(nn.Module):
    """Encoder -> features -> the task's head.

    heads: task name -> head. What has no trainable parameter runs in eval mode, always: a frozen
    encoder gives the same states every time.
    """

    def __init__(
        self,
        encoder: BertModel,
        features: Features,
        heads: dict[str, nn.Module],
        pair_encoding: str = "cross",
    ) -> None:
        super().__init__()
        self.pair_encoding = pair_encoding
        self.encoder = encoder
        self.features = features
        self.heads = nn.ModuleDict(heads)
        self.train()

    def train(self, mode: bool = True) -> "MultitaskBert":
        super().train(mode)
        for module in self.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.train(False)
        return self

    def forward(self, task: Task, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """Logits [B, C] in float32. `embeddings` [B, L, H] replaces what `encoder.embed`
        returns.
        """
        attention_mask = batch["attention_mask"]
        output = self.encoder(
            batch["input_ids"], attention_mask, batch["token_type_ids"], embeddings=embeddings
        )
        x = self.features(output, attention_mask)  # [B, F], or [2B, F] for a pair under bi
        head = self.heads[task.name]
        if task.is_pair and self.pair_encoding == "bi":
            return head(*x.chunk(2)).float()
        return head(x).float()
