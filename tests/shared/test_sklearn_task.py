import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn import linear_model
from sklearn.linear_model import LogisticRegression, Perceptron, Ridge, SGDClassifier, SGDRegressor
from sklearn.metrics import hinge_loss, log_loss, mean_squared_error

from shared.errors import ConfigError
from shared.parameters import ParameterSpec, delta_of
from shared.sklearn_task import Estimator, Examples, SklearnTask
from shared.task import Arrays, Client, ClientId, Ratio, Trained, TrainingCancelled, Work
from tests import task_work

CLIENT = Client(id=ClientId("a"), partition=(0, 1))
N, N_FEATURES = 41, 5
LABELS = ("even", "odd", "zero")


def some_examples(labels: tuple[Any, ...] | None, n: int = N, seed: int = 7) -> Examples:
    """Inputs (n, 5), and labels of these, or real values (None)."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, N_FEATURES))
    scores = x @ random.normal(size=(N_FEATURES, len(labels or (0,))))
    return (x, scores[:, 0] + 0.3) if labels is None else (x, np.array(labels)[scores.argmax(axis=1)])


def some_work(**fields: Any) -> Work:
    """Two epochs of batches of eight."""
    settings: dict[str, Any] = {"seed": 11, "epochs": 2, "batch_size": 8, "learning_rate": 0.05}
    return task_work.some_work(**{**settings, **fields})


def a_task(estimator: Callable[[], Estimator], labels: tuple[Any, ...] | None, **parts: Any) -> SklearnTask:
    """A task on the examples above."""
    given: dict[str, Any] = {"train_data": lambda client: some_examples(labels), "classes": labels}
    return SklearnTask(estimator=estimator, n_features=N_FEATURES, **{**given, **parts})


def parameters_of(trained: Trained) -> Arrays:
    """What was learned."""
    assert trained.parameters is not None
    return trained.parameters


# (how the task is given it, the same with every draw and rate written out, labels)
ESTIMATORS: dict[str, tuple[Callable[[], Estimator], Callable[[], Estimator], tuple[Any, ...] | None]] = {
    "logistic of three": (
        lambda: SGDClassifier(loss="log_loss", learning_rate="constant"),
        lambda: SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05, shuffle=False),
        LABELS,
    ),
    "hinge of two": (
        lambda: SGDClassifier(learning_rate="constant", class_weight={0: 1, 1: 3}),
        lambda: SGDClassifier(learning_rate="constant", class_weight={0: 1, 1: 3}, eta0=0.05, shuffle=False),
        (0, 1),
    ),
    "elastic net": (
        lambda: SGDRegressor(penalty="elasticnet", learning_rate="constant"),
        lambda: SGDRegressor(penalty="elasticnet", learning_rate="constant", eta0=0.05, shuffle=False),
        None,
    ),
    "perceptron": (Perceptron, lambda: Perceptron(eta0=0.05, shuffle=False), LABELS),
    "passive-aggressive": (
        lambda: linear_model.PassiveAggressiveClassifier(C=9.0),
        lambda: linear_model.PassiveAggressiveClassifier(C=0.05, shuffle=False),
        LABELS,
    ),
    "passive-aggressive regressor": (
        lambda: linear_model.PassiveAggressiveRegressor(C=9.0),
        lambda: linear_model.PassiveAggressiveRegressor(C=0.05, shuffle=False),
        None,
    ),
}


@pytest.fixture(params=ESTIMATORS.values(), ids=list(ESTIMATORS))
def known(request: pytest.FixtureRequest) -> tuple[SklearnTask, Estimator, tuple[Any, ...] | None]:
    """A task, the estimator that it must equal, and its labels."""
    given, plain, labels = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the passive-aggressive classes go with scikit-learn 1.10
        task = a_task(given, labels)
        estimator = plain()
    return task, estimator, labels


@pytest.mark.filterwarnings("ignore:Class PassiveAggressive:FutureWarning")
def test_one_device_learns_what_partial_fit_learns(known: tuple[SklearnTask, Estimator, Any]) -> None:
    """To the bit, over rounds: an estimator that goes on by itself, and one made anew from what travelled, are equal.

    The former has counted its steps in `t_` and kept whatever else it keeps; the latter has coef_ and intercept_.
    """
    task, estimator, labels = known
    x, y = some_examples(labels)
    classes = {} if labels is None else {"classes": np.unique(labels)}
    parameters = task.initial_parameters(1).parameters
    for seed in (3, 4):
        order = np.random.default_rng(seed)
        for _ in range(2):
            epoch = order.permutation(N)
            for start in range(0, N, 8):
                estimator.partial_fit(x[epoch[start : start + 8]], y[epoch[start : start + 8]], **classes)
        parameters = parameters_of(task.train(parameters, some_work(seed=seed), CLIENT))
        np.testing.assert_array_equal(parameters["coef_"], estimator.coef_)
        np.testing.assert_array_equal(parameters["intercept_"], estimator.intercept_)
    assert (task.fitted(parameters).predict(x) == estimator.predict(x)).all()


@pytest.mark.filterwarnings("ignore:Class PassiveAggressive:FutureWarning")
def test_bits_depend_on_work_alone(known: tuple[SklearnTask, Estimator, Any]) -> None:
    """Not on NumPy's global generator, which is left as it was; nor on what the task trained before."""
    task = known[0]
    start = task.initial_parameters(1).parameters
    found = []
    for seed in (1, 2):
        np.random.seed(seed)  # the generator that must not matter
        before = np.random.get_state()[1].copy()  # type: ignore[index]
        found.append(parameters_of(task.train(start, some_work(), CLIENT)))
        assert (np.random.get_state()[1] == before).all()  # type: ignore[index]
    assert all(found[0][name].tobytes() == found[1][name].tobytes() for name in found[0])
    other = parameters_of(task.train(start, some_work(seed=12), CLIENT))
    assert any((other[name] != found[0][name]).any() for name in other)
    assert not any(np.any(each) for each in start.values())  # what it was given it has not touched


