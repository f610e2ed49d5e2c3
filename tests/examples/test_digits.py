from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from examples.digits import all_digits, examples_of, partition, task, train_data
from examples.digits import test_data as held_out
from shared.errors import ConfigError
from shared.parameters import ParameterSpec, Vector, delta_of
from shared.task import Client, ClientId, Ratio, Work
from tests import task_work

N_DEVICES = 20


def device(i: int, n: int = N_DEVICES) -> Client:
    """Device i of n in a rehearsal."""
    return Client(id=ClientId(f"device-{i}"), partition=(i, n))


def some_work(seed: int, epochs: int) -> Work:
    """The work of the digits' TOML."""
    return task_work.some_work(seed=seed, epochs=epochs, batch_size=16)


def accuracy(spec: ParameterSpec, vector: Vector) -> float:
    """Of the aggregator's own evaluation."""
    evaluated = task.evaluate(spec.unflatten(vector), None, {})
    assert evaluated is not None
    ratio = evaluated.metrics["accuracy"]
    assert isinstance(ratio, Ratio)
    return ratio.numerator / ratio.denominator


@pytest.mark.parametrize("n", [1, 2, 20, 150, 1438])
def test_the_devices_share_all_digits_and_none_is_empty(n: int) -> None:
    """Every digit is on exactly one device, and each device has at least one, eight as long as there are enough."""
    labels = all_digits()[0][1]
    parts = partition(n)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert min(map(len, parts)) >= min(8, len(labels) // n)


@pytest.mark.parametrize("n", [0, 1439])
def test_more_devices_than_digits_are_refused(n: int) -> None:
    """There is nothing to give to the last one."""
    with pytest.raises(ConfigError, match="1438 digits cannot be split"):
        partition(n)


def test_devices_see_some_digits_more_often_than_others() -> None:
    """Of an even split the commonest digit of a device would have a share of about a tenth."""
    shares = [np.bincount(examples_of(device(i))[1]).max() / len(examples_of(device(i))[1]) for i in range(N_DEVICES)]
    assert np.median(shares) > 0.25


def test_a_device_tests_on_examples_it_does_not_train_on() -> None:
    """A fifth is held out, here and on the aggregator."""
    for i in range(N_DEVICES):
        test = held_out(device(i))
        n_train, n_test = len(train_data(device(i))), len(test)
        assert n_test == (n_train + n_test) // 5
        assert n_test >= 1
    assert len(held_out(None)) == 1797 // 5


def test_a_device_without_partition_takes_what_its_id_names() -> None:
    """The same id has the same digits, of all twenty parts."""
    alone = Client(id=ClientId("pi-7"))
    sizes = {len(part) for part in partition(N_DEVICES)}
    assert len(examples_of(alone)[1]) in sizes
    assert examples_of(alone)[1] is examples_of(Client(id=ClientId("pi-7")))[1]


@pytest.mark.parametrize("form", ["digits.npz", "folder", "digits.csv"])
def test_a_device_brings_its_own_images(tmp_path: Path, form: str) -> None:
    """An .npz, a folder with digits.npz and a .csv give the same examples."""
    images, labels = load_digits(return_X_y=True)
    path = tmp_path / form
    if form == "digits.csv":
        np.savetxt(path, np.column_stack([images[:30], labels[:30]]), delimiter=",")
    else:
        np.savez(tmp_path / "digits.npz", x=images[:30], y=labels[:30])
        path = tmp_path if form == "folder" else path
    found_images, found_labels = examples_of(Client(id=ClientId("own"), data=path))
    assert np.array_equal(found_labels, labels[:30])
    assert found_images == pytest.approx(images[:30] / 4 - 1)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    """The cause names the file and what was found in it."""
    np.savez(tmp_path / "digits.npz", x=np.zeros((3, 28)), y=np.zeros(3))
    with pytest.raises(ConfigError, match=r"digits\.npz: expected images of 64 pixels .* found \(3, 28\)"):
        examples_of(Client(id=ClientId("own"), data=tmp_path))


def test_a_fleet_learns_what_no_device_could_alone() -> None:
    """Fifteen rounds of 12 of 20 devices: at least 0.9, and far above the median device that learns as long alone."""
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    vector = spec.flatten(initial.parameters)
    rng = np.random.default_rng(1)
    for round_id in range(15):
        total: Any = np.zeros(spec.n_params)
        n_examples = 0
        for i in rng.choice(N_DEVICES, 12, replace=False):
            trained = task.train(spec.unflatten(vector), some_work(seed=100 * round_id + int(i), epochs=2), device(i))
            total += trained.num_examples * delta_of(trained, vector, spec).astype(np.float64)
            n_examples += trained.num_examples
        vector = (vector + total / n_examples).astype(np.float32)
    alone = [
        accuracy(spec, spec.flatten(trained.parameters or {}))
        for trained in (task.train(initial.parameters, some_work(i, epochs=30), device(i)) for i in range(0, 20, 3))
    ]
    assert accuracy(spec, vector) >= 0.9
    assert accuracy(spec, vector) >= np.median(alone) + 0.1
