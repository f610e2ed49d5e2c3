"""One contender, one case, once: a warm-up round, the rounds that count, and one in which it winds up.

A round ends when the server has made the next model. The time of a round is that between two such ends; costs are read
at the first and at the last of them that count.

Not here: what a contender is made of (`ours.py`, `flower/`, `pipe/`), and how turns are compared (`table.py`).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from bench.cases import Case
from bench.process_costs import cpu_seconds, peak_rss_bytes

__all__ = ["UNMEASURED", "Contender", "ContenderName", "Meter", "Say", "Setting", "Turn"]

UNMEASURED = 2
"""The first round, in which everybody connects, and the last, in which everybody leaves."""
ROUND_LIMIT_S = 300.0
"""A round that takes longer never ends."""

ContenderName: TypeAlias = Literal["ours", "int8", "undigested", "flower", "pipe"]
Say: TypeAlias = Callable[[str], None]
"""Shows how far a turn is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every contender is given.

    Args:
        case: how many devices, how large a model.
        n_rounds: that are measured.
        n_processes: among which the devices are divided; clients take the CPU of the same machine.
        folder: for everything that the turn writes; on a real disk, for "durable" to mean something.
    """

    case: Case
    n_rounds: int
    n_processes: int
    folder: Path

    @property
    def n_rounds_in_all(self) -> int:
        """Those that are run."""
        return self.n_rounds + UNMEASURED

    def shares(self) -> list[range]:
        """Return the numbers of the devices of each process, none without any."""
        n, parts = self.case.n_devices, min(self.n_processes, self.case.n_devices)
        return [range(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What was measured.

    Args:
        round_s: seconds of each round that counts.
        server_cpu_s: of the server's process and its children, over those rounds.
        broker_cpu_s: the same of the broker; 0 where there is none.
        clients_cpu_s: the same of all clients' processes.
        server_rss: bytes, most that the server's process ever had.
        broker_rss: the same of the broker; 0 where there is none.
        loop_lag_ms: p99 of how late the server's event loop was while it received; None: it does not say.
    """

    round_s: tuple[float, ...]
    server_cpu_s: float
    broker_cpu_s: float
    clients_cpu_s: float
    server_rss: int
    broker_rss: int
    loop_lag_ms: float | None = None


class Contender(Protocol):
    """Does the work once, on processes of its own."""

    name: ContenderName

    def turn(self, setting: Setting, say: Say) -> Awaitable[Turn]:
        """Run one turn, leaving nothing running.

        Raises:
            FederationError: something failed, or the final model is wrong.
        """


class Meter:
    """Is told when rounds end, and looks at the processes when it matters.

    Args:
        setting: of the turn.
        server: pid of the server.
        broker: pid of the broker, None: there is none.
        clients: pids of the clients' processes.
        say: is told of every round.
    """

    def __init__(self, setting: Setting, *, server: int, broker: int | None, clients: Sequence[int], say: Say) -> None:
        self._n_measured, self._n_in_all = setting.n_rounds, setting.n_rounds_in_all
        self._server, self._broker, self._clients = server, broker, clients
        self._say = say
        self._ends: list[float] = []
        self._before = self._after = _Cpu()
        self._rss = (0, 0)

    def round_ended(self, at_s: float) -> None:
        """Take note of the end of a round.

        Args:
            at_s: when, on a clock that never jumps.
        """
        self._ends.append(at_s)
        n_ended = len(self._ends)
        if n_ended == 1:
            self._before = self._cpu()
        elif n_ended == self._n_measured + 1:
            self._after = self._cpu()
            self._rss = (peak_rss_bytes(self._server), peak_rss_bytes(self._broker) if self._broker else 0)
        if n_ended > 1:
            self._say(f"round {n_ended} of {self._n_in_all}, {at_s - self._ends[-2]:.2f} s")

    def result(self, loop_lag_ms: float | None = None) -> Turn:
        """Return the turn, once the rounds that count have ended."""
        before, after = self._before, self._after
        return Turn(
            round_s=tuple(end - begin for begin, end in pairwise(self._ends[: self._n_measured + 1])),
            server_cpu_s=after.server - before.server,
            broker_cpu_s=after.broker - before.broker,
            clients_cpu_s=after.clients - before.clients,
            server_rss=self._rss[0],
            broker_rss=self._rss[1],
            loop_lag_ms=loop_lag_ms,
        )

    def _cpu(self) -> "_Cpu":
        return _Cpu(
            server=cpu_seconds(self._server),
            broker=cpu_seconds(self._broker) if self._broker else 0.0,
            clients=sum(map(cpu_seconds, self._clients)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cpu:
    """Seconds, since each of them began."""

    server: float = 0.0
    broker: float = 0.0
    clients: float = 0.0
