import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.parameters import ParameterSpec, Vector, delta_of
from shared.statistics_task import (
    Category,
    CategoryStatistics,
    Column,
    FleetStatistics,
    NumberStatistics,
    StatisticsTask,
)
from shared.task import Client, ClientId, Work
from tests import task_work

EDGES = (-3.0, 0.0, 0.5, 1000.0)
COLUMNS = (
    Column(name="x", edges=EDGES),
    Column(name="y", centre=1e6, scale=3.0),
    Category(name="kind", values=("a", "b")),
)
Rows = Mapping[str, Any]


def some_work(**fields: Any) -> Work:
    """What a device is asked."""
    settings: dict[str, Any] = {"seed": 11}
    return task_work.some_work(**{**settings, **fields})


def a_task(fleet: Sequence[Rows], columns: Sequence[Column | Category] = COLUMNS) -> StatisticsTask:
    """A task whose i-th client has the i-th table."""
    return StatisticsTask(columns=columns, rows=lambda client: fleet[int(client.id)], fewest_devices=1)


def next_version(task: StatisticsTask, spec: ParameterSpec, vector: Vector, who: Sequence[int]) -> Vector:
    """One round, as engine and wire do it: deltas as float32, their mean in float64, the model as float32."""
    total = np.zeros(spec.n_params)
    for i in who:
        trained = task.train(spec.unflatten(vector), some_work(), Client(id=ClientId(str(i))))
        assert (trained.num_examples, trained.n_steps) == (1, 1)
        total += delta_of(trained, vector, spec)
    return (total / len(who) + vector).astype(np.float32)


def measured(task: StatisticsTask, rounds: Sequence[Sequence[int]]) -> FleetStatistics:
    """Statistics after rounds in which these clients counted."""
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    vector = spec.flatten(initial.parameters)
    for who in rounds:
        vector = next_version(task, spec, vector, who)
    return task.statistics(spec.unflatten(vector), version=len(rounds), n_devices=len(rounds[-1]))


def pooled(fleet: Sequence[Rows], who: Sequence[int], name: str) -> NDArray[Any]:
    """Everything of one column in one place."""
    return np.array([value for i in who for value in fleet[i][name]], dtype=object if name == "kind" else np.float64)


