"""Imported before everything else: no test asks a network, as huggingface_hub reads on import."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
