"""The results table: what is run for it, and how it is written."""
