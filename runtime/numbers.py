"""Numbers in text: plain ASCII digits, as every other program reads them."""

import math
import re

# Python itself would also take 1_000, and digits of other scripts.
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def is_plain_number(text: str) -> bool:
    """Tell whether a text is a number that a float can hold: no nan, 1e400 or 1e-400."""
    if len(text) > 400 or not NUMBER.fullmatch(text):
        return False
    mantissa = re.split("[eE]", text)[0]
    is_zero = float(text) == 0
    return abs(float(text)) < math.inf and (not is_zero or not re.search("[1-9]", mantissa))
