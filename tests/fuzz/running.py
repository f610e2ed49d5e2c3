"""Payload after payload into both worlds, with a clock on each, until one breaks a promise.

A *life* is a fresh aggregator and a fresh device under one seed: payload `index` of a seed is a function of these and
of the length of a life, so a failure is replayed by running its life again up to it.
"""

import asyncio
import logging
import os
import resource
import signal
import tempfile
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict

from shared.errors import ConfigError, InvalidState
from simulator.virtual_time import run_in_virtual_time
from tests.fuzz.downward import DeviceWorld
from tests.fuzz.upward import AggregatorWorld
from tests.fuzz.world import MeteredBlocking, Payload, World

__all__ = ["LIFE", "Failure", "Found", "fuzz"]

LIFE = 100_000
"""Payloads a life: a replay then takes seconds."""
UPWARD_SHARE = 0.7
BOOKS_EVERY = 500
SHOWN_BYTES = 200
LONGEST_S = 5.0
"""Of computing for one payload: what takes longer will not end."""
RINGS_UNHEARD = 10
"""So often the clock rings for a turn of the loop that does not come."""
_TOLD = frozenset({"chunk_refused", "index_refused", "report_settled", "lease_ended", "work_begun", "turned_away"})
"""What a device says of the payloads that it believed, or found wrong only later."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A payload that did what none may do."""

    index: int
    world: str
    payload: Payload
    trace: str

    def lines(self) -> list[str]:
        """Return what a person needs to see it."""
        topic, data = self.payload.topic, self.payload.data
        more = f" … {len(data)} bytes" if len(data) > SHOWN_BYTES else ""
        return [
            f"payload {self.index} to the {self.world}",
            f"  topic    {topic[:SHOWN_BYTES]!r}",
            f"  payload  {data[:SHOWN_BYTES]!r}{more}",
            *(f"  {line}" for line in self.trace.rstrip().splitlines()),
        ]


@dataclass(slots=True)
class Found:
    """What a run of the fuzzer has seen."""

    n: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    rss_growth: int = 0
    """Peak over what the process took when its first life stood, in bytes."""
    failure: Failure | None = None
    times_s: "array[float]" = field(default_factory=lambda: array("f"))
    """Seconds of computing for each payload, without the lane of the disk: others on the machine do not count."""

    def quantile_s(self, share: float) -> float:
        """Return the time that this share of payloads stays within."""
        ranked = sorted(self.times_s)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0


