"""Crash schedules by their seeds: what they consist of, that they hold, and that a planted mistake is found."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from aggregator import commands as cmd
from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.device_states import DeviceStates
from aggregator.model_store import ServerState
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord
from aggregator.row_writer import RowWriter
from aggregator.rules import RuleState, clip_scale
from aggregator.version_making import VersionMaking
from edge_client.algorithm_states import AlgorithmStates
from edge_client.local_state import LocalState
from edge_client.report_files import REPORT
from edge_client.residual import without_residual
from edge_client.state_folder import write_durably
from shared.codecs import CODECS, codec_named, decode_vector
from shared.parameters import Vector
from shared.task import Arrays
from simulator.schedule_pool import judge
from simulator.schedule_run import Verdict, carry_out
from simulator.schedules import LEAST_FOR_RULE, Schedule

pytestmark = pytest.mark.timeout(300)

N_SEEDS = 1000
SEEDS_A_TEST = 100
"""So few that processes which share the tests end together."""
PLANT_SEEDS = range(200)
"""A mistake that needs more of them to be found is not looked for hard enough."""


@pytest.mark.parametrize("first", range(0, N_SEEDS, SEEDS_A_TEST))
def test_thousand_crash_schedules_hold(first: int) -> None:
    """Whoever dies, nothing that was receipted is lost, nothing counts twice, and the model is the journal's."""
    found = judge(range(first, first + SEEDS_A_TEST))
    failed = [
        f"{violation}: python -m simulator schedules --seed {verdict.seed}"
        for verdict in found
        for violation in verdict.violations
    ]
    assert not failed, "\n".join(failed)
    assert [verdict.seed for verdict in found] == list(range(first, first + SEEDS_A_TEST))
    assert min(verdict.n_crashes for verdict in found) >= 2
    assert min(verdict.n_accepted for verdict in found) >= 5
    assert sum(verdict.n_states for verdict in found) > SEEDS_A_TEST
    assert sum(verdict.n_continued for verdict in found) > SEEDS_A_TEST / 2


def test_schedule_is_a_function_of_its_seed() -> None:
    """At least eight devices, five rounds, three misbehaviours, two crashes; another seed, another schedule."""
    drawn = [Schedule.drawn(seed) for seed in range(300)]
    for schedule in drawn:
        assert schedule == Schedule.drawn(schedule.seed)
        assert len(schedule.links) >= 8
        assert schedule.tables["stop"] == {"rounds": 5}
        assert len(schedule.faults.misbehaviours) >= 3
        assert len(schedule.crashes) >= 2
    rounds = [Settings.model_validate({"task": "t:t", **schedule.tables}).round for schedule in drawn]
    assert {each.mode for each in rounds} == {"sync", "semi-sync", "async"}
    assert any(each.mode == "sync" and each.outstanding and each.max_staleness for each in rounds)
    algorithms = [schedule.tables["training"].get("algorithm") for schedule in drawn]
    assert {algorithms.count(name) > 20 for name in ("scaffold", "feddyn", None)} == {True}
    optimizers = [schedule.tables["server"]["optimizer"].get("name", "sgd") for schedule in drawn]
    assert {optimizers.count(name) > 20 for name in ("sgd", "fedavgm", "adagrad", "adam", "yogi")} == {True}
    assert algorithms.count("qfedavg") > 10
    codecs = [schedule.tables["training"]["codec"] for schedule in drawn]
    assert {name: codecs.count(name) > 15 for name in ("auto", *CODECS)} == dict.fromkeys(("auto", *CODECS), True)
    rules = [schedule.tables["server"]["rule"] for schedule in drawn if "rule" in schedule.tables["server"]]
    assert {rule["name"] for rule in rules} == set(LEAST_FOR_RULE)
    assert {rule["name"] for rule in rules if rule.get("byzantine")} >= {"trimmed-mean", "krum", "multi-krum"}
    assert any("mixing" in rule for rule in rules)
    assert any(schedule.tables["server"].get("clip_norm") for schedule in drawn)
    crashes = [crash for schedule in drawn for crash in schedule.crashes]
    assert {crash.victim[0] for crash in crashes if crash.loses_folder} == {"d"}
    assert {"aggregator", "broker", "d0"} <= {crash.victim for crash in crashes}
    assert {crash.is_power_cut for crash in crashes if crash.within} == {False, True}
    assert {crash.is_power_cut for crash in crashes if not crash.within} == {False, True}
    assert len({"\n".join(schedule.lines()) for schedule in drawn}) == len(drawn)


