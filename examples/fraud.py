"""Card fraud: ten banks learn to stop it, each with tricks of its own to see, and no transaction leaves its bank.

Generated, and no bank's: 120,000 transactions, one in two hundred of them fraud. There are four kinds of fraud, and for
each a kind of honest customer who looks alike but for a trait or two:

* *testing*: stolen numbers are tried with small purchases of digital goods, minutes apart. So do players of games, on
  a phone that is known.
* *cloned*: a copied card draws cash abroad, much and at night. So do travellers, by day and less.
* *takeover*: on a new device somebody orders electronics for far more than usual, after a long silence. So do owners
  of a new phone, for somewhat more.
* *stolen*: a found card pays again and again just below the limit of a payment without PIN. So do families on errands,
  more slowly and any amount.

Banks differ in size, in how much fraud there is and of which kinds, in amounts, places and wares (`BANKS`). Labels are
noisy: of the frauds `MISSED` are never reported, of the rest `DISPUTED` are disputed wrongly. Of each bank's reported
and of its other transactions every fifth, from the k-th on, is held out in the task `fold_k`. A bank of its own brings
a .csv with `--data`: the columns of `COLUMNS` and the label.

The model is a perceptron in NumPy, trained with reported frauds weighing `WEIGHT` times as much; `log(WEIGHT)` is taken
off its scores afterwards, so that they are those of the true chance of fraud (Elkan, "The Foundations of Cost-Sensitive
Learning", IJCAI 2001, theorem 2). A transaction is stopped when that chance is `THRESHOLD` or more.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.task import Arrays, Client, Evaluated, Initial, Metric, Ratio, Trained, Work

__all__ = ["BANKS", "Bank", "Fraud", "fold_0", "fold_1", "fold_2", "fold_3", "fold_4", "task", "task_of"]

Floats = NDArray[np.float32]
Examples = tuple[Floats, Floats]
"""Inputs (n, N_FEATURES), about centred, and labels (n,): 1 reported as fraud, 0 not."""

SEED = 2024
N_FOLDS = 5
N_HIDDEN = 24
WEIGHT = 20.0
"""Of a reported fraud in training: there are so few of them that most batches have none."""
PENALTY = 0.0001
"""Half of it times the squared weights is added to the objective."""
THRESHOLD = 0.3
"""To stop an honest customer costs three tenths of what a fraud does. It is chosen by what errors cost, and so needs no
data: none is held back for it, and none leaks."""
MISSED, DISPUTED = 0.05, 0.0002

WARES = ("groceries", "petrol", "restaurants", "travel", "electronics", "digital", "cash", "other")
GROCERIES, PETROL, _, TRAVEL, ELECTRONICS, DIGITAL, CASH, OTHER = range(len(WARES))
COLUMNS = ("amount", "usual_amount", "hour", "minutes_since_last", "is_online", "is_abroad", "is_new_device", "ware")
"""Amounts in euros, `hour` in [0, 24), flags 0 or 1, `ware` counts in WARES."""
N_FEATURES = 8 + len(WARES)


class Bank(NamedTuple):
    """What distinguishes a bank.

    Args:
        n: transactions.
        fraud: share of them.
        kinds: weights of testing, cloned, takeover and stolen among the frauds.
        alike: shares of players, travellers, owners of a new phone and families on errands among honest transactions.
        amount: the median customer's usual one, in euros.
        online: share of other transactions that is online.
        abroad: the same for abroad.
    """

    name: str
    n: int
    fraud: float
    kinds: tuple[float, float, float, float]
    alike: tuple[float, float, float, float]
    amount: float
    online: float
    abroad: float


BANKS = (
    Bank("savings", 26_000, 0.0040, (2, 1, 2, 5), (0.02, 0.02, 0.02, 0.08), 30, 0.25, 0.02),
    Bank("direct", 20_000, 0.0065, (4, 2, 3, 1), (0.06, 0.02, 0.06, 0.01), 40, 0.70, 0.05),
    Bank("cooperative", 17_000, 0.0035, (1, 2, 2, 5), (0.02, 0.03, 0.02, 0.07), 35, 0.25, 0.03),
    Bank("commercial", 14_000, 0.0050, (2, 4, 3, 1), (0.01, 0.08, 0.03, 0.02), 80, 0.40, 0.12),
    Bank("app", 12_000, 0.0070, (6, 1, 2, 1), (0.12, 0.02, 0.04, 0.02), 20, 0.60, 0.06),
    Bank("state", 10_000, 0.0040, (2, 1, 2, 5), (0.02, 0.01, 0.02, 0.09), 30, 0.20, 0.02),
    Bank("private", 7_000, 0.0045, (1, 4, 4, 1), (0.01, 0.07, 0.05, 0.01), 180, 0.45, 0.15),
    Bank("student", 6_000, 0.0060, (5, 2, 1, 2), (0.10, 0.06, 0.03, 0.03), 15, 0.55, 0.08),
    Bank("travel", 5_000, 0.0080, (1, 6, 2, 1), (0.02, 0.14, 0.02, 0.01), 70, 0.45, 0.30),
    Bank("village", 3_000, 0.0050, (2, 1, 2, 5), (0.01, 0.01, 0.02, 0.08), 25, 0.20, 0.02),
)
"""In the order of the scenario's devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """How one kind of payer pays, honest or not. Means and deviations of normal distributions.

    Args:
        amount: of the logarithm in euros; None: `more` than usual decides.
        more: of the logarithm of how much more than usual.
        minutes: of the logarithm of minutes since the last payment.
        hour: of the hour of the day.
        online: chance.
        abroad: chance.
        new_device: chance.
        wares: what is bought, each as often.
    """

    amount: tuple[float, float] | None = None
    more: tuple[float, float] = (0.0, 0.7)
    minutes: tuple[float, float]
    hour: tuple[float, float]
    online: float
    abroad: float
    new_device: float
    wares: tuple[int, ...]


FRAUDS = (
    Habit(amount=(0.3, 0.5), minutes=(0.2, 0.7), hour=(3, 6), online=1, abroad=0.3, new_device=0.8, wares=(DIGITAL,)),
    Habit(more=(1.8, 0.5), minutes=(4, 1), hour=(1, 2.5), online=0, abroad=0.95, new_device=0, wares=(CASH,)),
    Habit(
        more=(2.3, 0.5), minutes=(8, 1), hour=(2, 5), online=1, abroad=0.1, new_device=0.95, wares=(ELECTRONICS, OTHER)
    ),
    Habit(
        amount=(3.8, 0.1),
        minutes=(1.5, 0.6),
        hour=(22, 2.5),
        online=0,
        abroad=0,
        new_device=0,
        wares=(GROCERIES, PETROL),
    ),
)
ALIKE = (
    Habit(amount=(1.4, 0.6), minutes=(2.2, 0.8), hour=(20, 3), online=1, abroad=0.1, new_device=0.04, wares=(DIGITAL,)),
    Habit(more=(0.3, 0.5), minutes=(5, 1), hour=(15, 4), online=0, abroad=0.95, new_device=0, wares=(CASH, TRAVEL)),
    Habit(
        more=(0.7, 0.5),
        minutes=(6.5, 1),
        hour=(17, 4),
        online=1,
        abroad=0.05,
        new_device=0.9,
        wares=(ELECTRONICS, OTHER),
    ),
    Habit(
        amount=(3.2, 0.6), minutes=(3.5, 0.7), hour=(16, 3), online=0, abroad=0, new_device=0, wares=(GROCERIES, PETROL)
    ),
)


@functools.cache
def transactions(index: int, seed: int = SEED) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return all transactions of a bank: a function of its index and the seed alone.

    Returns:
        Columns (n, 8) as in COLUMNS; who paid (n,): 0 anybody, 1..4 one of ALIKE, 5..8 one of FRAUDS; labels (n,).
    """
    bank, rng = BANKS[index], np.random.default_rng([seed, index])
    n_fraud = round(bank.n * bank.fraud)
    bounds = np.round(n_fraud * np.cumsum([0, *bank.kinds]) / sum(bank.kinds)).astype(int)
    frauds = np.repeat(1 + len(ALIKE) + np.arange(len(FRAUDS)), np.diff(bounds))
    honest = rng.choice(1 + len(ALIKE), bank.n - n_fraud, p=[1 - sum(bank.alike), *bank.alike])
    payers = rng.permutation(np.concatenate([frauds, honest]))
    anybody = Habit(
        minutes=(6.5, 1.3),
        hour=(14.5, 4.5),
        online=bank.online,
        abroad=bank.abroad,
        new_device=0.05 * bank.online,
        wares=tuple(rng.choice(len(WARES), 12)),  # a bank's customers have tastes of their own
    )
    columns = np.empty((bank.n, len(COLUMNS)))
    for payer, habit in enumerate((anybody, *ALIKE, *FRAUDS)):
        here = payers == payer
        columns[here] = _payments(habit, bank, int(here.sum()), rng)
    chance = np.where(payers > len(ALIKE), 1 - MISSED, DISPUTED)
    return columns, payers, (rng.random(bank.n) < chance).astype(np.int64)


