"""What the aggregator says: every message is one that a device understands."""

import json

import pytest

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator.announcements import Announcements
from aggregator.uploads import Grant
from shared.codecs import CODECS
from shared.errors import Reason
from shared.messages import (
    Action,
    AggregatorStatus,
    Assignment,
    Control,
    Fleet,
    Kind,
    ModelRef,
    Outcome,
    Receipt,
    RetryWindow,
    Round,
    RoundOutcome,
    RoundState,
)
from shared.topics import Topics
from shared.wire import decode, decode_json, encode_json
from tests.aggregator.builders import DIGEST, RUN, SIX, Engine, a_lease, lease_name, reporting, some_settings

MODEL = ModelRef(version=0, digest=DIGEST, index_bytes=100, chunk_bytes=4096)


def words_of(engine: Engine, *, epoch: int = 1000) -> Announcements:
    """Return what says what this engine knows."""
    words = Announcements(engine.machine.settings, run=RUN, machine=engine.machine, instance="abc")
    words.epoch = epoch
    return words


def test_fleet_names_its_limits() -> None:
    """Chunk and inline size, intervals, the run and the epoch; the check-in interval is the population's own."""
    engine = Engine(some_settings(transfer={"check_in_interval_s": 30}, round={"report_goal": 10_000}))
    for _ in range(2):
        engine.check_in(*(f"d{i}" for i in range(500)))
        engine.now += 30.0
    topic, payload = words_of(engine).fleet()
    fleet = decode(Fleet, payload)
    assert topic == "fl/v1/fleet/fleet"
    assert (fleet.epoch, fleet.run, fleet.chunk_bytes, fleet.inline_bytes) == (1000, RUN, 4096, 1024)
    assert (fleet.check_in_interval_s, fleet.reconnect_window_s, fleet.codecs) == (50.0, 10.0, list(CODECS))


def test_manifest_follows_the_round() -> None:
    """Open, paused, finished; with the outcome of the round before."""
    engine = reporting()
    states = []
    for event in (ev.PauseAsked(), ev.ResumeAsked(), ev.StopAsked()):
        engine(event)
        topic, payload = words_of(engine).round(MODEL)
        states.append(decode(Round, payload).state)
    assert topic == "fl/v1/fleet/run/test/round"
    assert states == [RoundState.PAUSED, RoundState.OPEN, RoundState.FINISHED]
    committed = Engine()
    committed.round(*SIX)
    manifest = decode(Round, words_of(committed).round(MODEL)[1])
    assert (manifest.round, manifest.outcome, manifest.model, manifest.report_goal) == (
        1,
        RoundOutcome.COMMITTED,
        MODEL,
        4,
    )


def test_status_says_what_a_person_wants_to_know() -> None:
    """Waiting for devices: how many are there and how many are needed; in a round: reports against the goal."""
    engine = Engine()
    engine.check_in("d0", "d1")
    waiting = words_of(engine).status(0.0)
    assert (waiting.phase, waiting.causes, waiting.have, waiting.need) == ("waiting", ["waiting_for_devices"], 2, 3)
    assert waiting.seconds_left is None
    engine.check_in(*SIX)
    engine.report("d0")
    status = words_of(engine).status(30.0)
    assert (status.phase, status.have, status.goal, status.seconds_left) == ("reporting", 1, 4, 70.0)
    assert (status.states["outstanding"], status.states["accepted"]) == (5, 1)
    assert status.population == {"known": 6, "online": 6, "waiting": 0, "refused": 0}
    engine(ev.DiskLow())
    assert words_of(engine).status(30.0).causes == ["disk: the disk is full"]


def test_status_is_readable_json_under_its_cap() -> None:
    """Whatever metrics a task returns and whatever went wrong."""
    engine = reporting()
    engine.machine.stopping.metrics = {f"metric {i} " + "x" * 100: 0.1 for i in range(100)}
    engine(ev.AggregationFailed(detail="é" * 5000))
    payload = encode_json(words_of(engine).status(0.0))
    assert len(payload) <= 4096
    assert json.loads(payload)["phase"] == "paused"
    assert decode_json(AggregatorStatus, payload).online


