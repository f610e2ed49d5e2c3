"""What theory says of FedProx, SCAFFOLD, FedDyn and FedNova, held against what devices and server compute together.

The objectives are quadratics whose curvatures differ from device to device, so that local steps drift: FedAvg's fixed
point has a closed form, and it is not the optimum.
"""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.parameters import Vector
from tests.integration.federation import Federation, Quadratics

RATE, K = 0.1, 10
N = 4


async def after(folder: Path, task: Quadratics, n_rounds: int, training: dict[str, Any], **tables: Any) -> Vector:
    """Return the model after so many rounds of all devices."""
    numbers = {"learning_rate": RATE, "max_steps": K, **training}
    federation = await Federation.begun(folder, task, len(task.minima), training=numbers, **tables)
    for _ in range(n_rounds):
        await federation.round()
    return federation.weights


def steps_matrix(task: Quadratics, k: int, n_steps: int = K, rate: float = RATE) -> NDArray[np.float64]:
    """Return what a device's local steps do: w - m goes to (I - ηH)^K (w - m), so delta = (I - (I - ηH)^K) (m - w)."""
    identity = np.eye(task.minima.shape[1])
    found: NDArray[np.float64] = identity - np.linalg.matrix_power(identity - rate * task.hessians[k], n_steps)
    return found


# what reduces to what


async def test_fedprox_without_a_pull_is_fedavg(tmp_path: Path) -> None:
    """Eq. 2 with µ = 0: to the bit."""
    task = Quadratics.drawn(1)
    plain = await after(tmp_path / "plain", task, 4, {})
    prox = await after(tmp_path / "prox", task, 4, {"algorithm": "fedprox", "mu": 0.0})
    assert np.array_equal(plain, prox)


@pytest.mark.parametrize("training", [{}, {"algorithm": "fedprox", "mu": 2.0}, {"algorithm": "scaffold"}])
async def test_fednova_of_equal_steps_is_the_plain_mean(tmp_path: Path, training: dict[str, Any]) -> None:
    """‖a_k‖₁ is the same for all, and cancels."""
    task = Quadratics.drawn(2)
    plain = await after(tmp_path / "plain", task, 4, training)
    nova = await after(tmp_path / "nova", task, 4, training, server={"weighting": "uniform", "normalize": "steps"})
    np.testing.assert_allclose(nova, plain, rtol=1e-6)


async def test_scaffold_of_one_full_batch_step_is_fedavg(tmp_path: Path) -> None:
    """The corrections c - c_i cancel over the devices while the point is the same for all."""
    task = Quadratics.drawn(3)
    plain = await after(tmp_path / "plain", task, 6, {"max_steps": 1})
    scaffold = await after(tmp_path / "scaffold", task, 6, {"max_steps": 1, "algorithm": "scaffold"})
    np.testing.assert_allclose(scaffold, plain, rtol=1e-6)


async def test_scaffold_of_devices_with_the_same_data_is_fedavg(tmp_path: Path) -> None:
    """C = c_i in every round: nothing is corrected, however many steps there are."""
    one = Quadratics.drawn(4, n=1)
    task = Quadratics(np.repeat(one.hessians, N, axis=0), np.repeat(one.minima, N, axis=0))
    plain = await after(tmp_path / "plain", task, 6, {})
    scaffold = await after(tmp_path / "scaffold", task, 6, {"algorithm": "scaffold"})
    np.testing.assert_allclose(scaffold, plain, rtol=1e-6)


