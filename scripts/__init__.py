"""What the shell entry points share, and the generated parts of the documentation."""

import runtime.startup  # noqa: F401  # first, for a Ctrl-C during the other imports