def _payments(habit: Habit, bank: Bank, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    usual = bank.amount * np.exp(rng.normal(0, 0.5, n))
    amount = usual * np.exp(rng.normal(*habit.more, n))
    if habit.amount is not None:
        amount = np.exp(rng.normal(*habit.amount, n))
    flags = (rng.random((n, 3)) < (habit.online, habit.abroad, habit.new_device)).astype(float)
    minutes = np.exp(rng.normal(*habit.minutes, n))
    hour = rng.normal(*habit.hour, n) % 24
    return np.column_stack([amount, usual, hour, minutes, flags, rng.choice(habit.wares, n)])


def features(columns: NDArray[np.float64]) -> Floats:
    """Return inputs (n, N_FEATURES), about centred, by constants of this file: nobody's statistics are asked for."""
    amount, usual, hour, minutes, online, abroad, new_device, ware = columns.T
    turn = hour / 24 * 2 * math.pi
    numbers = [np.log(amount / 40), np.log(amount / usual), np.log(minutes / 400) / 2, np.sin(turn), np.cos(turn)]
    flags = [2 * online - 1, 2 * abroad - 1, 2 * new_device - 1]
    return np.column_stack([*numbers, *flags, 2 * np.eye(len(WARES))[ware.astype(int)]]).astype(np.float32)


def from_file(path: Path) -> Examples:
    """Return a bank's own transactions.

    Raises:
        ConfigError: a line has another number of columns, or a value that cannot be.
    """
    table = np.loadtxt(path / "transactions.csv" if path.is_dir() else path, delimiter=",", ndmin=2)
    if table.shape[1] != len(COLUMNS) + 1:
        raise ConfigError(
            f"{path}: expected {len(COLUMNS) + 1} columns, found {table.shape[1]}", hint=", ".join(COLUMNS)
        )
    ware, is_fraud = table[:, -2], table[:, -1]
    if not (np.isin(ware, range(len(WARES))).all() and np.isin(is_fraud, (0, 1)).all() and (table[:, :2] > 0).all()):
        raise ConfigError(f"{path}: amounts are above 0, wares are 0 to {len(WARES) - 1}, labels 0 or 1")
    return features(table[:, :-1]), is_fraud.astype(np.float32)


@functools.cache
def divided(client: Client | None, fold: int, seed: int = SEED) -> tuple[Examples, Examples]:
    """Return what a client trains on, and what is held out of that; the aggregator (None) has what all hold out.

    Raises:
        ConfigError: there is no such bank, or a file is not as it should be.
    """
    if client is not None and client.data is not None:
        return _split(from_file(client.data), fold)
    index, n = (0, 1) if client is None else client.partition or (0, 0)
    if n not in (1, len(BANKS)):
        raise ConfigError(
            f"the transactions are those of {len(BANKS)} banks, and this is device {index} of {n}",
            hint="ten devices, or transactions of its own with --data",
        )
    banks = range(len(BANKS)) if n == 1 else [index]  # 1: all data in one place
    generated = (transactions(i, seed) for i in banks)
    parts = [_split((features(columns), labels.astype(np.float32)), fold) for columns, _, labels in generated]
    train, test = ([part[side] for part in parts] for side in (0, 1))
    return _joined(train), _joined(test)


def _split(examples: Examples, fold: int) -> tuple[Examples, Examples]:
    inputs, labels = examples
    place = np.empty(len(labels), np.int64)  # of each transaction among those of its label
    for label in (0, 1):
        place[labels == label] = np.arange((labels == label).sum())
    held_out = place % N_FOLDS == fold
    return (inputs[~held_out], labels[~held_out]), (inputs[held_out], labels[held_out])


def _joined(several: list[Examples]) -> Examples:
    return np.concatenate([inputs for inputs, _ in several]), np.concatenate([labels for _, labels in several])


@dataclass(frozen=True)
class Fraud:
    """A perceptron with one hidden layer of rectified units. See `Task`.

    Args:
        fold: which fifth of each bank's transactions is held out.
        seed: of the transactions.
    """

    fold: int = 0
    seed: int = SEED

    def initial_parameters(self, seed: int) -> Initial:
        """Start as He et al. (arXiv 1502.01852) do, and at the chance of fraud that everybody knows of."""
        rng = np.random.default_rng(seed)
        return Initial(
            {
                "hidden.weight": rng.normal(0, math.sqrt(2 / N_FEATURES), (N_FEATURES, N_HIDDEN)).astype(np.float32),
                "hidden.bias": np.zeros(N_HIDDEN, np.float32),
                "score.weight": rng.normal(0, math.sqrt(1 / N_HIDDEN), N_HIDDEN).astype(np.float32),
                "score.bias": np.full(1, math.log(WEIGHT * 0.005), np.float32),
            }
        )

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Take steps of plain SGD on the objective; "fedsgd" returns its gradient over all examples."""
        inputs, labels = divided(client, self.fold, self.seed)[0]
        received = {name: array.astype(np.float32) for name, array in parameters.items()}
        metrics: dict[str, Metric] = {}
        if work.algorithm == "qfedavg":
            metrics["initial_loss"] = Ratio(objective(received, inputs, labels) * len(labels), len(labels))
        if work.algorithm == "fedsgd":
            return Trained(gradient=gradient(received, inputs, labels), num_examples=len(labels), n_steps=1)
        learned, rng = dict(received), np.random.default_rng(work.seed)
        n, size = len(labels), min(work.batch_size or len(labels), len(labels))
        n_steps, step, goes_on = work.max_steps or (work.epochs or 1) * -(-n // size), 0, True
        while goes_on and step < n_steps:
            order = rng.permutation(n)
            for start in range(0, min(n, (n_steps - step) * size), size):
                batch = order[start : start + size]
                for name, slope in gradient(learned, inputs[batch], labels[batch]).items():
                    slope = slope + work.correction.get(name, 0) + work.mu * (learned[name] - received[name])
                    learned[name] = (learned[name] - work.learning_rate * slope).astype(np.float32, copy=False)
                step += 1
                if not (goes_on := work.progress(step, n_steps)):
                    break
        metrics["loss"] = Ratio(objective(learned, inputs, labels) * n, n)
        return Trained(parameters=learned, num_examples=n, n_steps=step, metrics=metrics)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """Return precision, recall and their harmonic mean f1, each a ratio of counts, and the loss of the chances."""
        inputs, labels = divided(client, self.fold, self.seed)[1]
        scores = scored(parameters, inputs)[0] - math.log(WEIGHT)
        stopped, is_fraud = scores >= math.log(THRESHOLD / (1 - THRESHOLD)), labels > 0
        n_right, n_stopped, n_fraud = (int(each.sum()) for each in (stopped & is_fraud, stopped, is_fraud))
        return Evaluated(
            num_examples=len(labels),
            metrics={
                "precision": Ratio(n_right, n_stopped),
                "recall": Ratio(n_right, n_fraud),
                "f1": Ratio(2 * n_right, n_stopped + n_fraud),
                "loss": Ratio(float(np.logaddexp(0, np.where(is_fraud, -scores, scores)).sum()), len(labels)),
            },
        )


def scored(parameters: Arrays, inputs: Floats) -> tuple[Floats, Floats]:
    """Return scores (n,), the logits of a weighted fraud, and the hidden layer (n, N_HIDDEN)."""
    hidden = np.maximum(inputs @ parameters["hidden.weight"] + parameters["hidden.bias"], 0)
    return hidden @ parameters["score.weight"] + parameters["score.bias"], hidden


def objective(parameters: Arrays, inputs: Floats, labels: Floats) -> float:
    """Return the mean weighted cross-entropy, and the penalty."""
    scores, _ = scored(parameters, inputs)
    losses = np.where(labels > 0, WEIGHT * np.logaddexp(0, -scores), np.logaddexp(0, scores))
    squares = sum(float(np.square(parameters[name]).sum()) for name in ("hidden.weight", "score.weight"))
    return float(losses.mean(dtype=np.float64)) + PENALTY / 2 * squares


def gradient(parameters: Arrays, inputs: Floats, labels: Floats) -> dict[str, Floats]:
    """Return the gradient of `objective`."""
    scores, hidden = scored(parameters, inputs)
    chances = 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
    slopes = np.where(labels > 0, WEIGHT * (chances - 1), chances) / np.float32(len(labels))  # (n,)
    inner = np.outer(slopes, parameters["score.weight"]) * (hidden > 0)  # (n, N_HIDDEN)
    return {
        "hidden.weight": inputs.T @ inner + np.float32(PENALTY) * parameters["hidden.weight"],
        "hidden.bias": inner.sum(axis=0),
        "score.weight": hidden.T @ slopes + np.float32(PENALTY) * parameters["score.weight"],
        "score.bias": slopes.sum(keepdims=True),
    }


def task_of(fold: int, seed: int = SEED) -> Fraud:
    """Return the task in which the `fold`-th fifth of each bank's transactions is held out; other seeds, other ones."""
    return Fraud(fold, seed)


fold_0, fold_1, fold_2, fold_3, fold_4 = map(task_of, range(N_FOLDS))
task = fold_0
