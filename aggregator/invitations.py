"""Who gets a lease, with which work, and how every check-in is answered.

Not here: how many are wanted and when (`round_machine.py`), who is drawn (`selection.py`).
"""

import hashlib
from collections.abc import Collection, Set

from aggregator.codec_choice import CodecChoice
from aggregator.commands import Assign, ComeBack, Command, Journal, PublishRound, RepublishModel, SendReceipt
from aggregator.config import Settings
from aggregator.drawing import Drawing, built_in_rule
from aggregator.events import BrokerFound, CheckedIn, DeviceOffline, Evaluated, Event, Failed, Offered
from aggregator.learning_rates import built_in_rates
from aggregator.leases import Lease, LeaseBook
from aggregator.population import Candidates, Population
from aggregator.quotas import Quotas
from aggregator.records import LeaseRecord
from aggregator.round_clock import RoundTimer
from aggregator.selection import SelectionRule, draw_cohort, seed_of
from aggregator.tally import Tally
from shared.errors import PERMANENT, Reason
from shared.messages import Kind, RetryWindow, WorkOrder

__all__ = ["Invitations", "receipt_of"]

PERMANENT_RETRY_S = 4 * 3600.0
TRANSIENT_RETRY_S = 15 * 60.0
MAX_STEPS = 1_000_000_000
"""As many as a WorkOrder can ask for."""


