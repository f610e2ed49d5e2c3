"""Attackers: well-formed reports, in agreement with each other, of which the aggregator takes what it can believe."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_client.training import CarryOut, Finished, Gate, carry_out
from shared.algorithms import extended
from shared.chunking import sha256_hex
from shared.codecs import CODECS, codec_named, decode_vector
from shared.errors import ConfigError
from shared.messages import Kind
from shared.parameters import ParameterSpec, Vector
from shared.task import Arrays, Client, ClientId, Task, Trained, Work
from simulator.attackers import Attacker
from simulator.scenarios.attacks import AttackSettings
from tests.edge_client.builders import an_order
from tests.integration.linear import LinearTask
from tests.simulator.runs.fleets import a_scenario, simulated


class FlippingTask(LinearTask):
    """Knows of wrong labels."""

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Learn backwards where it is asked to."""
        backwards = -1 if work.options.get("flip_labels") else 1
        return super().train(parameters, replace(work, learning_rate=backwards * work.learning_rate), client)


TASK = FlippingTask()
SPEC = ParameterSpec.of(TASK.initial_parameters(0))
COLLUDERS = [Client(id=ClientId(f"bad-{i}"), partition=(i, 8)) for i in (5, 6, 7)]
KINDS = ("sign-flip", "inner-product", "little", "label-flip", "gaussian", "nan")


def carried_out(by: CarryOut, client: Client, **changes: Any) -> Finished:
    """Let a device carry an assignment out."""

    def received() -> tuple[ParameterSpec, Vector]:
        return SPEC, np.zeros(SPEC.n_params, np.float32)

    finished = by(
        an_order(kind=Kind.TRAIN).model_copy(update=changes),
        task=TASK,
        client=client,
        received=received,
        spec=SPEC,
        state=dict,
        gate=Gate(lambda: 0.0, None),
    )
    assert finished is not None
    return finished


def attacker(kind: str, *, task: Task = TASK) -> Attacker:
    """Return an attacker who knows the others."""
    return Attacker(AttackSettings.model_validate({"kind": kind}), task, COLLUDERS)


