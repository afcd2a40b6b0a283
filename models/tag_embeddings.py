"""Embeddings of part-of-speech and named-entity tags, which are added to the word embeddings."""

import torch
from torch import Tensor, nn

# The id of a tag is its position in these tuples, so it does not depend on a spaCy model. Any other
# label counts as 'none': special tokens, padding, and words outside an entity have it.
POS_TAGS = (
    *("none", "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON"),
    *("PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X", "SPACE"),
)
NER_LABELS = (
    *("none", "CARDINAL", "DATE", "EVENT", "FAC", "GPE", "LANGUAGE", "LAW", "LOC", "MONEY", "NORP"),
    *("ORDINAL", "ORG", "PERCENT", "PERSON", "PRODUCT", "QUANTITY", "TIME", "WORK_OF_ART"),
)
POS_IDS = {tag: i for i, tag in enumerate(POS_TAGS)}
NER_IDS = {label: i for i, label in enumerate(NER_LABELS)}


class ZeroEmbedding(nn.Embedding):
    """An embedding table that starts at zero and draws no random numbers."""

    def reset_parameters(self) -> None:
        """Set the table to zero; called by `nn.Embedding`."""
        nn.init.zeros_(self.weight)


class TagEmbeddings(nn.Module):
    """The sum of a part-of-speech embedding and an entity embedding.

    Both tables start at zero and draw no random numbers. Before the first update, the model is thus
    equal to one without tags, and modules that are made afterwards get the same initial weights.

    Args:
        hidden_size: H.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.pos = ZeroEmbedding(len(POS_TAGS), hidden_size)
        self.ner = ZeroEmbedding(len(NER_LABELS), hidden_size)

    def forward(self, tag_ids: Tensor) -> Tensor:
        """Map pairs (part-of-speech id, entity id) [..., 2] int64 to vectors [..., H]."""
        return torch.add(self.pos(tag_ids[..., 0]), self.ner(tag_ids[..., 1]))