def test_replay_in_another_process_is_the_same_to_the_last_row() -> None:
    """A seed decides everything: no hash, no clock, no memory address has a say."""
    code = "from simulator.schedule_pool import judge; print([(v.seed, v.journal) for v in judge(range(3, 7))])"
    said = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        said.add(ran.stdout)
    assert len(said) == 1
    assert len(set(said.pop().split("), ("))) == 4


def test_trace_tells_who_died(tmp_path: Path) -> None:
    """A replay says in virtual seconds what happens, and with messages who publishes what."""
    lines: list[str] = []
    carry_out(Schedule.drawn(3), say=lines.append, tells_messages=True)
    assert sum("dead" in line for line in lines) >= 1
    assert any(" publishes fl/v1/fleet/" in line for line in lines)
    assert not list(tmp_path.iterdir())


def first_violations(
    carry: Callable[[Schedule], Verdict] = carry_out, among: Callable[[Schedule], object] = lambda schedule: True
) -> str:
    """Return what is found first of a planted mistake; "" if it is not.

    Args:
        carry: carries a schedule out.
        among: which schedules can show the mistake at all; the others are left out.
    """
    for seed in PLANT_SEEDS:
        schedule = Schedule.drawn(seed)
        if not among(schedule):
            continue
        verdict = carry(schedule)
        if verdict.violations:
            return "\n".join(verdict.violations)
    return ""


def test_disk_that_does_not_synchronise_is_found() -> None:
    """When fsync keeps nothing, a power cut takes what a receipt has promised, or leaves what cannot be opened."""
    found = first_violations(partial(carry_out, is_honest=False))
    signs = ("was said to be accepted", "has lost report", "has come to nothing", "damaged", "cannot be read")
    assert any(words in found for words in signs)


def test_receipt_before_its_row_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that hears an outcome forgets its update: the row must be durable before."""
    put = RowWriter.put

    def hasty(self: RowWriter, command: cmd.Command) -> bool:
        if isinstance(command, cmd.Journal):
            for each in command.then:
                if isinstance(each, cmd.SendReceipt):
                    self._execute(each)
        return put(self, command)

    monkeypatch.setattr(RowWriter, "put", hasty)
    assert "went out before its row was durable" in first_violations()


def test_update_that_is_folded_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One update counted twice changes bits of the model, and every bit is compared."""
    fold = VersionMaking._fold

    async def twice(self: VersionMaking, command: cmd.Fold) -> None:
        await fold(self, command)
        if command.record.seq == 7:
            await fold(self, command)
            total = self._aggregation._sums[command.record.into]
            assert isinstance(total, RuleState)
            total.n_updates -= 1

    monkeypatch.setattr(VersionMaking, "_fold", twice)
    assert "is not what its" in first_violations()


