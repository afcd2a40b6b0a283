"""Embeddings of part-of-speech and named-entity tags, which are added to the word embeddings."""

import torch
from torch import Tensor, nn

# Ids are positions in these tuples, so that they depend on no model; a label not among them is
# 'none', which has a row of its own: special tokens, padding, words outside any entity.
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


class TagEmbeddings(nn.Module):
    """Two tables of vectors, for parts of speech and for entities, added up.

    They start at zero and draw no random numbers: before the first update the model is the plain
    one, whatever is initialised after them.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.pos, self.ner = (
            nn.Embedding.from_pretrained(torch.zeros(len(names), hidden_size), freeze=False)
            for names in (POS_TAGS, NER_LABELS)
        )

    def forward(self, tag_ids: Tensor) -> Tensor:
        """(POS id, NER id) pairs [..., 2] int64 -> [..., H]."""
        return self.pos(tag_ids[..., 0]) + self.ner(tag_ids[..., 1])
