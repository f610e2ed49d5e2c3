"""The bare pipe: the same bytes through the same broker and library, and nothing else."""