def test_outbox_that_is_not_durable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device may forget nothing that it has offered, or its work is lost with the power."""

    def lazily(path: Path, *parts: bytes) -> None:
        if path.suffix == REPORT:
            path.write_bytes(b"".join(parts))
        else:
            write_durably(path, *parts)

    monkeypatch.setattr("edge_client.files.write_durably", lazily)

    def loses_power(schedule: Schedule) -> bool:
        return any(crash.victim[0] == "d" and crash.is_power_cut for crash in schedule.crashes)

    found = first_violations(among=loses_power)
    assert any(words in found for words in ("has lost report", "damaged"))


def test_update_file_that_is_not_durable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is durable while the file it counts is not: a power cut leaves a sum that cannot be made."""
    finish = PartFiles.finish

    def lazily(self: PartFiles, lease: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.fsync", lambda descriptor: None)
            finish(self, lease)

    monkeypatch.setattr(PartFiles, "finish", lazily)
    found = first_violations()
    assert any(words in found for words in ("update", "has come to nothing", "is not what its"))


def test_state_that_is_taken_over_before_its_update_counts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose update was discarded goes on from the state before: the server knows no other."""
    of = AlgorithmStates.of

    def hasty(self: AlgorithmStates, run: str, lease: str | None) -> Arrays:
        newest = self._files.newest_first(".algorithm")
        return of(self, run, newest[0].partition(".")[0] if newest else lease)

    monkeypatch.setattr(AlgorithmStates, "of", hasty)
    monkeypatch.setattr(AlgorithmStates, "roll_back", lambda self, lease: None)
    assert "was corrected by what it does not keep" in first_violations()


def test_state_that_moves_by_what_was_not_sent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that rounds makes what was trained and what was sent two things; the server knows the latter."""
    encode = codec_named("float16").encode
    sent: list[Vector] = []

    def noted(vector: Vector, seed: int) -> bytes:
        sent.append(vector)
        return encode(vector, seed)

    monkeypatch.setattr(codec_named("float16"), "encode", noted)
    monkeypatch.setattr(
        "edge_client.training.decode_vector",
        lambda codec, payload, n: sent[-1] if codec.name == "float16" else decode_vector(codec, payload, n),
    )
    found = first_violations()
    assert "keeps another state" in found or "does not keep" in found


def test_sum_that_forgets_a_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a device that counted once were counted again each time that it comes back."""
    monkeypatch.setattr(DeviceStates, "begins", lambda self, work: self._are_kept)
    found = first_violations()
    assert "its row says otherwise" in found
    assert "states, devices keep" in found


def test_assignment_that_names_an_older_state_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that ever counted, say: the device may have it still, and everything it sends is then off."""
    accepted = DeviceStates.accepted

    def once(self: DeviceStates, device: str, lease: str) -> None:
        accepted(self, device, self.of(device) or lease)

    monkeypatch.setattr(DeviceStates, "accepted", once)
    assert "went on from the state of" in first_violations()


def keeps_what_is_left_out(schedule: Schedule) -> bool:
    """Whether its codec needs feedback."""
    return bool(schedule.tables["training"]["codec"] == "top-1-percent")


def test_feedback_that_is_taken_over_before_its_update_counts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left out of an update that came to nothing is part of no update: the next would hold it twice."""
    stage = LocalState.stage

    def hasty(self: LocalState, lease: str, run: str, arrays: Arrays) -> None:
        stage(self, lease, run, arrays)
        self.accept(lease)

    monkeypatch.setattr(LocalState, "stage", hasty)
    assert "that no device has computed" in first_violations(among=keeps_what_is_left_out)


def test_feedback_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a device came back without what it had kept, though nobody touched its folder."""
    monkeypatch.setattr("edge_client.training.without_residual", lambda state, n: (without_residual(state, n)[0], None))
    assert "that no device has computed" in first_violations(among=keeps_what_is_left_out)


def test_codec_drawn_from_another_seed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that is encoded again must have the same bytes: its rounding hangs on round and device alone."""
    encode, tries = codec_named("int8").encode, count()
    monkeypatch.setattr(
        "edge_client.training.encode_with_feedback",
        lambda codec, whole, residual, seed: (encode(whole, next(tries)), None),
    )
    found = first_violations(among=lambda schedule: schedule.tables["training"]["codec"] == "int8")
    assert "that no device has computed" in found


def test_rows_that_are_not_folded_again_after_a_restart_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie in a nameless file: what was accepted before the crash is gone with the process."""

    class Forgetful(Aggregation):
        async def fold(self, record: AcceptRecord) -> None:
            """Asked for while a run is opened, of what was accepted before."""

        def _make(self, into: int, round_id: int, records: Sequence[AcceptRecord]) -> ServerState:
            n_folded = self._sums[into].n_updates if into in self._sums else len(records)
            return super()._make(into, round_id, records[len(records) - n_folded :])

    async def fold(self: VersionMaking, command: cmd.Fold) -> None:
        await Aggregation.fold(self._aggregation, command.record)

    monkeypatch.setattr("aggregator.opening.Aggregation", Forgetful)
    monkeypatch.setattr(VersionMaking, "_fold", fold)
    assert "is not what its" in first_violations(among=lambda schedule: "rule" in schedule.tables["server"])


def test_clipping_by_another_norm_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of what was computed, say, where a codec has made it longer or shorter."""
    monkeypatch.setattr("aggregator.tally.clip_scale", lambda norm, limit: clip_scale(norm * 1.001, limit))
    found = first_violations(among=lambda schedule: schedule.tables["server"].get("clip_norm"))
    assert "scales an update of norm" in found
