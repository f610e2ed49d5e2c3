"""Many crash schedules, spread over processes.

Not here: one of them (`schedule_run.py`), what is said of them (`schedule_command.py`).
"""

import gc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import get_context

from simulator.schedule_run import Verdict, carry_out
from simulator.schedules import Schedule

__all__ = ["judge", "verdicts"]

SEEDS_A_TASK = 5
"""Few enough that processes end together, enough that handing them out costs nothing."""
GARBAGE_THRESHOLD = 50_000
"""A schedule makes garbage in cycles, and little of it."""


def verdicts(seeds: Iterable[int], *, jobs: int) -> Iterator[Verdict]:
    """Yield the verdict on each seed, in whichever order they come.

    Args:
        seeds: of the schedules.
        jobs: processes; 1: this one.
    """
    left = iter(seeds)
    tasks = iter(lambda: tuple(islice(left, SEEDS_A_TASK)), ())
    if jobs == 1:
        for task in tasks:
            for seed in task:
                yield carry_out(Schedule.drawn(seed))
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepare)
    try:
        for done in as_completed([pool.submit(judge, task) for task in tasks]):
            yield from done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def judge(seeds: Sequence[int]) -> list[Verdict]:
    """Return the verdicts on a few seeds."""
    return [carry_out(Schedule.drawn(seed)) for seed in seeds]


def _prepare() -> None:
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
