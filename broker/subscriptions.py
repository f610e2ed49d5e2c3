"""Who gets a message: MQTT's topic filters, with exact topics in a dict and wildcards in a short list.

A fleet subscribes to tens of thousands of exact topics and to a handful of wildcards (the aggregator's and a
watcher's), so the first must cost one look-up and the second may cost a scan. The rules are MQTT 5.0 §4.7: `+` is one
whole level, `#` is the parent and everything below, and a wildcard at the start never matches `$…`.
"""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from shared.errors import ConfigError, InvalidState

__all__ = ["Subscriptions", "TopicFilter", "check_payload", "check_topic"]

S = TypeVar("S", bound=Hashable)

MAX_TOPIC_BYTES = 65_535  # a two-byte length on the wire


def check_topic(topic: str) -> None:
    """Refuse what cannot be published on.

    Raises:
        InvalidState: empty, too long, or with a wildcard.
    """
    if not topic or "+" in topic or "#" in topic or "\0" in topic or len(topic.encode()) > MAX_TOPIC_BYTES:
        raise InvalidState(f"not a topic to publish on: {topic[:200]!r}")


def check_payload(payload: bytes, limit: int | None) -> None:
    """Refuse what the broker would drop, or disconnect us for.

    Args:
        payload: what is to be published.
        limit: largest payload that the broker takes, in bytes; None: it says nothing.

    Raises:
        ConfigError: it is larger.
    """
    if limit is not None and len(payload) > limit:
        raise ConfigError(
            f"the broker takes messages of at most {limit} bytes, and one of {len(payload)} was to be sent",
            hint="raise the broker's limit (Mosquitto: max_packet_size), or set a smaller transfer.chunk_bytes",
        )


class TopicFilter:
    """One filter, taken apart once.

    Args:
        text: what was subscribed to.

    Raises:
        InvalidState: not a filter that MQTT knows.
    """

    __slots__ = ("is_wildcard", "levels", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.levels = text.split("/")
        self.is_wildcard = "+" in text or "#" in text
        whole = all(level in ("+", "#") or not ("+" in level or "#" in level) for level in self.levels)
        if not text or not whole or "#" in self.levels[:-1] or "\0" in text or len(text.encode()) > MAX_TOPIC_BYTES:
            raise InvalidState(f"not a topic filter: {text[:200]!r}")

    def matches(self, levels: list[str]) -> bool:
        """Say whether a topic, split at its slashes, is meant."""
        mine = self.levels
        if levels[0].startswith("$") and mine[0] in ("+", "#"):
            return False
        if mine[-1] == "#":
            mine = mine[:-1]
            if len(levels) < len(mine):
                return False
        elif len(levels) != len(mine):
            return False
        return all(wanted in ("+", level) for wanted, level in zip(mine, levels, strict=False))


class Subscriptions(Generic[S]):
    """Filters and who holds them at which QoS."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[S, int]] = {}
        self._wildcards: dict[str, tuple[TopicFilter, dict[S, int]]] = {}

    def add(self, topic_filter: TopicFilter, subscriber: S, qos: int) -> None:
        """Subscribe, or change the QoS of a subscription."""
        if topic_filter.is_wildcard:
            self._wildcards.setdefault(topic_filter.text, (topic_filter, {}))[1][subscriber] = qos
        else:
            self._exact.setdefault(topic_filter.text, {})[subscriber] = qos

    def remove(self, texts: Iterable[str], subscriber: S) -> None:
        """Unsubscribe from each filter; one that is not held is passed over."""
        for text in texts:
            if text in self._wildcards:
                holders = self._wildcards[text][1]
                holders.pop(subscriber, None)
                if not holders:
                    del self._wildcards[text]
            elif text in self._exact:
                holders = self._exact[text]
                holders.pop(subscriber, None)
                if not holders:
                    del self._exact[text]

    def clear(self) -> None:
        """Forget everybody."""
        self._exact.clear()
        self._wildcards.clear()

    def subscribers(self, topic: str) -> dict[S, int]:
        """Return who gets a message on `topic`, each once, with the highest QoS of its filters that match."""
        found = dict(self._exact.get(topic, ()))
        if self._wildcards:
            levels = topic.split("/")
            for topic_filter, holders in self._wildcards.values():
                if topic_filter.matches(levels):
                    for subscriber, qos in holders.items():
                        found[subscriber] = max(qos, found.get(subscriber, 0))
        return found
