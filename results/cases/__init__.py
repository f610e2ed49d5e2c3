"""The cases, one a file: each has a `case`, see `results/case.py`."""