def exact_moments(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and variance without rounding."""
    exact = [Fraction(float(value)) for value in values]
    mean = sum(exact) / len(exact)
    return float(mean), float(sum((each - mean) ** 2 for each in exact) / len(exact))


def agree(found: FleetStatistics, fleet: Sequence[Rows], who: Sequence[int], *, has_variance: bool = True) -> None:
    """Compare with NumPy, and with fractions, on everything in one place."""
    assert found.n_devices == len(who)
    assert found.rows == sum(len(fleet[i]["x"]) for i in who)
    assert found.is_exact
    for name in ("x", "y"):
        column, everything = found.columns[name], pooled(fleet, who, name)
        assert isinstance(column, NumberStatistics)
        values = everything[~np.isnan(everything)]
        assert (column.count, column.missing) == (len(values), len(everything) - len(values))
        if not len(values):
            assert (column.mean, column.variance) == (None, None)
            continue
        mean, variance = exact_moments(values)
        assert column.mean is not None
        if column.variance is None:
            assert not has_variance
            continue
        assert column.mean_error is not None
        assert column.variance_error is not None
        assert abs(column.mean - mean) <= column.mean_error
        assert abs(column.variance - variance) <= column.variance_error
    x, y = found.columns["x"], found.columns["y"]
    assert isinstance(x, NumberStatistics)
    assert isinstance(y, NumberStatistics)
    assert x.histogram is not None
    assert y.histogram is None
    everything = pooled(fleet, who, "x")
    values = everything[~np.isnan(everything)]
    assert x.histogram.counts == tuple(np.histogram(values, EDGES)[0])
    assert (x.histogram.under, x.histogram.over) == ((values < EDGES[0]).sum(), (values > EDGES[-1]).sum())
    kinds = list(pooled(fleet, who, "kind"))
    missing = sum(kind in (None, "") for kind in kinds)
    a, b = kinds.count("a"), kinds.count("b")
    assert found.columns["kind"] == CategoryStatistics(
        counts={"a": a, "b": b}, other=len(kinds) - a - b - missing, missing=missing
    )


numbers = st.one_of(
    st.just(math.nan),
    st.sampled_from(EDGES),
    st.floats(-5, 5),
    st.floats(-1e-30, 1e-30),
    st.integers(-(10**6), 10**6).map(float),
    st.integers(0, 1000).map(lambda n: 1e9 + n / 8),
)
tables = st.lists(st.tuples(numbers, numbers, st.sampled_from(["a", "b", "c", None, ""])), max_size=12).map(
    lambda rows: dict(zip(("x", "y", "kind"), map(list, zip(*rows, strict=True)), strict=True)) if rows else EMPTY
)
EMPTY: Rows = {"x": [], "y": [], "kind": []}


@given(st.lists(tables, min_size=1, max_size=5))
def test_two_rounds_are_numpy_on_everything_in_one_place(fleet: list[Rows]) -> None:
    """Also of devices without a row, of columns without a value, and of numbers near 1e9."""
    everyone = list(range(len(fleet)))
    agree(measured(a_task(fleet), [everyone, everyone]), fleet, everyone)


@given(st.data(), st.lists(tables, min_size=2, max_size=5))
def test_statistics_are_those_of_the_devices_that_counted(data: st.DataObject, fleet: list[Rows]) -> None:
    """Whoever is lost in a round, or comes back in another: each version is exact for those of its own round.

    A column that nobody had a value of in the round before has a mean, and its variance a round later.
    """
    who = st.lists(st.integers(0, len(fleet) - 1), min_size=1, unique=True)
    rounds = data.draw(st.lists(who, min_size=1, max_size=5))
    agree(measured(a_task(fleet), rounds), fleet, rounds[-1], has_variance=False)


def test_second_round_saves_what_float32_loses() -> None:
    """Values around 1e8 with a spread of 1: by Σx² in float32 the variance would be off by millions of itself."""
    random = np.random.default_rng(4)
    fleet: list[Rows] = [{"x": 1e8 + random.normal(size=50)} for _ in range(4)]
    values = np.concatenate([np.asarray(rows["x"]) for rows in fleet])
    found = measured(a_task(fleet, [Column(name="x")]), [range(4), range(4)]).columns["x"]
    assert isinstance(found, NumberStatistics)
    assert found.variance == pytest.approx(values.var(), rel=1e-4)
    assert found.mean == pytest.approx(values.mean(), abs=1e-5)
    sums = np.array([np.square(values).sum(), values.sum()], np.float32).astype(float) / len(values)
    assert abs(sums[0] - sums[1] ** 2 - values.var()) > 1e6
    # around a mean that is 4 off, as float32 has it; the third round starts from one that is not
    third = measured(a_task(fleet, [Column(name="x")]), [range(4)] * 3).columns["x"]
    assert isinstance(third, NumberStatistics)
    assert third.variance_error is not None
    assert third.variance == pytest.approx(values.var(), abs=third.variance_error)


def test_a_public_centre_and_scale_change_no_result() -> None:
    """By hand: 1, 2, 6 have mean 3 and variance (4 + 1 + 9)/3; their squares times 1e40 are beyond float32."""
    for factor in (1.0, 1e-25, 1e20):
        fleet: list[Rows] = [{"x": [1 * factor, 2 * factor]}, {"x": [6 * factor]}]
        columns = [Column(name="x", centre=2 * factor, scale=factor)]
        found = measured(a_task(fleet, columns), [range(2), range(2)]).columns["x"]
        assert isinstance(found, NumberStatistics)
        assert found.mean == pytest.approx(3 * factor, rel=1e-6)
        assert found.variance == pytest.approx(14 / 3 * factor**2, rel=1e-6)


def test_counts_are_exact_until_they_are_said_not_to_be() -> None:
    """5,000,003 rows on three devices, and 10,000,003, of which the count is right to seven digits."""

    def rows(n: int) -> Rows:
        kinds = np.zeros(n, dtype=np.float32)
        return {"x": kinds}

    for sizes, is_exact in (((1_666_667, 2_000_001, 1_333_335), True), ((3_333_334, 3_333_336, 3_333_333), False)):
        found = measured(a_task([rows(n) for n in sizes], [Column(name="x")]), [range(3)])
        assert found.is_exact is is_exact
        assert found.rows == pytest.approx(sum(sizes), rel=0 if is_exact else 2e-7)


def test_masked_arrays_and_words_of_any_type_are_read() -> None:
    """A mask is missing, as NaN is; 1 and "1" are the same word."""
    fleet: list[Rows] = [
        {"x": np.ma.masked_array([1.0, 5.0, 9.0], mask=[False, False, True]), "kind": np.array([1, 2, 2])},
        {"x": [None, 3], "kind": ["1", math.nan]},
    ]
    columns = (Column(name="x"), Category(name="kind", values=("1", "2")))
    found = measured(a_task(fleet, columns), [range(2), range(2)])
    x = found.columns["x"]
    assert isinstance(x, NumberStatistics)
    assert (x.count, x.missing) == (3, 2)
    assert x.mean == pytest.approx(3)
    assert found.columns["kind"] == CategoryStatistics(counts={"1": 2, "2": 2}, other=0, missing=1)


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_version_that_is_no_mean_is_refused(share: float) -> None:
    """A server optimizer that goes half of the way, or further than it, does not go unnoticed; nor does it later on."""
    task = a_task([{"x": [1.0]}], [Column(name="x")])
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    vector = spec.flatten(initial.parameters)
    for version in (1, 2, 3):
        moved = next_version(task, spec, vector, [0])
        vector = (vector + share * (moved - vector)).astype(np.float32)
        with pytest.raises(ConfigError, match=r"not the mean.*\n.*server.optimizer"):
            task.statistics(spec.unflatten(vector), version=version, n_devices=1)


def test_few_devices_are_not_shown() -> None:
    """Below `fewest_devices` the sums are too near to somebody's data."""
    fleet: list[Rows] = [{"x": [1.0]}, {"x": [2.0]}]
    task = StatisticsTask(columns=[Column(name="x")], rows=lambda client: fleet[int(client.id)], fewest_devices=2)
    assert measured(task, [[0, 1]]).rows == 2
    with pytest.raises(ConfigError, match=r"1 devices counted, and below 2.*\n.*round.quorum"):
        measured(task, [[0, 1], [0]])


@pytest.mark.parametrize(
    "other",
    [
        (Column(name="x", edges=(0.0, 1.0)),),
        (Column(name="x", edges=(0.0, 2.0), centre=1.0),),
        (Column(name="z", edges=(0.0, 2.0)),),
        (Column(name="x", edges=(0.0, 2.0)), Category(name="kind", values=("a",))),
    ],
)
def test_another_definition_is_another_model(other: tuple[Column | Category, ...]) -> None:
    """A device whose task file has other columns, edges or centres refuses the model: the spec is not its own."""
    specs = [
        ParameterSpec.of(StatisticsTask(columns=columns, rows=lambda client: EMPTY).initial_parameters(1))
        for columns in ((Column(name="x", edges=(0.0, 2.0)),), other, (Column(name="x", edges=(0, 2)),))
    ]
    assert specs[0].digest != specs[1].digest
    assert specs[0].digest == specs[2].digest


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"x": [1.0], "y": [1.0]}, "no column 'kind'"),
        ({"x": [1.0], "y": [1.0, 2.0], "kind": ["a"]}, "different lengths"),
        ({"x": [math.inf], "y": [1.0], "kind": ["a"]}, r"column 'x'.*infinite"),
        ({"x": ["one"], "y": [1.0], "kind": ["a"]}, r"column 'x'.*no numbers"),
        ({"x": [1e30], "y": [1e39], "kind": ["a"]}, r"column 'y'.*beyond 1e38"),
        ({"x": [1e300, -1e300], "y": [1.0, 2.0], "kind": ["a", "b"]}, r"column 'x'.*beyond 1e38"),
    ],
)
def test_tables_that_cannot_be_counted_are_refused_by_column(rows: Rows, says: str) -> None:
    """On the device, before anything leaves it."""
    with pytest.raises(ConfigError, match=says):
        measured(a_task([rows]), [[0], [0]])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Column(name="x", edges=(1.0,)),
        lambda: Column(name="x", edges=(1.0, 1.0)),
        lambda: Column(name="x", edges=(0.0, math.inf)),
        lambda: Column(name="x", scale=0.0),
        lambda: Column(name="x", centre=math.nan),
        lambda: Category(name="x", values=("a", "a")),
        lambda: a_task([], []),
        lambda: a_task([], [Column(name="x"), Category(name="x", values=())]),
        lambda: StatisticsTask(columns=[Column(name="x")], rows=lambda client: EMPTY, fewest_devices=0),
    ],
)
def test_definitions_that_mean_nothing_are_refused(wrong: Any) -> None:
    """When the task is made."""
    with pytest.raises(ConfigError):
        wrong()


def test_other_algorithms_are_refused_and_nothing_is_evaluated() -> None:
    """A gradient of what? The message says what to set."""
    task = a_task([{"x": [1.0]}], [Column(name="x")])
    start = task.initial_parameters(1).parameters
    with pytest.raises(ConfigError, match=r"training\.algorithm is fedavg, not 'fedsgd'"):
        task.train(start, some_work(algorithm="fedsgd"), Client(id=ClientId("0")))
    assert task.evaluate(start, None, {}) is None
