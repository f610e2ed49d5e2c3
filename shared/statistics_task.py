"""StatisticsTask: counts, means, variances and histograms over a fleet, by the leases that carry models.

What a device returns in place of a trained model is its sums. Each device weighs 1 (it claims one example, so that both
of `server.weighting` mean the same), the next version is the mean of what K devices returned, and K times it are the
sums over these devices' rows: over exactly those whose update counted, each once. K is in the journal.

Variances take two rounds. The first finds the mean; in the second each device sums squares around it, by the corrected
two-pass algorithm of Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance" (The American Statistician
37, 1983), eq. 1.7: S = Σ(x - m)² - (Σ(x - m))²/N. One round with Σx and Σx² would lose all digits to the float32 of the
wire wherever the mean is a thousand times the spread.

Precision: every array has two rows. A version fills one and empties the other, so that each number is written over an
exact zero and its delta is the number itself, rounded once on the device and once in the version, each by at most
u = 2^-24 of it. Counts below 2^23 are exact, for K times the rounding stays below a half. A mean is off by at most
4u √(variance + d²) and a variance by 16u (variance + d²), d being the distance of the mean from the one of the round
before, which is 0 but for rounding where the same devices counted.

Not here: minima and maxima, for a mean over devices holds none; who counted, and whether the version is their mean
(`aggregator/statistics_report.py`). Nothing is hidden from the aggregator: it sees each device's sums, and the sums of
a device with one row are that row.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import ConfigError, InvalidState
from shared.task import Arrays, Client, Evaluated, Initial, Trained, Work

__all__ = [
    "Category",
    "CategoryStatistics",
    "Column",
    "FleetStatistics",
    "Histogram",
    "NumberStatistics",
    "StatisticsTask",
    "Table",
]

Table: TypeAlias = Mapping[str, ArrayLike]
"""A client's rows: (n,) by column; columns that nobody asked for never leave the device."""

