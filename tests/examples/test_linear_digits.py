import numpy as np
import pytest

from examples.linear_digits import FEWEST, RARE, LinearDigits, all_digits, dealt, stragglers, task, wide
from shared.errors import ConfigError
from shared.task import Arrays, Client, ClientId, Ratio, Trained
from tests import task_work


def client(part: int, n: int) -> Client:
    """The `part`-th of `n` devices."""
    return Client(id=ClientId(f"d{part}"), partition=(part, n))


def trained(
    task: LinearDigits, parameters: Arrays, client: Client, *, allowed: int = 10**9, **fields: object
) -> Trained:
    """Train with plain settings; progress says that the time is up after `allowed` steps."""
    settings: dict[str, object] = {
        "seed": 5,
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.05,
        "progress": lambda steps_done, n_steps, **_: steps_done < allowed,
    }
    return task.train(parameters, task_work.some_work(**{**settings, **fields}), client)


@pytest.mark.parametrize("n", [10, 100, 5000])
def test_every_device_has_images_and_every_image_a_device(n: int) -> None:
    """A fleet of more devices than images deals them again."""
    parts = dealt(n, has_stragglers=False)
    assert len(parts) == n
    assert min(map(len, parts)) >= min(FEWEST, len(all_digits()[0][1]) // n)
    assert set(np.concatenate(parts)) == set(range(len(all_digits()[0][1])))


def test_last_tenth_alone_has_the_rare_digits() -> None:
    """And nothing else."""
    labels = all_digits()[0][1]
    parts = dealt(50, has_stragglers=True)
    assert all(not np.isin(labels[part], RARE).any() for part in parts[:45])
    assert all(np.isin(labels[part], RARE).all() for part in parts[45:])
    with pytest.raises(ConfigError, match="too few"):
        dealt(1, has_stragglers=True)


def test_qfedavg_is_told_the_loss_of_the_received_model() -> None:
    """Of zeros: ln 10; it trains as FedAvg does, which names no such loss."""
    start = task.initial_parameters(0).parameters
    fair, plain = trained(task, start, client(3, 100), algorithm="qfedavg"), trained(task, start, client(3, 100))
    assert fair.metrics["initial_loss"] == pytest.approx(np.log(10), rel=1e-6)
    assert "initial_loss" not in plain.metrics
    assert fair.parameters is not None
    assert plain.parameters is not None
    assert fair.parameters["weights"].tobytes() == plain.parameters["weights"].tobytes()
    begun = trained(task, fair.parameters, client(3, 100), algorithm="qfedavg")
    measured = task.evaluate(fair.parameters, client(3, 100), {}).metrics["loss"]
    assert isinstance(measured, Ratio)
    assert begun.metrics["initial_loss"] == pytest.approx(measured.numerator / measured.denominator, rel=1e-5)


def test_training_lowers_the_loss_and_counts_its_steps() -> None:
    """Two epochs of ceil(n / 4) steps each, fewer when the time is up."""
    start = task.initial_parameters(0).parameters
    found = trained(task, start, client(3, 100))
    assert found.parameters is not None
    assert found.n_steps == 2 * -(-found.num_examples // 4)
    before, after = (task.evaluate(each, client(3, 100), {}).metrics["loss"] for each in (start, found.parameters))
    assert isinstance(before, Ratio)
    assert isinstance(after, Ratio)
    assert after.numerator < before.numerator
    assert trained(task, start, client(3, 100), allowed=3).n_steps == 3


def test_flipped_labels_teach_the_opposite() -> None:
    """A device that learns 9 − y raises the loss on y."""
    start = task.initial_parameters(0).parameters
    for flip in (False, True):
        found = trained(task, start, client(3, 100), options={"flip_labels": flip})
        assert found.parameters is not None
        before, after = (task.evaluate(each, client(3, 100), {}).metrics["loss"] for each in (start, found.parameters))
        assert isinstance(before, Ratio)
        assert isinstance(after, Ratio)
        assert (after.numerator > before.numerator) == flip


def test_gradient_is_that_of_one_full_step() -> None:
    """FedSGD's gradient times the rate is the step of FedAvg with one full batch."""
    start = task.initial_parameters(0).parameters
    gradient = trained(task, start, client(0, 100), algorithm="fedsgd").gradient
    step = trained(task, start, client(0, 100), epochs=1, batch_size=None).parameters
    assert gradient is not None
    assert step is not None
    np.testing.assert_allclose(step["weights"], -0.05 * gradient["weights"], rtol=1e-5, atol=1e-7)


def test_margin_is_reached_only_with_accuracy_and_recall() -> None:
    """A model of the common digits alone is under 0, however right it is elsewhere; one of all digits is over it."""
    common, every = (np.zeros((65, 10), np.float32) for _ in range(2))
    fleet = [client(part, 100) for part in range(100)]
    for model, devices in ((common, fleet[:90]), (every, fleet)):
        for _ in range(50):
            updates = [
                trained(stragglers, {"weights": model}, each, epochs=1, batch_size=None, learning_rate=0.2)
                for each in devices
            ]
            weights = np.array([update.num_examples for update in updates], np.float32)
            models = np.array([update.parameters["weights"] for update in updates if update.parameters is not None])
            model[:] = np.tensordot(weights / weights.sum(), models, axes=1)
    margins = [stragglers.evaluate({"weights": model}, None, {}).metrics["margin"] for model in (common, every)]
    assert isinstance(margins[0], float)
    assert isinstance(margins[1], float)
    assert margins[0] < -0.5
    assert margins[1] > 0


def test_wide_model_has_200_kb_and_learns() -> None:
    """The pixels are among its features; an epoch on one device is far better than to guess."""
    start = wide.initial_parameters(1).parameters
    assert start["weights"].nbytes == 200_000
    learned = trained(wide, start, client(0, 1), epochs=1, batch_size=8, learning_rate=0.05).parameters
    assert learned is not None
    accuracy = wide.evaluate(learned, None, {}).metrics["accuracy"]
    assert isinstance(accuracy, Ratio)
    assert accuracy.numerator / accuracy.denominator > 0.9
