"""From turns to tables: what each contender needed, and how they compare.

Machines are noisy, and noise lasts longer than a turn. So contenders take turns one after the other, a ratio is taken
between turns of the same turn-taking, and the median over these is what is shown, with the smallest and the largest.

Pure. Not here: measuring (`turn.py`), what was measured where (`report.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeAlias

from bench.cases import MIB, Case
from bench.turn import ContenderName, Turn

__all__ = ["Results", "Spread", "cpu_ms", "ratios", "ratios_table", "round_s", "values_table"]

Results: TypeAlias = Mapping[Case, Mapping[ContenderName, Sequence[Turn]]]
"""The i-th turns of all contenders of a case were measured one after the other."""

NAMES: Final[Mapping[ContenderName, str]] = {
    "ours": "FedMQ",
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

    def __str__(self) -> str:
        if self.least == self.most:
            return _short(self.median)
        return f"{_short(self.median)} ({_short(self.least)}–{_short(self.most)})"


def round_s(turn: Turn) -> float:
    """Return the seconds of a round: the median of a turn."""
    return median(turn.round_s)


def cpu_ms(turn: Turn, case: Case) -> float:
    """Return the CPU that one update costs server and broker, in milliseconds."""
    return 1e3 * (turn.server_cpu_s + turn.broker_cpu_s) / (len(turn.round_s) * case.n_devices)


def ratios(ours: Sequence[Turn], theirs: Sequence[Turn], measure: Callable[[Turn], float]) -> Spread:
    """Return measure(theirs) / measure(ours), turn by turn: over 1, ours needs less.

    Example:
        Ours needed 1 s and 2 s, they 3 s and 4 s: 3 and 2, so 2.5 (2–3).
    """
    return Spread.of([measure(their) / measure(our) for our, their in zip(ours, theirs, strict=False)])


def values_table(results: Results) -> list[list[str]]:
    """Return what everybody needed: the head, then a row for each case and contender."""
    head = ["devices x model", "", "s a round", "MB/s", "CPU ms an update", "of it broker"]
    head += ["peak RSS MiB, server", "broker", "loop lag p99 ms"]
    rows = [head]
    for case, turns_of in results.items():
        for name, turns in turns_of.items():
            seconds = Spread.of([round_s(turn) for turn in turns])
            broker_ms = median([1e3 * turn.broker_cpu_s / (len(turn.round_s) * case.n_devices) for turn in turns])
            lags = [turn.loop_lag_ms for turn in turns if turn.loop_lag_ms is not None]
            has_broker = any(turn.broker_rss for turn in turns)
            rows.append(
                [
                    str(case),
                    NAMES[name],
                    str(seconds),
                    _short(case.moved_bytes / seconds.median / 1e6),
                    str(Spread.of([cpu_ms(turn, case) for turn in turns])),
                    _short(broker_ms) if has_broker else _NONE,
                    _short(max(turn.server_rss for turn in turns) / MIB),
                    _short(max(turn.broker_rss for turn in turns) / MIB) if has_broker else _NONE,
                    _short(max(lags)) if lags else _NONE,
                ]
            )
    return rows


def ratios_table(results: Results) -> list[list[str]]:
    """Return how ours compares: the head, then a row for each case in which ours took part; [] when it never did."""
    head = ["devices x model", "Flower's time / ours", "Flower's CPU / ours", "the same without our digests"]
    head += ["Flower's memory / ours and broker", "speed of the pipe that ours has"]
    rows = [head]
    for case, turns_of in results.items():
        ours, bare = turns_of.get("ours", ()), turns_of.get("undigested", ())
        flower, pipe = turns_of.get("flower", ()), turns_of.get("pipe", ())

        def cpu(turn: Turn, case: Case = case) -> float:
            return cpu_ms(turn, case)

        share = ratios(ours, pipe, round_s) if ours and pipe else None
        row = [
            str(ratios(ours, flower, round_s)) if ours and flower else _NONE,
            str(ratios(ours, flower, cpu)) if ours and flower else _NONE,
            str(ratios(bare, flower, cpu)) if bare and flower else _NONE,
            str(ratios(ours, flower, _memory)) if ours and flower else _NONE,
            f"{100 * share.median:.0f} % ({100 * share.least:.0f}–{100 * share.most:.0f})" if share else _NONE,
        ]
        if any(cell != _NONE for cell in row):
            rows.append([str(case), *row])
    return rows if len(rows) > 1 else []


def _memory(turn: Turn) -> float:
    return turn.server_rss + turn.broker_rss


def _short(value: float) -> str:
    """Return three digits, or all before the point."""
    if value == 0:
        return "0"
    digits = 3
    text = f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    return text
