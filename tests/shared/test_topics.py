import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PeerError, Reason
from shared.topics import (
    AggregatorStatusTopic,
    AssignmentTopic,
    CheckInTopic,
    ChunkTopic,
    ControlTopic,
    FleetTopic,
    IndexTopic,
    ModelTopic,
    ReceiptTopic,
    ReportTopic,
    RoundTopic,
    StatusTopic,
    Topic,
    Topics,
)

LEASE, DIGEST = "0123456789abcdef" * 2, "0123456789abcdef" * 4
TOPICS = Topics("demo")
EVERY: list[tuple[Topic, str]] = [
    (FleetTopic(), "fleet"),
    (AggregatorStatusTopic(), "aggregator/status"),
    (RoundTopic("digits"), "run/digits/round"),
    (IndexTopic("digits", DIGEST, 0), f"run/digits/index/{DIGEST}/0"),
    (ModelTopic("digits", DIGEST, 12), f"run/digits/model/{DIGEST}/12"),
    (AssignmentTopic("pi-7"), "to/pi-7/assignment"),
    (ReceiptTopic("pi-7"), "to/pi-7/receipt"),
    (ControlTopic("pi-7"), "to/pi-7/control"),
    (StatusTopic("pi-7"), "from/pi-7/status"),
    (CheckInTopic("pi-7"), "from/pi-7/check-in"),
    (ReportTopic("pi-7", LEASE), f"from/pi-7/report/{LEASE}"),
    (ChunkTopic("pi-7", LEASE, 999_999_999), f"from/pi-7/chunk/{LEASE}/999999999"),
]


@pytest.mark.parametrize(("topic", "rest"), EVERY)
def test_every_topic_is_built_as_the_protocol_says_and_parsed_back(topic: Topic, rest: str) -> None:
    """Both ways, under the root with the wire's major version."""
    assert TOPICS.build(topic) == f"fl/v1/demo/{rest}"
    assert TOPICS.parse(f"fl/v1/demo/{rest}") == topic


names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)


@given(names, names, st.integers(0, 999_999_999))
def test_every_name_of_the_grammar_survives(fleet: str, device: str, index: int) -> None:
    """Of fleet and device, and every index."""
    topics = Topics(fleet)
    for topic in (StatusTopic(device), ChunkTopic(device, LEASE, index)):
        assert topics.parse(topics.build(topic)) == topic


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fl/v1/demo",
        "fl/v1/demo/",
        "fl/v1/other/fleet",
        "fl/v2/demo/fleet",
        "/fl/v1/demo/fleet",
        "fl/v1/demo/fleet/",
        "fl/v1/demo//fleet",
        "fl/v1/demox/fleet",
        "fl/v1/demo/Fleet",
        "fl/v1/demo/from/dev1/../dev2/status",
        "fl/v1/demo/from/dev1/status/extra",
        "fl/v1/demo/from//status",
        "fl/v1/demo/from/+/status",
        "fl/v1/demo/from/#",
        "fl/v1/demo/from/Dev/status",
        "fl/v1/demo/from/-dev/status",
        "fl/v1/demo/from/dev\n/status",
        "fl/v1/demo/from/dev/status\n",
        "fl/v1/demo/from/dév/status",
        "fl/v1/demo/from/dev\x00/status",
        f"fl/v1/demo/from/{'d' * 64}/status",
        f"fl/v1/demo/from/dev/report/{LEASE[:-1]}",
        f"fl/v1/demo/from/dev/report/{LEASE}0",
        f"fl/v1/demo/from/dev/report/{LEASE.upper()}",
        f"fl/v1/demo/from/dev/chunk/{LEASE}",
        f"fl/v1/demo/from/dev/chunk/{LEASE}/",
        f"fl/v1/demo/from/dev/chunk/{LEASE}/01",
        f"fl/v1/demo/from/dev/chunk/{LEASE}/-1",
        f"fl/v1/demo/from/dev/chunk/{LEASE}/+1",
        f"fl/v1/demo/from/dev/chunk/{LEASE}/1_0",
        f"fl/v1/demo/from/dev/chunk/{LEASE}/١",
        f"fl/v1/demo/from/dev/chunk/{LEASE}/1000000000",
        f"fl/v1/demo/from/dev/chunk/{LEASE}/{'9' * 5000}",
        f"fl/v1/demo/run/digits/index/{DIGEST[:-1]}/0",
        f"fl/v1/demo/run/digits/blob/{DIGEST}/0",
        "fl/v1/demo/run/../round",
        "fl/v1/demo/to/dev/status",
        "a" * 65_535,
    ],
)
def test_anything_else_is_refused(topic: str) -> None:
    """By exact segment count and grammar; what a log gets of it is short."""
    with pytest.raises(PeerError) as caught:
        TOPICS.parse(topic)
    assert caught.value.reason is Reason.TOPIC
    assert len(caught.value.detail) <= 200


@given(st.text(max_size=60))
def test_a_topic_is_refused_or_is_exactly_what_would_be_built(rest: str) -> None:
    """No two strings name the same thing."""
    text = f"fl/v1/demo/{rest}"
    try:
        found = TOPICS.parse(text)
    except PeerError:
        return
    assert TOPICS.build(found) == text


@pytest.mark.parametrize(
    "topic",
    [
        StatusTopic("../x"),
        StatusTopic("+"),
        RoundTopic(""),
        ReportTopic("dev", "short"),
        ModelTopic("digits", "x", 0),
        ChunkTopic("dev", LEASE, -1),
        ChunkTopic("dev", LEASE, 10**9),
    ],
)
def test_a_topic_outside_the_grammar_is_not_built(topic: Topic) -> None:
    """What nobody could parse is not sent."""
    with pytest.raises(PeerError):
        TOPICS.build(topic)


@pytest.mark.parametrize("fleet", ["", "Demo", "a/b", "+", "#", "a" * 64])
def test_a_fleet_outside_the_grammar_is_refused(fleet: str) -> None:
    """It is a segment of every topic."""
    with pytest.raises(PeerError, match="fleet"):
        Topics(fleet)


def test_subscriptions_cover_all_that_devices_write() -> None:
    """Every shape under `from/` matches exactly one filter of the aggregator's."""
    filters = [*TOPICS.every_device, TOPICS.every_status]
    for topic, _ in EVERY:
        built = TOPICS.build(topic)
        matches = [f for f in filters if _matches(f, built)]
        assert len(matches) == ("/from/" in built)
    assert [TOPICS.parse(t) for t in TOPICS.to_device("pi-7")] == [
        AssignmentTopic("pi-7"),
        ReceiptTopic("pi-7"),
        ControlTopic("pi-7"),
    ]


def _matches(pattern: str, topic: str) -> bool:
    parts, found = pattern.split("/"), topic.split("/")
    return len(parts) == len(found) and all(p in ("+", f) for p, f in zip(parts, found, strict=True))
