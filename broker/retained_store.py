"""What a simulated broker retains, and what of it survives a crash.

A broker that saves every so many seconds comes back with the state of its last save: newer messages are missing, and
deleted or replaced ones are back. Mosquitto's default is a save every 1800 s.
"""

from collections.abc import Mapping
from types import MappingProxyType

from broker.subscriptions import TopicFilter

__all__ = ["RetainedStore"]


class RetainedStore:
    """Retained messages by topic. Saving is worked out afterwards: nothing is done until it matters."""

    def __init__(self) -> None:
        self._messages: dict[str, bytes] = {}
        self._saved: dict[str, bytes] = {}
        self._saved_at = 0.0

    @property
    def view(self) -> Mapping[str, bytes]:
        """What is retained now, by topic."""
        return MappingProxyType(self._messages)

    def put(self, topic: str, payload: bytes) -> None:
        """Retain a message; an empty one deletes."""
        if payload:
            self._messages[topic] = payload
        else:
            self._messages.pop(topic, None)

    def get(self, topic: str) -> bytes:
        """Return what is retained on a topic; empty: nothing."""
        return self._messages.get(topic, b"")

    def topics(self, topic_filter: TopicFilter) -> list[str]:
        """Return the topics that match and on which something is retained, oldest first."""
        if topic_filter.is_wildcard:
            return [topic for topic in self._messages if topic_filter.matches(topic.split("/"))]
        return [topic_filter.text] if topic_filter.text in self._messages else []

    def save_if_due(self, now: float, every_s: float) -> None:
        """Catch up with the saves that fell between the last change and now; to be called before each change.

        Args:
            now: the loop's time in seconds.
            every_s: seconds between two saves.
        """
        n_saves = (now - self._saved_at) // every_s
        if n_saves >= 1:
            self._saved = self._messages.copy()
            self._saved_at += n_saves * every_s

    def crash(self, now: float, autosave_s: float | None) -> None:
        """Go back to the last save.

        Args:
            now: the loop's time in seconds.
            autosave_s: seconds between two saves; 0: each change is saved; None: nothing is.
        """
        if autosave_s == 0:
            return
        if autosave_s is not None:
            self.save_if_due(now, autosave_s)
        self._messages.clear()  # in place: somebody may hold a view
        if autosave_s is not None:
            self._messages.update(self._saved)
