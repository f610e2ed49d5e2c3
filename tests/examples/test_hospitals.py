from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

import examples.hospitals as hospitals
from examples.hospitals import N_FEATURES, SITES, Examples, build_model, cases, divided, scaled, task_of
from shared.errors import ConfigError
from shared.parameters import ParameterSpec, Vector, delta_of
from shared.task import Client, ClientId, Ratio, Work
from tests import task_work

N_SITES = len(SITES)
TOGETHER = Client(id=ClientId("all"), partition=(0, 1))


def site(index: int, n: int = N_SITES) -> Client:
    """A site of the scenario."""
    return Client(id=ClientId(f"site-{index}"), partition=(index, n))


def rows(*several: Examples) -> list[bytes]:
    """Cases with their labels, in an order that depends on nothing."""
    return sorted(
        bytes(row.tobytes() + label.tobytes())
        for inputs, labels in several
        for row, label in zip(inputs, labels, strict=True)
    )


def plain_loss(vector: Vector, examples: Examples) -> float:
    """The mean cross-entropy, from its definition."""
    scores = examples[0].astype(np.float64) @ vector[:N_FEATURES] + vector[N_FEATURES]
    return float(np.logaddexp(0, np.where(examples[1] > 0, -scores, scores)).mean())


def some_work(epochs: int) -> Work:
    """The work of the scenario."""
    return task_work.some_work(epochs=epochs, batch_size=16, learning_rate=0.2)


def test_every_case_is_at_exactly_one_site() -> None:
    """The five sites share all 569 cases of the bundled data."""
    dealt = np.concatenate([kind for index in range(N_SITES) for kind in cases(index)])
    assert sorted(dealt.tolist()) == list(range(569))


def test_sites_differ_in_size_and_in_whom_they_see() -> None:
    """Sizes fall from 45 to 5 %; the share of malignant cases lies between 17 and 65 %."""
    labels = load_breast_cancer(return_X_y=True)[1] == 0
    parts = [np.concatenate(cases(index)) for index in range(N_SITES)]
    assert [round(100 * len(part) / 569) for part in parts] == [45, 25, 15, 10, 5]
    assert [round(100 * float(labels[part].mean())) for part in parts] == [39, 28, 35, 65, 17]


@pytest.mark.parametrize("index", range(N_SITES))
def test_folds_of_a_site_hold_out_each_case_once(index: int) -> None:
    """Five held-out parts are all of the site; none is trained on; both kinds are on both sides of each division."""
    whole = rows(*divided(site(index), 0))
    assert rows(*(divided(site(index), fold)[1] for fold in range(5))) == whole
    for fold in range(5):
        train, test = divided(site(index), fold)
        assert rows(train, test) == whole
        assert set(rows(train)).isdisjoint(rows(test))
        assert set(train[1]) == set(test[1]) == {0, 1}
        assert len(test[1]) == pytest.approx(len(whole) / 5, abs=1.01)


@pytest.mark.parametrize("fold", range(5))
def test_one_place_has_what_all_sites_have(fold: int) -> None:
    """Partition (0, 1) trains on what the sites train on, and it and the aggregator hold out what they do."""
    for part in (0, 1):
        together = rows(*(divided(site(index), fold)[part] for index in range(N_SITES)))
        assert rows(divided(TOGETHER, fold)[part]) == together
    assert rows(divided(None, fold)[1]) == together


def test_another_seed_deals_the_same_cases_otherwise() -> None:
    """Nobody's case is lost or doubled, and the university has other ones."""
    assert rows(divided(None, 0, 1)[1]) != rows(divided(None, 0, 2)[1])
    whole = [rows(*(divided(TOGETHER, 0, seed)[part] for part in (0, 1))) for seed in (1, 2)]
    assert whole[0] == whole[1]


def test_scaling_asks_no_data() -> None:
    """A case is scaled alike whoever comes along with it, and a tenth more is the same step for every size."""
    measured = load_breast_cancer(return_X_y=True)[0]
    assert np.array_equal(scaled(measured[7:8]), scaled(measured)[7:8])
    assert np.isfinite(scaled(measured)).all()
    assert np.abs(scaled(measured)).mean() < 2
    larger = scaled(1.1 * measured) - scaled(measured)
    assert larger.min() >= 0
    assert larger.max() == pytest.approx(2 * np.log(1.1), rel=0.01)


