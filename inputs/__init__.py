"""Rows on their way to the model: augmentation, token ids, segments, tags, cached states."""
