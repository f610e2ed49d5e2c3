import numpy as np
import pytest

from results.cases.personal import SKEWS
from results.federated import federate, scenario_from
from results.personal_digits import KINDS, Remembering, _divided, digits_task
from shared.task import Client, ClientId

HERE = Client(id=ClientId("d"), partition=(3, 10))
CHANGES = {
    "seed": 1,
    "run.task": "results.personal_digits:digits_task",
    "run.training": {"epochs": 1, "batch_size": 16, "learning_rate": 0.1},
    "run.round": {"report_goal": 3, "over_selection": 1.0, "quorum": 1.0},
    "run.evaluation": {"central_every": 0},
    "run.stop": {"rounds": 2},
    "devices.device.count": 3,
}


def test_folds_hold_every_image_out_once() -> None:
    """Five folds of a device's images are all of them, each somewhere else."""
    tasks = [digits_task("global", "labels", seed=1, fold=fold) for fold in range(5)]
    parameters = tasks[0].initial_parameters(1).parameters
    counts = [found.num_examples for each in tasks if (found := each.evaluate(parameters, HERE, {})) is not None]
    assert max(counts) - min(counts) <= 1
    assert tasks[0].evaluate(parameters, None, {}) is None


def test_skews_differ_in_labels_or_in_images() -> None:
    """By labels devices have few digits and plain images; by cameras all digits, and images that nobody else has."""
    plain, changed = (_divided(0, 10, skew, 1, 0)[0].tensors for skew in SKEWS)
    assert len(set(plain[1].tolist())) <= 4
    assert len(set(changed[1].tolist())) == 10
    assert (float(plain[0].min()), float(plain[0].max())) == (-1.0, 3.0)
    assert abs(float(changed[0].min()) + 1) > 1e-3


@pytest.mark.parametrize(
    ("kind", "at_home"), [("global", ""), ("fedbn", "norm"), ("fedper", "head"), ("fedrep", "head")]
)
def test_what_is_personal_stays_on_the_device(kind: str, at_home: str) -> None:
    """And is remembered for each of them, other on each."""
    assert kind in KINDS
    task = Remembering(digits_task(kind, "labels", seed=1, fold=0))
    found = federate(scenario_from(None, CHANGES), task)
    prefixes = {name.split(".")[0] for name in found.parameters}
    has_norm = kind in ("global", "fedbn")
    assert prefixes == {"body", "head", *(["norm"] if has_norm else [])} - {at_home}
    kept = [{name for name in state if name.split(".")[0] == at_home} for state in task.states.values()]
    assert all(kept) == bool(at_home)
    if at_home:
        one, other = (task.states[f"device-{number}"][f"{at_home}.weight"] for number in (1, 2))
        assert not np.array_equal(one, other)
