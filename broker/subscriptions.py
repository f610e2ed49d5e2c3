"""Who gets a message: MQTT's topic filters, with exact topics and those with `+` in dicts, those with `#` in a list.

A fleet subscribes to tens of thousands of exact topics and to a handful of wildcards, but every message of every device
matches one of the aggregator's: so both must cost a look-up, and only `#`, a watcher's, may cost a scan. The rules are
MQTT 5.0 §4.7: `+` is one whole level, `#` is the parent and everything below, and a wildcard at the start never
matches `$…`.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Generic, TypeVar

from shared.errors import ConfigError, InvalidState

__all__ = ["Subscriptions", "TopicFilter", "check_payload", "check_topic", "filter_of"]

S = TypeVar("S", bound=Hashable)
K = TypeVar("K", bound=Hashable)

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

    __slots__ = ("is_open_ended", "is_wildcard", "levels", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.levels = text.split("/")
        self.is_open_ended = "#" in text
        self.is_wildcard = self.is_open_ended or "+" in text
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


@lru_cache(1024)
def filter_of(text: str) -> TopicFilter:
    """Return a filter taken apart; a thousand devices that ask for one chunk have one filter."""
    return TopicFilter(text)


class _Shape(Generic[S]):
    """The filters with `+` at the same places of the same number of levels: one look-up finds the one that matches."""

    __slots__ = ("holders", "key_of", "minds_dollar")

    def __init__(self, literal_places: Sequence[int]) -> None:
        self.key_of: Callable[[list[str]], Hashable] = itemgetter(*literal_places) if literal_places else _no_key
        self.minds_dollar = 0 not in literal_places
        self.holders: dict[Hashable, dict[S, int]] = {}


def _no_key(levels: list[str]) -> Hashable:
    return None


class Subscriptions(Generic[S]):
    """Filters and who holds them at which QoS."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[S, int]] = {}
        self._shapes: dict[int, dict[tuple[int, ...], _Shape[S]]] = {}  # by number of levels, then by literal places
        self._open_ended: dict[str, tuple[TopicFilter, dict[S, int]]] = {}

    def add(self, topic_filter: TopicFilter, subscriber: S, qos: int) -> None:
        """Subscribe, or change the QoS of a subscription."""
        if not topic_filter.is_wildcard:
            holders = self._exact.setdefault(topic_filter.text, {})
        elif topic_filter.is_open_ended:
            holders = self._open_ended.setdefault(topic_filter.text, (topic_filter, {}))[1]
        else:
            shape = self._shape(topic_filter)
            holders = shape.holders.setdefault(shape.key_of(topic_filter.levels), {})
        holders[subscriber] = qos

    def remove(self, texts: Iterable[str], subscriber: S) -> None:
        """Unsubscribe from each filter; one that is not held is passed over."""
        for text in texts:
            if text in self._exact:
                _leave(self._exact, text, subscriber)
            elif text in self._open_ended:
                holders = self._open_ended[text][1]
                holders.pop(subscriber, None)
                if not holders:
                    del self._open_ended[text]
            elif "+" in text:
                topic_filter = TopicFilter(text)
                shape = self._shape(topic_filter)
                _leave(shape.holders, shape.key_of(topic_filter.levels), subscriber)

    def clear(self) -> None:
        """Forget everybody."""
        self._exact.clear()
        self._shapes.clear()
        self._open_ended.clear()

    def subscribers(self, topic: str) -> dict[S, int]:
        """Return who gets a message on `topic`, each once, with the highest QoS of its filters that match."""
        found = dict(self._exact.get(topic, ()))
        if not self._shapes and not self._open_ended:
            return found
        levels = topic.split("/")
        for shape in self._shapes.get(len(levels), {}).values():
            holders = shape.holders.get(shape.key_of(levels))
            if holders and not (shape.minds_dollar and topic[0] == "$"):
                _add_highest(found, holders)
        for topic_filter, holders in self._open_ended.values():
            if topic_filter.matches(levels):
                _add_highest(found, holders)
        return found

    def _shape(self, topic_filter: TopicFilter) -> _Shape[S]:
        places = tuple(i for i, level in enumerate(topic_filter.levels) if level != "+")
        shapes = self._shapes.setdefault(len(topic_filter.levels), {})
        if places not in shapes:
            shapes[places] = _Shape(places)
        return shapes[places]


def _leave(filters: dict[K, dict[S, int]], key: K, subscriber: S) -> None:
    holders = filters.get(key, {})
    holders.pop(subscriber, None)
    if not holders:
        filters.pop(key, None)


def _add_highest(found: dict[S, int], holders: dict[S, int]) -> None:
    for subscriber, qos in holders.items():
        found[subscriber] = max(qos, found.get(subscriber, 0))
