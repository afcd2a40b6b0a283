"""Speed, memory and scaling, always as ratios within one run."""

import runtime.startup  # noqa: F401  # first, for a Ctrl-C during the other imports
