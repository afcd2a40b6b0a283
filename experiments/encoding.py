"""Predictions and scores of dev examples as short texts, one line of a result file each."""

import base64

import numpy as np


def encode_right(is_right: np.ndarray) -> str:
    """Return [N] booleans as base64 of bits, eight per byte, the first one highest."""
    return base64.b64encode(np.packbits(is_right.astype(bool)).tobytes()).decode()


def decode_right(text: str, num_examples: int) -> np.ndarray:
    """Return what `encode_right` was given, as float64."""
    bits = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return np.unpackbits(bits, count=num_examples).astype(np.float64)


def encode_scores(scores: np.ndarray) -> str:
    """Return [N] numbers with up to four decimals, separated by spaces: one line of JSON."""
    return " ".join(f"{score:.4f}".rstrip("0").rstrip(".") for score in scores)


def decode_scores(text: str) -> np.ndarray:
    """Return what `encode_scores` was given, rounded."""
    return np.array([float(score) for score in text.split()])
