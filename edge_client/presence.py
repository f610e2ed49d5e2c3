"""What a device and its aggregator think of each other: epochs, check-ins, refusals.

A check-in goes out at every connect, after a final outcome, when eligibility changes, on a higher epoch, and at
intervals while idle. *Come back* only moves the next one. A refusal is the device's own (its conditions) or the
aggregator's (another model, another protocol); both show in the status.

Pure. Not here: which lease is worked on (`participant_machine.py`).
"""

from collections import deque
from collections.abc import Iterable
from random import Random

from edge_client.config import TimerSettings
from edge_client.eligibility import Refusal
from edge_client.events import Announce, ExplainSpec
from edge_client.held_reports import jittered
from edge_client.spec_question import SpecQuestion
from shared.codecs import CODECS
from shared.errors import PERMANENT, InvalidState, Reason
from shared.messages import MAX_HOLDS, PROTOCOL_VERSION, CheckIn, Control, Fleet, Holding, Round

__all__ = ["CLONED", "Presence"]

TAKEOVERS, TAKEOVERS_WITHIN_S = 2, 60.0
"""So many within so many seconds: another device has this id."""
CLONED = "another device uses this id; give each device an id of its own (--id)"
LEAST_CHECK_IN_S = 1.0
"""A fleet that says zero would have its devices do nothing else."""


