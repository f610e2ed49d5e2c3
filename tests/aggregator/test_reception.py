"""What devices send, believed and passed on."""

from pathlib import Path
from typing import Any

import msgpack
import pytest

from aggregator import events as ev
from shared.chunking import ChunkLayout
from shared.errors import Reason
from shared.messages import CheckIn, DeviceStatus, Holding, Report, Reported
from shared.topics import CheckInTopic, ChunkTopic, StatusTopic
from shared.wire import encode, encode_json
from tests.aggregator.builders import (
    RUN,
    a_report,
    an_offer,
    lease_name,
)
from tests.aggregator.reception_desk import EVALUATION, TOPICS, UPDATE, Desk, a_check_in


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return a desk of its own."""
    return Desk(tmp_path)


def test_small_update_is_kept_and_offered(desk: Desk) -> None:
    """The machine hears of it; its bytes stay with the intake."""
    lease = desk.lease()
    assert desk.report(encode(a_report(UPDATE, lease))) == [ev.Offered(device="d0", lease=lease)]
    assert desk.n_refused == 0
    assert desk.reception.bytes_up > len(UPDATE)


def test_small_update_is_kept_though_the_limit_was_lowered_since(tmp_path: Path) -> None:
    """A device may go by the limit that held before a restart; its finished work is not thrown away for that."""
    desk = Desk(tmp_path, transfer={"inline_bytes": 0})
    lease = desk.lease()
    assert desk.report(encode(a_report(UPDATE, lease))) == [ev.Offered(device="d0", lease=lease)]
    assert desk.n_refused == 0


def test_large_update_is_offered(desk: Desk) -> None:
    """The same for a Report without data."""
    lease = desk.lease()
    assert desk.report(encode(an_offer(UPDATE, lease))) == [ev.Offered(device="d0", lease=lease)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("ZeroDivisionError", Reason.TRAINING),
        ("not_finite", Reason.NOT_FINITE),
        ("result", Reason.RESULT),
        ("", Reason.TRAINING),
    ],
)
def test_failure_names_the_exception(desk: Desk, error: str, reason: Reason) -> None:
    """The device's word goes along as the detail."""
    lease = desk.lease()
    payload = encode(Report(lease=lease, run=RUN, outcome=Reported.FAILED, error=error))
    assert desk.report(payload) == [ev.Failed(device="d0", lease=lease, reason=reason, detail=error)]


def test_evaluation_is_passed_on(desk: Desk) -> None:
    """Ratios as pairs, plain numbers as they are."""
    report = Report(
        lease=EVALUATION,
        run=RUN,
        outcome=Reported.EVALUATED,
        num_examples=7,
        metrics={"accuracy": (6.0, 7.0), "loss": 0.5},
    )
    assert desk.report(encode(report), device="e1", lease=EVALUATION) == [
        ev.Evaluated(device="e1", lease=EVALUATION, num_examples=7, metrics=(("accuracy", (6.0, 7.0)), ("loss", 0.5)))
    ]


def test_newer_peer_may_say_more(desk: Desk) -> None:
    """Unknown keys are ignored within a major version."""
    fields = msgpack.unpackb(encode(a_report(UPDATE, desk.lease()))) | {"battery": 0.5}
    assert len(desk.report(msgpack.packb(fields))) == 1


def test_chunk_of_an_upload_renews_the_lease(desk: Desk) -> None:
    """It goes to the intake, and the machine hears that the lease moves."""
    lease = desk.lease()
    desk.report(encode(an_offer(UPDATE, lease)))
    desk.intake._uploads.offer(lease, "a" * 64, ChunkLayout(len(UPDATE), 4096))
    assert desk.receive(TOPICS.build(ChunkTopic("d0", lease, 0)), UPDATE) == [ev.Progressed(device="d0", lease=lease)]


# check-ins


def check_in(desk: Desk, message: CheckIn, device: str = "new") -> list[ev.Event]:
    """Let a device check in."""
    return desk.receive(TOPICS.build(CheckInTopic(device)), encode(message))


def test_check_in_is_passed_on_with_the_leases_of_this_run(desk: Desk) -> None:
    """Leases of another run are none of ours."""
    holds = [Holding(lease=lease_name(1), run=RUN), Holding(lease=lease_name(2), run="other")]
    message = a_check_in(holds=holds, missing="a" * 64)
    assert check_in(desk, message) == [
        ev.CheckedIn(device="new", codecs=frozenset({"float32"}), holds=frozenset({lease_name(1)}), missing="a" * 64),
    ]


def test_codecs_that_are_passed_on_are_those_that_the_device_can_use(desk: Desk) -> None:
    """Ours alone, and none that keeps something on a device which keeps nothing."""
    speaks = ["gzip", "float32", "int8", "top-1-percent"]
    for keeps_state, usable in [(True, {"float32", "int8", "top-1-percent"}), (False, {"float32", "int8"})]:
        (event,) = check_in(desk, a_check_in(codecs=speaks, keeps_state=keeps_state))
        assert isinstance(event, ev.CheckedIn)
        assert event.codecs == usable