def test_an_estimator_that_is_shared_is_copied() -> None:
    """A callable that returns one and the same object does no harm."""
    shared = SGDClassifier(learning_rate="constant")
    task = a_task(lambda: shared, LABELS)
    task.train(task.initial_parameters(1).parameters, some_work(), CLIENT)
    assert not hasattr(shared, "coef_")
    assert shared.shuffle


def test_batches_divide_the_same_steps() -> None:
    """In batches of one, of eight and of all, an epoch takes 41 steps in one order: equal but for rounding."""
    task = a_task(lambda: SGDClassifier(loss="log_loss", learning_rate="constant"), LABELS)
    start = task.initial_parameters(1).parameters
    found = [task.train(start, some_work(batch_size=size), CLIENT) for size in (1, 8, None)]
    assert {each.n_steps for each in found} == {2 * N}
    for each in found[1:]:
        np.testing.assert_allclose(parameters_of(each)["coef_"], parameters_of(found[0])["coef_"], rtol=1e-12)


def test_time_steps_and_cancelling_end_training() -> None:
    """`progress` is called after each batch; what it says holds, and n_steps counts examples."""
    task = a_task(lambda: SGDRegressor(learning_rate="constant"), None)
    start = task.initial_parameters(1).parameters
    calls: list[tuple[int, int]] = []

    def until_three(steps_done: int, n_steps: int, **metrics: float) -> bool:
        calls.append((steps_done, n_steps))
        return steps_done < 3

    assert task.train(start, some_work(progress=until_three), CLIENT).n_steps == 3 * 8
    assert calls == [(1, 12), (2, 12), (3, 12)]
    assert task.train(start, some_work(epochs=None, max_steps=7), CLIENT).n_steps == N + 8

    def cancelled(steps_done: int, n_steps: int, **metrics: float) -> bool:
        raise TrainingCancelled

    with pytest.raises(TrainingCancelled):
        task.train(start, some_work(progress=cancelled), CLIENT)


