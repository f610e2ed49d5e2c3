"""What becomes of one delivery when the broker misbehaves: lost, twice, late, dropped, held, or sent after all.

One message for one client goes in; zero, one or two come out, now or later, always on the connection it was meant
for: sessions are clean, so what is under way when a connection ends is gone. A broker without such faults does not
ask here at all.
"""

from asyncio import AbstractEventLoop
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

from broker.faults import Faults
from broker.transport import Message

__all__ = ["Backlog", "Misdelivery", "Receiver"]


class Backlog:
    """What a misbehaving broker has for one client and what the client does not have yet."""

    __slots__ = ("held", "n_under_way")

    def __init__(self) -> None:
        self.n_under_way = 0  # sent at QoS 1 and not arrived
        self.held: deque[Message] = deque()  # not sent, though there would be room


class Receiver(Protocol):
    """A client's connection, as seen from here."""

    loop: AbstractEventLoop
    backlog: Backlog

    def send_down(self, message: Message, wanted: Callable[[], bool] | None = None) -> None:
        """Send a message towards the client; on arrival it is asked once whether it is `wanted`."""


class Misdelivery:
    """Decides by the dice and by the receiver's backlog.

    Args:
        faults: how the broker misbehaves.
        rng: the dice.
        struck: counts each switch of `faults` when it strikes.
    """

    def __init__(self, faults: Faults, rng: Random, struck: Counter[str]) -> None:
        self._faults = faults
        self._roll = rng.random
        self._struck = struck
        self._minds_backlog = any((faults.max_queued_messages, faults.stalled_head, faults.discard_after_s))

    def deliver(self, receiver: Receiver, message: Message, qos: int) -> None:
        """Deliver a message, or do what this broker does instead."""
        if self._strikes("lose_acknowledged" if qos else "lose_qos0"):
            return
        self._perhaps_later(receiver, message, qos)
        if qos and self._strikes("duplicate_qos1"):
            self._perhaps_later(receiver, message, qos)

    def _perhaps_later(self, receiver: Receiver, message: Message, qos: int) -> None:
        faults = self._faults
        if self._strikes("delay"):
            late_s = faults.delay_s * self._roll()
        elif self._strikes("reorder"):
            late_s = faults.reorder_s * self._roll()
        else:
            self._queue(receiver, message, qos)
            return
        receiver.loop.call_later(late_s, self._queue, receiver, message, qos)

    def _strikes(self, switch: str) -> bool:
        """Ask the dice, if this switch is on at all."""
        probability: float = getattr(self._faults, switch)
        if probability and self._roll() < probability:
            self._struck[switch] += 1
            return True
        return False

    def _queue(self, receiver: Receiver, message: Message, qos: int) -> None:
        if not qos or not self._minds_backlog:
            receiver.send_down(message)
            return
        backlog, most, stalled_head = receiver.backlog, self._faults.max_queued_messages, self._faults.stalled_head
        if most is not None and backlog.n_under_way + len(backlog.held) >= most:
            self._struck["max_queued_messages"] += 1
        elif stalled_head is not None and backlog.n_under_way >= stalled_head:
            self._struck["stalled_head"] += 1
            backlog.held.append(message)
        else:
            while backlog.held:
                self._send(receiver, backlog.held.popleft())
            self._send(receiver, message)

    def _send(self, receiver: Receiver, message: Message) -> None:
        receiver.backlog.n_under_way += 1
        receiver.send_down(message, partial(self._arrives, receiver, receiver.loop.time()))

    def _arrives(self, receiver: Receiver, sent_at: float) -> bool:
        receiver.backlog.n_under_way -= 1
        patience_s = self._faults.discard_after_s
        if patience_s is not None and receiver.loop.time() - sent_at > patience_s:
            self._struck["discard_after_s"] += 1
            return False
        return True
