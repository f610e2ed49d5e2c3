"""What devices send, refused: each with its reason, counted, and without effect."""

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator import events as ev
from broker.transport import Message
from shared.chunking import ChunkLayout, from_ranges
from shared.errors import Reason
from shared.messages import DeviceStatus, Holding
from shared.topics import CheckInTopic, ChunkTopic, ReportTopic, StatusTopic
from shared.wire import encode, encode_json
from tests.aggregator.builders import (
    CHUNK_BYTES,
    RUN,
    a_report,
    an_offer,
    lease_name,
)
from tests.aggregator.reception_desk import TOPICS, UPDATE, Desk, a_check_in


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return a desk of its own."""
    return Desk(tmp_path)


GOOD = a_report(UPDATE, lease_name(1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_examples": 0}, Reason.FIELDS),
        ({"num_examples": -1}, Reason.FIELDS),
        ({"num_examples": 2**63}, Reason.FIELDS),
        ({"num_examples": 2**53}, Reason.FIELDS),
        ({"num_examples": True}, Reason.FIELDS),
        ({"num_examples": 10.0}, Reason.FIELDS),
        ({"num_examples": "10"}, Reason.FIELDS),
        ({"num_examples": None}, Reason.FIELDS),
        ({"v": 2}, Reason.VERSION),
        ({"v": 0}, Reason.VERSION),
        ({"v": True}, Reason.VERSION),
        ({"v": "1"}, Reason.VERSION),
        ({"v": None}, Reason.VERSION),
        ({"lease": 7}, Reason.FIELDS),
        ({"lease": lease_name(2)}, Reason.FIELDS),
        ({"outcome": "stolen"}, Reason.FIELDS),
        ({"outcome": "evaluated"}, Reason.FIELDS),
        ({"codec": 5}, Reason.FIELDS),
        ({"codec": "float16"}, Reason.CODEC),
        ({"codec": "pickle"}, Reason.CODEC),
        ({"size": 36}, Reason.LENGTH),
        ({"size": 2**40}, Reason.LENGTH),
        ({"size": -1}, Reason.FIELDS),
        ({"size": True}, Reason.FIELDS),
        ({"data": UPDATE[:-1]}, Reason.SIZE),
        ({"data": UPDATE + b"\0"}, Reason.SIZE),
        ({"data": "text"}, Reason.FIELDS),
        ({"data": [1, 2]}, Reason.FIELDS),
        ({"data": b"x" * 65_537}, Reason.MALFORMED),  # over what any setting allows
        ({"data": b"x" * 80_000}, Reason.PAYLOAD_TOO_LARGE),
        ({"data": None, "chunk_bytes": 1}, Reason.FIELDS),
        ({"data": None, "chunk_bytes": 2**30}, Reason.FIELDS),
        ({"chunk_bytes": 4096}, Reason.FIELDS),  # data and chunks
        ({"data": None}, Reason.FIELDS),
        ({"sha256": "abc"}, Reason.FIELDS),
        ({"sha256": "A" * 64}, Reason.FIELDS),
        ({"sha256": None}, Reason.FIELDS),
        ({"metrics": {"loss": float("nan")}}, Reason.FIELDS),
        ({"metrics": {"loss": float("inf")}}, Reason.FIELDS),
        ({"metrics": {"accuracy": [1.0, 2.0, 3.0]}}, Reason.FIELDS),
        ({"metrics": [1]}, Reason.FIELDS),
        ({"metrics": {f"m{i}": 0.5 for i in range(65)}}, Reason.MALFORMED),
        ({"train_seconds": -1.0}, Reason.FIELDS),
        ({"train_seconds": float("nan")}, Reason.FIELDS),
        ({"n_steps": -1}, Reason.FIELDS),
        ({"error": "x" * 80_000}, Reason.PAYLOAD_TOO_LARGE),
        ({"extra": [[[[[]]]]] * 60}, Reason.MALFORMED),
    ],
)
def test_bad_report_is_rejected_with_its_reason(desk: Desk, changes: dict[str, Any], reason: Reason) -> None:
    """Counted and answered under its lease; the sum of what counts is untouched."""
    lease = desk.lease()
    fields = {**msgpack.unpackb(encode(GOOD)), "v": 1, "lease": lease, **changes}
    told = desk.report(msgpack.packb({name: value for name, value in fields.items() if value is not None}))
    assert desk.reception.refused == {reason: 1}
    (refused,) = told
    assert isinstance(refused, ev.Refused)
    assert (refused.lease, refused.reason) == (lease, reason)
    desk.settle()
    assert desk.engine.machine.tally.n_accepted == 0
    assert desk.engine.machine.leases[lease].reason is reason


def test_offer_in_chunks_over_the_fleets_limit_is_not_taken_up_and_may_be_made_again(desk: Desk) -> None:
    """A device may know the limit of yesterday: nothing is decided, and its next offer within the limit is taken."""
    lease = desk.lease()
    assert desk.report(encode(an_offer(UPDATE, lease, chunk_bytes=CHUNK_BYTES + 1))) == []
    assert desk.reception.refused == {Reason.CHUNK: 1}
    assert desk.report(encode(an_offer(UPDATE, lease))) == [ev.Offered(device="d0", lease=lease)]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"garbage",
        b"\x00",
        b"\xff" * 100,
        msgpack.packb([1, 2, 3]),
        msgpack.packb("text"),
        msgpack.packb({1: 2, "v": 1}),
        b"\x82\xa1v\x01\xa1v\x01",  # a key twice
        msgpack.packb({"v": 1, "x": msgpack.ExtType(5, b"code")}),
        msgpack.packb({"v": 1, "x": msgpack.Timestamp(1)}),
        b"\xdf\xff\xff\xff\xff",  # a map that says it has 4 billion entries
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        msgpack.packb({"v": 1}) + b"trailing",
        b"\x81" * 2000,  # maps within maps
        b"\x91" * 2000,
    ],
)
def test_garbage_is_rejected(desk: Desk, payload: bytes) -> None:
    """As malformed, whatever it is."""
    (refused,) = desk.report(payload)
    assert isinstance(refused, ev.Refused)
    assert refused.reason is Reason.MALFORMED
    assert desk.reception.refused == {Reason.MALFORMED: 1}


def test_every_prefix_of_every_message_is_refused(desk: Desk) -> None:
    """Cut anywhere, no Report, check-in or status is taken for one."""
    lease = desk.lease()
    messages: list[tuple[str, bytes]] = [
        (TOPICS.build(ReportTopic("d0", lease)), encode(a_report(UPDATE, lease))),
        (TOPICS.build(ReportTopic("d0", lease)), encode(an_offer(UPDATE, lease, metrics={"loss": 0.5}))),
        (TOPICS.build(CheckInTopic("new")), encode(a_check_in(holds=[Holding(lease=lease, run=RUN)]))),
        (
            TOPICS.build(StatusTopic("new")),
            encode_json(DeviceStatus(online=True, boot="b", connection=1, lease=lease, progress=0.5)),
        ),
    ]
    for topic, payload in messages:
        is_status = topic.endswith("/status")
        for n in range(1 if is_status else 0, len(payload)):  # an empty status is a status that was deleted
            before = desk.n_refused
            desk.now += 10.0
            assert not [event for event in desk.receive(topic, payload[:n]) if not isinstance(event, ev.Refused)]
            assert desk.n_refused == before + 1
        assert desk.receive(topic, payload)


@pytest.mark.parametrize(
    ("device", "lease", "reason"),
    [
        ("d0", "f" * 32, Reason.UNKNOWN_LEASE),
        ("d1", None, Reason.FOREIGN_LEASE),
        ("nobody", None, Reason.FOREIGN_LEASE),
    ],
)
def test_lease_that_is_unknown_or_anothers_is_not_answered(
    desk: Desk, device: str, lease: str | None, reason: Reason
) -> None:
    """Reports and chunks alike: counted, and nothing is told to anybody, least of all to the lease's owner."""
    name = lease or desk.lease("d0")
    with structlog.testing.capture_logs() as lines:
        assert desk.report(encode(a_report(UPDATE, name)), device=device, lease=name) == []
    assert desk.receive(TOPICS.build(ChunkTopic(device, name, 0)), UPDATE) == []
    assert desk.reception.refused == {reason: 2}
    (line,) = lines
    assert (line["event"], line["reason"]) == ("refused", reason)
    is_unknown = reason is Reason.UNKNOWN_LEASE  # which an honest device may offer, of another run
    assert (line["log_level"], "of another run" in line.get("perhaps", "")) == (
        ("info", True) if is_unknown else ("warning", False)
    )