SGD_LOSSES = {
    "two": (("hinge", "squared_hinge", "perceptron", "log_loss", "modified_huber", "squared_error"), (0, 1)),
    "three": (("hinge", "log_loss", "modified_huber", "huber"), LABELS),
    "values": (("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"), None),
}


@pytest.mark.parametrize(
    ("loss", "labels"), [(loss, labels) for losses, labels in SGD_LOSSES.values() for loss in losses]
)
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_loss_is_what_a_step_goes_down(loss: str, labels: tuple[Any, ...] | None, size: float) -> None:
    """One example, one step without penalty: the model moves by -rate x gradient of the metric `loss`.

    Of a small and of a large model, for every piece of a loss.
    """
    kind = SGDRegressor if labels is None else SGDClassifier
    x, y = some_examples(labels, n=1, seed=5)
    task = a_task(
        lambda: kind(loss=loss, penalty=None, learning_rate="constant"),
        labels,
        train_data=lambda client: (x, y),
        test_data=lambda client: (x, y),
    )
    shapes = {name: array.shape for name, array in task.initial_parameters(1).parameters.items()}
    random = np.random.default_rng(2)
    start = {name: random.normal(scale=size, size=shape) for name, shape in shapes.items()}

    def loss_at(name: str, index: tuple[int, ...], by: float) -> float:
        moved = {key: array.copy() for key, array in start.items()}
        moved[name][index] += by
        evaluated = task.evaluate(moved, None, {})
        assert evaluated is not None
        ratio = evaluated.metrics["loss"]
        assert isinstance(ratio, Ratio)
        return ratio.numerator / ratio.denominator

    trained = parameters_of(task.train(start, some_work(epochs=1, learning_rate=0.01), CLIENT))
    for name, array in start.items():
        for index in np.ndindex(array.shape):
            slope = (loss_at(name, index, 1e-6) - loss_at(name, index, -1e-6)) / 2e-6
            assert trained[name][index] - array[index] == pytest.approx(-0.01 * slope, rel=1e-4, abs=1e-9)


def test_metrics_are_those_of_scikit_learn() -> None:
    """Accuracy and loss against sklearn.metrics, for classifiers of two and of three, and for a regressor."""

    def measured(estimator: Estimator, labels: tuple[Any, ...] | None) -> tuple[dict[str, float], Estimator, Examples]:
        x, y = some_examples(labels, seed=9)
        task = a_task(lambda: estimator, labels, test_data=lambda client: (x, y))
        model = parameters_of(task.train(task.initial_parameters(1).parameters, some_work(), CLIENT))
        evaluated = task.evaluate(model, CLIENT, {})
        assert evaluated is not None
        assert evaluated.num_examples == N
        ratios = {name: ratio for name, ratio in evaluated.metrics.items() if isinstance(ratio, Ratio)}
        return {name: r.numerator / r.denominator for name, r in ratios.items()}, task.fitted(model), (x, y)

    found, fitted, (x, y) = measured(SGDClassifier(loss="log_loss", learning_rate="constant"), (0, 1))
    assert found == pytest.approx({"accuracy": fitted.score(x, y), "loss": log_loss(y, fitted.predict_proba(x))})
    found, fitted, (x, y) = measured(SGDClassifier(learning_rate="constant"), LABELS)
    scores = fitted.decision_function(x)
    hinge = sum(hinge_loss(y == label, scores[:, i]) for i, label in enumerate(fitted.classes_))
    assert found == pytest.approx({"accuracy": fitted.score(x, y), "loss": hinge})
    found, fitted, (x, y) = measured(SGDRegressor(learning_rate="constant"), None)
    error = mean_squared_error(y, fitted.predict(x))
    assert found == pytest.approx({"squared_error": error, "loss": error / 2})


