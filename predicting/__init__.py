"""A finished run as a library, the rows of a file that it labels, and calibrated probabilities."""
