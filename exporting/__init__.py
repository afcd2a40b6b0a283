"""Formats in which a finished run leaves the repository, one in each module."""

from exporting.cross_encoder import CrossEncoderExport
from exporting.encoder import EncoderExport
from exporting.sentence_transformer import SentenceTransformerExport

__all__ = ["FORMATS", "CrossEncoderExport", "EncoderExport", "SentenceTransformerExport"]

FORMATS: dict[str, type[EncoderExport]] = {
    "transformers": EncoderExport,
    "sentence-transformers": SentenceTransformerExport,
    "cross-encoder": CrossEncoderExport,
}
