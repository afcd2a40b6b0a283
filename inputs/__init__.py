"""Rows on their way to the model: token ids, segments, tags, augmentation, frozen states."""
