"""What numbers depend on: a digest of the code that computes them, without the code that only shows them."""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from results.case import Case

__all__ = ["ROOT", "digest_of"]

ROOT = Path(__file__).parents[1]
ENGINE = ("shared", "broker", "edge_client", "aggregator", "simulator")
COMPUTING = ("case.py", "federated.py", "skewed_digits.py", "uses.py")
"""Files of `results/` that compute; the others run, render and draw."""
DIGITS = "examples/linear_digits.py"
"""Whose images they deal."""


def digest_of(name: str, case: Case) -> str:
    """Return 16 hex digits that change when code that a case's numbers depend on does."""
    own = [ROOT / "results" / "cases" / f"{name}.py", *(ROOT / source for source in case.sources)]
    return hashlib.sha256(f"{_engine()} {_digest(own)}".encode()).hexdigest()[:16]


@functools.cache
def _engine() -> str:
    packages = [path for package in ENGINE for path in (ROOT / package).rglob("*.py")]
    return _digest([*packages, *(ROOT / "results" / name for name in COMPUTING), ROOT / DIGITS])


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in set(paths) if path.exists()):
        digest.update(f"{path.relative_to(ROOT)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