def test_metrics_of_devices_sum_to_those_of_all_examples() -> None:
    """Numerators and denominators of parts add up, also those of the user's own metric."""
    x, y = some_examples(LABELS)

    def odd(estimator: Estimator, x: Any, y: NDArray[Any]) -> dict[str, Ratio]:
        return {
            "sensitivity": Ratio(float(((estimator.predict(x) == y) & (y == "odd")).sum()), float((y == "odd").sum()))
        }

    def part(client: Client | None) -> Examples:
        mine = slice(None) if client is None else slice(*((0, 13) if client.id == "a" else (13, N)))
        return x[mine], y[mine]

    task = a_task(lambda: SGDClassifier(learning_rate="constant"), LABELS, test_data=part, metrics=odd)
    model = parameters_of(task.train(task.initial_parameters(1).parameters, some_work(), CLIENT))
    parts = [task.evaluate(model, Client(id=ClientId(name)), {}) for name in ("a", "b")]
    whole = task.evaluate(model, None, {})
    assert whole is not None
    assert set(whole.metrics) == {"accuracy", "loss", "sensitivity"}
    for name, ratio in whole.metrics.items():
        sums = np.sum([each.metrics[name] for each in parts if each is not None], axis=0)
        assert tuple(sums) == pytest.approx(ratio)


def test_sparse_inputs_are_learned_as_they_are() -> None:
    """A SciPy matrix goes to scikit-learn unfilled."""
    x, y = some_examples(LABELS)
    sparse = csr_array(np.where(abs(x) > 1, x, 0))
    task = a_task(lambda: SGDClassifier(learning_rate="constant"), LABELS, train_data=lambda client: (sparse, y))
    trained = task.train(task.initial_parameters(1).parameters, some_work(epochs=1, batch_size=None), CLIENT)
    order = np.random.default_rng(11).permutation(N)
    estimator = SGDClassifier(learning_rate="constant", eta0=0.05, shuffle=False)
    estimator.partial_fit(sparse[order], y[order], classes=np.unique(LABELS))
    np.testing.assert_array_equal(parameters_of(trained)["coef_"], estimator.coef_)


def test_model_travels_as_float64_that_float32_holds() -> None:
    """In the user's hands it is float64; the delta on the wire is that of any task."""
    task = a_task(lambda: SGDClassifier(learning_rate="constant"), LABELS)
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    assert [(entry.names, entry.shape, entry.dtype) for entry in spec.entries] == [
        (("coef_",), (3, N_FEATURES), "float64"),
        (("intercept_",), (3,), "float64"),
    ]
    received = spec.flatten(initial.parameters)
    trained = task.train(spec.unflatten(received), some_work(), CLIENT)
    delta = delta_of(trained, received, spec)
    np.testing.assert_allclose(delta[:-3].reshape(3, N_FEATURES), parameters_of(trained)["coef_"], rtol=1e-7)


def test_qfedavg_also_says_what_the_received_model_was_worth() -> None:
    """The same steps as fedavg's, and the mean loss of what was received over all training examples."""
    x, y = some_examples(LABELS)
    task = a_task(lambda: SGDClassifier(learning_rate="constant"), LABELS, test_data=lambda client: (x, y))
    start = parameters_of(task.train(task.initial_parameters(1).parameters, some_work(), CLIENT))
    plain, fair = (task.train(start, some_work(seed=5, algorithm=name), CLIENT) for name in ("fedavg", "qfedavg"))
    np.testing.assert_array_equal(parameters_of(fair)["coef_"], parameters_of(plain)["coef_"])
    received = task.evaluate(start, CLIENT, {})
    assert received is not None
    assert fair.metrics == {**plain.metrics, "initial_loss": received.metrics["loss"]}
    assert fair.metrics["initial_loss"] != fair.metrics["loss"]