def test_metrics_of_a_model_made_by_hand() -> None:
    """Of three malignant cases two are found, of four benign ones three are let go: 2/3, 3/4 and 5/7."""
    model = build_model()
    assert isinstance(model, nn.Linear)
    with torch.no_grad():
        model.weight.zero_()[0, 0] = 1
        model.bias.zero_()
    inputs = torch.zeros(7, N_FEATURES)
    inputs[:, 0] = torch.tensor([1.0, 2.0, -1.0, -3.0, -1.0, 0.5, -2.0])
    labels = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert hospitals.metrics(model, (inputs, labels)) == {
        "sensitivity": Ratio(2, 3),
        "specificity": Ratio(3, 4),
        "accuracy": Ratio(5, 7),
    }


def test_the_reported_loss_is_without_the_penalty() -> None:
    """Whoever compares models compares how well they predict: the penalty belongs to training alone."""
    task = task_of(0)
    initial = task.initial_parameters(1)
    large = {name: 10 * array for name, array in initial.parameters.items()}
    evaluated = task.evaluate(large, None, {})
    assert evaluated is not None
    numerator, denominator = evaluated.metrics["loss"]  # type: ignore[misc]
    flat = np.concatenate([large["weight"].ravel(), large["bias"]])
    assert numerator / denominator == pytest.approx(plain_loss(flat, divided(None, 0)[1]), rel=1e-5)


def test_two_rounds_teach_all_five_sites_more_than_the_smallest_knows() -> None:
    """The loss on what all hold out falls in each round, and is below that of the smallest site on its own."""
    task = task_of(0)
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)

    def taught(start: Vector, *clients: Client) -> Vector:
        updates = [task.train(spec.unflatten(start), some_work(epochs=5), client) for client in clients]
        total = sum(each.num_examples * delta_of(each, start, spec).astype(np.float64) for each in updates)
        return np.asarray(start + total / sum(each.num_examples for each in updates), dtype=np.float32)

    def lost(vector: Vector) -> float:
        evaluated = task.evaluate(spec.unflatten(vector), None, {})
        assert evaluated is not None
        numerator, denominator = evaluated.metrics["loss"]  # type: ignore[misc]
        return float(numerator / denominator)

    start = spec.flatten(initial.parameters)
    first = taught(start, *map(site, range(N_SITES)))
    second = taught(first, *map(site, range(N_SITES)))
    alone = taught(taught(start, site(4)), site(4))
    assert lost(second) < lost(first) < lost(start)
    assert lost(second) < lost(alone)


def test_a_hospital_brings_its_own_cases(tmp_path: Path) -> None:
    """A file and its folder give the same cases, of which a fifth of either kind is held out."""
    measured, is_benign = load_breast_cancer(return_X_y=True)
    np.savetxt(tmp_path / "cases.csv", np.column_stack([measured[:60], 1 - is_benign[:60]]), delimiter=",")
    file = divided(Client(id=ClientId("own"), data=tmp_path / "cases.csv"), 2)
    folder = divided(Client(id=ClientId("own"), data=tmp_path), 2)
    assert rows(*file) == rows(*folder)
    assert len(file[0][1]) + len(file[1][1]) == 60
    assert len(file[1][1]) == pytest.approx(12, abs=1)


@pytest.mark.parametrize(
    ("table", "cause"),
    [
        (np.ones((3, 30)), r"cases\.csv: expected 30 measurements and a label a line, found 30 columns"),
        (np.full((3, 31), 2.0), r"cases\.csv: the last column is 1 \(malignant\) or 0 \(benign\)"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, table: np.ndarray, cause: str) -> None:
    """The cause names the file and what was expected of it."""
    np.savetxt(tmp_path / "cases.csv", table, delimiter=",")
    with pytest.raises(ConfigError, match=cause):
        divided(Client(id=ClientId("own"), data=tmp_path / "cases.csv"), 0)


@pytest.mark.parametrize("client", [site(2, n=7), Client(id=ClientId("nobody"))])
def test_another_number_of_devices_is_refused(client: Client) -> None:
    """There are five sites, and a device that is none of them has to bring cases."""
    with pytest.raises(ConfigError, match="dealt to 5 hospitals"):
        divided(client, 0)
