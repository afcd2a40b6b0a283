"""From a command line to checked options."""
