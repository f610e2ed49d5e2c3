"""What is shown of a run is what its messages say, in any order, with nothing in it that steers a terminal."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fleet_view import DeviceState, FleetView
from shared.errors import Reason
from shared.messages import AggregatorStatus, DeviceStatus
from shared.topics import AggregatorStatusTopic, StatusTopic, Topics
from shared.wire import encode_json

TOPICS = Topics("demo")
LEASE = "0" * 32


def a_status(**changes: Any) -> AggregatorStatus:
    """Return an aggregator in the middle of round 3."""
    fields: dict[str, Any] = {
        "online": True,
        "epoch": 9,
        "instance": "i",
        "run": "digits",
        "round": 3,
        "version": 2,
        "phase": "reporting",
        "have": 4,
        "need": 10,
        "goal": 12,
        "states": {"accepted": 28, "failed": 0},
        "seconds_left": 30.0,
    }
    return AggregatorStatus(**{**fields, **changes})


def a_device(**changes: Any) -> DeviceStatus:
    """Return a device that trains for round 3."""
    fields = {"online": True, "boot": "b1", "connection": 5, "phase": "training", "round": 3, "lease": LEASE}
    return DeviceStatus(**{**fields, **changes})


def saw(view: FleetView, *messages: AggregatorStatus | tuple[str, DeviceStatus], now: float = 0.0) -> list[str]:
    """Tell a view messages; return all that changed."""
    lines: list[str] = []
    for message in messages:
        if isinstance(message, AggregatorStatus):
            lines += view.saw(TOPICS.build(AggregatorStatusTopic()), encode_json(message), now)
        else:
            lines += view.saw(TOPICS.build(StatusTopic(message[0])), encode_json(message[1]), now)
    return lines


def a_view(*messages: AggregatorStatus | tuple[str, DeviceStatus]) -> FleetView:
    """Return a view that has seen messages."""
    view = FleetView(TOPICS)
    saw(view, *messages)
    return view


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, DeviceState.TRAINING),
        ({"phase": "fetching"}, DeviceState.FETCHING),
        ({"phase": "reporting", "progress": 0.5}, DeviceState.UPLOADING),
        ({"phase": "idle", "lease": None, "round": None}, DeviceState.IDLE),
        ({"round": 2}, DeviceState.LATE),
        ({"round": 2, "phase": "reporting"}, DeviceState.LATE),
        ({"round": 2, "lease": None, "phase": "idle"}, DeviceState.IDLE),
        ({"phase": "idle", "lease": None, "refusal": Reason.DATA}, DeviceState.REFUSED),
        ({"online": False}, DeviceState.GONE),
        ({"phase": "dreaming"}, DeviceState.IDLE),
    ],
)
def test_device_is_shown_with_what_it_does(changes: dict[str, Any], state: DeviceState) -> None:
    """Who trains, uploads, is late, refuses or is gone."""
    assert a_view(a_status(), ("pi", a_device(**changes))).state("pi") is state


def test_refusal_is_shown_with_its_reason() -> None:
    """A person reads why a device does not take part."""
    view = a_view(("pi", a_device(refusal=Reason.SPEC, detail="head float32[3] here, [4] there")))
    assert view.note("pi") == "spec: head float32[3] here, [4] there"


@pytest.mark.parametrize(
    ("boot", "connection", "state"),
    [
        ("b1", 5, DeviceState.GONE),
        ("b1", 6, DeviceState.GONE),
        ("b1", 4, DeviceState.TRAINING),
        ("b0", 9, DeviceState.TRAINING),
    ],
)
def test_will_of_an_older_connection_is_ignored(boot: str, connection: int, state: DeviceState) -> None:
    """A device that has returned is not gone because the broker notices the old link late."""
    view = a_view(("pi", a_device()), ("pi", a_device(online=False, boot=boot, connection=connection)))
    assert view.state("pi") is state


def test_aggregator_that_is_gone_leaves_the_last_that_was_known() -> None:
    """A will says nothing of the run; round and metrics stay on the screen."""
    view = a_view(a_status())
    gone = AggregatorStatus(online=False, epoch=9, instance="i", run="digits")
    assert saw(view, gone) == ["aggregator of run digits is gone"]
    assert view.run is not None
    assert (view.run.round, view.is_served, view.is_finished) == (3, False, False)
    assert saw(view, gone) == []


def test_time_left_runs_on_between_messages() -> None:
    """A status comes once a second at most, and never below zero."""
    view = a_view(a_status(seconds_left=30.0))
    assert view.seconds_left(10.0) == 20.0
    assert view.seconds_left(99.0) == 0.0


def test_lines_name_what_changed_and_nothing_else() -> None:
    """A log of a run is short: phases, versions, and who comes and goes."""
    view = FleetView(TOPICS)
    assert saw(view, a_status(phase="waiting", have=3, round=1, version=0)) == [
        "run digits at version 0, epoch 9",
        "round 1 waiting: have=3 need=10",
    ]
    causes = ["waiting_for_devices", "refused_for_codec: 2"]
    assert saw(view, a_status(phase="waiting", have=3, round=1, version=0, causes=causes)) == [
        "round 1 waiting: have=3 need=10, refused_for_codec: 2"
    ]
    assert saw(view, a_status(round=1, version=0)) == ["round 1 reporting: 4 of 12 reports, quorum 10, 30 s left"]
    assert saw(view, a_status(round=1, version=0, have=5, seconds_left=29)) == []
    assert saw(view, a_status(round=2, version=1, metrics={"accuracy": 0.51239})) == [
        "version 1: accuracy=0.5124",
        "round 2 reporting: 4 of 12 reports, quorum 10, 30 s left",
    ]
    assert saw(
        view, a_status(round=2, version=1, phase="paused", causes=["disk: low"], metrics={"accuracy": 0.51239})
    ) == ["round 2 paused: disk: low"]
    assert saw(view, ("pi", a_device())) == []
    assert saw(view, ("pi", a_device(online=False))) == ["pi is gone"]
    assert saw(view, ("pi", a_device(connection=6))) == ["pi is back"]
    assert saw(view, ("pi", a_device(refusal=Reason.NOT_ELIGIBLE, detail="on battery"))) == [
        "pi refuses: not_eligible: on battery"
    ]
    assert saw(view, ("pi", a_device())) == ["pi takes part"]
    assert saw(view, a_status(phase="finished", round=2)) == ["round 2 finished: accepted=28"]
    assert view.is_finished


def test_curve_of_a_metric_has_a_value_a_version() -> None:
    """Repeated statuses add nothing; a new run begins anew."""
    view = FleetView(TOPICS)
    for version in (1, 1, 2):
        saw(view, a_status(version=version, metrics={"accuracy": version / 10}))
    assert list(view.trends["accuracy"]) == [0.1, 0.2]
    saw(view, a_status(run="other", metrics={"loss": 1.0}))
    assert {name: list(values) for name, values in view.trends.items()} == {"loss": [1.0]}


def test_deleted_status_forgets_the_device() -> None:
    """An empty retained message is how an operator clears away a device that is no more."""
    view = a_view(("pi", a_device()))
    view.saw(TOPICS.build(StatusTopic("pi")), b"", 0.0)
    assert view.devices == {}


@given(st.binary(max_size=200))
def test_garbage_changes_nothing(payload: bytes) -> None:
    """Whoever writes nonsense is not believed and breaks nothing."""
    view = a_view(a_status(), ("pi", a_device()))
    topics: Iterable[str] = (TOPICS.build(AggregatorStatusTopic()), TOPICS.build(StatusTopic("po")), "a/b", "")
    for topic in topics:
        assert view.saw(topic, payload, 0.0) == []
    assert list(view.devices) == ["pi"]


def test_control_characters_do_not_reach_a_line() -> None:
    """A device cannot clear the operator's screen."""
    view = FleetView(TOPICS)
    lines = saw(
        view,
        a_status(phase="\x1b[2J", metrics={"\x1b]0;x\x07": 1.0}, causes=["\x1b[31m"]),
        ("pi", a_device(refusal=Reason.DATA, detail="\x1b[2J\r\n")),
    )
    assert all(line.isprintable() for line in lines)
    assert all(name.isprintable() for name in view.trends)


def test_last_word_of_a_run_ends_it() -> None:
    """An aggregator that leaves as soon as its run is finished says so once, in the status that also says goodbye."""
    view = FleetView(TOPICS)
    saw(view, a_status(), a_status(online=False, phase="", metrics={}))
    assert not view.is_finished
    saw(view, a_status(online=False, phase="finished"))
    assert view.is_finished
