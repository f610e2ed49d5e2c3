"""Which connection of a device is its newest, and whether two devices share one id.

Brokers need not tell a client that another one with its id has pushed it out (Mosquitto 2.0 does not). The aggregator
sees it: boots are random and a device that was switched on again never returns to the boot before, two devices with
one id take turns.
"""

from dataclasses import dataclass, field

__all__ = ["CLONE_WINDOW_S", "Presence", "Presences"]

CLONE_WINDOW_S = 60.0
RETURNS = 2
"""So often within the window an earlier boot has come back with a new connection: that is another device. What was long
under way is of a connection that was seen, but for the first message of one."""
BOOTS_REMEMBERED = 4
MAX_DEVICES = 100_000
"""Names that are remembered, so that whoever makes up more of them does not fill the memory."""


@dataclass(slots=True)
class Presence:
    """What is known of a device's newest connection."""

    boot: str
    connection: int
    is_online: bool = True
    moved: tuple[str, float | None] = ("", None)
    """Phase and progress as last seen."""
    earlier: dict[str, int] = field(default_factory=dict)
    """Boots before this one, the latest last, each with its newest connection."""
    returns: list[float] = field(default_factory=list)
    """When an earlier boot came back with a new connection."""


class Presences:
    """The newest connection of every device; past `max_devices` the one that was silent longest is forgotten."""

    def __init__(self, max_devices: int = MAX_DEVICES) -> None:
        self._max_devices = max_devices
        self._newest: dict[str, Presence] = {}  # whoever spoke last stands last

    def __len__(self) -> int:
        return len(self._newest)

    def __getitem__(self, device: str) -> Presence:
        return self._newest[device]

    def is_stale(self, device: str, boot: str, connection: int, now: float, *, may_be_will: bool = False) -> bool:
        """Return whether a message is from an older connection than the newest one seen, and remember the newest.

        Boots have no order: another boot is the newer one, unless it only says goodbye, for that is what the will of
        an old one does.
        """
        newest = self._newest.pop(device, None)
        if newest is None:
            if len(self._newest) >= self._max_devices:
                del self._newest[next(iter(self._newest))]
            self._newest[device] = Presence(boot, connection)
            return False
        self._newest[device] = newest
        if newest.boot == boot:
            is_older = connection < newest.connection
            newest.connection = max(newest.connection, connection)
            return is_older
        if may_be_will:
            return True
        returns = [at for at in newest.returns if at > now - CLONE_WINDOW_S]
        earlier = {**newest.earlier, newest.boot: newest.connection}
        before = earlier.pop(boot, connection)
        if connection > before:  # whoever is pushed out by another device connects anew
            returns.append(now)
        earlier = dict(list(earlier.items())[-BOOTS_REMEMBERED:])
        self._newest[device] = Presence(boot, max(connection, before), earlier=earlier, returns=returns)
        return False

    def is_cloned(self, device: str, now: float) -> bool:
        """Return whether two devices take turns at this id."""
        return len([at for at in self._newest[device].returns if at > now - CLONE_WINDOW_S]) >= RETURNS
