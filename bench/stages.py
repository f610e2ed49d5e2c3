"""Which stage of a fit the time of a process goes into, by looking at its stack a thousand times a second of CPU.

A look costs microseconds and is spread evenly over the work, so it says where time goes without changing how much there
is; a profiler that counts every call would make cheap calls look dear. A look counts for the innermost of our modules
on the stack: msgpack below `wire.py` is the wire's, an event loop below nobody is the loop's.

Not here: what is run (`simulation.py`).
"""

import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

__all__ = ["STAGES", "StageTimes"]

EVERY_S: Final = 0.001
ROOT: Final = str(Path(__file__).parents[1]) + "/"
LOOP: Final = "event loop"

STAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "wire": ("shared/wire", "shared/messages", "shared/topics", "edge_client/device_status"),
    "broker": ("broker/",),
    "fetch": ("edge_client/downloading", "edge_client/fetch_window", "edge_client/model_cache", "shared/chunking"),
    "train": ("edge_client/training", "shared/parameters", "shared/codecs", "bench/", "examples/", "tests/"),
    "outbox": ("edge_client/outbox", "edge_client/report_files", "edge_client/local_state", "simulator/memory_files"),
    "device": ("edge_client/",),
    "admission": ("aggregator/reception", "aggregator/admission", "aggregator/presence", "aggregator/intake"),
    "engine": (
        "aggregator/round_",
        "aggregator/leases",
        "aggregator/tally",
        "aggregator/reports",
        "aggregator/invitations",
        "aggregator/selection",
        "aggregator/population",
        "aggregator/disk_budget",
        "aggregator/staleness",
    ),
    "journal": ("aggregator/journal", "aggregator/row_writer", "aggregator/records"),
    "fold": ("aggregator/aggregation", "aggregator/version_making", "aggregator/rules", "aggregator/folding"),
    "answers": ("aggregator/",),
    LOOP: ("simulator/",),
}
"""Where the modules of each stage lie; the first that fits counts."""


class StageTimes:
    """Looks at this process's main thread while it is used as a context.

    Attributes:
        looks: how often each stage was found at work.
    """

    def __init__(self) -> None:
        self.looks: Counter[str] = Counter()
        self._stage_of: dict[str, str | None] = {}  # by file

    def __enter__(self) -> Self:
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)

    def microseconds_each(self, n: int, cpu_s: float) -> dict[str, float]:
        """Return what each stage took of each of `n` pieces of work, in microseconds, the dearest first.

        Args:
            n: how many pieces of work were done.
            cpu_s: seconds of CPU that all of them took.
        """
        all_looks = self.looks.total() or 1
        return {stage: 1e6 * cpu_s * times / all_looks / n for stage, times in self.looks.most_common()}

    def _look(self, _: int, frame: FrameType | None) -> None:
        while frame is not None:
            file = frame.f_code.co_filename
            try:
                stage = self._stage_of[file]
            except KeyError:
                stage = self._stage_of[file] = _stage_of(file)
            if stage is not None:
                self.looks[stage] += 1
                return
            frame = frame.f_back
        self.looks[LOOP] += 1


def _stage_of(file: str) -> str | None:
    if not file.startswith(ROOT):
        return None
    inner = file.removeprefix(ROOT)
    return next((stage for stage, modules in STAGES.items() if inner.startswith(modules)), None)