def test_final_lease_gets_its_outcome_again_whatever_is_said(desk: Desk) -> None:
    """Garbage, too, only asks again; a chunk that was under way says nothing."""
    lease = desk.lease()
    desk.engine.report("d0")
    for payload in (encode(a_report(UPDATE, lease)), b"garbage"):
        assert desk.report(payload, lease=lease) == [ev.Offered(device="d0", lease=lease)]
    assert desk.receive(TOPICS.build(ChunkTopic("d0", lease, 0)), UPDATE) == []
    assert desk.n_refused == 0


def test_report_of_another_run_is_not_answered(desk: Desk) -> None:
    """It is parked by its device; nothing becomes of our lease."""
    lease = desk.lease()
    assert desk.report(encode(a_report(UPDATE, lease, run="other"))) == []
    assert desk.reception.refused == {Reason.OTHER_RUN: 1}


@pytest.mark.parametrize("index", [0, 1, 10**6])
def test_chunk_that_nobody_asked_for_is_refused(desk: Desk, index: int) -> None:
    """Counted; the lease stands."""
    lease = desk.lease()
    assert desk.receive(TOPICS.build(ChunkTopic("d0", lease, index)), UPDATE) == []
    assert desk.reception.refused == {Reason.CHUNK: 1}


def test_chunks_that_nobody_asked_for_count_against_the_rate_and_granted_ones_do_not(desk: Desk) -> None:
    """A burst of fifty and five a second; what was granted comes as fast as the link gives it."""
    lease, update = desk.lease(), bytes(200 * 4096)
    uploads = desk.intake._uploads
    uploads.offer(lease, "a" * 64, ChunkLayout(len(update), 4096))
    n_granted = 0
    while n_granted < 150:
        for grant in uploads.grants(0.0):
            for index in from_ranges(grant.ranges, n=200):
                topic = TOPICS.build(ChunkTopic("d0", lease, index))
                desk.reception.receive(Message(topic, update[:4096]), 0.0)
                n_granted += 1
    assert desk.n_refused == 0
    for _ in range(60):
        desk.reception.receive(Message(TOPICS.build(ChunkTopic("d0", lease, 0)), update[:4096]), 0.0)
    assert desk.reception.refused == {Reason.RATE: 10}


