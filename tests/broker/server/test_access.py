"""Who may write and read what."""

from pathlib import Path

import pytest

from broker.server.access import may_read, may_write
from broker.subscriptions import TopicFilter

ROOT = Path(__file__).parents[3]
LEASE, DIGEST = "0" * 32, "0" * 64
TOPICS = [
    "fl/v1/demo/fleet",
    "fl/v1/demo/aggregator/status",
    "fl/v1/demo/run/r/round",
    f"fl/v1/demo/run/r/index/{DIGEST}/0",
    f"fl/v1/demo/run/r/model/{DIGEST}/12",
    *(f"fl/v1/demo/to/{d}/{what}" for d in ("pi-1", "pi-2") for what in ("assignment", "receipt", "control")),
    *(f"fl/v1/demo/from/{d}/{what}" for d in ("pi-1", "pi-2") for what in ("status", "check-in", f"report/{LEASE}")),
    f"fl/v1/demo/from/pi-1/chunk/{LEASE}/3",
    f"fl/v1/demo/from/pi-2/chunk/{LEASE}/3",
]


def granted(user: str, verb: str) -> list[TopicFilter]:
    """What the access rules in mosquitto.conf grant a device: the filters of its patterns, with its name put in."""
    lines = (ROOT / "mosquitto.conf").read_text().splitlines()
    patterns = [line.split() for line in lines if line.startswith("#   pattern")]
    return [TopicFilter(words[3].replace("%u", user)) for words in patterns if words[2] == verb]


@pytest.mark.parametrize("topic", TOPICS)
def test_rules_are_those_of_mosquitto_conf(topic: str) -> None:
    """For every kind of topic the embedded broker grants a device what Mosquitto would."""
    levels = topic.split("/")
    assert may_write("pi-1", topic) is any(each.matches(levels) for each in granted("pi-1", "write"))
    assert may_read("pi-1", topic) is any(each.matches(levels) for each in granted("pi-1", "read"))


@pytest.mark.parametrize("topic", [*TOPICS, "other/topic", "fl", "fl/v1/demo/from/pi-1/../pi-2/status"])
def test_aggregator_watch_and_nobody(topic: str) -> None:
    """The aggregator may do everything, so may who gave no name; a watcher reads all and writes nothing."""
    assert may_read("aggregator", topic)
    assert may_write("aggregator", topic)
    assert may_read(None, topic)
    assert may_write(None, topic)
    assert may_read("watch", topic)
    assert not may_write("watch", topic)


@pytest.mark.parametrize("topic", ["other/topic", "fl", "", "fl/v1/demo/from/pi-1/../pi-2/status", "fl/v1/Demo/fleet"])
def test_device_has_nothing_outside_the_protocol(topic: str) -> None:
    """What is none of the protocol's topics is nobody's."""
    assert not may_write("pi-1", topic)
    assert not may_read("pi-1", topic)
