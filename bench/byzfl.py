"""`python -m bench.byzfl`: our rules beside ByzFL's on the same updates, and how far apart they end.

ByzFL (https://github.com/LPD-EPFL/byzfl) is the reference library of robust aggregation. Its package imports a whole
benchmark with torchvision; only its aggregators are loaded here, from a copy that pip puts into a folder of its own.

Two of its rules depart from the papers: Krum's scores sum over n − f − 1 neighbours and not n − f − 2, which can choose
another update, and the geometric median begins at 0 and stops after three steps. The former is compared with the
departure, the latter where both have converged.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from aggregator.rules import Cohort, CohortRule
from aggregator.rules.clipping import CenteredClipping
from aggregator.rules.cohort import weighted_sum
from aggregator.rules.geometric_median import GeometricMedian
from aggregator.rules.krum import Krum, krum_scores
from aggregator.rules.median import Median, TrimmedMean
from aggregator.rules.mixing import NearestNeighbourMixing
from aggregator.rules.rule import Blocks
from aggregator.update_rows import UpdateRows

__all__ = ["main"]

VERSION = "0.0.11"
TARGET = 1e-6
N_PARAMS = 2000
COHORTS = ((11, 2), (20, 4), (23, 5), (40, 10))
"""(n, f)."""
F64 = NDArray[np.float64]


def main() -> None:
    """Compare our rules with ByzFL's; exit code 1: one is farther than 1e-6 away."""
    too_far = False
    with tempfile.TemporaryDirectory(prefix="byzfl-") as name:
        theirs = _byzfl(Path(name))
        typer.echo(f"{'rule':32}{'largest difference':>20}")
        for rule, apart in _compared(theirs, Path(name)):
            typer.echo(f"{rule:32}{apart:20.1e}")
            too_far |= not apart <= TARGET
    raise typer.Exit(int(too_far))


def _byzfl(folder: Path) -> Any:
    """Return ByzFL's aggregators and pre-aggregators."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), f"byzfl=={VERSION}"]
    subprocess.run(pip, check=True)
    package = ModuleType("byzfl")
    package.__path__ = [str(folder / "byzfl")]
    sys.modules["byzfl"] = package
    return import_module("byzfl.aggregators")


def _compared(theirs: Any, folder: Path) -> Iterator[tuple[str, float]]:
    pairs: dict[str, tuple[Callable[[int], CohortRule], Callable[[int, F64], Any]]] = {
        "median": (lambda f: Median(), lambda f, x: theirs.Median()(x)),
        "trimmed-mean": (TrimmedMean, lambda f, x: theirs.TrMean(f=f)(x)),
        "krum, n - f - 1 neighbours": (lambda f: _OneMore(f, is_multi=False), lambda f, x: theirs.Krum(f=f)(x)),
        "multi-krum, n - f - 1 neighbours": (
            lambda f: _OneMore(f, is_multi=True),
            lambda f, x: theirs.MultiKrum(f=f)(x),
        ),
        "geometric-median, converged": (
            lambda f: GeometricMedian(),
            lambda f, x: theirs.GeometricMedian(nu=1e-9, T=1000)(x),
        ),
        "centered-clipping": (
            lambda f: CenteredClipping(10.0, 5),
            lambda f, x: theirs.CenteredClipping(L=5, tau=10.0)(x),
        ),
        "nearest mixing, trimmed-mean": (
            lambda f: NearestNeighbourMixing(TrimmedMean(f), f),
            lambda f, x: theirs.TrMean(f=f)(theirs.NNM(f=f)(x)),
        ),
    }
    for name, (ours, other) in pairs.items():
        apart = 0.0
        for n, f in COHORTS:
            updates = _updates(n, f)
            found = ours(f).combine(_cohort(updates, folder))
            apart = max(apart, float(np.abs(found - np.asarray(other(f, updates.astype(np.float64)))).max()))
        yield name, apart


class _OneMore(Krum):
    """Krum with ByzFL's number of neighbours: that of one update fewer that may be anything."""

    def combine(self, cohort: Cohort) -> F64:
        n_chosen = len(cohort) - self._f if self._is_multi else 1
        scores = krum_scores(cohort.squared_distances, self._f - 1)
        factors = np.zeros(len(cohort))
        factors[np.argsort(scores, kind="stable")[:n_chosen]] = 1 / n_chosen
        return weighted_sum(cohort, factors)


def _updates(n: int, f: int) -> NDArray[np.float32]:
    """Return honest updates around one, and f liars: (n, n_params) float32."""
    rng = np.random.default_rng([n, f])
    updates = 1 + rng.standard_normal((n, N_PARAMS))
    updates[rng.permutation(n)[:f]] = -5
    return updates.astype(np.float32)


def _cohort(updates: NDArray[np.float32], folder: Path) -> Cohort:
    rows = UpdateRows(folder, updates.shape[1])
    for update in updates:
        blocks: Blocks = [(0, update)]
        rows.append(blocks, 1.0)
    return Cohort(rows, updates.shape[1], np.ones(len(updates)))


if __name__ == "__main__":
    typer.run(main)
