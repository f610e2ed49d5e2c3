from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aggregator.config import Settings
from examples import sensors
from examples.sensors import (
    AHEAD,
    DATA_SEED,
    DAY,
    GAP,
    KINDS,
    N_FOLDS,
    N_HOURS,
    N_STATIONS,
    NO2,
    PAST,
    VEHICLES,
    Forecast,
)
from shared.config import load_settings
from shared.errors import ConfigError
from shared.parameters import ParameterSpec
from shared.task import Arrays, Client, ClientId, Ratio, load_task
from simulator.scenario import Scenario, dotted
from tests.task_work import printed_elsewhere, some_work

ROOT = Path(__file__).parents[2]


def station(i: int, n: int = N_STATIONS) -> Client:
    """Device i of n."""
    return Client(id=ClientId(f"station-{i}"), partition=(i, n))


def hours_of(fold: int, *, is_test: bool) -> list[set[int]]:
    """The hours of each window, in order, of ten weeks."""
    return [set(range(s, s + PAST + AHEAD)) for s in sensors.starts_of(N_HOURS, fold, is_test=is_test)]


def error_of(parameters: Arrays, client: Client | None) -> float:
    """Mean absolute error of NO2, of a model on what is held out."""
    evaluated = sensors.task.evaluate(parameters, client, {})
    assert evaluated is not None
    ratio = evaluated.metrics["absolute_error"]
    assert isinstance(ratio, Ratio)
    return ratio.numerator / ratio.denominator


def own_file(path: Path, series: sensors.Series) -> Client:
    """A device that brings a .csv, without the hours in which nothing was counted."""
    lines = [
        f"{hour},{'' if np.isnan(count) else count},{'' if np.isnan(air) else air},{wind}"
        for hour, count, air, wind in zip(*series, strict=True)
        if not (np.isnan(count) and np.isnan(air))
    ]
    path.write_text("\n".join(["hours,vehicles,no2,wind", *lines]))
    return Client(id=ClientId("own"), data=path)


@pytest.mark.parametrize("fold", range(N_FOLDS))
def test_nothing_is_learned_within_a_day_of_what_is_tested(fold: int) -> None:
    """No hour of a training window, input or target, is nearer to a test window's than the gap."""
    test = set().union(*hours_of(fold, is_test=True))
    learned = set().union(*hours_of(fold, is_test=False))
    near = {hour + by for hour in test for by in (-GAP, 0, GAP)}
    assert not learned & near
    assert len(test) == N_HOURS // N_FOLDS
    assert len(learned) >= N_HOURS - N_HOURS // N_FOLDS - 2 * GAP


def test_folds_share_no_hour_and_leave_none_out() -> None:
    """Each hour is in the test windows of exactly one fold."""
    held_out = [set().union(*hours_of(fold, is_test=True)) for fold in range(N_FOLDS)]
    assert all(not a & b for a, b in combinations(held_out, 2))
    assert set().union(*held_out) == set(range(N_HOURS))


