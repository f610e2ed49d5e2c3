from typing import Any

import numpy as np
import pytest

from examples.linear_digits import all_digits
from results.skewed_digits import Deal, SkewedDigits, dealt
from shared.errors import ConfigError
from shared.task import Client, ClientId, Ratio
from tests.task_work import some_work

HERE = Client(id=ClientId("d"), partition=(3, 20))


@pytest.mark.parametrize("deal", ["shards", "digits", "dirichlet", "alike"])
def test_every_image_is_dealt_exactly_once(deal: Deal) -> None:
    """Nobody has none, and another seed deals otherwise."""
    parts = dealt(20, deal, 0.1, 1)
    assert sorted(np.concatenate(parts)) == list(range(len(all_digits()[0][1])))
    assert min(map(len, parts)) >= 1
    assert not all(np.array_equal(*pair) for pair in zip(parts, dealt(20, deal, 0.1, 2), strict=True))


def test_shards_leave_a_device_few_digits() -> None:
    """Two pieces of a sorted deck have two digits, or parts of four."""
    labels = all_digits()[0][1]
    counts = [len(set(labels[part])) for part in dealt(20, "shards", 0.1, 1)]
    assert max(counts) <= 4
    assert np.mean(counts) < 3


def test_ten_devices_have_a_digit_each() -> None:
    """But for a few images where the digits are not equally frequent."""
    labels = all_digits()[0][1]
    kept = [np.bincount(labels[part], minlength=10) for part in dealt(10, "digits", 0.1, 1)]
    assert sorted(int(counts.argmax()) for counts in kept) == list(range(10))
    assert min(counts.max() / counts.sum() for counts in kept) > 0.8


def test_more_devices_than_images_are_refused() -> None:
    """A device without a piece has nothing to learn from."""
    with pytest.raises(ConfigError, match="cannot be dealt to 5000 devices"):
        dealt(5000, "shards", 0.1, 1)


@pytest.mark.parametrize("hidden", [0, 8])
def test_gradient_is_that_of_the_loss(hidden: int) -> None:
    """By differences along a random direction, decay included."""
    task, rng = SkewedDigits(seed=1, hidden=hidden, decay=0.1), np.random.default_rng(1)
    at = {name: rng.normal(0, 0.2, array.shape) for name, array in task.initial_parameters(1).parameters.items()}
    along = {name: rng.normal(0, 1, array.shape) for name, array in at.items()}
    inputs, labels = task.examples(HERE)

    def loss(step: float) -> float:
        return task._gradients({name: at[name] + step * along[name] for name in at}, inputs, labels)[1]

    gradient, _ = task._gradients(at, inputs, labels)
    slope = (loss(1e-3) - loss(-1e-3)) / 2e-3
    assert sum(float(np.vdot(gradient[n], along[n])) for n in at) == pytest.approx(slope, rel=1e-2)


def test_weighted_mean_of_fedsgds_gradients_is_the_gradient_of_all_data() -> None:
    """However unevenly the images are dealt (n_k/n weights)."""
    task = SkewedDigits(seed=1, hidden=8)
    first = task.initial_parameters(1).parameters
    parts = [task.train(first, some_work(algorithm="fedsgd"), Client(id=HERE.id, partition=(i, 20))) for i in range(20)]
    n = sum(each.num_examples for each in parts)
    for name, expected in task._gradients(first, *all_digits()[0])[0].items():
        mean = sum(each.num_examples / n * each.gradient[name] for each in parts if each.gradient is not None)
        np.testing.assert_allclose(mean, expected, atol=2e-6)


def test_correction_and_mu_are_added_to_every_gradient() -> None:
    """Two full-batch steps by hand: w ← w − η (g + c + µ (w − received))."""
    task = SkewedDigits(seed=1, hidden=0)
    first = {"out": np.full((65, 10), 0.01, np.float32)}
    correction, mu, rate = {"out": np.ones((65, 10), np.float32)}, 0.5, 0.1
    trained = task.train(first, some_work(epochs=2, correction=correction, mu=mu), HERE)
    expected: Any = first["out"]
    for _ in range(2):
        gradient = task._gradients({"out": expected}, *task.examples(HERE))[0]["out"]
        expected = expected - rate * (gradient + correction["out"] + mu * (expected - first["out"]))
    assert trained.parameters is not None
    np.testing.assert_allclose(trained.parameters["out"], expected, atol=1e-6)
    assert trained.n_steps == 2


def test_training_ends_when_it_is_told() -> None:
    """After the second of many batches, with what there is."""
    trained = SkewedDigits(seed=1).train(
        SkewedDigits(seed=1).initial_parameters(1).parameters,
        some_work(epochs=5, batch_size=10, progress=lambda done, n: bool(done < 2)),
        HERE,
    )
    assert trained.n_steps == 2


def test_evaluation_counts_the_right_ones() -> None:
    """A model of zeros takes everything for a 0; centrally the objective is the loss over all training data."""
    task = SkewedDigits(seed=1, hidden=0)
    found = task.evaluate(task.initial_parameters(1).parameters, None, {})
    labels = all_digits()[1][1]
    assert found.metrics["accuracy"] == Ratio(int((labels == 0).sum()), len(labels))
    assert found.metrics["objective"] == pytest.approx(np.log(10))
    mine = task.evaluate(task.initial_parameters(1).parameters, HERE, {})
    assert mine.num_examples == len(dealt(20, "shards", 0.1, 1)[3])
    assert "objective" not in mine.metrics