def test_device_that_does_not_speak_the_codec_is_told_what_to_change(desk: Desk) -> None:
    """Its detail stands in the log and in what is known of the fleet."""
    (event,) = check_in(desk, a_check_in(codecs=["float16"]))
    assert isinstance(event, ev.CheckedIn)
    assert event.refusal is Reason.CODEC
    assert "does not speak float32, but float16" in event.detail


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"protocols": [2, 3]}, Reason.PROTOCOL),
        ({"codecs": ["float16"]}, Reason.CODEC),
        ({"codecs": []}, Reason.CODEC),
        ({"spec": "0" * 64}, Reason.SPEC),
        ({"spec": None}, Reason.SPEC),
        ({"refusal": Reason.DATA, "spec": None}, Reason.DATA),
        ({"refusal": Reason.SPEC, "detail": "w: (3,) is not (4,)"}, Reason.SPEC),
    ],
)
def test_device_that_cannot_take_part_is_known_and_not_asked(
    desk: Desk, fields: dict[str, Any], reason: Reason
) -> None:
    """With the reason; its own word stands where it has one."""
    (event,) = check_in(desk, a_check_in(**fields))
    assert isinstance(event, ev.CheckedIn)
    assert event.refusal is reason
    if "detail" in fields:
        assert event.detail == fields["detail"]


@pytest.mark.parametrize(
    ("training", "reason"),
    [({}, None), ({"algorithm": "scaffold"}, Reason.STATE), ({"algorithm": "feddyn", "alpha": 0.1}, Reason.STATE)],
)
def test_device_without_state_is_refused_where_some_is_kept(
    tmp_path: Path, training: dict[str, Any], reason: Reason | None
) -> None:
    """By the algorithm's name; one that keeps state is welcome everywhere."""
    desk = Desk(tmp_path, training=training)
    (welcome,) = check_in(desk, a_check_in())
    (event,) = check_in(desk, a_check_in(keeps_state=False, connection=2))
    assert isinstance(welcome, ev.CheckedIn)
    assert isinstance(event, ev.CheckedIn)
    assert (welcome.refusal, event.refusal) == (None, reason)
    assert bool(event.detail) is (training.get("algorithm", "?") in event.detail) is (reason is not None)


def test_check_in_of_an_older_connection_is_ignored(desk: Desk) -> None:
    """It was under way when its device reconnected; another boot is a newer one."""
    assert check_in(desk, a_check_in(connection=5))
    assert check_in(desk, a_check_in(connection=4)) == []
    assert check_in(desk, a_check_in(connection=5))
    assert check_in(desk, a_check_in(boot="b2", connection=1))


# status


def status(desk: Desk, **fields: Any) -> list[ev.Event]:
    """Let a device's status arrive."""
    message = DeviceStatus(**{"online": True, "boot": "b1", "connection": 1, **fields})
    return desk.receive(TOPICS.build(StatusTopic("new")), encode_json(message))


def test_progress_is_told_when_it_moves(desk: Desk) -> None:
    """The same status again, as a retained one is, renews nothing."""
    lease = lease_name(1)
    fetching = [ev.Progressed(device="new", lease=lease, phase="fetching")]
    moved = [ev.Progressed(device="new", lease=lease, phase="training")]
    assert status(desk, lease=lease, phase="fetching", progress=0.9) == fetching
    assert status(desk, lease=lease, phase="training", progress=0.1) == moved
    assert status(desk, lease=lease, phase="training", progress=0.1) == []
    assert status(desk, lease=lease, phase="training", progress=0.2) == moved
    assert status(desk, lease=lease, phase="reporting", progress=0.2) == [
        ev.Progressed(device="new", lease=lease, phase="reporting")
    ]
    assert status(desk) == []


def test_device_goes_offline_once(desk: Desk) -> None:
    """Its will, or its goodbye, which says whether anything is left to settle."""
    assert status(desk) == []
    assert status(desk, online=False) == [ev.DeviceOffline(device="new")]
    assert status(desk, online=False) == []
    assert status(desk, connection=2) == []
    assert status(desk, connection=2, online=False, phase="stopped") == [
        ev.DeviceOffline(device="new", is_settled=True)
    ]


def test_will_of_an_older_connection_or_boot_is_stale(desk: Desk) -> None:
    """The device is back already: what the broker says of its former life does not count."""
    assert status(desk, connection=3) == []
    assert status(desk, connection=2, online=False) == []
    assert status(desk, boot="b0", connection=9, online=False) == []


def test_deleted_status_is_nothing(desk: Desk) -> None:
    """An operator may tidy the broker."""
    assert desk.receive(TOPICS.build(StatusTopic("new")), b"") == []
    assert desk.n_refused == 0