def test_will_says_that_this_one_is_gone() -> None:
    """Offline, by epoch and instance, retained."""
    words = words_of(Engine())
    will = words.will()
    gone = decode_json(AggregatorStatus, will.payload)
    assert (will.topic, will.retained) == (words.status_topic(), True)
    assert (gone.online, gone.epoch, gone.instance, gone.run) == (False, 1000, "abc", RUN)


def test_assignment_is_the_lease_to_the_letter() -> None:
    """Version, work, codec, seeds and times; the same again when it is repeated."""
    engine = reporting(training={"max_seconds": 9.0, "learning_rate": 0.5})
    lease = engine.lease_of("d0")
    command = cmd.Assign(lease=lease, device="d0", seconds_left=80.0)
    words = words_of(engine)
    topic, payload = words.assignment(command, {0: MODEL})
    order = decode(Assignment, payload)
    assert topic == "fl/v1/fleet/to/d0/assignment"
    assert (order.lease, order.run, order.round, order.kind, order.model) == (lease, RUN, 1, Kind.TRAIN, MODEL)
    assert order.work is not None
    assert (order.work.learning_rate, order.codec, order.max_bytes) == (0.5, "float32", 10**6)
    assert (order.seconds_left, order.max_seconds, order.status_every_s) == (80.0, 9.0, 25.0)
    assert words.assignment(command, {0: MODEL}) == (topic, payload)
    other = decode(
        Assignment,
        words.assignment(cmd.Assign(lease=engine.lease_of("d1"), device="d1", seconds_left=80.0), {0: MODEL})[1],
    )
    assert other.codec_seed != order.codec_seed


def test_evaluation_is_assigned_without_work() -> None:
    """Nor a limit for training."""
    engine = Engine()
    engine.machine.leases.issue(a_lease(5, "e", kind=Kind.EVALUATE), now=0.0, expires_at=60.0)
    command = cmd.Assign(lease=lease_name(5), device="e", seconds_left=60.0)
    order = decode(Assignment, words_of(engine).assignment(command, {0: MODEL})[1])
    assert (order.kind, order.work, order.max_seconds) == (Kind.EVALUATE, None, None)


def test_receipts_cancels_and_come_backs_reach_their_device() -> None:
    """Each with what was decided; a detail is shortened, never refused."""
    words = words_of(Engine())
    topic, payload = words.receipt(
        cmd.SendReceipt(
            lease=lease_name(1),
            device="d1",
            outcome=Outcome.REJECTED,
            reason=Reason.NORM,
            detail="x" * 9999,
            staleness=2,
            repeat=True,
        )
    )
    receipt = decode(Receipt, payload)
    assert topic == "fl/v1/fleet/to/d1/receipt"
    assert (receipt.epoch, receipt.outcome, receipt.reason, receipt.staleness, receipt.repeat) == (
        1000,
        Outcome.REJECTED,
        Reason.NORM,
        2,
        True,
    )
    assert 0 < len(receipt.detail) <= 256
    topic, payload = words.cancel(cmd.Cancel(lease=lease_name(1), device="d1", reason=Reason.COMMITTED))
    cancel = decode(Control, payload)
    assert topic == "fl/v1/fleet/to/d1/control"
    assert (cancel.action, cancel.lease, cancel.reason) == (Action.CANCEL, lease_name(1), Reason.COMMITTED)
    window = RetryWindow(min=1, max=2)
    _, payload = words.come_back(cmd.ComeBack(device="d1", reason=Reason.NOT_DRAWN, retry_s=window))
    come_back = decode(Control, payload)
    assert (come_back.action, come_back.retry_s) == (Action.COME_BACK, window)


@pytest.mark.parametrize("n_ranges", [1, 32])
def test_grant_is_a_receipt_that_needs_chunks(n_ranges: int) -> None:
    """With as many ranges as there may be."""
    ranges = [(2 * i, 2 * i) for i in range(n_ranges)]
    topic, payload = words_of(Engine()).grant("d1", Grant(lease_name(1), ranges))
    receipt = decode(Receipt, payload)
    assert Topics("fleet").parse(topic) is not None
    assert (receipt.outcome, receipt.need, receipt.outcome.is_final) == (Outcome.NEED, ranges, False)
