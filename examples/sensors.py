"""The city's sensors: stations that count traffic and measure the air forecast both for the next hours.

All of it is generated, a function of this file and a seed: ten weeks, hour by hour, of thirty stations beside streets
of three kinds. Traffic has days and weeks: rush hours on working days, one hump on Sundays and holidays, at other hours
and of another height on each kind of street, and days that are busy all over the city. Nitrogen dioxide follows the
traffic and what blows it away: one weather for all, felt more or less in each street. Sensors fail for hours on end.

A station forecasts the next six hours of both from the last two days. Time is cut into five fortnights, the same for
all stations, for they have one weather: fold k tests on the k-th, and nobody learns from an hour of it, or from one
within a day of it. A station of one's own brings its hours with `--data`: a .csv with a head and in each line hours
since a Monday's midnight, vehicles, NO2 in µg/m³ and wind in m/s, empty where missing.
"""

import functools
import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from shared.errors import ConfigError
from shared.task import Client, ClientId, Ratio
from shared.torch_task import Batch, TorchTask, adam

__all__ = ["fold_0", "fold_1", "fold_2", "fold_3", "fold_4", "task", "task_of"]

Examples = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Inputs (n, 302) and targets (n, 12)."""

DAY, WEEK = 24, 168
N_STATIONS = 30
N_HOURS = 10 * WEEK
N_FOLDS = 5
PAST, AHEAD, GAP = 2 * DAY, 6, DAY
"""Hours that a forecast knows, hours that it forecasts, hours between what is learned from and what is tested on."""
N_INPUTS = 6 * PAST + 11 + 3
VEHICLES, NO2, WIND = 400, 20, 2
"""What is typical of an hour, vehicles, µg/m³ and m/s, by which everybody scales."""
DATA_SEED = 2024
LEAST = 0.1
"""Of a level, scaled: nothing is divided by less."""
EVERYBODY = Client(id=ClientId("everybody"), partition=(0, 1))
"""Whoever has what all stations measured, in one place."""

HOLIDAYS = (17, 38, 59)
"""Days from the first Monday on, all but Sundays: people stay at home."""


class Street(NamedTuple):
    """A kind of street: vehicles an hour at night and in rush hours, when those are, and how well the air moves.

    Args:
        night: vehicles an hour.
        morning: more of them at the morning's rush hour.
        evening: more of them at the evening's.
        sunday: more of them on a Sunday afternoon.
        at: hours of the day of the two rush hours.
        width: hours that these last.
        trapped: NO2 for a thousand vehicles an hour in a wind of 1 m/s, µg/m³.
    """

    night: float
    morning: float
    evening: float
    sunday: float
    at: tuple[float, float]
    width: float
    trapped: float


STREETS = {
    "residential": Street(15, 210, 160, 110, (7.3, 17.8), 1.0, 130),
    "arterial": Street(110, 900, 1050, 600, (8.0, 17.3), 1.6, 70),
    "ring": Street(420, 2300, 2100, 1300, (7.0, 16.3), 2.3, 28),
}
KINDS = ("residential",) * 14 + ("arterial",) * 11 + ("ring",) * 5
"""Of each station, in the order of their numbers."""


class Series(NamedTuple):
    """What a station measured, hour by hour: (hours,) each, NaN where it failed.

    Args:
        hours: since a Monday's midnight, one after the other.
        vehicles: in the hour.
        no2: µg/m³.
        wind: m/s.
    """

    hours: NDArray[np.int64]
    vehicles: NDArray[np.float64]
    no2: NDArray[np.float64]
    wind: NDArray[np.float64]


def wandering(rng: np.random.Generator, n: int, memory: float) -> NDArray[np.float64]:
    """Return noise (n,) of mean 0 and deviation 1 that keeps `memory` of itself from each value to the next."""
    pushes = rng.normal(size=n) * np.sqrt(1 - memory**2)
    found = np.empty(n)
    value = float(rng.normal())
    for i, push in enumerate(pushes):
        value = memory * value + push
        found[i] = value
    return found


def hump(hours: NDArray[np.float64], at: float, width: float) -> NDArray[np.float64]:
    """Return how near the hours of a day are to one of them: 1 there, by a bell curve that goes round midnight."""
    away = (hours - at + DAY / 2) % DAY - DAY / 2
    return np.asarray(np.exp(-0.5 * (away / width) ** 2))


class City(NamedTuple):
    """What all stations have in common, hour by hour, (N_HOURS,) float64 each.

    Args:
        wind: m/s above the roofs.
        cold: 1 in the cold of the first week, 0 in the warmth of the last: engines and heating.
        busy: how busy a day is, about 1.
        is_sunday: 1 on Sundays and holidays, 0.8 on Saturdays, else 0.
    """

    wind: NDArray[np.float64]
    cold: NDArray[np.float64]
    busy: NDArray[np.float64]
    is_sunday: NDArray[np.float64]


@functools.cache
def city(seed: int = DATA_SEED) -> City:
    """Return the weather and the days of all ten weeks."""
    rng = np.random.default_rng([seed, 1000])
    hours = np.arange(N_HOURS)
    fronts, gusts = wandering(rng, N_HOURS, 0.985), wandering(rng, N_HOURS, 0.8)
    breeze = 0.25 * np.cos(2 * np.pi * (hours % DAY - 15) / DAY)  # afternoons are windier
    wind = 2.6 * np.exp(0.5 * fronts + 0.15 * gusts + breeze - 0.1)
    cold = np.clip(1 - hours / N_HOURS + 0.2 * wandering(rng, N_HOURS, 0.99), 0, 1.3)
    days = hours // DAY
    busy = np.exp(0.06 * rng.normal(size=N_HOURS // DAY))[days]
    is_sunday = np.where((days % 7 == 6) | np.isin(days, HOLIDAYS), 1.0, np.where(days % 7 == 5, 0.8, 0.0))
    return City(wind, cold, busy, is_sunday)


@functools.cache
def generated(station: int, seed: int = DATA_SEED) -> Series:
    """Return the ten weeks of a station of 0..N_STATIONS - 1."""
    rng = np.random.default_rng([seed, station])
    street, all_over = STREETS[KINDS[station]], city(seed)
    hours = np.arange(N_HOURS)
    of_day = (hours % DAY).astype(np.float64)
    size, shift = np.exp(0.3 * rng.normal()), 0.4 * rng.normal()
    share, at = rng.uniform(0.75, 1.25, size=2), (street.at[0] + shift, street.at[1] + shift)
    workday = share[0] * street.morning * hump(of_day, at[0], street.width)
    workday += share[1] * street.evening * hump(of_day, at[1], 1.4 * street.width)
    workday += 0.45 * street.evening * hump(of_day, 12.5, 3.0)
    sunday = street.sunday * hump(of_day, 15.0, 3.5)
    expected = street.night + (1 - all_over.is_sunday) * workday + all_over.is_sunday * sunday
    expected *= size * all_over.busy * np.exp(0.12 * wandering(rng, N_HOURS, 0.8))
    vehicles = rng.poisson(expected).astype(np.float64)

    wind = np.maximum(all_over.wind * rng.uniform(0.4, 0.8) * np.exp(0.1 * wandering(rng, N_HOURS, 0.5)), 0.2)
    trapped = street.trapped * np.exp(0.15 * rng.normal()) * (1 + 0.35 * all_over.cold)
    blown = vehicles / 1000 * trapped / (0.4 + wind) + (6 + 7 * all_over.cold) / (0.5 + 0.3 * all_over.wind)
    air = np.empty(N_HOURS)
    level = blown[0]
    for hour, fresh in enumerate(blown):  # what was there is gone by half in an hour
        level = 0.5 * level + 0.5 * fresh
        air[hour] = level
    no2 = np.maximum(air * np.exp(0.08 * wandering(rng, N_HOURS, 0.6)) + 1.0 * rng.normal(size=N_HOURS), 0)
    fails(vehicles, rng, every=250)
    fails(no2, rng, every=150)
    return Series(hours, vehicles, no2, wind)


def fails(values: NDArray[np.float64], rng: np.random.Generator, *, every: float) -> None:
    """Make values NaN, in place, for some eight hours on end, at random, on average `every` hours of work."""
    hour = int(rng.exponential(every))
    while hour < len(values):
        lasts = 1 + int(rng.exponential(8))
        values[hour : hour + lasts] = np.nan
        hour += lasts + int(rng.exponential(every))


def from_file(path: Path) -> Series:
    """Return what a station of one's own measured; hours that are not in the file are missing.

    Raises:
        ConfigError: the file has other columns, or fewer hours than folds need.
    """
    table = np.genfromtxt(path, delimiter=",", skip_header=1, ndmin=2)
    if table.shape[1] != 4 or not np.isfinite(table[:, 0]).all():
        raise ConfigError(f"{path}: expected hours, vehicles, NO2 and wind in each line, found {table.shape}")
    at = table[:, 0].astype(np.int64)
    hours = np.arange(at.min(), at.max() + 1)
    if len(hours) < N_FOLDS * (PAST + AHEAD):
        raise ConfigError(
            f"{path}: {len(hours)} hours are too few, {N_FOLDS * (PAST + AHEAD)} make a fold of each fifth"
        )
    measured = np.full((3, len(hours)), np.nan)
    measured[:, at - hours[0]] = table[:, 1:].T
    return Series(hours, *measured)


def stations_of(client: Client, seed: int = DATA_SEED) -> list[Series]:
    """Return what a device measured: of n devices every n-th station, of one all, in one place.

    Raises:
        ConfigError: there are more devices than stations.
    """
    if client.data is not None:
        return [from_file(client.data)]
    if client.partition is None:
        return [generated(int(hashlib.sha256(client.id.encode()).hexdigest(), 16) % N_STATIONS, seed)]
    i, n = client.partition
    if n > N_STATIONS:
        raise ConfigError(f"{N_STATIONS} stations cannot be split over {n} devices", hint=f"take {N_STATIONS} or fewer")
    return [generated(station, seed) for station in range(i, N_STATIONS, n)]


def scaled(series: Series) -> NDArray[np.float32]:
    """Return vehicles, NO2 and wind as square roots of multiples of typical values: (3, hours), NaN if missing.

    What is typical is public knowledge and stands here: nobody needs to know a mean of what others measured. A square
    root, for what is counted and what is high varies more.
    """
    typical = np.array([[VEHICLES], [NO2], [WIND]])
    found: NDArray[np.float32] = np.sqrt(np.stack(series[1:]) / typical).astype(np.float32)
    return found


def unscaled(values: Tensor, levels: Tensor) -> Tensor:
    """Return vehicles and NO2 (n, 2, hours) of relative values, by the windows' levels (n, 2); at least 0."""
    typical: Tensor = torch.tensor([[VEHICLES], [NO2]])
    return typical * (levels[:, :, None] * (values + 1)).clamp(min=0).square()


