"""What the learning is worth, computed from scratch: `python -m results` writes docs/results.md and its pictures."""