EXACT_ROWS = 2**23
"""Below it, float32 on the wire leaves every count exact."""
_U = 2.0**-24
_TINY = 2.0**-148
"""Of float32 that is too small to be normal."""
_NOISE = 2.0**-50
"""Of float64, in which a device and the aggregator sum."""
_LARGEST = 1e38
"""Of a sum on the wire: the mean of such is finite as float32."""
_SUMS = ("count", "sum", "centre", "around", "residual", "square")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of numbers; NaN is missing.

    Args:
        name: in the table.
        edges: of a histogram, in ascending order: bins as in `numpy.histogram`, and one below and one above; (): none.
        centre: a public guess of the mean; a good one makes the first round's mean more precise.
        scale: a public guess of the spread, for numbers whose squares are beyond 1e±38.
    """

    name: str
    edges: tuple[float, ...] = ()
    centre: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges, dtype=np.float64)
        if len(edges) and (len(edges) < 2 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all()):
            raise ConfigError(
                f"edges {self.edges}", where=f"Column({self.name})", hint="two or more, ascending, finite"
            )
        if not (np.isfinite(self.centre) and np.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"centre {self.centre}, scale {self.scale}: finite, and scale above 0", where=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A column of words; None, NaN and "" are missing.

    Args:
        name: in the table.
        values: that are counted each, compared as text; all others are counted together.
    """

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({str(value) for value in self.values}) != len(self.values):
            raise ConfigError(f"values {self.values}: one is there twice", where=f"Category({self.name})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Rows by bin: [edge, next edge), the last one closed; and those below the first and above the last edge."""

    edges: tuple[float, ...]
    under: int
    counts: tuple[int, ...]
    over: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberStatistics:
    """A column of numbers over the fleet.

    Args:
        count: values that are there.
        missing: rows without one.
        mean: None where there is no value.
        mean_error: what the mean is off by at most; None before the second round.
        variance: Σ(x - mean)²/count; None where there is no value, and before the second round.
        variance_error: what the variance is off by at most.
        histogram: None where none was asked for.
    """

    count: int
    missing: int
    mean: float | None
    mean_error: float | None
    variance: float | None
    variance_error: float | None
    histogram: Histogram | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryStatistics:
    """A column of words over the fleet: rows by value, with another value, and with none."""

    counts: Mapping[str, int]
    other: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatistics:
    """Statistics over the rows of the devices that counted.

    Args:
        n_devices: that counted.
        rows: of theirs.
        is_exact: whether every count is, see `EXACT_ROWS`; otherwise they are right to seven digits.
        columns: by name.
    """

    n_devices: int
    rows: int
    is_exact: bool
    columns: Mapping[str, NumberStatistics | CategoryStatistics]


class StatisticsTask:
    """A `Task` that measures and learns nothing. Needs two rounds (`stop.rounds = 2`), and no setting of training.

    Args:
        columns: what is measured.
        rows: returns a client's table; no rows at all are as good as any.
        fewest_devices: below so many, nothing is shown: what one device counts is its own data.
    """

    def __init__(
        self, *, columns: Sequence[Column | Category], rows: Callable[[Client], Table], fewest_devices: int = 5
    ) -> None:
        names = [column.name for column in columns]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"columns {names}: at least one, and none twice", where="StatisticsTask")
        if fewest_devices < 1:
            raise ConfigError(f"fewest_devices is {fewest_devices}, at least 1 it must be", where="StatisticsTask")
        self._columns, self._rows, self._fewest = tuple(columns), rows, fewest_devices
        self._numbers = [column for column in columns if isinstance(column, Column)]
        # in a name, so that a device whose task defines something else is refused: its spec is another
        self._version = f"version of {_digest(columns)}"

    def initial_parameters(self, seed: int) -> Initial:
        """Nothing is known."""
        shapes: dict[str, tuple[int, ...]] = {"rows": (2,), **{name: (2, len(self._numbers)) for name in _SUMS}}
        shapes |= {f"bins/{column.name}": (2, _n_bins(column)) for column in self._columns if _n_bins(column)}
        return Initial({self._version: np.zeros(()), **{name: np.zeros(shape) for name, shape in shapes.items()}})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Count. See `Task`.

        Raises:
            ConfigError: a table that lacks a column, or a value that cannot be summed; an algorithm but fedavg.
        """
        if work.algorithm != "fedavg":
            raise ConfigError(f"statistics are means: training.algorithm is fedavg, not {work.algorithm!r}")
        old = int(np.rint(parameters[self._version])) % 2
        found = {self._version: np.rint(parameters[self._version]) + 1}
        for name, array in self._counted(parameters, old, client).items():
            found[name] = np.zeros(parameters[name].shape)
            found[name][1 - old] = array
        work.progress(1, 1)
        return Trained(parameters=found, num_examples=1, n_steps=1)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """There is nothing to evaluate."""
        return None

    def statistics(self, parameters: Arrays, *, version: int, n_devices: int) -> FleetStatistics:
        """Return what a version says.

        Args:
            parameters: of the version.
            version: its number.
            n_devices: whose mean it is.

        Raises:
            ConfigError: the version is no mean of what devices returned, or too few counted.
        """
        if n_devices < self._fewest:
            raise ConfigError(
                f"{n_devices} devices counted, and below {self._fewest} nothing is shown",
                where="StatisticsTask(fewest_devices)",
                hint="raise round.report_goal and round.quorum, so that no version is made of fewer",
            )
        if self._version not in parameters or parameters[self._version] != version:
            raise ConfigError(
                f"version {version} is not the mean of what devices counted",
                hint='from the first version on, server.optimizer has to be { name = "sgd", learning_rate = 1.0 }',
            )
        row = {name: array[version % 2] for name, array in parameters.items() if name != self._version}
        rows = _whole(n_devices * row["rows"])
        columns: dict[str, NumberStatistics | CategoryStatistics] = {}
        for column in self._columns:
            bins = [_whole(n_devices * each) for each in row.get(f"bins/{column.name}", ())]
            if isinstance(column, Category):
                counts = dict(zip(column.values, bins, strict=False))
                columns[column.name] = CategoryStatistics(counts=counts, other=bins[-1], missing=rows - sum(bins))
            else:
                k = self._numbers.index(column)
                sums = {name: float(row[name][k]) for name in _SUMS}
                columns[column.name] = _number_statistics(column, sums, bins, rows, n_devices)
        return FleetStatistics(n_devices=n_devices, rows=rows, is_exact=rows < EXACT_ROWS, columns=columns)

    def _counted(self, parameters: Arrays, old: int, client: Client) -> dict[str, Any]:
        table, where = self._rows(client), f"rows({client.id!r})"
        if missing := [column.name for column in self._columns if column.name not in table]:
            raise ConfigError(f"the table has no column {missing[0]!r}", where=where, hint=f"it has {sorted(table)}")
        lengths = {column.name: len(np.asarray(table[column.name])) for column in self._columns}
        if len(set(lengths.values())) > 1:
            raise ConfigError(f"columns of different lengths: {lengths}", where=where)
        found: dict[str, Any] = {"rows": next(iter(lengths.values()))}
        found |= {name: np.zeros(len(self._numbers)) for name in _SUMS}
        for k, column in enumerate(self._numbers):
            x = _as_numbers(table[column.name], f"{where}, column {column.name!r}")
            z = (x[~np.isnan(x)] - column.centre) / column.scale
            before = {name: float(parameters[name][old, k]) for name in _SUMS}
            for name, value in _sums(z, _mean_of(before)).items():
                found[name][k] = value
            if not all(abs(found[name][k]) < _LARGEST for name in _SUMS):
                hint = f"give it a scale: Column(name={column.name!r}, scale=…)"
                raise ConfigError("sums beyond 1e38", where=f"{where}, column {column.name!r}", hint=hint)
            if column.edges:
                found[f"bins/{column.name}"] = _binned(x[~np.isnan(x)], np.asarray(column.edges))
        for words in (column for column in self._columns if isinstance(column, Category)):
            found[f"bins/{words.name}"] = _by_value(table[words.name], words.values)
        return found


def _digest(columns: Sequence[Column | Category]) -> str:
    said = [
        [column.name, *map(float, (*column.edges, column.centre, column.scale))]
        if isinstance(column, Column)
        else [column.name, *map(str, column.values)]
        for column in columns
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _n_bins(column: Column | Category) -> int:
    if isinstance(column, Category):
        return len(column.values) + 1
    return len(column.edges) + 1 if column.edges else 0


def _as_numbers(values: ArrayLike, where: str) -> NDArray[np.float64]:
    try:
        x = np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"no numbers: {error}", where=where, hint="a column of words is a Category") from error
    if np.isinf(x).any():
        raise ConfigError("an infinite value", where=where, hint="NaN is missing")
    return np.asarray(x, dtype=np.float64)


def _mean_of(sums: Mapping[str, float]) -> float | None:
    """Return the mean that a version knows, in the column's own scale; None: it knows none."""
    if sums["around"] > 0:
        return sums["centre"] + sums["residual"] / sums["around"]
    return sums["sum"] / sums["count"] if sums["count"] > 0 else None