def calendar(hours: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the time of day as two waves of a sine and a cosine each, and which day of the week it is: (n, 11)."""
    angle = 2 * np.pi * (hours % DAY)[:, None] / DAY * np.array([1, 2])  # (n, 2)
    return np.hstack([np.sin(angle), np.cos(angle), np.eye(7)[hours // DAY % 7]]).astype(np.float32)


def windows(series: Series, starts: NDArray[np.int64]) -> Examples:
    """Return what is known and what is to be forecast, for windows that begin at `starts`.

    Inputs (n, 302): vehicles, NO2 and wind of the last `PAST` hours, 0 where missing; for each whether it is missing;
    the calendar of the first hour ahead; the levels of the three, that is their means over the hours that are known,
    less 1. Targets (n, 12): vehicles and NO2 of the next hours, NaN where missing. Hours, known and ahead, are relative
    to the level: by how much of it they are above it. So one model fits a quiet street and a ring road.
    """
    at = starts[:, None] + np.arange(PAST + AHEAD)  # (n, PAST + AHEAD)
    whole = scaled(series)[:, at].transpose(1, 0, 2)  # (n, 3, PAST + AHEAD)
    is_known = np.isfinite(whole[:, :, :PAST])
    sums, n_known = np.nansum(whole[:, :, :PAST], axis=2), is_known.sum(axis=2)
    levels = np.where(n_known > 0, np.maximum(sums / np.maximum(n_known, 1), LEAST), 1)  # (n, 3)
    relative = whole / levels[:, :, None] - 1
    past, targets = relative[:, :, :PAST], relative[:, :2, PAST:].reshape(len(starts), -1)
    parts = [np.nan_to_num(past), ~is_known, calendar(series.hours[starts + PAST]), levels - 1]
    inputs = np.hstack([part.reshape(len(starts), -1) for part in parts])
    is_of_use = np.isfinite(targets).any(axis=1)
    return inputs[is_of_use].astype(np.float32), targets[is_of_use].astype(np.float32)


def starts_of(n_hours: int, fold: int, *, is_test: bool) -> NDArray[np.int64]:
    """Return where windows begin: those that lie within a fold, or those that keep `GAP` hours away from it."""
    begin, end = fold * n_hours // N_FOLDS, (fold + 1) * n_hours // N_FOLDS
    starts = np.arange(n_hours - PAST - AHEAD + 1)
    ends = starts + PAST + AHEAD
    is_inside = (starts >= begin) & (ends <= end)
    is_outside = (ends <= begin - GAP) | (starts >= end + GAP)
    return starts[is_inside if is_test else is_outside]


def dataset(fold: int, client: Client, seed: int, *, is_test: bool) -> TensorDataset:
    """Return the windows of all stations of a device."""
    parts = [windows(each, starts_of(len(each.hours), fold, is_test=is_test)) for each in stations_of(client, seed)]
    inputs, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets))


@functools.lru_cache(maxsize=128)  # several fleets, not all folds and seeds
def train_data(fold: int, seed: int, client: Client) -> TensorDataset:
    """Return what a station learns from: all that is not of the fold, or near it."""
    return dataset(fold, client, seed, is_test=False)


@functools.lru_cache(maxsize=128)
def test_data(fold: int, seed: int, client: Client | None) -> TensorDataset:
    """Return a fold's windows: of a station; for the aggregator (None) of all stations."""
    return dataset(fold, client or EVERYBODY, seed, is_test=True)


class Forecast(nn.Module):
    """A linear forecast, and what one hidden layer adds to it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(N_INPUTS, 2 * AHEAD)
        self.hidden = nn.Linear(N_INPUTS, 48)
        self.added = nn.Linear(48, 2 * AHEAD)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return vehicles and NO2 of the next hours, relative to their levels: (n, 12)."""
        found: Tensor = self.linear(inputs) + self.added(torch.relu(self.hidden(inputs)))
        return found


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean squared error of what was measured, relative to its level."""
    inputs, targets = batch
    is_there = targets.isfinite()
    return functional.mse_loss(model(inputs)[is_there], targets[is_there])


def metrics(model: nn.Module, batch: Batch) -> dict[str, Ratio]:
    """Return errors in units: of NO2 in µg/m³ (`absolute_error`, `squared_error`), and of vehicles an hour.

    Beside them those of two forecasts that need no model: that it stays as it is (`persistence_error`), and that it
    will be as at the same hours of yesterday (`yesterday_error`). Each counts the hours that both sides have.
    """
    inputs, targets = batch
    n = len(inputs)
    levels = inputs[:, -3:-1] + 1
    past = inputs[:, : 3 * PAST].masked_fill(inputs[:, 3 * PAST : 6 * PAST] != 0, math.nan).reshape(n, 3, PAST)
    found = unscaled(model(inputs).reshape(n, 2, AHEAD), levels)
    wanted = unscaled(targets.reshape(n, 2, AHEAD), levels)
    known = unscaled(past[:, :2], levels)
    error, traffic = (found - wanted)[:, 1], (found - wanted)[:, 0]
    stays = known[:, 1, -1:] - wanted[:, 1]
    repeats = known[:, 1, -DAY : -DAY + AHEAD] - wanted[:, 1]
    return {
        "absolute_error": mean_of(error.abs()),
        "squared_error": mean_of(error.square()),
        "traffic_error": mean_of(traffic.abs()),
        "persistence_error": mean_of(stays.abs()),
        "yesterday_error": mean_of(repeats.abs()),
    }


def mean_of(errors: Tensor) -> Ratio:
    """Return the sum of those that are there, over their number."""
    is_there = errors.isfinite()
    return Ratio(float(errors[is_there].double().sum()), int(is_there.sum()))


def task_of(fold: int, seed: int = DATA_SEED) -> TorchTask:
    """Return the task whose devices are tested on fold `fold` of 0..4, and learn from hours that are not near it.

    Args:
        fold: of 0..4.
        seed: of the city: another one has other streets, other weather and other failures.
    """
    return TorchTask(
        model=Forecast,
        loss=loss,
        metrics=metrics,
        train_data=functools.partial(train_data, fold, seed),
        test_data=functools.partial(test_data, fold, seed),
        optimizer=adam,
    )


fold_0, fold_1, fold_2, fold_3, fold_4 = map(task_of, range(N_FOLDS))
task = fold_0
