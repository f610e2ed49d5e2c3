"""What must hold of a run, whoever died in it: looked at from outside, while it goes on and when it is over.

The witness sees what services publish and what their disks hold, and keeps books of its own. At the end it makes the
model again, from the journal's rows and the updates that devices computed, without a crash, and compares every bit.

Not here: the schedule (`schedules.py`), carrying it out (`schedule_run.py`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.numpy import load_file

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.evaluation import TaskEvaluator
from aggregator.leases import LeaseState
from aggregator.model_store import ModelStore, ServerState
from aggregator.opening import first_state
from aggregator.part_files import PartFiles
from aggregator.publishing import model_blob
from aggregator.records import AcceptRecord, CommitRecord, LeaseRecord, OutcomeRecord, Record
from aggregator.results import RunResult
from shared.algorithms import STATEFUL
from shared.blocking import at_once
from shared.messages import Control, Kind, Outcome, Receipt, Report, Reported, Round, WorkOrder
from shared.wire import decode
from simulator.disk_image import Image
from simulator.fleet import AGGREGATOR
from simulator.lossy_disk import Machine
from simulator.schedule_states import StateBooks
from simulator.schedule_task import DrawnTask
from simulator.schedule_updates import UpdateBooks

__all__ = ["Witness"]


class Witness:
    """Watches one run.

    Args:
        task: that the devices train.
        say: takes each violation when it is found, and what is told to devices, in words.
    """

    def __init__(self, task: DrawnTask, say: Callable[[str], None] = lambda line: None) -> None:
        self.violations: list[str] = []
        self.aggregator: Machine | None = None
        """Receipts are held against its journal in the moment in which they are sent."""
        self.forgetful: set[str] = set()
        """Devices whose disk was full: what they finished meanwhile lived in their memory alone."""
        self.is_over = False
        """Whether the run has ended: from then on devices settle by themselves what they still hold."""
        self.folders: dict[str, Path] = {}
        """Of the devices, by name."""
        self.n_states = self.n_continued = 0
        """States on devices' disks, and updates with what a codec had left out before, held against the journal."""
        self._task, self._say = task, say
        self._version = 0
        self._said: dict[str, tuple[Outcome, str | None]] = {}
        self._cancelled: set[str | None] = set()
        self._offered: dict[str, tuple[str, Report]] = {}

    def note(self, violation: str) -> None:
        """Enter something that must not be; once."""
        if violation not in self.violations:
            self.violations.append(violation)
            self._say(f"VIOLATION: {violation}")

    def show(self, name: str, topic: str, payload: bytes) -> None:
        """See what a service publishes."""
        if name == AGGREGATOR:
            if topic.endswith("/receipt"):
                self._receipt(topic.split("/")[-2], decode(Receipt, payload))
            elif topic.endswith("/round"):
                self._round(decode(Round, payload))
            elif topic.endswith("/control"):
                self._cancelled.add(decode(Control, payload).lease)
        elif "/report/" in topic:
            self._report(name, decode(Report, payload, max_data_bytes=len(payload)))

    def died(self, name: str, image: Image) -> None:
        """See what is left on a disk: a report that was offered and has no final outcome must be there."""
        if name == AGGREGATOR or name in self.forgetful or self.is_over:
            return
        for lease, (device, _) in self._offered.items():
            is_open = lease not in self._said and lease not in self._cancelled
            if device == name and is_open and f"outbox/{lease}.report" not in image.files:
                self.note(f"{name} has lost report {lease}, which it had offered and nobody had decided")

    def _report(self, device: str, report: Report) -> None:
        known = self._offered.setdefault(report.lease, (device, report))
        if known[1].sha256 != report.sha256:
            self.note(f"{device} offers two different updates under lease {report.lease}")

    def _round(self, manifest: Round) -> None:
        if manifest.model.version > self._version:
            self._version = manifest.model.version
            self._say(f"version {self._version} is committed and published")

    def _receipt(self, device: str, receipt: Receipt) -> None:
        if not receipt.outcome.is_final:
            return
        lease, said = receipt.lease, (receipt.outcome, None if receipt.reason is None else str(receipt.reason))
        if lease not in self._said:
            why = "" if said[1] is None else f" ({said[1]})"
            self._say(f"{device} is told that lease {lease[:8]} is {said[0]}{why}")
        before = self._said.setdefault(lease, said)
        if before != said:
            self.note(f"lease {lease} was {before[0]} ({before[1]}), and is {said[0]} ({said[1]}) now")
        assert self.aggregator is not None
        kinds = self.aggregator.connections[-1].execute(
            "SELECT kind FROM journal WHERE lease = ? AND kind IN ('accept', 'outcome')", (lease,)
        )
        if not kinds.fetchall():
            self.note(f"the receipt of {lease} ({said[0]}) went out before its row was durable")

    async def judge(self, settings: Settings, result: RunResult, records: Sequence[Record], folder: Path) -> None:
        """Hold the end of a run against its journal.

        Args:
            settings: of the run.
            result: what the aggregator returned.
            records: the journal's rows.
            folder: for what the replay writes.
        """
        leased = [record for record in records if isinstance(record, LeaseRecord)]
        accepted = [record for record in records if isinstance(record, AcceptRecord)]
        final = {record.lease: record.outcome for record in records if isinstance(record, OutcomeRecord)}
        if result.version != settings.stop.rounds:
            self.note(f"the run ended at version {result.version}, not {settings.stop.rounds}")
        if len({record.lease for record in accepted}) < len(accepted):
            self.note("a lease was accepted twice")
        if len({(record.device, record.base_version) for record in accepted}) < len(accepted):
            self.note("a device counts twice for one version")
        self._judge_outcomes(accepted, final, leased, result)
        for record in accepted:
            self._judge_update(record)
        await self._replay(settings, result, records, folder)

    def _judge_outcomes(
        self,
        accepted: Sequence[AcceptRecord],
        final: dict[str, Outcome],
        leased: Sequence[LeaseRecord],
        result: RunResult,
    ) -> None:
        outcomes = final | {record.lease: Outcome.ACCEPTED for record in accepted}
        if len(outcomes) < len(final) + len(accepted):
            self.note("a lease has an outcome and was accepted as well")
        for lease, (outcome, _) in self._said.items():
            if outcomes.get(lease) is not outcome:
                self.note(f"lease {lease} was said to be {outcome}, the journal says {outcomes.get(lease)}")
        undecided = [record.lease for record in leased if record.lease not in outcomes]
        if undecided:
            self.note(f"leases without an end: {undecided}")
        for lease, (device, report) in self._offered.items():
            if lease not in outcomes and report.outcome is not Reported.FAILED:
                self.note(f"the work of {device} under {lease} has come to nothing")
        trained = {record.lease for record in leased if record.kind is Kind.TRAIN}
        counts = {str(state): 0 for state in LeaseState}
        for lease in trained:
            if lease in outcomes:
                counts[str(outcomes[lease])] += 1
        if counts != {**counts, **result.counts} or sum(result.counts.values()) != len(trained):
            self.note(f"the journal counts {counts} of {len(trained)} leases, the aggregator {result.counts}")

    def _judge_update(self, record: AcceptRecord) -> None:
        device, report = self._offered.get(record.lease, ("nobody", None))
        if device != record.device or report is None or report.sha256 != record.sha256:
            self.note(f"lease {record.lease} counts with {record.sha256}, which {record.device} never offered")
        if record.data is not None and hashlib.sha256(record.data).hexdigest() != record.sha256:
            self.note(f"row {record.seq} holds other bytes than it says")

    async def _replay(self, settings: Settings, result: RunResult, records: Sequence[Record], folder: Path) -> None:
        """Make every version anew from the rows, without a crash, and compare the bits."""
        state = await first_state(settings, TaskEvaluator(self._task, at_once))
        store, files = ModelStore(folder / "versions"), PartFiles(folder / "updates")
        aggregation = Aggregation(settings, state, files, store, at_once)
        updates = UpdateBooks(settings, records, self.forgetful, self.note)
        books = StateBooks(settings, records, self._task, updates, self.note)
        is_stateful = settings.training.algorithm in STATEFUL
        leased = [record for record in records if isinstance(record, LeaseRecord) and record.work]
        seeds = {record.lease: WorkOrder.model_validate_json(record.work).seed for record in leased}
        waiting: dict[int, list[AcceptRecord]] = {}
        for record in records:
            if isinstance(record, AcceptRecord):
                if is_stateful:
                    sent = books.update_of(record, aggregation.state)
                else:
                    trained = self._task.trained[record.device, seeds[record.lease]]
                    sent = updates.sent(record, [each.delta for each in trained])
                if hashlib.sha256(sent).hexdigest() == record.sha256:
                    waiting.setdefault(record.into, []).append(replace(record, data=sent))
            if isinstance(record, CommitRecord):
                rows = waiting.pop(record.version, [])
                if not rows:
                    self.note(f"version {record.version} was made of nothing")
                    return
                for row in rows:
                    await aggregation.fold(row)
                made = await aggregation.make(record.version, record.round_id, rows)
                aggregation.state = made
                blob = model_blob(made.parameters, made.spec, made.version, settings.transfer.chunk_bytes)
                if blob.ref.digest != record.digest:
                    self.note(f"version {record.version} is not what its {len(rows)} updates yield")
                if is_stateful:
                    books.judge_version(made)
        self._judge_kept(aggregation.state, result)
        if is_stateful:
            self.n_states = books.judge_disks(self.folders)
        self.n_continued = updates.n_continued
        final = load_file(result.model)
        if final["weights"].tobytes() != aggregation.state.model[0].tobytes():
            self.note("the final model is not what the journal yields")

    def _judge_kept(self, made: ServerState, result: RunResult) -> None:
        """Hold what the server has kept beside the model against what was made anew."""
        kept = ModelStore(result.folder / "versions").load(made.version).optimizer
        for name, array in made.optimizer.items():
            if name not in kept or kept[name].tobytes() != array.tobytes():
                self.note(f"{name} of version {made.version} is not what the journal yields")
