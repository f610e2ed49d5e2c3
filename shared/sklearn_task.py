"""SklearnTask: a linear model of scikit-learn becomes a `Task`, by `partial_fit`. Our one file that imports sklearn.

`fedavg` is McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017,
arXiv 1602.05629), algorithm 1, with scikit-learn's own inner loop: a step an example. What travels is `coef_` and
`intercept_`, as float64 in the user's hands. `qfedavg` (Li et al., "Fair Resource Allocation in Federated Learning",
ICLR 2020, arXiv 1905.10497) trains alike and says what the received model's loss was, as the metric `initial_loss`.

Bits: of what an estimator learns into itself, `coef_` and `intercept_` are all that its next step depends on, given a
constant rate. `t_` counts the steps of one device and feeds schedules of the rate, and averaged SGD keeps a second
model beside the first: both are refused, for they would not travel. The order of the examples is drawn from the work's
seed; scikit-learn shuffles nothing and draws nothing. A larger batch takes the same steps in the same order and differs
by rounding alone; but of an L1 penalty, which scikit-learn sums up within a batch, the sum begins anew in each.

The rate is the run's: `training.learning_rate`, with its schedule, takes the place of `eta0`. Of the passive-aggressive
rules (Crammer et al., "Online Passive-Aggressive Algorithms", JMLR 7, 2006) that number is the aggressiveness C.

Not here: algorithms that need a gradient or correct one, for an estimator takes its steps by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn import linear_model

from shared.errors import ConfigError, InvalidState
from shared.task import Arrays, Client, Evaluated, Initial, Metric, Ratio, Trained, Work

__all__ = ["Estimator", "Examples", "SklearnTask"]

Estimator: TypeAlias = Any
"""One of `_RATES`."""
Examples: TypeAlias = tuple[Any, Any]
"""Inputs: (n, n_features), an array or a SciPy sparse matrix; labels or values: (n,)."""

_RATES = {
    "SGDClassifier": "eta0",
    "SGDRegressor": "eta0",
    "Perceptron": "eta0",
    "PassiveAggressiveClassifier": "C",  # until scikit-learn 1.10
    "PassiveAggressiveRegressor": "C",
}
"""Estimators that are known, each with the parameter that is its rate."""
_ALGORITHMS = ("fedavg", "qfedavg")
_CONSTANT = ("constant", "pa1", "pa2")
_INSTEAD = {
    "LogisticRegression": 'SGDClassifier(loss="log_loss", learning_rate="constant")',
    "LinearSVC": 'SGDClassifier(loss="hinge", learning_rate="constant")',
    "LinearRegression": 'SGDRegressor(penalty=None, learning_rate="constant")',
    "Ridge": 'SGDRegressor(penalty="l2", learning_rate="constant")',
    "Lasso": 'SGDRegressor(penalty="l1", learning_rate="constant")',
    "ElasticNet": 'SGDRegressor(penalty="elasticnet", learning_rate="constant")',
}


class SklearnTask:
    """A `Task` made of parts. Keeps nothing between calls.

    Args:
        estimator: makes the estimator; it is copied, so that nothing of one call is left in the next.
        n_features: columns of the inputs.
        train_data: a client's own examples, at least one.
        test_data: held-out examples of a client, or of the aggregator (client None); None: there are none here.
        classes: of a classifier, every label that any device may have; None for a regressor.
        metrics: from (fitted estimator, inputs, labels), as ratios that are summed; always there are `loss` (what the
            estimator minimises, without its penalty; of several classes summed over one-against-the-rest), and of a
            classifier `accuracy`, of a regressor `squared_error`.

    Raises:
        ConfigError: an estimator that cannot be averaged, named with what to use instead.
    """

    def __init__(
        self,
        *,
        estimator: Callable[[], Estimator],
        n_features: int,
        train_data: Callable[[Client], Examples],
        test_data: Callable[[Client | None], Examples | None] = lambda client: None,
        classes: Sequence[Any] | None = None,
        metrics: Callable[[Estimator, Any, NDArray[Any]], Mapping[str, Ratio]] | None = None,
    ) -> None:
        self._make, self._n_features = estimator, n_features
        self._train_data, self._test_data, self._metrics = train_data, test_data, metrics
        self._classes = None if classes is None else np.unique(np.asarray(classes))
        made = estimator()
        _refuse_unknown(made)
        self._is_classifier = hasattr(made, "class_weight")
        if self._is_classifier and (self._classes is None or len(self._classes) < 2):
            raise ConfigError("a classifier needs classes: all labels that any device may have, at least two")
        if not self._is_classifier and self._classes is not None:
            raise ConfigError(f"{type(made).__name__} is no classifier: leave out classes")
        self._shapes = self._probed()

    def initial_parameters(self, seed: int) -> Initial:
        """Start at zero, as the estimators themselves do."""
        return Initial({name: np.zeros(shape) for name, shape in self._shapes.items()})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`. A step of the work is a batch; `n_steps` of the result counts the estimator's: one an example.

        Raises:
            ConfigError: an algorithm that needs or corrects gradients; no examples, or of another shape or label.
        """
        if work.algorithm not in _ALGORITHMS or work.mu or work.correction:
            raise ConfigError(
                f"SklearnTask knows {' and '.join(_ALGORITHMS)}, not {work.algorithm!r}: an estimator takes its steps "
                "by itself, returns no gradient and adds no correction to one",
                hint='set training.algorithm = "fedavg"; a task whose steps are its own is examples/linear_digits.py',
            )
        x, y = self._checked(self._train_data(client), f"train_data({client.id!r})")
        if not len(y):
            raise ConfigError(f"train_data({client.id!r}) is empty: a client needs at least one example")
        estimator = self._with(parameters, rate=work.learning_rate)
        n, size = len(y), min(work.batch_size or len(y), len(y))
        n_batches = work.max_steps if work.max_steps is not None else (work.epochs or 1) * -(-n // size)
        random, n_done, n_seen = np.random.default_rng(work.seed), 0, 0
        while n_done < n_batches:
            order = random.permutation(n)
            for batch in (order[start : start + size] for start in range(0, n, size)):
                self._step(estimator, x[batch], y[batch])
                n_done, n_seen = n_done + 1, n_seen + len(batch)
                if not work.progress(n_done, n_batches):
                    n_batches = n_done
                if n_done == n_batches:
                    break
        learned = {name: np.asarray(getattr(estimator, name)) for name in self._shapes}
        metrics = self._measured(self.fitted(learned), x, y)
        if work.algorithm == "qfedavg":
            metrics["initial_loss"] = self._measured(self.fitted(parameters), x, y)["loss"]
        return Trained(parameters=learned, num_examples=n, n_steps=n_seen, metrics=metrics)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """See `Task`."""
        examples = self._test_data(client)
        if examples is None:
            return None
        x, y = self._checked(examples, f"test_data({client.id if client else None!r})")
        if not len(y):
            return None
        return Evaluated(num_examples=len(y), metrics=self._measured(self.fitted(parameters), x, y))

    def fitted(self, parameters: Arrays) -> Estimator:
        """Return the estimator with a model's coefficients, ready to predict.

        Args:
            parameters: `coef_` and `intercept_`, such as `safetensors.numpy.load_file("final.safetensors")`.
        """
        estimator = self._with(parameters, rate=None)
        estimator.n_features_in_ = self._n_features
        if self._classes is not None:
            estimator.classes_ = self._classes
        return estimator

    def _made(self, rate: float | None) -> Estimator:
        """Return an estimator that has learned nothing and draws nothing."""
        made = self._make()
        own = {"shuffle": False, "random_state": 0} | ({} if rate is None else {_RATES[type(made).__name__]: rate})
        return type(made)(**{**made.get_params(deep=False), **own})

    def _with(self, parameters: Arrays, rate: float | None) -> Estimator:
        estimator = self._made(rate)
        for name, shape in self._shapes.items():
            if name not in parameters or parameters[name].shape != shape:
                raise InvalidState(f"the model has {name!r} of shape {shape}, the given parameters have not")
            setattr(estimator, name, np.array(parameters[name], dtype=np.float64, order="C"))
        return estimator

    def _step(self, estimator: Estimator, x: Any, y: NDArray[Any]) -> None:
        if self._is_classifier:
            estimator.partial_fit(x, y, classes=self._classes)
        else:
            estimator.partial_fit(x, y)

    def _probed(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what travels, after a step on nothing, in which scikit-learn checks all it is given."""
        estimator = self._made(rate=1.0)
        y = np.zeros(1) if self._classes is None else self._classes[:1]
        try:
            self._step(estimator, np.zeros((1, self._n_features)), y)
        except ValueError as error:
            raise ConfigError(f"{type(estimator).__name__}: {error}", where="SklearnTask(estimator)") from error
        return {name: getattr(estimator, name).shape for name in ("coef_", "intercept_")}

    def _checked(self, examples: Examples, where: str) -> Examples:
        x, y = examples
        x = x.tocsr().astype(np.float64) if hasattr(x, "tocsr") else np.asarray(x, dtype=np.float64)
        y = np.asarray(y)
        if len(y.shape) != 1 or x.shape != (len(y), self._n_features):
            expected = f"(n, {self._n_features}) and (n,)"
            raise ConfigError(f"inputs and labels have shapes {x.shape} and {y.shape}, not {expected}", where=where)
        if self._classes is None:
            return x, y.astype(np.float64)
        strangers = sorted(set(y.tolist()) - set(self._classes.tolist()), key=str)
        if strangers:
            raise ConfigError(
                f"labels {strangers[:5]} are none of the classes {self._classes.tolist()}",
                where=where,
                hint="name them in SklearnTask(classes=…), the same on every device",
            )
        return x, y

    def _measured(self, estimator: Estimator, x: Any, y: NDArray[Any]) -> dict[str, Metric]:
        if self._classes is None:
            scores, targets = estimator.predict(x)[:, None], y[:, None]
            metrics: dict[str, Metric] = {"squared_error": Ratio(float(((scores - targets) ** 2).sum()), len(y))}
        else:
            scores = estimator.decision_function(x).reshape(len(y), -1)
            positive = self._classes[1:] if len(self._classes) == 2 else self._classes
            targets = np.where(y[:, None] == positive, 1.0, -1.0)
            found = scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(int)
            metrics = {"accuracy": Ratio(float((self._classes[found] == y).sum()), len(y))}
        metrics["loss"] = Ratio(float(_losses(estimator, scores, targets).sum()), len(y))
        return metrics | dict(self._metrics(estimator, x, y) if self._metrics else {})


def _refuse_unknown(estimator: Estimator) -> None:
    name = type(estimator).__name__
    if name not in _RATES or type(estimator) is not getattr(linear_model, name, None):
        instead = _INSTEAD.get(name, f"one of {', '.join(_RATES)}")
        raise ConfigError(
            f"{name} is not one of scikit-learn's linear models that learn by steps and can be averaged",
            where="SklearnTask(estimator)",
            hint=f"use {instead}",
        )
    given = estimator.get_params(deep=False)
    rate = given.get("learning_rate", "constant")
    if rate not in _CONSTANT:
        raise ConfigError(
            f"learning_rate={rate!r} follows the steps of one device, which begin anew in each round",
            where=f"SklearnTask({name})",
            hint='write learning_rate="constant"; the rate and its schedule are the run\'s: training.learning_rate',
        )
    if given.get("average"):
        raise ConfigError(
            f"average={given['average']!r} keeps a second model on each device, which does not travel",
            where=f"SklearnTask({name})",
            hint="leave it out: the aggregator averages",
        )
    if given.get("early_stopping"):
        raise ConfigError(
            "early_stopping is not for partial_fit", where=f"SklearnTask({name})", hint="leave it out; see [stop]"
        )


def _losses(estimator: Estimator, scores: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
    """Return each output's loss, as scikit-learn's guide has it: "Mathematical formulation" of SGD.

    Args:
        estimator: whose loss it is.
        scores: (n, n_outputs) float64.
        targets: (n, n_outputs) float64, -1 and 1 for a classifier.
    """
    name, margins, errors = estimator.loss, scores * targets, np.abs(scores - targets)
    if type(estimator).__name__.startswith("PassiveAggressive"):  # there it chooses PA-I or PA-II
        name = "hinge" if hasattr(estimator, "class_weight") else "epsilon_insensitive"
    losses: NDArray[Any]
    match name:
        case "hinge":
            losses = np.maximum(0, 1 - margins)
        case "squared_hinge":
            losses = np.maximum(0, 1 - margins) ** 2
        case "perceptron":
            losses = np.maximum(0, -margins)
        case "log_loss":
            losses = np.logaddexp(0, -margins)
        case "modified_huber":
            losses = np.where(margins >= -1, np.maximum(0, 1 - margins) ** 2, -4 * margins)
        case "squared_error":
            losses = errors**2 / 2
        case "huber":
            epsilon = estimator.epsilon
            losses = np.where(errors <= epsilon, errors**2 / 2, epsilon * (errors - epsilon / 2))
        case "epsilon_insensitive":
            losses = np.maximum(0, errors - estimator.epsilon)
        case "squared_epsilon_insensitive":
            losses = np.maximum(0, errors - estimator.epsilon) ** 2
        case _:
            raise InvalidState(f"loss {name!r} of scikit-learn is not known here")
    return losses
