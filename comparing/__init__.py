"""Finished runs side by side: options, scores, differences with intervals, and their averages."""
