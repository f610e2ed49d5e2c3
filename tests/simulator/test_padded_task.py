from collections.abc import Callable

import numpy as np
import pytest

from shared.task import Arrays, Client, ClientId, Evaluated, Initial, Trained, TrainingCancelled, Work
from simulator.padded_task import PaddedTask

CLIENT = Client(id=ClientId("c"))


class Clock:
    """Seconds that pass when somebody sleeps or computes."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Steps:
    """A task of some batches, each of which computes for a while; it says how many it did."""

    def __init__(self, clock: Clock, n_steps: int, compute_s: float) -> None:
        self._clock, self._n_steps, self._compute_s = clock, n_steps, compute_s

    def initial_parameters(self, seed: int) -> Initial:
        return Initial({"w": np.zeros(1, np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        done = 0
        for step in range(1, self._n_steps + 1):
            self._clock.pass_by(self._compute_s)
            done = step
            if not work.progress(step, self._n_steps, loss=1.0):
                break
        return Trained(parameters=parameters, num_examples=1, n_steps=done)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        return Evaluated(num_examples=7, metrics={})


def work(progress: Callable[..., bool], *, max_seconds: float | None = None) -> Work:
    """An order whose progress is the test's."""
    return Work(
        round_id=1,
        seed=1,
        algorithm="fedavg",
        epochs=1,
        max_steps=None,
        max_seconds=max_seconds,
        batch_size=1,
        learning_rate=0.1,
        options={},
        state={},
        progress=progress,
    )


def padded(clock: Clock, *, n_steps: int = 10, compute_s: float = 0.01, batch_s: float = 0.5) -> PaddedTask:
    """A task that sleeps on the test's clock."""
    return PaddedTask(Steps(clock, n_steps, compute_s), batch_s, clock=clock, sleep=clock.pass_by)


def test_training_takes_the_scenario_s_seconds() -> None:
    """Ten batches of half a second take five, whatever computing took of them."""
    clock = Clock()
    trained = padded(clock).train({}, work(lambda *_, **__: True), CLIENT)
    assert trained.n_steps == 10
    assert clock.now - 100 == pytest.approx(5.0)


def test_batch_that_computes_for_longer_is_not_slept_through() -> None:
    """This machine is slower than the device: it takes what it takes."""
    clock = Clock()
    padded(clock, compute_s=0.7).train({}, work(lambda *_, **__: True), CLIENT)
    assert clock.now - 100 == pytest.approx(7.0)


def test_cancelled_training_ends_with_its_batch() -> None:
    """The device is wanted elsewhere; in virtual time, too, it hears of it at its next batch."""
    clock = Clock()

    def progress(steps_done: int, n_steps: int, **metrics: float) -> bool:
        if clock.now > 101:
            raise TrainingCancelled
        return True

    with pytest.raises(TrainingCancelled):
        padded(clock, batch_s=0.4).train({}, work(progress), CLIENT)
    assert clock.now - 100 == pytest.approx(1.2)


def test_training_whose_time_is_up_ends_with_its_batch() -> None:
    """Equal seconds of work: with 0.5 s a batch and 1.2 s in all, three batches."""
    clock = Clock()
    trained = padded(clock).train({}, work(lambda *_, **__: True, max_seconds=1.2), CLIENT)
    assert trained.n_steps == 3
    assert clock.now - 100 == pytest.approx(1.5)


def test_training_that_says_nothing_and_evaluation_take_one_batch() -> None:
    """Nobody knows how many batches they have."""
    clock = Clock()
    padded(clock, n_steps=0).train({}, work(lambda *_, **__: True), CLIENT)
    padded(clock).evaluate({}, CLIENT, {})
    assert clock.now - 100 == pytest.approx(1.0)


def test_machine_that_is_slower_than_the_device_is_asked_as_it_goes() -> None:
    """It stops where its own time is up, after two batches of 0.7 s."""
    clock = Clock()
    trained = padded(clock, compute_s=0.7).train({}, work(lambda *_, **__: clock.now < 101.2), CLIENT)
    assert trained.n_steps == 2


def test_sleeping_is_done_when_the_task_has_returned() -> None:
    """A task that lets one training compute at a time does not keep the others waiting for seconds."""
    clock, computed_at = Clock(), list[float]()

    class Noting(Steps):
        def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
            trained = super().train(parameters, work, client)
            computed_at.append(clock.now)
            return trained

    task = PaddedTask(Noting(clock, 10, 0.01), 0.5, clock=clock, sleep=clock.pass_by)
    task.train({}, work(lambda *_, **__: True), CLIENT)
    assert computed_at == [pytest.approx(100.1)]
    assert clock.now == pytest.approx(105.0)


def test_progress_follows_the_seconds_and_never_falls() -> None:
    """What a device shows while it sleeps is the batch that is over."""
    clock, shown = Clock(), list[tuple[int, float]]()

    def progress(steps_done: int, n_steps: int, **metrics: float) -> bool:
        shown.append((steps_done, round(clock.now - 100, 6)))
        return True

    padded(clock, n_steps=3).train({}, work(progress), CLIENT)
    assert shown == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_device_drops_out_where_it_is_said_to() -> None:
    """After half of its batches the process ends; what is not training goes on untouched."""
    clock = Clock()

    class DiedError(Exception):
        pass

    def die() -> None:
        raise DiedError

    task = PaddedTask(Steps(clock, 10, 0.0), 1.0, drops_out=lambda: 0.5, die=die, clock=clock, sleep=clock.pass_by)
    with pytest.raises(DiedError):
        task.train({}, work(lambda *_, **__: True), CLIENT)
    assert clock.now - 100 == pytest.approx(5.0)
    assert task.evaluate({}, CLIENT, {}) == Evaluated(num_examples=7, metrics={})
    assert set(task.initial_parameters(1).parameters) == {"w"}