async def test_feddyn_of_no_pull_trains_as_fedavg_does(tmp_path: Path) -> None:
    """As α goes to 0, devices train as in FedAvg. The server's step does not become FedAvg's: h/α stays what it is.

    h = -α Σ_t mean delta_t under full participation, so that each step is the mean delta and once more all so far.
    """
    task = Quadratics.drawn(5)
    training = {"algorithm": "feddyn", "alpha": 1e-9, "learning_rate": 0.01}
    dyn = await Federation.begun(tmp_path, task, N, training={"max_steps": 3, **training})
    total = np.zeros(3)
    for _ in range(5):
        before = dyn.weights.astype(np.float64)
        pulls = [steps_matrix(task, k, 3, 0.01) @ (task.minima[k] - before) for k in range(N)]
        mean = np.mean(pulls, axis=0)
        total += mean
        await dyn.round()
        np.testing.assert_allclose(dyn.weights, before + mean + total, rtol=1e-6, atol=1e-6)


# where each is worth it


async def test_fedavg_ends_beside_the_optimum(tmp_path: Path) -> None:
    """Its fixed point is Σ P_k (m_k - w) = 0 with P_k = I - (I - ηH_k)^K: those who drift further pull harder."""
    task = Quadratics.drawn(6)
    expected = task.point_of(np.array([steps_matrix(task, k) for k in range(N)]))
    assert np.linalg.norm(expected - task.optimum) > 0.1
    found = await after(tmp_path, task, 60, {})
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "training", [{"algorithm": "scaffold"}, {"algorithm": "feddyn", "alpha": 1.0}], ids=["scaffold", "feddyn"]
)
@pytest.mark.parametrize("asked", [N, 2], ids=["all", "half"])
@pytest.mark.parametrize("seed", [6, 7])
async def test_scaffold_and_feddyn_end_in_the_optimum(
    tmp_path: Path, training: dict[str, Any], asked: int, seed: int
) -> None:
    """Whatever the steps, with all devices or half of them a round: at their fixed point every correction is exact."""
    task, rng = Quadratics.drawn(seed), Random(seed)
    federation = await Federation.begun(tmp_path, task, N, training={"learning_rate": RATE, "max_steps": K, **training})
    for _ in range(150 if asked == N else 400):
        await federation.round(rng.sample(range(N), asked))
    np.testing.assert_allclose(federation.weights, task.optimum, atol=2e-5)


async def test_fedprox_lies_between_fedavg_and_the_optimum(tmp_path: Path) -> None:
    """The pull shortens the drift: the larger µ, the nearer the fixed point lies to the optimum."""
    task = Quadratics.drawn(6)
    distances = []
    for mu in (0.0, 1.0, 9.0):
        found = await after(tmp_path / str(mu), task, 250, {"algorithm": "fedprox", "mu": mu, "max_steps": 40})
        distances.append(float(np.linalg.norm(found - task.optimum)))
    assert distances[0] > 1.2 * distances[1] > 1.2 * 1.2 * distances[2]


@pytest.mark.parametrize(
    ("training", "n_steps"),
    [
        ({"learning_rate": 1e-3}, (1, 8)),
        ({"learning_rate": 1e-4, "algorithm": "fedprox", "mu": 5000.0}, (1, 100)),
    ],
    ids=["sgd", "fedprox"],
)
async def test_fednova_makes_unequal_steps_count_alike(
    tmp_path: Path, training: dict[str, Any], n_steps: tuple[int, int]
) -> None:
    """Small steps, so that nobody drifts: the plain mean ends where Σ ‖a_k‖₁ H_k (m_k - w) = 0, FedNova in the optimum.

    With ηµ = 0.5, a hundred pulled steps are worth ‖a‖₁ = 2 and one is worth 1: a hundred times one would be wrong.
    """
    two = Quadratics.drawn(8, n=2)
    task = Quadratics(two.hessians, two.minima, n_steps)
    worth = np.array([1.0, 2.0 if "mu" in training else 8.0])
    fast = {"optimizer": {"learning_rate": 150.0 if "mu" not in training else 2000.0}, "weighting": "uniform"}
    plain = await after(tmp_path / "plain", task, 120, training, server=fast)
    nova = await after(tmp_path / "nova", task, 120, training, server={**fast, "normalize": "steps"})
    beside = task.point_of(worth[:, None, None] * task.hessians)
    assert np.linalg.norm(beside - task.optimum) > 0.1
    np.testing.assert_allclose(plain, beside, atol=0.02)
    np.testing.assert_allclose(nova, task.optimum, atol=0.02)