@pytest.mark.parametrize(
    "topic",
    [
        "fl/v1/fleet/from/d0",
        "fl/v1/fleet/from/d0/report",
        "fl/v1/fleet/from/d0/report/xyz",
        "fl/v1/fleet/from/D0/check-in",
        "fl/v1/fleet/from/d0/check-in/more",
        "fl/v1/other/from/d0/check-in",
        "fl/v2/fleet/from/d0/check-in",
        f"fl/v1/fleet/from/d0/chunk/{'a' * 32}/01",
        f"fl/v1/fleet/from/d0/chunk/{'a' * 32}/-1",
        "",
        "x" * 5000,
    ],
)
def test_topic_outside_of_the_grammar_is_refused(desk: Desk, topic: str) -> None:
    """Before anything is looked up."""
    assert desk.receive(topic, encode(a_check_in())) == []
    assert desk.reception.refused == {Reason.TOPIC: 1}


def test_device_over_its_rate_is_dropped_and_counted(desk: Desk) -> None:
    """Fifty at once are taken; from then on five a second; another device is not hurt."""
    topic, payload = TOPICS.build(CheckInTopic("new")), encode(a_check_in())
    for _ in range(60):
        desk.reception.receive(Message(topic, payload), 0.0)
    assert len(desk.told) == 50
    assert desk.reception.refused == {Reason.RATE: 10}
    desk.reception.receive(Message(TOPICS.build(CheckInTopic("other")), payload), 0.0)
    assert len(desk.told) == 51


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"not json", Reason.MALFORMED),
        (b"[]", Reason.MALFORMED),
        (b"[" * 500, Reason.MALFORMED),
        (b'{"v": 1, "online": true}', Reason.FIELDS),
        (b'{"v": 2}', Reason.VERSION),
        (b'{"v": 1, "online": 1, "boot": "b", "connection": 1}', Reason.FIELDS),
        (b'{"v": 1, "online": true, "boot": "b", "connection": 1, "progress": NaN}', Reason.MALFORMED),
        (b'{"v": 1, "online": true, "boot": "b", "connection": 1, "progress": 2}', Reason.FIELDS),
        (json.dumps({"v": 1, "x": "y" * 2000}).encode(), Reason.PAYLOAD_TOO_LARGE),
        (b"\xff\xfe", Reason.MALFORMED),
    ],
)
def test_bad_status_is_refused(desk: Desk, payload: bytes, reason: Reason) -> None:
    """Counted, and nothing becomes of it."""
    assert desk.receive(TOPICS.build(StatusTopic("new")), payload) == []
    assert desk.reception.refused == {reason: 1}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.binary(max_size=300), kind=st.sampled_from(["report", "chunk", "check-in", "status"]))
def test_no_bytes_whatever_raise(desk: Desk, payload: bytes, kind: str) -> None:
    """Whatever arrives: nothing is raised, and nothing but a refusal or a progress is passed on."""
    lease = desk.lease()
    topics: dict[str, ReportTopic | ChunkTopic | CheckInTopic | StatusTopic] = {
        "report": ReportTopic("d0", lease),
        "chunk": ChunkTopic("d0", lease, 0),
        "check-in": CheckInTopic("d0"),
        "status": StatusTopic("d0"),
    }
    desk.now += 10.0
    for event in desk.receive(TOPICS.build(topics[kind]), payload):
        assert isinstance(event, ev.Refused)
