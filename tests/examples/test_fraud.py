import math
from pathlib import Path

import numpy as np
import pytest

import examples.fraud as fraud
from examples.fraud import (
    ALIKE,
    BANKS,
    COLUMNS,
    FRAUDS,
    N_FEATURES,
    N_HIDDEN,
    PENALTY,
    THRESHOLD,
    WEIGHT,
    Examples,
    divided,
    features,
    gradient,
    objective,
    task,
    transactions,
)
from shared.errors import ConfigError
from shared.task import Arrays, Client, ClientId, Ratio, Trained
from tests import task_work

N_BANKS = len(BANKS)
TOGETHER = Client(id=ClientId("all"), partition=(0, 1))


def bank(index: int, n: int = N_BANKS) -> Client:
    """A bank of the scenario."""
    return Client(id=ClientId(f"bank-{index}"), partition=(index, n))


def rows(*several: Examples) -> list[bytes]:
    """Transactions with their labels, in an order that depends on nothing."""
    return sorted(row.tobytes() for examples in several for row in np.column_stack(examples))


def trained(parameters: Arrays, client: Client, *, allowed: int = 10**9, **fields: object) -> Trained:
    """Train as the scenario does; progress says that the time is up after `allowed` steps."""
    settings: dict[str, object] = {
        "seed": 5,
        "batch_size": 64,
        "learning_rate": 0.3,
        "progress": lambda steps_done, n_steps, **_: steps_done < allowed,
    }
    return task.train(parameters, task_work.some_work(**{**settings, **fields}), client)


def ratio(parameters: Arrays, client: Client | None, name: str) -> Ratio:
    """A metric of an evaluation."""
    found = task.evaluate(parameters, client, {}).metrics[name]
    assert isinstance(found, Ratio)
    return found


