"""The server's part of SCAFFOLD and FedDyn, by hand; what it yields over rounds is in tests/integration."""

import numpy as np
import pytest

from aggregator.device_states import Counted
from aggregator.server_algorithm import FedDynServer, Plain, ScaffoldServer, algorithm_of
from shared.algorithms import extended
from shared.parameters import ParameterSpec
from shared.task import Initial

OWN = ParameterSpec.of(Initial({"w": np.zeros(2), "mean": np.zeros(1)}, buffers=frozenset({"mean"})))


def counted(*devices: str, begins: bool) -> list[Counted]:
    """One update of each device."""
    return [Counted(device, f"{i:032x}", begins) for i, device in enumerate(devices, 1)]


def test_scaffold_by_hand() -> None:
    """Two devices send Δc = 2 and 4, mean 3: c = 6 / 2. Two more send 1 each: c = (6 + 2) / 4. One again 4: 12 / 4."""
    spec, algorithm = extended(OWN, "scaffold"), ScaffoldServer()
    state = algorithm.init(spec)
    for mean, devices, begins, expected in ((3.0, "ab", True, 3.0), (1.0, "cd", True, 2.0), (4.0, "a", False, 3.0)):
        stepped = algorithm.step(state, np.array([5.0, 6.0, 7.0, mean, -mean]), spec, counted(*devices, begins=begins))
        assert stepped.auxiliary.tolist() == [expected, -expected]
        assert stepped.delta.tolist() == [5.0, 6.0, 7.0]
        state = stepped.state
    assert int(state["algorithm/n"]) == 4


def test_feddyn_by_hand() -> None:
    """α = 0.5, two devices, mean delta 4: Σ g = -0.5 · 8 = -4, h = -2, delta 4 + 2 / 0.5 = 8; the buffer's is 4."""
    algorithm = FedDynServer(0.5)
    stepped = algorithm.step(algorithm.init(OWN), np.array([4.0, -4.0, 4.0]), OWN, counted("a", "b", begins=True))
    assert stepped.delta.tolist() == [8.0, -8.0, 4.0]
    assert stepped.state["algorithm/sum"].tolist() == [-4.0, 4.0]
    again = algorithm.step(stepped.state, np.array([-4.0, 4.0, 0.0]), OWN, counted("a", "b", begins=False))
    assert again.delta.tolist() == [-4.0, 4.0, 0.0]  # Σ g = 0 again: the correction has gone


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_a_larger_population_divides_by_itself(name: str) -> None:
    """The papers' N; one that is too small is no divisor."""
    spec = extended(OWN, name)
    mean = np.arange(1.0, spec.n_params + 1)
    found = []
    for population in (None, 1, 8):
        algorithm = algorithm_of(name, alpha=0.5, population=population)
        stepped = algorithm.step(algorithm.init(spec), mean, spec, counted("a", "b", begins=True))
        found.append(np.concatenate([stepped.auxiliary, (stepped.delta - mean[:3])[:2]]))
    assert np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[2], found[0] / 4)


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_step_changes_nothing_that_it_is_given(name: str) -> None:
    """A version that could not be written is made again from the same state."""
    spec, algorithm = extended(OWN, name), algorithm_of(name, alpha=0.5)
    state, mean = algorithm.init(spec), np.ones(spec.n_params)
    first = algorithm.step(state, mean, spec, counted("a", begins=True))
    assert mean.tolist() == [1.0] * spec.n_params
    second = algorithm.step(state, mean, spec, counted("a", begins=True))
    assert first.delta.tolist() == second.delta.tolist()
    assert {key: array.tolist() for key, array in first.state.items()} == {
        key: array.tolist() for key, array in second.state.items()
    }


def test_other_algorithms_leave_the_mean_alone() -> None:
    """And keep nothing."""
    for name in ("fedavg", "fedsgd", "fedprox"):
        algorithm = algorithm_of(name)
        assert isinstance(algorithm, Plain)
        assert algorithm.init(OWN) == {}
        mean = np.ones(3)
        stepped = algorithm.step({}, mean, OWN, counted("a", begins=False))
        assert (stepped.delta is mean, len(stepped.auxiliary), stepped.state) == (True, 0, {})