@np.errstate(over="ignore", invalid="ignore")  # what is too large is refused by whoever asks
def _sums(z: NDArray[np.float64], mean: float | None) -> dict[str, float]:
    found = {"count": float(len(z)), "sum": float(z.sum())}
    if mean is None:
        return found
    centre = float(np.float32(mean))  # as it travels
    d = z - centre
    return {
        **found,
        "centre": centre,
        "around": float(len(z)),
        "residual": float(d.sum()),
        "square": float((d * d).sum()),
    }


def _binned(x: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows below, in each bin, above: (n_edges + 1,)."""
    places = np.searchsorted(edges, x, side="right")
    places[x == edges[-1]] -= 1
    return np.bincount(places, minlength=len(edges) + 1).astype(np.float64)


def _by_value(values: ArrayLike, known: Sequence[str]) -> NDArray[np.float64]:
    """Return rows of each value, and of all others: (n_values + 1,)."""
    counts = np.zeros(len(known) + 1)
    places = {str(value): place for place, value in enumerate(known)}
    for value in np.asarray(values, dtype=object).tolist():
        if value is not None and value == value and str(value):  # NaN is not itself
            counts[places.get(str(value), -1)] += 1
    return counts


def _whole(value: float) -> int:
    if not np.isfinite(value) or value < 0:
        raise InvalidState(f"a count of {value}")
    return int(np.rint(value))


def _number_statistics(
    column: Column, sums: Mapping[str, float], bins: Sequence[int], rows: int, n_devices: int
) -> NumberStatistics:
    count, mean = _whole(n_devices * sums["count"]), _mean_of(sums)
    variance = mean_error = variance_error = None
    if sums["around"] > 0:
        square, distance = sums["square"] / sums["around"], sums["residual"] / sums["around"]
        variance = max(0.0, square - distance**2) * column.scale**2
        tiny = _TINY * n_devices
        root = sqrt(square + tiny)
        noise = tiny + _NOISE * (abs(mean or 0.0) + abs(column.centre) / column.scale)
        mean_error = (4 * _U * root + noise) * column.scale
        variance_error = (16 * _U * root**2 + tiny + noise * (2 * root + noise)) * column.scale**2
    histogram = None
    if column.edges:
        edges = tuple(map(float, column.edges))
        histogram = Histogram(edges=edges, under=bins[0], counts=tuple(bins[1:-1]), over=bins[-1])
    return NumberStatistics(
        count=count,
        missing=rows - count,
        mean=None if mean is None else column.centre + column.scale * mean,
        mean_error=mean_error,
        variance=variance,
        variance_error=variance_error,
        histogram=histogram,
    )
