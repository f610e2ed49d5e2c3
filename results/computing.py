"""Computes runs in worker processes, one at a time in each, and keeps what is finished, so that it is never lost.

A run's numbers lie in a file whose name is a digest of its description and of the sources; an interrupted command goes
on where it stopped, and changed code computes anew. Workers have one thread each, for the bits of small models depend
on how sums are split.

Not here: what a run computes (`case.py`).
"""

import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

from results.case import Numbers, Run, Value, load_case
from shared.errors import FederationError
from shared.logs import set_up_logs

__all__ = ["Cache", "Progress", "compute_all", "rounded"]

DIGITS = 6
"""Significant digits that are kept of a number."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it is.

    Args:
        n_done: runs that are finished, those found in the cache included.
        n_runs: of all.
        left_s: real seconds that the rest will take, as far as one can tell; None: nothing is known yet.
        last: the run that was finished last; None: none yet.
    """

    n_done: int
    n_runs: int
    left_s: float | None
    last: Run | None


class Cache:
    """Numbers of finished runs, a file each.

    Args:
        folder: created when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, run: Run, sources: str) -> Numbers | None:
        """Return what a run found; None: it was not computed with these sources, or not to its end."""
        try:
            found = json.loads(self._path(run, sources).read_text())
        except (OSError, ValueError):
            return None
        return cast(Numbers, found["numbers"])

    def put(self, run: Run, sources: str, numbers: Numbers) -> None:
        """Keep what a run found."""
        path = self._path(run, sources)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps({"run": json.loads(run.key()), "numbers": numbers}, allow_nan=False))
        beside.replace(path)

    def _path(self, run: Run, sources: str) -> Path:
        return self._folder / run.case / f"{sha256(f'{sources} {run.key()}'.encode()).hexdigest()[:32]}.json"


def compute_all(
    runs: Sequence[Run],
    sources: Mapping[str, str],
    cache: Cache,
    *,
    jobs: int,
    show: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Numbers]:
    """Return the numbers of every run by its key, from the cache or computed.

    Args:
        runs: in the order in which they are begun.
        sources: digests by case.
        cache: to which whatever is finished goes at once.
        jobs: worker processes; 0: in this one.
        show: is told at the begin and after each run.

    Raises:
        FederationError: a run failed; it says which. Others that were under way are waited for and kept.
    """
    numbers = {run.key(): found for run in runs if (found := cache.get(run, sources[run.case])) is not None}
    todo = [run for run in runs if run.key() not in numbers]
    began, n_cached = time.monotonic(), len(numbers)

    def done(run: Run, found: Numbers) -> None:
        numbers[run.key()] = rounded(found)
        cache.put(run, sources[run.case], numbers[run.key()])
        each_s = (time.monotonic() - began) / (len(numbers) - n_cached)
        left_s = each_s * (len(runs) - len(numbers))
        show(Progress(n_done=len(numbers), n_runs=len(runs), left_s=left_s, last=run))

    show(Progress(n_done=n_cached, n_runs=len(runs), left_s=None if todo else 0.0, last=None))
    if jobs and todo:
        _in_processes(todo, jobs, done)
    else:
        for run in todo:
            done(run, _computed(run))
    return numbers


def _in_processes(todo: Sequence[Run], jobs: int, done: Callable[[Run, Numbers], None]) -> None:
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # a library reads it when it is imported
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=context) as pool:
            waiting: dict[Future[Numbers], Run] = {pool.submit(_computed, run): run for run in todo}
            try:
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        done(waiting.pop(future), future.result())
            except BaseException:
                for future in waiting:
                    future.cancel()
                for future, run in waiting.items():
                    if not future.cancelled() and future.exception() is None:
                        done(run, future.result())
                raise
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _computed(run: Run) -> Numbers:
    """Compute a run; what it raises says which run it was."""
    set_up_logs("error")
    try:
        return load_case(run.case).compute(run)
    except FederationError as error:
        raise FederationError(f"{run.key()}: {error}") from error
    except Exception as error:
        raise FederationError(f"{run.key()}: {type(error).__name__}: {error}") from error


def rounded(numbers: Numbers) -> Numbers:
    """Return numbers with as many digits as are kept; what is not finite becomes None."""
    return {name: _rounded(value) for name, value in numbers.items()}


def _rounded(value: Value) -> Value:
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Iterable):
        return [cast("float | None", _rounded(each)) for each in value]
    return float(f"{float(value):.{DIGITS}g}") if math.isfinite(value) else None
