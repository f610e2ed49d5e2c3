"""What a device does next: idle, fetching, training, reporting.

Sans-IO with time: `handle(event, now)` returns the commands, `deadline` says when to call it with `DeadlinePassed`.
It knows envelopes only. One lease is worked on at a time; a report without a final outcome stays in the outbox, and a
parked one does not keep the device from newer work. What a peer sends never raises; an event of our own shell that
cannot be raises `InvalidState` and changes nothing.

Not here: carrying commands out (`service.py`), the timers of single reports (`held_reports.py`).
"""

from collections.abc import Iterable
from random import Random
from typing import assert_never

from edge_client import events
from edge_client.config import TimerSettings
from edge_client.eligibility import Refusal
from edge_client.events import Command, Event, HeldReport, Settle
from edge_client.final_leases import FinalLeases
from edge_client.finished_runs import FinishedRuns
from edge_client.held_reports import HeldReports, earliest
from edge_client.phases import LiveLease, Phase, check_transition
from edge_client.presence import CLONED, Presence
from shared.errors import Reason
from shared.messages import Action, Assignment, Control, Fleet, Outcome, Receipt, Round, RoundState

__all__ = ["ParticipantMachine"]


class ParticipantMachine:
    """One device.

    Args:
        boot, spec, timers, rng, epoch, device_class, stateful: see `Presence`.
        held: reports that were in the outbox at the start.
        finals: leases that were final at the start, oldest first.
    """

    def __init__(
        self,
        *,
        boot: str,
        spec: str,
        timers: TimerSettings,
        rng: Random,
        held: Iterable[HeldReport] = (),
        finals: Iterable[str] = (),
        epoch: int | None = None,
        device_class: str = "",
        stateful: bool = True,
    ) -> None:
        self._presence = Presence(
            boot=boot, spec=spec, timers=timers, rng=rng, epoch=epoch, device_class=device_class, stateful=stateful
        )
        self._timers, self._held = timers, HeldReports(timers, rng, held)
        self._finals = FinalLeases(finals)
        self._phase = Phase.IDLE
        self._live: LiveLease | None = None
        self._finished = FinishedRuns(self._is_clear_of)
        self._status_at: float | None = None
        self._commands: list[Command] = []

    @property
    def phase(self) -> Phase:
        """What the device works on."""
        return self._phase

    @property
    def lease(self) -> str | None:
        """The one live lease."""
        return self._live.lease if self._live else None

    @property
    def fleet(self) -> Fleet | None:
        """The limits of the fleet; None until they have arrived."""
        return self._presence.fleet

    @property
    def refusal(self) -> Refusal | None:
        """Why the device does not take part, by its own word or the aggregator's."""
        return self._presence.refusal

    @property
    def held(self) -> tuple[HeldReport, ...]:
        """Reports without a final outcome, those of the served run first."""
        return tuple(self._held.reports)

    def offline_s(self, lease: str, now: float) -> float:
        """Return for how long there was no link since the work under this lease began, in seconds."""
        live = self._live if self._live and self._live.lease == lease else None
        return live.offline_s + self._presence.offline_s(now, since=live.begun_at) if live else 0.0

    @property
    def deadline(self) -> float | None:
        """When to call `handle` with `DeadlinePassed`; None: not before another event."""
        finished = self._finished.deadline
        if not self._presence.is_connected:
            return finished
        return earliest(finished, self._presence.deadline, self._status_at, self._held.deadline)

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take an event; return what is to be done, in this order.

        Args:
            event: what has happened.
            now: seconds of the loop.

        Raises:
            InvalidState: the shell says what cannot be; nothing has changed.
        """
        self._commands = []
        match event:
            case events.Connected(connection):
                self._on_connected(connection, now)
            case events.Disconnected(taken_over):
                self._on_disconnected(now, taken_over=taken_over)
            case events.FleetSeen(fleet, retained):
                self._on_fleet(fleet, now, retained=retained)
            case events.RoundSeen(manifest, retained):
                self._on_round(manifest, now, retained=retained)
            case events.AssignmentArrived(assignment):
                self._on_assignment(assignment, now)
            case events.ReceiptArrived(receipt):
                self._on_receipt(receipt, now)
            case events.ControlArrived(control):
                self._on_control(control, now)
            case events.EligibilityRead():
                self._on_eligibility(event, now)
            case events.ModelFetched(lease):
                self._on_fetched(lease, now)
            case events.ModelMissing(lease, digest):
                if self.lease == lease and self._phase is Phase.FETCHING and self._presence.is_connected:
                    self._check_in(now, missing=digest)
            case events.ReportStored(lease):
                self._on_stored(lease, now)
            case events.ReportSent(lease):
                self._held.sent(lease, now)
            case events.ReportLost(lease):
                self._on_lost(lease, now)
            case events.UploadDrained(lease):
                self._held.drained(lease, now)
            case events.SpecExplained(detail):
                self._presence.explained(detail)
                self._send_status(now)
            case events.DeadlinePassed():
                self._on_deadline(now)
            case _:
                assert_never(event)
        if (epoch := self._presence.epoch_to_keep()) is not None:
            self._commands.append(events.KeepEpoch(epoch))
        for run in self._finished.over(now):
            if self._presence.run in (None, run):
                self._commands.append(events.RunFinished(run))
        return self._commands

    # the connection

    def _on_connected(self, connection: int, now: float) -> None:
        if self._live is not None:
            self._live.offline_s += self._presence.offline_s(now, since=self._live.begun_at)
        self._presence.connected(connection)
        self._send_status(now)
        runs = [r.run for r in self._held.reports] + ([self.fleet.run] if self.fleet else [])
        self._commands += [events.FollowRun(run) for run in dict.fromkeys(runs)]
        self._check_in(now)
        for report in self._held.reports:
            self._offer(report.lease, now)
        if self._phase is Phase.FETCHING and self._live and self._live.assignment:
            self._commands.append(events.FetchModel(self._live.assignment))

    def _on_disconnected(self, now: float, *, taken_over: bool) -> None:
        announcement = self._presence.disconnected(now, taken_over=taken_over)
        self._held.connection_lost()
        if announcement is not None:
            self._commands += [announcement, events.StayAway(announcement.retry_s, announcement.detail)]

    # what everybody is told

    def _on_fleet(self, fleet: Fleet, now: float, *, retained: bool) -> None:
        is_other = self._presence.follow(fleet, now, retained=retained)
        if is_other is None or (retained and not is_other):
            return
        if is_other and self._presence.is_connected:
            self._commands.append(events.FollowRun(fleet.run))
        wanted = self._held.serve(fleet.run)
        if self._phase is Phase.FETCHING and self._live and self._live.run != fleet.run:
            self._set_aside(now)
        self._notice_parked(now)
        for lease in wanted if self._presence.is_connected else ():
            if is_other:
                self._offer(lease, now)
            else:  # the aggregator is back on its link: all devices hear it at once
                self._held.offer_within(lease, now, fleet.reconnect_window_s)

    def _on_round(self, manifest: Round, now: float, *, retained: bool) -> None:
        if self._presence.is_stale(manifest.epoch, now, retained=retained, answers_us=False):
            return
        self._presence.saw(manifest)
        self._ask_for_spec()
        if manifest.state is not RoundState.FINISHED:
            self._finished.goes_on(manifest.run)
            return
        if self._live and self._live.run == manifest.run and self._phase in (Phase.FETCHING, Phase.TRAINING):
            self._finish(self._live.lease, now, Outcome.DISCARDED, Reason.RUN_FINISHED)
        self._finished.finished(manifest.run, now, retained=retained)
        for lease in self._held.finish(manifest.run, now) if self._presence.is_connected else ():
            if not retained:  # what is retained came after connecting, and then they were offered
                self._offer(lease, now)

    # work

    def _on_assignment(self, order: Assignment, now: float) -> None:
        if self._presence.is_stale(order.epoch, now) or order.lease in self._finals:
            return
        if order.lease in self._held or self.lease == order.lease:
            return
        if self._live:
            # the aggregator has given up on what we work on; for the same model, though, what we have comes first
            if order.run == self._live.run and order.model.version <= self._live.version:
                return
            self._set_aside(now)
        self._presence.welcome()
        self._live = LiveLease.begin(order, self._timers.status_interval_s, now)
        self._go(Phase.FETCHING, now)
        if self._presence.is_connected:
            self._commands.append(events.FetchModel(order))

    def _on_fetched(self, lease: str, now: float) -> None:
        if self._live and self._live.lease == lease and self._live.assignment:
            self._go(Phase.TRAINING, now)
            self._commands.append(events.BeginTraining(self._live.assignment, now - self._live.begun_at))

    def _on_stored(self, lease: str, now: float) -> None:
        live = self._live
        if live is None or live.lease != lease:  # cancelled or superseded while it was being written
            self._conclude(Settle(lease=lease, outcome=Outcome.CANCELLED, reason=Reason.SUPERSEDED))
            return
        check_transition(self._phase, Phase.REPORTING)
        self._held.add(HeldReport(lease=lease, run=live.run, round=live.round, version=live.version))
        self._go(Phase.REPORTING, now)
        if self._presence.is_connected:
            self._offer(lease, now)
        self._notice_parked(now)

    def _on_lost(self, lease: str, now: float) -> None:
        if lease not in self._held:
            return
        self._stop_work(lease)
        self._held.remove(lease)
        if self.lease == lease:
            self._rest(now)

    def _on_receipt(self, receipt: Receipt, now: float) -> None:
        lease = receipt.lease
        if self._presence.is_stale(receipt.epoch, now):
            return
        if receipt.outcome.is_final:
            self._finish(lease, now, receipt.outcome, receipt.reason, receipt.detail, receipt.staleness)
            return
        if lease not in self._held or not self._presence.is_connected:
            return
        if receipt.outcome is Outcome.NEED:
            self._held.granted(lease, now)
            self._commands.append(events.GrantChunks(lease, tuple(receipt.need)))
        elif self._held.wait(lease, now, receipt.retry_s):
            self._commands.append(events.PutOff(lease, receipt.reason))
        if self._phase is Phase.IDLE and not self._held.is_parked(lease):
            self._live = LiveLease.resume(self._held[lease], self._timers.status_interval_s)
            self._go(Phase.REPORTING, now)

    def _on_control(self, control: Control, now: float) -> None:
        if self._presence.is_stale(control.epoch, now):
            return
        refusal = self._presence.refusal
        match control.action:
            case Action.CANCEL:
                if control.lease is not None:
                    self._finish(control.lease, now, Outcome.CANCELLED, control.reason, control.detail)
                return
            case Action.COME_BACK:
                announcement = self._presence.come_back(control, control.reason, now)
            case Action.UPGRADE:
                announcement = self._presence.come_back(control, Reason.PROTOCOL, now)
        if announcement is not None:
            self._commands.append(announcement)
            self._ask_for_spec()
        if self._presence.refusal != refusal:
            self._send_status(now)
        if control.reason is Reason.CLONED_ID and self._presence.deadline is not None:
            self._commands.append(events.StayAway(self._presence.deadline - now, CLONED))

    def _ask_for_spec(self) -> None:
        question = self._presence.ask_for_spec()
        if question is not None:
            self._commands.append(question)

    def _on_eligibility(self, event: events.EligibilityRead, now: float) -> None:
        has_changed = self._presence.looked(event.refusal, event.conditions, event.memory_bytes)
        if has_changed and self._presence.is_connected:
            self._check_in(now)
            self._send_status(now)

    # time

    def _on_deadline(self, now: float) -> None:
        if not self._presence.is_connected:
            return
        offers, given_up = self._held.due(now)
        for lease in given_up:
            self._finish(lease, now, Outcome.DISCARDED, Reason.RUN_FINISHED)
        for lease in offers:
            self._offer(lease, now)
        self._notice_parked(now)
        if self._presence.deadline is not None and self._presence.deadline <= now:
            self._check_in(now)
        if self._status_at is not None and self._status_at <= now:
            self._send_status(now)

    # steps

    def _go(self, phase: Phase, now: float) -> None:
        check_transition(self._phase, phase)
        self._phase = phase
        if phase is Phase.IDLE:
            self._live = None
            self._presence.idle(now)
        else:
            self._presence.busy()
        self._send_status(now)

    def _rest(self, now: float) -> None:
        """Work has ended: be idle, and say so at once."""
        self._go(Phase.IDLE, now)
        if self._presence.is_connected:
            self._check_in(now)

    def _set_aside(self, now: float) -> None:
        """Drop the live lease for newer work; a finished report stays, parked."""
        if self._live is not None:
            self._stop_work(self._live.lease)
            if self._phase is Phase.REPORTING:
                self._held.park(self._live.lease)
            self._go(Phase.IDLE, now)

    def _stop_work(self, lease: str) -> None:
        if lease in self._held:
            self._commands.append(events.StopUpload(lease))
        elif self._phase is Phase.FETCHING:
            self._commands.append(events.StopFetching(lease))
        else:
            self._commands.append(events.CancelTraining(lease))

    def _finish(
        self, lease: str, now: float, outcome: Outcome, reason: Reason | None, detail: str = "", staleness: int = 0
    ) -> None:
        """Apply a final outcome, once."""
        is_live, is_held = self.lease == lease, lease in self._held
        if not (is_live or is_held) and lease in self._finals:
            return
        if is_live or is_held:
            self._stop_work(lease)
        if is_held:
            self._held.remove(lease)
        self._conclude(Settle(lease=lease, outcome=outcome, reason=reason, detail=detail, staleness=staleness))
        if is_live:
            self._go(Phase.IDLE, now)
        if self._phase is Phase.IDLE and self._presence.is_connected and (is_live or is_held):
            self._check_in(now)

    def _conclude(self, settle: Settle) -> None:
        self._finals.add(settle.lease)
        self._commands.append(settle)

    def _offer(self, lease: str, now: float) -> None:
        self._held.offer(lease, now)
        self._commands.append(events.Offer(lease))

    def _notice_parked(self, now: float) -> None:
        """A report that nobody answers, or of another run, leaves the device idle."""
        live = self._live
        if live and self._phase is Phase.REPORTING and self._held.is_parked(live.lease):
            self._commands.append(events.StopUpload(live.lease))
            self._rest(now)

    def _is_clear_of(self, run: str) -> bool:
        return self._live is None and all(report.run != run for report in self._held.reports)

    def _check_in(self, now: float, *, missing: str | None = None) -> None:
        holds = self._held.holdings(self._live)
        is_idle = self._phase is Phase.IDLE
        self._commands.append(events.SendCheckIn(self._presence.check_in(holds, now, is_idle=is_idle, missing=missing)))

    def _send_status(self, now: float) -> None:
        live = self._live
        self._status_at = now + live.status_every_s if live else None
        if self._presence.is_connected:
            round_id, lease = (live.round, live.lease) if live else (None, None)
            self._commands.append(
                events.SendStatus(phase=self._phase, round=round_id, lease=lease, refusal=self._presence.refusal)
            )