def test_every_window_that_keeps_the_gap_is_learned_from() -> None:
    """None is forgotten: a window that is not used is one that touches the fold or its gaps."""
    for fold in range(N_FOLDS):
        begin, end = (at * N_HOURS // N_FOLDS for at in (fold, fold + 1))
        used = set(sensors.starts_of(N_HOURS, fold, is_test=False).tolist())
        for start in set(range(N_HOURS - PAST - AHEAD + 1)) - used:
            assert start < end + GAP
            assert start + PAST + AHEAD > begin - GAP


def test_one_place_has_what_the_stations_have_together() -> None:
    """The same windows for training and testing, whether they lie on seven devices or on one."""
    for data in (sensors.train_data, sensors.test_data):
        together = torch.cat([data(1, DATA_SEED, station(i, 7)).tensors[0] for i in range(7)])
        whole = data(1, DATA_SEED, sensors.EVERYBODY).tensors[0]
        assert sorted(map(hash, map(bytes, together.numpy()))) == sorted(map(hash, map(bytes, whole.numpy())))
    central = sensors.test_data(1, DATA_SEED, None).tensors[0]
    assert central.equal(sensors.test_data(1, DATA_SEED, sensors.EVERYBODY).tensors[0])


def test_another_seed_is_another_city() -> None:
    """Other weather, other counts; the task of a seed has its windows."""
    one, other = sensors.generated(3, 1), sensors.generated(3, 2)
    assert not np.array_equal(one.vehicles, other.vehicles, equal_nan=True)
    assert not np.array_equal(sensors.city(1).wind, sensors.city(2).wind)
    one_work, other_work = (sensors.test_data(0, seed, station(3)).tensors[0] for seed in (1, 2))
    assert not one_work.equal(other_work)


def test_a_window_is_what_was_measured() -> None:
    """Inputs are the hours before, targets the hours after, both undone to vehicles and µg/m³; gaps are flagged."""
    series = sensors.generated(3)
    start = int(np.flatnonzero(np.isnan(series.no2))[0]) - 10
    inputs, targets = (array[0] for array in sensors.windows(series, np.array([start])))
    past, is_missing = inputs[: 3 * PAST].reshape(3, PAST), inputs[3 * PAST : 6 * PAST].reshape(3, PAST)
    levels = inputs[-3:] + 1
    then, ahead = slice(start, start + PAST), slice(start + PAST, start + PAST + AHEAD)
    for i, (typical, measured) in enumerate([(VEHICLES, series.vehicles), (NO2, series.no2)]):
        known = np.where(is_missing[i], np.nan, typical * (levels[i] * (past[i] + 1)) ** 2)
        assert known == pytest.approx(measured[then], rel=1e-4, abs=1e-3, nan_ok=True)
        wanted = typical * (levels[i] * (targets[i * AHEAD : (i + 1) * AHEAD] + 1)) ** 2
        assert wanted == pytest.approx(measured[ahead], rel=1e-4, abs=1e-3, nan_ok=True)
    assert is_missing[1].any()
    assert np.argmax(inputs[-10:-3]) == (start + PAST) // DAY % 7


def test_traffic_has_days_and_weeks() -> None:
    """Yesterday's hour says more than the last one's six hours ago, and last week's more than yesterday's."""
    for i in (0, 15, 27):
        counts = sensors.generated(i).vehicles
        by_hour = {lag: np.nanmean(np.abs(counts[lag:] - counts[:-lag])) for lag in (6, DAY, 7 * DAY)}
        assert by_hour[7 * DAY] < by_hour[DAY] < by_hour[6]


def test_streets_differ_in_traffic_and_air_follows_it_and_the_wind() -> None:
    """Ring roads carry most; the same traffic leaves more NO2 where the wind is weak."""
    means = {kind: np.nanmean([np.nanmean(sensors.generated(i).vehicles) for i in where(kind)]) for kind in set(KINDS)}
    assert means["residential"] < means["arterial"] < means["ring"]
    for i in (0, 15, 27):
        series = sensors.generated(i)
        calm, windy = (series.wind < np.median(series.wind)), (series.wind >= np.median(series.wind))
        assert np.nanmean(series.no2[calm]) / np.nanmean(series.vehicles[calm]) > 1.2 * (
            np.nanmean(series.no2[windy]) / np.nanmean(series.vehicles[windy])
        )
        assert 0.005 < np.isnan(series.no2).mean() < 0.2


def where(kind: str) -> list[int]:
    """The stations at streets of a kind."""
    return [i for i, each in enumerate(KINDS) if each == kind]


def test_a_perfect_forecast_has_no_error_and_the_naive_ones_are_what_they_say() -> None:
    """Told what comes the model errs by nothing; of a series that repeats each day so does yesterday's forecast."""

    class Told(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return targets.nan_to_num()

    hours = np.arange(N_HOURS)
    saw = (10 + hours % DAY).astype(np.float64)
    series = sensors.Series(hours, 30 * saw, saw, np.ones(N_HOURS))
    starts = np.arange(0, 100 * DAY // 25, DAY) + 5  # forecasts begin at five, NO2 is 15 and rises
    inputs, targets = map(torch.from_numpy, sensors.windows(series, starts))
    found = {
        name: ratio.numerator / ratio.denominator for name, ratio in sensors.metrics(Told(), (inputs, targets)).items()
    }
    assert found["absolute_error"] == found["squared_error"] == found["traffic_error"] == 0
    assert found["yesterday_error"] == pytest.approx(0, abs=1e-4)
    assert found["persistence_error"] == pytest.approx(3.5, rel=1e-4)  # the mean of 1 to 6


def test_missing_hours_count_in_no_error() -> None:
    """Neither in the loss nor in a metric; a window that forecasts nothing is left out."""
    hours = np.arange(400)
    no2 = np.full(400, 20.0)
    no2[60:64] = np.nan  # four of the six hours ahead of the first window
    vehicles = np.where(hours < 200, 100.0, np.nan)
    series = sensors.Series(hours, vehicles, np.where(hours < 200, no2, np.nan), np.ones(400))
    inputs, targets = map(torch.from_numpy, sensors.windows(series, np.array([10, 300])))
    assert len(inputs) == 1
    with torch.no_grad():
        found = sensors.metrics(Forecast(), (inputs, targets))
        assert sensors.loss(Forecast(), (inputs, targets)).isfinite()
    assert found["absolute_error"].denominator == 2


def test_the_model_is_small_and_a_station_learns() -> None:
    """Within two passes a station's own error falls by a third."""
    start = sensors.task.initial_parameters(1)
    assert ParameterSpec.of(start).n_params == 302 * 12 + 12 + 302 * 48 + 48 + 48 * 12 + 12
    work = some_work(epochs=2, batch_size=32, learning_rate=0.002)
    trained = sensors.task.train(start.parameters, work, station(20))
    assert trained.parameters is not None
    assert error_of(trained.parameters, station(20)) < 0.67 * error_of(start.parameters, station(20))


def test_data_are_the_same_in_another_process() -> None:
    """They are a function of the file alone."""
    program = "from examples.sensors import generated; print([values.tolist() for values in generated(4)])"
    assert printed_elsewhere(program) == str([values.tolist() for values in sensors.generated(4)])


def test_a_station_brings_its_own_hours(tmp_path: Path) -> None:
    """A .csv gives the windows of what it was written from; hours that it lacks are missing."""
    own = own_file(tmp_path / "own.csv", sensors.generated(4))
    for data in (sensors.train_data, sensors.test_data):
        for mine, theirs in zip(data(0, DATA_SEED, own).tensors, data(0, DATA_SEED, station(4)).tensors, strict=True):
            if mine.shape[1] != 2 * AHEAD:  # wind of the hours in which the others failed is not in the file
                there = theirs[:, 3 * PAST : 6 * PAST].reshape(-1, 3, PAST)[:, :2]
                assert mine[:, 3 * PAST : 6 * PAST].reshape(-1, 3, PAST)[:, :2].equal(there)
            else:
                assert torch.allclose(mine, theirs, equal_nan=True)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    """More devices than stations, other columns, and too few hours."""
    with pytest.raises(ConfigError, match="30 stations cannot be split over 31 devices"):
        sensors.train_data(0, DATA_SEED, station(0, 31))
    path = tmp_path / "own.csv"
    path.write_text("hours,vehicles\n0,1\n1,2\n")
    with pytest.raises(ConfigError, match=r"own\.csv: expected hours, vehicles, NO2 and wind"):
        sensors.train_data(0, DATA_SEED, Client(id=ClientId("own"), data=path))
    path.write_text("hours,vehicles,no2,wind\n0,1,2,3\n1,2,3,4\n")
    with pytest.raises(ConfigError, match=r"own\.csv: 2 hours are too few"):
        sensors.train_data(0, DATA_SEED, Client(id=ClientId("own"), data=path))


def test_scenario_has_a_device_for_each_station_and_can_run_every_fold() -> None:
    """What `python -m simulator run` reads is valid, names what there is, and its groups are kinds of streets."""
    scenario = load_settings(Scenario, ROOT / "examples" / "sensors.toml")
    settings = load_settings(Settings, None, dotted(scenario.run), with_environment=False)
    assert [device.partition for device in scenario.plan()] == [(i, N_STATIONS) for i in range(N_STATIONS)]
    assert [device.id.rpartition("-")[0] for device in scenario.plan()] == list(KINDS)
    assert load_task(settings.task, ROOT) is sensors.task is sensors.fold_0
    for fold in range(N_FOLDS):
        evaluated = load_task(f"examples.sensors:fold_{fold}", ROOT).evaluate(
            sensors.task.initial_parameters(1).parameters, station(1), {}
        )
        assert evaluated is not None
        assert evaluated.num_examples == len(sensors.test_data(fold, DATA_SEED, station(1)))