def fuzz(
    n: int,
    seed: int,
    *,
    first: int = 0,
    life: int = LIFE,
    folder: Path | None = None,
    say: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Let `n` payloads arrive, or as many as it takes to find a failure.

    Args:
        n: payloads, counted from `first`.
        seed: decides every one of them.
        first: index of the first payload of a life, to begin there.
        life: payloads that one aggregator and one device live through.
        folder: of the files of both; default: a temporary one.
        say: told now and then how far it is.

    Raises:
        ConfigError: `first` does not begin a life.
    """
    if first % life:
        raise ConfigError(
            f"no life begins at payload {first}, one does at each multiple of {life}",
            where="--from",
            hint=f"for example --from {first - first % life} --n {first % life + 1}, which ends with that payload",
        )
    found = Found()
    configured = structlog.get_config()
    with open(os.devnull, "w", errors="backslashreplace") as nowhere, tempfile.TemporaryDirectory(dir=folder) as place:
        _set_up_logs(found, nowhere)
        before = signal.getsignal(signal.SIGVTALRM)
        try:
            begun, rss = time.perf_counter(), 0
            for at in range(first, first + n, life):
                alive = _Life(found, Path(place) / str(at), seed, at, say)
                rss = rss or _rss()
                try:
                    run_in_virtual_time(alive.run(min(life, first + n - at)))
                except Exception as error:  # it came up in the loop itself
                    alive.fails(error)
                if found.failure is not None:
                    break
            found.seconds = time.perf_counter() - begun
            found.rss_growth = max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - rss)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
            signal.signal(signal.SIGVTALRM, before)
            structlog.configure(**configured)
    return found


class _Life:
    def __init__(self, found: Found, folder: Path, seed: int, first: int, say: Callable[[Found], None]) -> None:
        self._found, self._folder, self._first, self._say = found, folder, first, say
        self._seed = f"{seed}/{first}"
        self._unretrieved: list[BaseException] = []
        self._n_rings = 0
        self._task: asyncio.Task[None]
        self._index, self._world, self._payload = first, "", Payload("", b"")

    async def run(self, n: int) -> None:
        """Live through so many payloads."""
        rng, task = Random(self._seed), asyncio.current_task()
        assert task is not None
        self._task = task
        signal.signal(signal.SIGVTALRM, self.ring)
        asyncio.get_running_loop().set_exception_handler(self._unhandled)
        up = AggregatorWorld(self._folder / "aggregator", Random(f"{self._seed}/up"))
        down = DeviceWorld(self._folder / "device", Random(f"{self._seed}/down"))
        worlds, lanes = (up, down), (up.blocking, down.blocking)
        for i in range(self._first, self._first + n):
            world: World = up if rng.random() < UPWARD_SHARE else down
            self._index, self._world = i, world.name
            self._n_rings = 0
            signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_S, LONGEST_S / RINGS_UNHEARD)
            try:
                self._payload = world.draw()
                await self._take(world, self._payload, lanes)
                self._check(worlds, is_thorough=not i % BOOKS_EVERY)
            except asyncio.CancelledError:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                if not self._n_rings:
                    raise
                self._task.uncancel()
                self.fails(_no_end())
                break
            except Exception as error:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                self.fails(error)
                break
            self._found.n += 1
            if not i % 1000:
                self._say(self._found)
        for each in worlds:
            self._found.counts.update({f"{each.name} {name}": count for name, count in each.counts.items()})
            try:
                await each.close()
            except Exception as error:
                self.fails(error)

    def ring(self, number: int, frame: object) -> None:
        """A payload takes too long: end it at the next turn of the loop, or, where none comes, right here.

        Raised here, it may meet a callback, or a coroutine that is thrown away: then it would be logged and forgotten.
        """
        self._n_rings += 1
        if self._n_rings == 1:
            self._task.get_loop().call_soon(self._task.cancel)
        elif self._n_rings > RINGS_UNHEARD:
            raise _no_end()

    def _check(self, worlds: Sequence[World], *, is_thorough: bool) -> None:
        if self._unretrieved:
            raise self._unretrieved.pop()
        for world in worlds:
            world.check()
            if is_thorough:
                world.check_books()

    def fails(self, error: Exception) -> None:
        """Note what came of the payload that was the last to arrive; the first failure stays."""
        if self._found.failure is None:
            trace = "".join(traceback.format_exception(error, limit=-12))
            self._found.failure = Failure(self._index, self._world, self._payload, trace)

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep what a callback has raised, or a task that nobody asks for its result."""
        self._unretrieved.append(context.get("exception") or InvalidState(context["message"]))

    async def _take(self, world: World, payload: Payload, lanes: Sequence[MeteredBlocking]) -> None:
        away_s = sum(each.disk_s for each in lanes)
        begun = time.thread_time()
        await world.take(payload)
        elapsed_s = time.thread_time() - begun
        self._found.times_s.append(elapsed_s - sum(each.disk_s for each in lanes) + away_s)


def _set_up_logs(found: Found, stream: TextIO) -> None:
    """Write every line to nowhere, so that what stands in one is looked at too, and count what devices refuse."""

    def counted(logger: object, method: str, fields: EventDict) -> EventDict:
        if fields["event"] == "message_refused":
            found.counts[f"device {fields['reason']}"] += 1
        elif fields["event"] in _TOLD:
            found.counts[f"device {fields['event']}"] += 1
        return fields

    structlog.configure(
        processors=[
            counted,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,  # a logger that is kept would write to this stream for ever
    )


def _no_end() -> InvalidState:
    return InvalidState(f"a payload has been computed for {LONGEST_S:g} s, and there is no end")


def _rss() -> int:
    """Return what the process takes now, in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
