"""From turns to tables: what each contender needed, and how they compare.

Machines are noisy, and noise lasts longer than a turn. So contenders take turns one after the other, a ratio is taken
between turns of the same turn-taking, and the median over these is what is shown, with the smallest and the largest.

Pure. Not here: measuring (`turn.py`), what was measured where (`report.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final, TypeAlias

from bench.cases import MIB, Case
from bench.turn import ContenderName, Turn

__all__ = ["Results", "Spread", "cpu_ms", "ratios", "ratios_table", "round_s", "values_table"]

Results: TypeAlias = Mapping[Case, Mapping[ContenderName, Sequence[Turn]]]
"""The i-th turns of all contenders of a case were measured one after the other."""

NAMES: Final[Mapping[ContenderName, str]] = {
    "ours": "FedMQ",
    "int8": "FedMQ with int8",
    "undigested": "FedMQ without digests",
    "flower": "Flower gRPC",
    "pipe": "bare pipe",
}
_NONE: Final = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure that was measured several times."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(median=median(values), least=min(values), most=max(values))

    def times(self, factor: float) -> "Spread":
        """Return it in another unit."""
        return Spread(median=factor * self.median, least=factor * self.least, most=factor * self.most)

    def __str__(self) -> str:
        if self.least == self.most:
            return _short(self.median)
        return f"{_short(self.median)} ({_short(self.least)}–{_short(self.most)})"


def round_s(turn: Turn) -> float:
    """Return the seconds of a round: the median of a turn."""
    return median(turn.round_s)


def cpu_ms(turn: Turn, case: Case) -> float:
    """Return the CPU that one update costs server and broker, in milliseconds."""
    return _per_update_ms(turn.server_cpu_s + turn.broker_cpu_s, turn, case)


def ratios(ours: Sequence[Turn], theirs: Sequence[Turn], measure: Callable[[Turn], float]) -> Spread | None:
    """Return measure(theirs) / measure(ours), turn by turn: over 1, ours needs less. None: there is nothing to compare.

    Example:
        Ours needed 1 s and 2 s, they 3 s and 4 s: 3 and 2, so 2.5 (2–3).
    """
    quotients = [measure(their) / measure(our) for our, their in zip(ours, theirs, strict=False)]
    return Spread.of(quotients) if quotients else None


def values_table(results: Results) -> list[list[str]]:
    """Return what everybody needed: the head, then a row for each case and contender."""
    head = ["devices x model", "", "s a round", "MB/s", "CPU ms an update", "of it broker", "devices beside it"]
    head += ["peak RSS MiB, server", "broker", "loop lag p99 ms"]
    rows = [head]
    for case, turns_of in results.items():
        for name, turns in turns_of.items():
            seconds = Spread.of([round_s(turn) for turn in turns])
            lags = [turn.loop_lag_ms for turn in turns if turn.loop_lag_ms is not None]
            broker_ms = [_per_update_ms(turn.broker_cpu_s, turn, case) for turn in turns if turn.broker_rss]
            broker_rss = max(turn.broker_rss for turn in turns)
            rows.append(
                [
                    str(case),
                    NAMES[name],
                    str(seconds),
                    _short(case.moved_bytes / seconds.median / 1e6),
                    str(Spread.of([cpu_ms(turn, case) for turn in turns])),
                    _short(median(broker_ms)) if broker_ms else _NONE,
                    _short(median([_per_update_ms(turn.clients_cpu_s, turn, case) for turn in turns])),
                    _short(max(turn.server_rss for turn in turns) / MIB),
                    _short(broker_rss / MIB) if broker_rss else _NONE,
                    _short(max(lags)) if lags else _NONE,
                ]
            )
    return rows


def ratios_table(results: Results) -> list[list[str]]:
    """Return how ours compares: the head, then a row for each case in which ours took part; [] when it never did."""
    head = ["devices x model", "Flower's time / ours", "Flower's CPU / ours", "the same without our digests"]
    head += ["Flower's memory / ours and broker", "ours in % of the pipe's speed"]
    head += ["Flower's time / ours with int8", "Flower's CPU / ours with int8"]
    rows = [head]
    for case, turns_of in results.items():
        cpu = partial(cpu_ms, case=case)
        ours, int8, bare, flower, pipe = (turns_of.get(name, ()) for name in NAMES)
        share = ratios(ours, pipe, round_s)
        found = [ratios(ours, flower, round_s), ratios(ours, flower, cpu), ratios(bare, flower, cpu)]
        found += [ratios(ours, flower, _memory), share and share.times(100)]
        found += [ratios(int8, flower, round_s), ratios(int8, flower, cpu)]
        if any(found):
            rows.append([str(case), *(str(each) if each else _NONE for each in found)])
    return rows if len(rows) > 1 else []


def _per_update_ms(cpu_s: float, turn: Turn, case: Case) -> float:
    return 1e3 * cpu_s / (len(turn.round_s) * case.n_devices)


def _memory(turn: Turn) -> float:
    return turn.server_rss + turn.broker_rss


def _short(value: float) -> str:
    """Return three digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