class Invitations:
    """Issues leases and talks to idle devices.

    Args:
        settings: of the run.
        leases, tally, population: the engine's own books.
        rule: who is asked; None: the one of our own that the settings name.
        codecs: which codec a device encodes with.
        lease_prefix: makes lease ids of this start of the aggregator unlike those of any other.
    """

    def __init__(
        self,
        settings: Settings,
        leases: LeaseBook,
        tally: Tally,
        population: Population,
        rule: SelectionRule | None,
        *,
        codecs: CodecChoice,
        lease_prefix: str,
    ) -> None:
        self._settings, self._leases, self._tally, self._population = settings, leases, tally, population
        self._drawing = Drawing(settings, rule or built_in_rule(settings.selection), tally.records)
        self._codecs, self._lease_prefix = codecs, lease_prefix
        self._n_leases = 0
        self.quotas = Quotas(settings.selection)
        self.rates = built_in_rates(settings)
        """What devices train with; whoever has loaded a schedule of the user's own puts it here."""
        self.wall_zero_s = 0.0
        """Unix time at the zero of `now`."""
        self._round_id = 0  # that asks
        self.recent: dict[str, str] = {}
        """Device -> newest lease since the round began, until the device has checked in, or left, without it."""

    @property
    def check_in_interval_s(self) -> float:
        """How often an idle device checks in: the fleet shares about ten check-ins a second."""
        return max(self._settings.transfer.check_in_interval_s, self._population.n_believed / 10)

    def eligible(self, now: float) -> Candidates:
        """Return the devices that may be given training work now."""
        return self._population.candidates(now, self.check_in_interval_s)

    def idle(self, now: float) -> Collection[str]:
        """Return the devices that may be asked to evaluate now."""
        return self._population.waiting(now, self.check_in_interval_s)

    def is_anybody_there(self, *, but: Set[str]) -> bool:
        """Return whether a device is connected and willing that is not in `but`, idle or not."""
        return any(device not in but for device in self._population.willing())

    def begin_to_ask(self, round_id: int, now: float) -> None:
        """A round is over, or begins: from here on this one asks."""
        self._round_id = round_id
        self._population.begin_to_ask(
            round_id, still_out=lambda device: self._tally.has_counted(device) or self._is_barred(device, now)
        )

    def n_barred(self, now: float) -> int:
        """Return how many devices are there, and only a quota keeps them from work."""
        if not self.quotas.are_set:
            return 0
        return sum(self._is_barred(device, now) for device in self._population.sitting_out)

    def _is_barred(self, device: str, now: float) -> bool:
        return self.quotas.bars(device, self._round_id, self.wall_zero_s + now)

    def round_began(self, now: float) -> None:
        """A round begins."""
        self.quotas.round_began(now)
        self.forget_settled()

    def forget_settled(self) -> None:
        """Only leases that are still open remain of interest."""
        self.recent = {device: name for device, name in self.recent.items() if not self._leases[name].state.is_final}

    def invite(self, size: int, round_id: int, timer: RoundTimer, now: float) -> list[Journal]:
        """Lease training work to `size` eligible devices, for as long as the timer says of their classes.

        Raises:
            ConfigError: a selection rule or a schedule of a user's own failed; nothing was leased.
        """
        self.rates.client(self._tally.version)  # before anybody is drawn
        candidates = self.eligible(now)
        cohort = self._drawing.take(size, candidates, round_id) if size > 0 and candidates else []
        return [
            self._lease(device, Kind.TRAIN, round_id, timer.lease_s(each), timer.left_for_s(each, now), now)
            for device in cohort
            for each in (self._class_of(device),)
        ]

    def ask_to_evaluate(
        self, size: int, round_id: int, seconds: float, now: float, *, but: Set[str] = frozenset()
    ) -> list[Journal]:
        """Lease the evaluation of a version to `size` idle devices, for so many seconds; none of them in `but`."""
        idle = [device for device in self.idle(now) if device not in but] if but else self.idle(now)
        cohort = draw_cohort(self._settings.seed, Kind.EVALUATE, round_id, idle, size)
        return [self._lease(device, Kind.EVALUATE, round_id, seconds, seconds, now) for device in cohort]

    def _class_of(self, device: str) -> str:
        member = self._population.get(device)
        return "" if member is None else member.device_class

    def _lease(self, device: str, kind: Kind, round_id: int, seconds: float, left_s: float, now: float) -> Journal:
        self._n_leases += 1
        name = hashlib.sha256(f"{self._lease_prefix}/{self._n_leases}".encode()).hexdigest()[:32]
        order = self._order(device, round_id) if kind is Kind.TRAIN else None
        codec = self._codec_for(device, left_s)
        record = LeaseRecord(
            lease=name,
            device=device,
            round_id=round_id,
            kind=kind,
            base_version=self._tally.version,
            codec=codec,
            max_bytes=self._codecs.bytes_of(codec),
            device_class=self._class_of(device),
            given_at_s=round(self.wall_zero_s + now, 1),
            work="" if order is None else order.model_dump_json(exclude_none=True),
        )
        self._leases.issue(record, now=now, expires_at=now + seconds)
        self._tally.records.asked(record)
        self.quotas.asked(record)
        self._population.assigned(device)
        self.recent[device] = name
        return Journal(record=record, then=(Assign(lease=name, device=device, seconds_left=seconds),))

    def _codec_for(self, device: str, left_s: float) -> str:
        member, records = self._population.get(device), self._tally.records
        speaks = frozenset[str]() if member is None else member.codecs
        chosen = self._codecs.of(
            speaks,
            uplink_bytes_per_s=records.uplink(device),
            seconds_left=left_s,
            relative_weight=records.relative_weight(device),
            before=records.codec_of(device),
        )
        return chosen or self._codecs.usual.name  # one that speaks none is refused before it can be asked

    def _order(self, device: str, round_id: int) -> WorkOrder:
        training = self._settings.training
        # equal seconds rather than equal epochs: where no measure is set, time alone ends the work
        is_timed = self._settings.round.mode == "semi-sync" and training.epochs is None and training.max_steps is None
        max_steps = MAX_STEPS if is_timed else training.max_steps
        counts_epochs = training.algorithm != "fedsgd" and max_steps is None
        return WorkOrder(
            seed=seed_of(self._settings.seed, "work", round_id, device),
            algorithm=training.algorithm,
            epochs=(training.epochs or 1) if counts_epochs else None,
            max_steps=max_steps,
            batch_size=training.batch_size,
            learning_rate=self.rates.client(self._tally.version),
            mu=training.mu or 0.0,
            alpha=training.alpha,
            state_of=self._tally.states.of(device),
            options=training.options,
        )

    def checked_in(self, event: CheckedIn, now: float) -> tuple[list[Command], bool]:
        """Take a check-in.

        Returns:
            What to answer at once, and whether the device now waits for work (then it is answered with an Assignment
            or with `come_back`).
        """
        device = event.device
        commands: list[Command] = [] if event.missing is None else [RepublishModel(digest=event.missing)]
        is_at_work = False
        for name in sorted(event.holds):
            lease = self._leases.get(name)
            if lease is None or lease.record.device != device:
                continue
            if lease.state.is_final:
                commands.append(receipt_of(lease, repeat=True))
            else:
                is_at_work = True
        recent = self.recent.get(device)
        if recent is not None and recent not in event.holds and self._leases[recent].state.is_final:
            del self.recent[device]
        live = self._leases.live_of(device)
        if live is not None and live.record.lease not in event.holds:
            left, live.has_model = max(0.0, live.expires_at - now), False
            commands.append(Assign(lease=live.record.lease, device=device, seconds_left=left))
        self._population.check_in(
            device,
            now,
            refusal=event.refusal,
            detail=event.detail,
            device_class=event.device_class,
            codecs=event.codecs,
        )
        if event.refusal is not None:
            return [*commands, self.come_back(device, event.refusal, now, detail=event.detail)], False
        if live is not None or is_at_work:
            self._population.assigned(device)  # it waits again when it checks in without an open lease
            return [*commands, self.come_back(device, Reason.NOT_DRAWN, now)], False
        if self._tally.has_counted(device) or self._is_barred(device, now):
            self._population.sits_out(device)
        return commands, True

    def offline(self, event: DeviceOffline) -> None:
        """A device has left."""
        self._population.offline(event.device)
        recent = self.recent.get(event.device)
        if event.is_settled and recent is not None and self._leases[recent].state.is_final:
            del self.recent[event.device]

    def answer(self, event: Event, now: float) -> list[Command]:
        """The run is over: nothing moves any more, but every device that asks is answered."""
        match event:
            case CheckedIn(device=device):
                commands, is_waiting = self.checked_in(event, now)
                return [*commands, self.come_back(device, Reason.RUN_FINISHED, now)] if is_waiting else commands
            case Offered(lease=name) | Failed(lease=name) | Evaluated(lease=name):
                return [receipt_of(self._leases[name], repeat=True)]
            case DeviceOffline():
                self.offline(event)
            case BrokerFound():
                return [PublishRound()]
        return []

    def come_back(self, device: str, reason: Reason, now: float, *, detail: str = "") -> ComeBack:
        """Return when a device shall check in next; one that a quota bars need not ask before that is over.

        Args:
            device: its id.
            reason: why it gets no work now.
            now: loop seconds.
            detail: in words; told to it where somebody has to change something.
        """
        least_s = 0.0
        if reason is Reason.NOT_DRAWN:
            least_s = self.quotas.wait_s(device, self._round_id, self.wall_zero_s + now)
            reason = Reason.QUOTA if least_s > 0 else reason
        if reason in PERMANENT:
            retry_s = PERMANENT_RETRY_S
        elif reason in (Reason.NOT_DRAWN, Reason.QUOTA, Reason.PAUSED, Reason.RUN_FINISHED):
            retry_s = self.check_in_interval_s
        else:
            retry_s = TRANSIENT_RETRY_S
        # a whole interval is spread over, so that those who were barred together do not come back together
        window = RetryWindow(min=max(0.8 * retry_s, least_s), max=max(1.2 * retry_s, least_s + 0.4 * retry_s))
        return ComeBack(device=device, reason=reason, retry_s=window, detail=detail if reason in PERMANENT else "")


def receipt_of(lease: Lease, *, repeat: bool = False) -> SendReceipt:
    """Return the receipt with a lease's final outcome."""
    return SendReceipt(
        lease=lease.record.lease,
        device=lease.record.device,
        outcome=lease.outcome,
        reason=lease.reason,
        detail=lease.detail,
        staleness=lease.staleness,
        repeat=repeat,
    )