def some_parameters(seed: int = 3) -> dict[str, np.ndarray]:
    """A model that was not made by training."""
    rng = np.random.default_rng(seed)
    shapes = {name: array.shape for name, array in task.initial_parameters(1).parameters.items()}
    return {name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_one_transaction_in_two_hundred_is_fraud() -> None:
    """Of 120,000, and of what is reported, for some frauds never are and some customers dispute what they bought."""
    payers = np.concatenate([transactions(index)[1] for index in range(N_BANKS)])
    labels = np.concatenate([transactions(index)[2] for index in range(N_BANKS)])
    is_fraud = payers > len(ALIKE)
    assert len(payers) == 120_000
    assert is_fraud.mean() == pytest.approx(0.005, abs=0.0002)
    assert labels.mean() == pytest.approx(0.005, abs=0.0003)
    assert labels[is_fraud].mean() == pytest.approx(0.95, abs=0.03)
    assert 0 < labels[~is_fraud].mean() < 0.0004


def test_banks_see_other_frauds_than_the_rest() -> None:
    """Half of a bank's frauds are of its commonest kind, which differs from bank to bank; over all none prevails."""
    counts = np.array(
        [
            np.bincount(payers[payers > len(ALIKE)] - len(ALIKE) - 1, minlength=len(FRAUDS))
            for _, payers, _ in map(transactions, range(N_BANKS))
        ]
    )
    shares, overall = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum()
    assert shares.max(axis=1).min() >= 0.39
    assert np.median(shares.max(axis=1)) >= 0.5
    assert set(shares.argmax(axis=1)) >= {0, 1, 3}
    assert overall.max() < 0.35


def test_banks_differ_in_size_in_rate_and_in_their_customers() -> None:
    """The largest is more than eight times the smallest, has half of another's rate; amounts and journeys differ."""
    sizes = [len(transactions(index)[1]) for index in range(N_BANKS)]
    rates = [np.mean(transactions(index)[1] > len(ALIKE)) for index in range(N_BANKS)]
    amounts = [np.median(transactions(index)[0][:, COLUMNS.index("amount")]) for index in range(N_BANKS)]
    abroad = [np.mean(transactions(index)[0][:, COLUMNS.index("is_abroad")]) for index in range(N_BANKS)]
    assert max(sizes) > 8 * min(sizes)
    assert max(rates) > 2 * min(rates)
    assert max(amounts) > 4 * min(amounts)
    assert max(abroad) > 4 * min(abroad)


def test_a_bank_is_a_function_of_its_index_and_the_seed() -> None:
    """Whoever generates it, and whoever else was generated before, has the same transactions; another seed others."""
    before = [part.copy() for part in transactions(9)]
    transactions.cache_clear()
    transactions(3)
    assert all(np.array_equal(one, other) for one, other in zip(before, transactions(9), strict=True))
    assert not np.array_equal(transactions(9, 1)[0], transactions(9, 2)[0])
    one, other = (divided(None, 0, seed)[1][0] for seed in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("index", range(0, N_BANKS, 3))
def test_folds_of_a_bank_hold_out_each_transaction_once(index: int) -> None:
    """Five held-out parts are all of the bank; train and test share none; both have reported frauds."""
    columns, _, labels = transactions(index)
    whole = rows((features(columns), labels.astype(np.float32)))
    assert rows(*(divided(bank(index), fold)[1] for fold in range(5))) == whole
    for fold in range(5):
        train, test = divided(bank(index), fold)
        assert len(train[1]) + len(test[1]) == len(whole)
        assert set(rows(train)).isdisjoint(rows(test))
        assert 1 <= test[1].sum() <= math.ceil(labels.sum() / 5)
        assert train[1].sum() >= 4


def test_one_place_has_what_all_banks_have() -> None:
    """Partition (0, 1) trains on what the banks train on, and it and the aggregator hold out what they do."""
    for part in (0, 1):
        together = rows(*(divided(bank(index), 2)[part] for index in range(N_BANKS)))
        assert rows(divided(TOGETHER, 2)[part]) == together
    assert rows(divided(None, 2)[1]) == together


def test_metrics_of_a_model_made_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five payments at least as likely fraud as the threshold three are; four were: 3/5, 3/4, and 6/9 for f1."""
    limit = math.log(THRESHOLD / (1 - THRESHOLD)) + math.log(WEIGHT)
    inputs = np.zeros((9, N_FEATURES), np.float32)
    inputs[:, 0] = 10 + limit + np.array([1, 2, 0.01, -1, 3, 0.5, -0.01, -2, -3])
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], np.float32)
    parameters = {name: np.zeros_like(array) for name, array in task.initial_parameters(1).parameters.items()}
    parameters["hidden.weight"][0, 0] = parameters["score.weight"][0] = 1  # the score is the first input, less ten
    parameters["score.bias"][0] = -10
    monkeypatch.setattr(fraud, "divided", lambda client, fold, seed: ((inputs, labels), (inputs, labels)))
    assert ratio(parameters, None, "precision") == Ratio(3, 5)
    assert ratio(parameters, None, "recall") == Ratio(3, 4)
    assert ratio(parameters, None, "f1") == Ratio(6, 9)


def test_metrics_of_devices_add_up_to_those_of_one_place() -> None:
    """Sums of numerators and denominators over the banks are those of all that is held out: nothing is averaged."""
    parameters = some_parameters()
    for name in ("precision", "recall", "f1", "loss"):
        parts = [ratio(parameters, bank(index), name) for index in range(N_BANKS)]
        assert np.sum(parts, axis=0) == pytest.approx(ratio(parameters, None, name), rel=1e-4)


def test_gradient_is_the_slope_of_the_objective() -> None:
    """In any direction, by central differences."""
    inputs, labels = (part[:400].astype(np.float64) for part in divided(bank(9), 0)[0])
    labels[:20] = 1
    parameters = {name: array.astype(np.float64) for name, array in some_parameters().items()}
    slopes, rng, tiny = gradient(parameters, inputs, labels), np.random.default_rng(1), 1e-5  # type: ignore[arg-type]
    for name, array in parameters.items():
        way = rng.normal(size=array.shape)
        ahead, behind = ({**parameters, name: array + sign * tiny * way} for sign in (1, -1))
        found = (objective(ahead, inputs, labels) - objective(behind, inputs, labels)) / (2 * tiny)  # type: ignore[arg-type]
        assert float((slopes[name] * way).sum()) == pytest.approx(found, rel=1e-3)


def test_scores_of_weighted_training_become_chances() -> None:
    """A model of offsets alone learns, of a rate r, the logit of r; `log(WEIGHT)` is what weighting adds to it."""
    rate = 0.02
    labels = np.zeros(1000, np.float32)
    labels[: round(1000 * rate)] = 1
    start = {name: np.zeros_like(array) for name, array in task.initial_parameters(1).parameters.items()}
    weighted = math.log(rate / (1 - rate)) + math.log(WEIGHT)
    start["score.bias"][0] = weighted
    slope = gradient(start, np.zeros((1000, N_FEATURES), np.float32), labels)
    assert slope["score.bias"] == pytest.approx(0, abs=1e-5)


def test_a_pass_of_all_banks_lowers_the_loss() -> None:
    """One federated round is better than none on what is held out, and so is a second; the penalty's share is small."""
    parameters = task.initial_parameters(1).parameters
    losses = [ratio(parameters, None, "loss").numerator]
    for _ in range(2):
        updates = [trained(parameters, bank(index)) for index in range(N_BANKS)]
        weights = [each.num_examples for each in updates]
        parameters = {
            name: np.average([(each.parameters or {})[name] for each in updates], axis=0, weights=weights)
            for name in parameters
        }
        losses.append(ratio(parameters, None, "loss").numerator)
    assert losses[2] < losses[1] < losses[0]
    squares = sum(float(np.square(parameters[name]).sum()) for name in ("hidden.weight", "score.weight"))
    assert PENALTY / 2 * squares < 0.1 * objective(parameters, *divided(None, 0)[1])


def test_fedsgd_is_one_step_over_all_examples() -> None:
    """The received model less the rate times the gradient is a step with one full batch."""
    start = some_parameters()
    slope, step = trained(start, bank(9), algorithm="fedsgd"), trained(start, bank(9), batch_size=None)
    assert slope.gradient is not None
    assert step.parameters is not None
    assert slope.num_examples == step.num_examples == len(divided(bank(9), 0)[0][1])
    for name, array in step.parameters.items():
        assert start[name] - 0.3 * slope.gradient[name] == pytest.approx(array, abs=1e-5)


def test_an_algorithm_adds_to_the_gradient_of_every_step() -> None:
    """With correction d and pull mu, two steps of one batch are those of gradient + d + mu (w - received)."""
    start, mu, rate = some_parameters(), 0.5, 0.3
    correction = some_parameters(seed=4)
    found = trained(start, bank(9), batch_size=None, epochs=2, correction=correction, mu=mu).parameters
    assert found is not None
    expected = {name: array.astype(np.float64) for name, array in start.items()}
    for _ in range(2):
        slopes = gradient(expected, *divided(bank(9), 0)[0])
        expected = {
            name: array - rate * (slopes[name] + correction[name] + mu * (array - start[name]))
            for name, array in expected.items()
        }
    assert all(found[name] == pytest.approx(expected[name], abs=1e-4) for name in start)


def test_training_ends_when_the_time_is_up_or_the_steps_are_done() -> None:
    """Steps are counted over passes, and a pass is begun again when they ask for more."""
    start = some_parameters()
    n_batches = -(-len(divided(bank(9), 0)[0][1]) // 64)
    assert trained(start, bank(9), epochs=2).n_steps == 2 * n_batches
    assert trained(start, bank(9), epochs=None, max_steps=n_batches + 3).n_steps == n_batches + 3
    assert trained(start, bank(9), epochs=None, max_steps=3).n_steps == 3
    assert trained(start, bank(9), allowed=5).n_steps == 5


def test_q_fedavg_hears_what_the_received_model_lost() -> None:
    """The mean objective over what the bank trains on, before the first step."""
    start = some_parameters()
    found = trained(start, bank(9), algorithm="qfedavg", max_steps=1, epochs=None).metrics["initial_loss"]
    assert isinstance(found, Ratio)
    assert found.numerator / found.denominator == pytest.approx(objective(start, *divided(bank(9), 0)[0]))


def test_a_bank_brings_its_own_transactions(tmp_path: Path) -> None:
    """A file and its folder give the same, of which a fifth of either label is held out."""
    columns, _, labels = transactions(8)
    np.savetxt(tmp_path / "transactions.csv", np.column_stack([columns[:500], labels[:500]]), delimiter=",")
    train, test = divided(Client(id=ClientId("own"), data=tmp_path / "transactions.csv"), 1)
    again = divided(Client(id=ClientId("own"), data=tmp_path), 1)
    assert (rows(train), rows(test)) == (rows(again[0]), rows(again[1]))
    assert len(train[1]) + len(test[1]) == 500
    assert len(test[1]) == pytest.approx(100, abs=1)


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ([20, 20, 12, 60, 0, 0, 0, 1], r"expected 9 columns, found 8"),
        ([20, 20, 12, 60, 0, 0, 0, 8, 0], r"amounts are above 0, wares are 0 to 7, labels 0 or 1"),
        ([0, 20, 12, 60, 0, 0, 0, 1, 0], r"amounts are above 0"),
        ([20, 20, 12, 60, 0, 0, 0, 1, 2], r"labels 0 or 1"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, row: list[float], cause: str) -> None:
    """The cause names the file and what was expected of it."""
    np.savetxt(tmp_path / "transactions.csv", [row, row], delimiter=",")
    with pytest.raises(ConfigError, match=rf"transactions\.csv: .*{cause}"):
        divided(Client(id=ClientId("own"), data=tmp_path / "transactions.csv"), 0)


@pytest.mark.parametrize("client", [bank(2, n=7), Client(id=ClientId("nobody"))])
def test_another_number_of_devices_is_refused(client: Client) -> None:
    """There are ten banks, and a device that is none of them has to bring transactions."""
    with pytest.raises(ConfigError, match="those of 10 banks"):
        divided(client, 0)


def test_a_model_is_a_few_hundred_numbers() -> None:
    """Small enough to travel in one message."""
    initial = task.initial_parameters(7)
    n = N_FEATURES * N_HIDDEN + 2 * N_HIDDEN + 1
    assert sum(array.size for array in initial.parameters.values()) == n < 500