@pytest.mark.parametrize(
    ("estimator", "classes", "says"),
    [
        (SGDClassifier, LABELS, r"'optimal'.*\n.*constant"),
        (SGDRegressor, None, "'invscaling'"),
        (lambda: SGDClassifier(learning_rate="constant", average=10), LABELS, r"average=10.*\n.*aggregator averages"),
        (lambda: SGDClassifier(learning_rate="constant", early_stopping=True), LABELS, "early_stopping"),
        (lambda: SGDClassifier(learning_rate="constant", class_weight="balanced"), LABELS, "class_weight 'balanced'"),
        (lambda: SGDClassifier(learning_rate="pa1", loss="log_loss"), LABELS, "only works with loss"),
        (lambda: SGDClassifier(learning_rate="constant", loss="nil"), LABELS, "'loss' parameter"),
        (LogisticRegression, LABELS, r'LogisticRegression.*\n.*SGDClassifier\(loss="log_loss"'),
        (Ridge, None, 'SGDRegressor\\(penalty="l2"'),
        (object, None, "SGDClassifier, SGDRegressor, Perceptron"),
        (Perceptron, None, "needs classes"),
        (Perceptron, ("one",), "at least two"),
        (lambda: SGDRegressor(learning_rate="constant"), (0, 1), "leave out classes"),
    ],
)
def test_what_cannot_be_averaged_is_refused_when_the_task_is_made(
    estimator: Callable[[], Estimator], classes: tuple[Any, ...] | None, says: str
) -> None:
    """By name, with what to write instead; before a device has the task."""
    with pytest.raises(ConfigError, match=says):
        a_task(estimator, classes)


@pytest.mark.parametrize(
    "fields",
    [
        *({"algorithm": name} for name in ("fedsgd", "fedprox", "scaffold", "feddyn")),
        {"mu": 0.1},
        {"correction": {"coef_": np.ones((3, N_FEATURES))}},
    ],
    ids=str,
)
def test_algorithms_that_correct_gradients_are_refused(fields: dict[str, Any]) -> None:
    """An estimator takes its steps by itself; the message names the algorithm and what to do."""
    task = a_task(lambda: SGDClassifier(learning_rate="constant"), LABELS)
    with pytest.raises(ConfigError, match=rf"not '{fields.get('algorithm', 'fedavg')}'.*\n.*linear_digits"):
        task.train(task.initial_parameters(1).parameters, some_work(**fields), CLIENT)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.zeros((0, N_FEATURES)), np.zeros(0, str), "at least one example"),
        (np.zeros((2, 4)), np.array(["odd", "even"]), r"\(2, 4\)"),
        (np.zeros((2, N_FEATURES)), np.array(["odd"]), r"\(1,\)"),
        (np.zeros((2, N_FEATURES)), np.array(["odd", "prime"]), r"\['prime'\] are none of the classes"),
    ],
)
def test_examples_that_do_not_fit_are_refused(x: Any, y: Any, says: str) -> None:
    """Shapes, and labels that scikit-learn would take for the rest."""
    task = a_task(lambda: SGDClassifier(learning_rate="constant"), LABELS, train_data=lambda client: (x, y))
    with pytest.raises(ConfigError, match=says):
        task.train(task.initial_parameters(1).parameters, some_work(), CLIENT)


def test_no_test_data_is_no_evaluation() -> None:
    """Neither none, nor none left."""
    for examples in (None, (np.zeros((0, N_FEATURES)), np.zeros(0, str))):
        task = a_task(lambda: SGDClassifier(learning_rate="constant"), LABELS, test_data=lambda client: examples)  # noqa: B023
        assert task.evaluate(task.initial_parameters(1).parameters, None, {}) is None


def test_scikit_learn_comes_with_the_task_alone() -> None:
    """Whoever imports `shared.task` needs no scikit-learn; `SklearnTask` loads no torch."""
    program = (
        "import sys, shared.task; assert 'sklearn' not in sys.modules\n"
        "import shared.sklearn_task; sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == 0
