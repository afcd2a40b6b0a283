"""What the shell entry points share, and the generated parts of the documentation."""