class Presence:
    """One device as the fleet sees it. All instants are loop seconds.

    Args:
        boot: nonce of this process.
        spec: digest of the task's parameters.
        timers: how long to wait.
        rng: where the jitter comes from.
        epoch: the highest that an earlier life of this device has seen.
        device_class: what kind of device it is; "": not known.
        stateful: whether it keeps anything of a training for the next.
    """

    def __init__(
        self,
        *,
        boot: str,
        spec: str,
        timers: TimerSettings,
        rng: Random,
        epoch: int | None = None,
        device_class: str = "",
        stateful: bool = True,
    ) -> None:
        self._boot, self._spec, self._timers, self._rng = boot, spec, timers, rng
        self._device_class, self._stateful = device_class, stateful
        self.is_connected = False
        self._lost_at: float | None = None
        self.fleet: Fleet | None = None
        self._connection = 0
        self._epoch = self._kept_epoch = epoch
        self._has_heard = False  # any epoch in this life
        self._refusal: Refusal | None = None
        self._turned_away: Refusal | None = None
        self._question = SpecQuestion()
        self._conditions: dict[str, bool | float | str] = {}
        self._memory_bytes: int | None = None
        self._idle_check_in_at: float | None = None
        self._epoch_check_in_at: float | None = None
        self._takeovers: deque[float] = deque(maxlen=TAKEOVERS)

    @property
    def run(self) -> str | None:
        """The run served, as far as is known."""
        return self.fleet.run if self.fleet else None

    @property
    def refusal(self) -> Refusal | None:
        """Why the device does not take part: its own reason first, then the aggregator's."""
        return self._refusal or self._turned_away

    @property
    def deadline(self) -> float | None:
        """When the next check-in is due."""
        idle_at, epoch_at = self._idle_check_in_at, self._epoch_check_in_at
        if idle_at is None or epoch_at is None:
            return epoch_at if idle_at is None else idle_at
        return min(idle_at, epoch_at)

    def connected(self, connection: int) -> None:
        """A connection stands.

        Raises:
            InvalidState: there is one already.
        """
        if self.is_connected:
            raise InvalidState("connected twice")
        self.is_connected, self._connection, self._lost_at = True, connection, None

    def offline_s(self, now: float, *, since: float) -> float:
        """Return for how long the link has been gone by now, at most from `since` on; 0 while it stands."""
        return 0.0 if self._lost_at is None else now - max(self._lost_at, since)

    def disconnected(self, now: float, *, taken_over: bool) -> Announce | None:
        """The connection is gone; return how long to stay away when another device has this id.

        Raises:
            InvalidState: there was none.
        """
        if not self.is_connected:
            raise InvalidState("disconnected without a connection")
        self.is_connected, self._lost_at = False, now
        self._idle_check_in_at = self._epoch_check_in_at = None
        self._question.link_lost()
        if not taken_over:
            return None
        self._takeovers.append(now)
        if len(self._takeovers) < TAKEOVERS or now - self._takeovers[0] > TAKEOVERS_WITHIN_S:
            return None
        self._takeovers.clear()
        self._turned_away = Refusal(Reason.CLONED_ID, CLONED)
        wait_s = jittered(self._timers.permanent_retry_s, self._rng)
        return Announce(Reason.CLONED_ID, self._turned_away.detail, wait_s)

    def is_stale(self, epoch: int, now: float, *, retained: bool = False, answers_us: bool = True) -> bool:
        """Note the epoch of a message, and check in again soon when it is new.

        Args:
            epoch: as in the message.
            now: loop seconds.
            retained: the message was there before this connection.
            answers_us: it is to this device alone, so the aggregator knows it.

        Returns:
            Whether the message is of an epoch that has ended, and is to be ignored.
        """
        if self._epoch is not None and epoch < self._epoch:
            return True
        is_first, is_new = not self._has_heard, epoch != self._epoch
        self._epoch, self._has_heard = epoch, True
        # whoever wrote a retained first one was there to hear the check-in of this connection
        if not (retained or answers_us) if is_first else is_new:
            self._check_in_soon(now)
        return False

    def epoch_to_keep(self) -> int | None:
        """Return the highest epoch if it is to be remembered beyond this life, once; else None."""
        if self._epoch == self._kept_epoch:
            return None
        self._kept_epoch = self._epoch
        return self._epoch

    def follow(self, fleet: Fleet, now: float, *, retained: bool) -> bool | None:
        """Take the limits of the fleet; return whether another run is served now, None when they are stale."""
        before = self.fleet
        if self._epoch is not None and fleet.epoch < self._epoch:
            return None
        self.fleet = fleet  # first: a new epoch brings its own window
        self.is_stale(fleet.epoch, now, retained=retained, answers_us=False)
        if before is not None and before.run != fleet.run:
            self._turned_away = None
            self._question.again()
            self._check_in_soon(now)
        return before is None or before.run != fleet.run

    def looked(self, refusal: Refusal | None, conditions: dict[str, bool | float | str], memory: int | None) -> bool:
        """Take a look of the device at itself; return whether its eligibility has changed."""
        before = self._refusal.reason if self._refusal else None
        self._refusal, self._conditions, self._memory_bytes = refusal, conditions, memory
        return (refusal.reason if refusal else None) is not before

    def come_back(self, control: Control, reason: Reason | None, now: float) -> Announce | None:
        """Move the next check-in; return what to tell the operator, once a cause."""
        is_permanent = reason in PERMANENT
        if control.retry_s is not None:
            wait_s = self._rng.uniform(control.retry_s.min, max(control.retry_s.min, control.retry_s.max))
        else:
            wait_s = jittered(self._timers.permanent_retry_s if is_permanent else self._interval_s, self._rng)
        self._epoch_check_in_at, self._idle_check_in_at = None, now + wait_s
        if reason is None or not is_permanent:
            self._turned_away = None
            return None
        if self._turned_away is not None and self._turned_away.reason is reason:
            return None
        detail = CLONED if reason is Reason.CLONED_ID else control.detail
        self._turned_away = Refusal(reason, detail)
        self._question.again()
        return Announce(reason, detail, wait_s)

    def saw(self, manifest: Round) -> None:
        """The newest model of a run is known."""
        self._question.saw(manifest)

    def ask_for_spec(self) -> ExplainSpec | None:
        """Return the question in which parameter the task differs from the run's model, if it is to be asked now."""
        return self._question.ask(self.run, self._turned_away) if self.is_connected else None

    def explained(self, detail: str) -> None:
        """It differs in this."""
        if self._turned_away is not None and self._turned_away.reason is Reason.SPEC:
            self._turned_away = Refusal(Reason.SPEC, detail)
            self._question.told()

    def welcome(self) -> None:
        """The aggregator gives this device work."""
        self._turned_away = None

    def idle(self, now: float) -> None:
        """Work has ended: the device speaks again, soon unless something is due already."""
        if self.deadline is None:
            self._check_in_soon(now)

    def busy(self) -> None:
        """Work has begun: no check-ins at intervals."""
        self._idle_check_in_at = None

    def check_in(self, holds: Iterable[Holding], now: float, *, is_idle: bool, missing: str | None = None) -> CheckIn:
        """Return a check-in, and arm the timer for the next.

        Args:
            holds: leases without a final outcome.
            now: loop seconds.
            is_idle: whether there will be check-ins at intervals.
            missing: digest of a model whose chunks do not come.
        """
        self._epoch_check_in_at = None
        self._idle_check_in_at = now + jittered(self._interval_s, self._rng) if is_idle else None
        return CheckIn(
            run=self.run,
            spec=self._spec,
            boot=self._boot,
            connection=self._connection,
            device_class=self._device_class,
            protocols=[PROTOCOL_VERSION],
            codecs=list(CODECS),
            memory_bytes=self._memory_bytes,
            conditions=self._conditions,
            refusal=self._refusal.reason if self._refusal else None,
            detail=self._refusal.detail[:256] if self._refusal else "",
            holds=sorted(holds, key=lambda holding: holding.run != self.run)[:MAX_HOLDS],
            missing=missing,
            keeps_state=self._stateful,
        )

    @property
    def _interval_s(self) -> float:
        if self.fleet is None:
            return self._timers.check_in_interval_s
        return max(LEAST_CHECK_IN_S, self.fleet.check_in_interval_s)

    def _check_in_soon(self, now: float) -> None:
        if self.is_connected:
            window_s = self.fleet.reconnect_window_s if self.fleet else 0.0
            self._epoch_check_in_at = now + self._rng.uniform(0.0, window_s)