def values(finished: Finished) -> np.ndarray:
    """Return the numbers of an update in float32."""
    return np.frombuffer(finished.payload, np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_report_is_that_of_an_honest_device_but_for_the_numbers(kind: str, codec: str) -> None:
    """Size and checksum are those of what is sent."""
    honest = carried_out(carry_out, COLLUDERS[0], codec=codec)
    found = carried_out(attacker(kind), COLLUDERS[0], codec=codec)
    assert (found.report.size, found.report.sha256) == (len(found.payload), sha256_hex(found.payload))
    own = {"size", "sha256", "metrics"}
    assert found.report.model_dump(exclude=own) == honest.report.model_dump(exclude=own)
    assert len(found.payload) == len(honest.payload)
    assert found.payload != honest.payload


def test_task_that_knows_of_no_wrong_labels_is_refused_by_name(tmp_path: Path) -> None:
    """A rehearsal in which nobody attacks would praise every rule. Where nothing is learned, nothing is known yet."""
    with pytest.raises(ConfigError, match="attack label-flip: the task learns the same with the option flip_labels"):
        carried_out(attacker("label-flip", task=LinearTask()), COLLUDERS[0])
    still = an_order(kind=Kind.TRAIN).work
    assert still is not None
    still = still.model_copy(update={"learning_rate": 1e-60})
    carried_out(attacker("label-flip", task=LinearTask()), COLLUDERS[0], work=still)
    scenario = a_scenario(
        devices={"board": {"count": 2}, "bad": {"count": 1, "class": "board", "attack": {"kind": "label-flip"}}},
        classes={"board": {"seconds_per_batch": 0.1}},
        run={"round": {"report_goal": 3, "over_selection": 1.0}, "stop": {"rounds": 1}},
    )
    with pytest.raises(ConfigError, match="n - 1 - y for each label y"):
        simulated(scenario, tmp_path)


def test_attackers_agree_without_a_word() -> None:
    """What each computes of all of them is the same to the bit, whoever asks."""
    for kind in ("inner-product", "little"):
        found = {carried_out(attacker(kind), each, codec="float32").payload for each in COLLUDERS}
        assert len(found) == 1
        coarse = [
            carried_out(attacker(kind), each, codec="int8", codec_seed=seed) for seed, each in enumerate(COLLUDERS)
        ]
        meant = np.frombuffer(found.pop(), np.float32)
        for each in coarse:  # off by the rounding of its own lease, and by nobody else's
            sent = decode_vector(codec_named("int8"), each.payload, SPEC.n_params)
            assert np.abs(sent - meant).max() <= np.abs(meant).max() / 126
    flipped = {carried_out(attacker("sign-flip"), each).payload for each in COLLUDERS}
    assert len(flipped) == 3


@pytest.mark.parametrize("codec", CODECS)
def test_no_numbers_are_well_formed_in_every_codec(codec: str) -> None:
    """They are refused for what they are, not for their bytes."""
    found = carried_out(attacker("nan"), COLLUDERS[0], codec=codec)
    assert not np.isfinite(decode_vector(codec_named(codec), found.payload, SPEC.n_params)).all()


@pytest.mark.parametrize("kind", ["inner-product", "little"])
def test_attackers_agree_whatever_each_keeps_between_its_updates(kind: str) -> None:
    """SCAFFOLD's second work goes on from a state that nobody else has; the attack is none the weaker."""
    theirs = extended(SPEC, "scaffold")
    kept = {"c": np.zeros(int(SPEC.is_trainable.sum()), np.float32)}

    def sent(client: Client, state_of: str | None) -> bytes:
        order = an_order(kind=Kind.TRAIN)
        assert order.work is not None
        work = order.work.model_copy(update={"algorithm": "scaffold", "state_of": state_of})
        finished = attacker(kind)(
            order.model_copy(update={"work": work, "max_bytes": 10_000}),
            task=TASK,
            client=client,
            received=lambda: (theirs, np.zeros(theirs.n_params, np.float32)),
            spec=SPEC,
            state=dict,
            gate=Gate(lambda: 0.0, None),
            kept=lambda lease: {} if lease is None else kept,
        )
        assert finished is not None
        return finished.payload

    assert len({sent(client, state_of) for client in COLLUDERS for state_of in (None, "0" * 32)}) == 1


def test_what_is_sent_follows_from_honest_updates() -> None:
    """Sign flip of the own one; nan is no number at all."""
    honest = values(carried_out(carry_out, COLLUDERS[1]))
    assert (values(carried_out(attacker("sign-flip"), COLLUDERS[1])) == -honest).all()
    assert np.isnan(values(carried_out(attacker("nan"), COLLUDERS[1]))).all()


def test_no_numbers_are_refused_and_the_run_ends_without_them(tmp_path: Path) -> None:
    """A group that sends NaN has every update rejected, and the model is that of the others."""
    scenario = a_scenario(
        devices={"board": {"count": 4}, "bad": {"count": 1, "class": "board", "attack": {"kind": "nan"}}},
        classes={"board": {"seconds_per_batch": 0.1}},
        run={"round": {"report_goal": 4, "over_selection": 1.25}, "stop": {"rounds": 3}},
    )
    came, report = simulated(scenario, tmp_path)
    assert came.cause == "rounds"
    assert report.fields["fleet"]["attacks"] == {"bad": "nan"}
    assert "Attacked: by 1 bad (nan), of 5 devices; the rule is mean" in report.lines()
    assert report.fields["reasons"]["rejected"].keys() == {"not_finite"}
    outcomes = report.fields["totals"]["outcomes"]
    assert outcomes["rejected"] >= 1
    assert outcomes["accepted"] == 12


def test_an_attack_reaches_the_model_through_the_engine(tmp_path: Path) -> None:
    """Four of five that send their update backwards raise the loss that honest ones lower."""

    def last_loss(group: dict[str, Any], folder: Path) -> tuple[float, float]:
        scenario = a_scenario(
            devices={"board": {"count": 1}, "bad": {"count": 4, "class": "board", **group}},
            classes={"board": {"seconds_per_batch": 0.1}},
            run={"round": {"report_goal": 5, "over_selection": 1.0}, "stop": {"rounds": 4}},
        )
        points = simulated(scenario, folder)[1].curve.points
        return points[0][1], points[-1][1]

    first, good = last_loss({}, tmp_path / "good")
    _, bad = last_loss({"attack": {"kind": "sign-flip"}}, tmp_path / "bad")
    assert good < first < bad
