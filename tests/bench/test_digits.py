import numpy as np

from bench.digits import Digits
from shared.task import Client, ClientId, Work


def some_work(seed: int = 1) -> Work:
    """Return thirty passes over a device's twenty images."""
    return Work(
        round_id=1,
        seed=seed,
        algorithm="fedavg",
        epochs=30,
        max_steps=None,
        max_seconds=None,
        batch_size=10,
        learning_rate=0.5,
        options={},
        state={},
        auxiliary={},
        progress=lambda steps_done, n_steps, **metrics: True,
    )


def accuracy_after(n_devices: int) -> float:
    """Return the accuracy of a model that went from device to device."""
    task = Digits()
    model = task.initial_parameters(0).parameters
    for number in range(n_devices):
        client = Client(id=ClientId(f"d{number}"), partition=(number, 10_000))
        trained = task.train(model, some_work(), client)
        assert trained.parameters is not None
        model = trained.parameters
    evaluated = task.evaluate(model, None, {})
    assert evaluated is not None
    right, n = evaluated.metrics["accuracy"]  # type: ignore[misc]
    return float(right / n)


def test_linear_model_of_the_digits_has_650_parameters_and_learns() -> None:
    """Ten devices of twenty images each are enough for most of the digits."""
    assert sum(array.size for array in Digits().initial_parameters(0).parameters.values()) == 650
    assert accuracy_after(10) > 0.7 > accuracy_after(0)


def test_training_is_a_function_of_its_seed() -> None:
    """The same work gives the same bits, another seed another order."""
    task, client = Digits(), Client(id=ClientId("d"), partition=(3, 10))
    model = task.initial_parameters(0).parameters
    first, again, other = (task.train(model, some_work(seed), client).parameters for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(first["weights"], again["weights"])
    assert not np.array_equal(first["weights"], other["weights"])