# what always holds


def kept_by(federation: Federation, k: int) -> NDArray[np.float64]:
    """Return what a device keeps of its newest update that counts, as it would go on from it."""
    arrays = federation.kept[k].of("test", federation.books.of(f"d{k}")).values()
    found: NDArray[np.float64] = np.sum([np.zeros(3), *arrays], axis=0)
    return found


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
@pytest.mark.parametrize("algorithm", ["scaffold", "feddyn"])
@pytest.mark.parametrize("seed", range(6))
async def test_server_knows_the_sum_of_what_devices_keep(tmp_path: Path, algorithm: str, codec: str, seed: int) -> None:
    """N c = Σ c_i and N h = Σ g_k after each version, whoever was refused, not told, told and voided, or forgot.

    A device that lost its folder begins anew; what it had then stays in the sum, as of a device that never comes back.
    """
    rng, task = Random(f"{algorithm} {codec} {seed}"), Quadratics.drawn(seed)
    training = {"algorithm": algorithm, "max_steps": 3, "learning_rate": 0.05, "codec": codec}
    if algorithm == "feddyn":
        training["alpha"] = 0.3
    federation = await Federation.begun(tmp_path, task, N, training=training)
    forgotten, gone, n_begun = set[int](), np.zeros(3), 0
    for _ in range(25):
        for k in rng.sample(range(N), rng.randint(1, N)):
            order = federation.order(k)
            finished = federation.train(k, order)
            if finished.report.error == "state":
                assert order.work is not None
                federation.books.lost(f"d{k}", order.work.model_dump_json())
                forgotten.remove(k)
                continue
            match rng.choice(("accepted", "accepted", "not told", "refused", "twice")):
                case "refused":
                    federation.kept[k].roll_back(order.lease)
                    continue
                case "accepted":
                    federation.accept(k, order, finished)
                    federation.tell(k, order.lease)
                case "not told":
                    federation.accept(k, order, finished)
                    federation.untold[k].append(order.lease)
                case "twice":  # its power went before it had offered, and it trains again
                    again = federation.train(k, order)
                    assert again.payload == finished.payload
                    federation.accept(k, order, again)
                    federation.tell(k, order.lease)
        if not federation.pending or rng.random() < 0.15:
            federation.void()
            continue
        n_begun += sum(record.begins for record, _ in federation.pending)
        await federation.commit()
        state = federation.aggregation.state.optimizer
        scale = 1e-6 * max(1.0, float(np.abs(state["algorithm/sum"]).max()))
        kept = sum(kept_by(federation, k) for k in range(N) if k not in forgotten)
        np.testing.assert_allclose(state["algorithm/sum"], kept + gone, atol=10 * scale)
        assert int(state["algorithm/n"]) == n_begun
        if algorithm == "scaffold":
            np.testing.assert_allclose(federation.auxiliary * n_begun, state["algorithm/sum"], rtol=1e-6)
        k = rng.randrange(N)
        if rng.random() < 0.1 and k not in forgotten and federation.books.of(f"d{k}") is not None:
            gone += kept_by(federation, k)
            forgotten.add(k)
            federation.forget(k)
    assert n_begun >= N


async def test_population_makes_the_servers_part_smaller(tmp_path: Path) -> None:
    """The papers' N: with 40 devices of which 4 took part, c is a tenth of the mean of their c_i."""
    task, training = Quadratics.drawn(9), {"algorithm": "scaffold", "max_steps": 2, "learning_rate": 0.1}
    found = []
    for population in (1, 40):
        server = {"weighting": "uniform", "population": population}
        federation = await Federation.begun(tmp_path / str(population), task, N, training=training, server=server)
        await federation.round()
        found.append(federation.auxiliary)
    np.testing.assert_allclose(found[1], found[0] / 10, rtol=1e-6)
