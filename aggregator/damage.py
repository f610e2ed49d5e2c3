"""What is damaged in a run's folder, what can be done about it, and what that gives up.

Looks at the journal and its head file, at the version files, and at the files of accepted updates. Nothing here
changes a byte of them. What costs nothing is simply proposed; what gives something up is named, with the option that
allows it.

Not here: doing it (`repair.py`), what of the journal can be proved (`salvage.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from aggregator.gaps import Bridge, bridge_over
from aggregator.journal_head import Head
from aggregator.journal_rows import Row, record_of
from aggregator.journal_scan import Fault
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord, CommitRecord, LeaseRecord, OutcomeRecord, Record
from aggregator.remaking import from_export, from_updates, is_gone
from aggregator.run_folder import RunFolder, anew_hint
from aggregator.salvage import Salvage
from aggregator.standing import Standing
from shared.errors import ConfigError, InvalidState

__all__ = ["DISCARD_AFTER", "FROM_NEWEST", "VOID", "Examination", "Finding", "Plan"]

DISCARD_AFTER, FROM_NEWEST, VOID = "--discard-after", "--from-newest", "--void"
"""The options of `repair` that give something up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is damaged.

    Args:
        where: the file.
        what: is wrong with it.
        cure: what is done about it.
        needs: the option without which nothing is done, for something is given up; "" when nothing is.
    """

    where: str
    what: str
    cure: str
    needs: str = ""


@dataclass(slots=True, kw_only=True)
class Plan:
    """Everything that is damaged, and everything that would be done.

    Args:
        findings: what is damaged; none: the run is whole.
        gives_up: what is lost by it, a line each.
        brings_back: accepted updates whose row is given up and whose file is whole: they are admitted again.
        end: of the rows that stay.
        is_rewritten: whether the journal is written anew.
        limit: the row after which everything has to be given up; None: nothing has to.
        voided: accepted updates that no longer count.
        leased: leases to be entered again: their update is whole, their row is lost.
        set_aside: files that go to the backup.
        remade: versions that were made again, to the bit, and have to be written.
        bridge: over the rows that are lost before the newest version; None: every row that stays is proved.
    """

    findings: list[Finding] = field(default_factory=list)
    gives_up: list[str] = field(default_factory=list)
    brings_back: list[str] = field(default_factory=list)
    end: Head = field(default_factory=Head)
    is_rewritten: bool = False
    limit: int | None = None
    voided: list[AcceptRecord] = field(default_factory=list)
    leased: list[LeaseRecord] = field(default_factory=list)
    set_aside: list[Path] = field(default_factory=list)
    remade: list[ServerState] = field(default_factory=list)
    bridge: Bridge | None = None

    @property
    def needs(self) -> list[str]:
        """The options that are missing."""
        return list(dict.fromkeys(each.needs for each in self.findings if each.needs))


class Examination:
    """Looks at one run.

    Args:
        run: locked.
        salvage: of its journal.
        head: what the head file says, None when it says nothing.
        fault: what the aggregator refuses the journal for, None when it does not.
    """

    def __init__(self, run: RunFolder, salvage: Salvage, head: Head | None, fault: Fault | None) -> None:
        self._run, self._salvage, self._head, self._fault = run, salvage, head, fault
        self._store, self._part_files = ModelStore(run.versions), PartFiles(run.updates)

    def plan(self, *, discard_after: int | None, void: bool, from_newest: bool) -> Plan:
        """Return what is damaged and what would be done.

        Args:
            discard_after: the row after which the operator gives everything up; None: nothing.
            void: whether the operator gives up accepted updates whose file is damaged.
            from_newest: whether the operator gives up rows that are lost before the newest version.

        Raises:
            ConfigError: there is nothing to go on from, or an option is not what has to be given up.
        """
        if not self._salvage.end.seq and self._fault is None and self._store.versions() in ([], [0]):
            return Plan()  # nothing has happened yet
        bridged = self._bridged(void=void, is_allowed=from_newest) if discard_after is None or from_newest else None
        if from_newest and bridged is None:
            what = "no row is lost before a newest version that is whole: leave the option out"
            raise ConfigError(what, where=FROM_NEWEST)
        if bridged is not None:
            return bridged
        if not self._salvage.end.seq:
            raise self._dead_end("")
        plan = self._planned(self._salvage.end.seq, is_cut=False, void=void)
        if discard_after is None:
            return plan
        if plan.limit is None:
            raise ConfigError("nothing has to be discarded: leave the option out", where=_discard(discard_after))
        if not 0 < discard_after <= plan.limit:
            raise ConfigError(f"must be from 1 to {plan.limit}", where=_discard(discard_after))
        cut = self._planned(discard_after, is_cut=True, void=void)
        said = {each.where for each in cut.findings}
        allowed = [each for each in plan.findings if each.needs.startswith(DISCARD_AFTER) and each.where not in said]
        cut.findings[:0] = [replace(each, needs="") for each in allowed]
        return cut

    def _bridged(self, *, void: bool, is_allowed: bool) -> Plan | None:
        """Return how the run goes on from its newest version, None when what is lost is not all before it."""
        bridge = bridge_over(self._salvage) if self._head is not None else None
        if bridge is None:
            return None
        plan = Plan(is_rewritten=True, bridge=bridge)
        try:
            standing = Standing.of(partial(bridge.rows, self._salvage), self._run.journal)
            self._look_at_versions(plan, standing)
        except ConfigError:
            return None
        if plan.limit is not None:  # the newest is damaged, too
            return None
        plan.end = standing.end
        rows = f"row{'s' if len(bridge.lost) > 1 else ''} {_some(bridge.lost)}"
        what = f"{rows}: not what was written, or missing; all others can be read"
        cure = f"the run goes on from version {bridge.version}, the newest, and keeps every row that can be read"
        needs = "" if is_allowed else FROM_NEWEST
        plan.findings.insert(0, Finding(where=str(self._run.journal), what=what, cure=cure, needs=needs))
        plan.gives_up.append(
            f"what {rows} said, as far as no other row says it; an update accepted there counts in the versions "
            f"up to {bridge.version}, and not in the next"
        )
        if bridge.cancelled:
            devices = ", ".join(sorted({each.device for each in bridge.cancelled}))
            plan.gives_up.append(
                f"leases that were out then, and of which no outcome is known: {len(bridge.cancelled)}, of {devices}; "
                "they are cancelled, for what they brought may have counted"
            )
        if bridge.dropped:
            plan.gives_up.append(f"outcomes of leases whose own row is lost: rows {_some(sorted(bridge.dropped))}")
        self._look_at_updates(plan, standing, void=void)
        return plan

    def _dead_end(self, version_fault: str) -> ConfigError:
        """Return why the run cannot go on, with the first row or file that is to blame, and what is left to do."""
        versions = [each for each in self._store.versions() if not isinstance(self._loaded(each), str)]
        hint, end, last = anew_hint(self._run.path, versions), self._salvage.end.seq, self._salvage.last_seq
        if version_fault and end >= last:
            what = f"{version_fault}, and no version before it is left"
            return ConfigError(what, where=str(self._run.versions), hint=hint)
        n_rows = sum(row is not None for _, row in self._salvage.around_gaps())
        if not n_rows:
            return ConfigError("no row of the journal can be read", where=str(self._run.journal), hint=hint)
        fault = self._fault
        what = fault.what if fault is not None and fault.seq == end + 1 else f"row {end + 1} is lost"
        why = "those before it lead to no version that is left" if end else "not the settings that it began with"
        what += f"; {n_rows} of {last} rows can be read, but {why}"
        return ConfigError(what, where=str(self._run.journal), hint=hint)

    def _planned(self, last_seq: int, *, is_cut: bool, void: bool) -> Plan:
        plan = Plan(is_rewritten=self._fault is not None or is_cut)
        standing = self._standing(last_seq)
        plan.end = standing.end
        self._look_at_journal(plan, is_cut=is_cut)
        self._look_at_versions(plan, standing)
        kept = last_seq if plan.limit is None else min(last_seq, plan.limit)
        if kept != last_seq:
            standing = self._standing(kept)
        self._look_at_updates(plan, standing, void=void)
        if kept < self._salvage.last_seq and (is_cut or plan.limit is not None or self._fault is not None):
            back, lost = self._accepted_beyond(standing)
            plan.leased = [lease for lease, _ in back if standing.machine.leases.get(lease.lease) is None]
            plan.brings_back = [f"{_named(accept)}, from its file" for _, accept in back]
            if is_cut or plan.limit is not None:  # else nobody has been told of what goes
                self._say_what_goes(plan, standing, {lease.lease for lease, _ in back}, lost)
        if is_cut:
            ahead = [each for each in self._store.versions() if each > standing.machine.version]
            plan.set_aside += [self._store.path(version) for version in ahead]
        return plan

    def _standing(self, last_seq: int) -> Standing:
        return Standing.of(partial(self._salvage.rows_to, last_seq), self._run.journal)

    def _look_at_journal(self, plan: Plan, *, is_cut: bool) -> None:
        fault, end, journal = self._fault, self._salvage.end, str(self._run.journal)
        if self._salvage.mended:
            rows = ", ".join(map(str, self._salvage.mended))
            cure = "each is proved by the rows around it, or by the copy behind its update, and is written again"
            plan.findings.append(Finding(where=journal, what=f"damaged or missing rows: {rows}", cure=cure))
        if self._head is None:
            what = "is missing or unreadable: whether rows after the last were lost, nobody knows"
            if not is_cut:
                plan.limit = end.seq
            needs = "" if is_cut else _discard(end.seq)
            cure = f"is written anew for the {plan.end.seq} rows that are there"
            plan.findings.append(Finding(where=str(self._run.head), what=what, cure=cure, needs=needs))
        elif end.seq < self._head.seq:
            if not is_cut:
                plan.limit = end.seq
            what = f"row {end.seq + 1} of {self._head.seq} is lost"
            if fault is not None and fault.seq == end.seq + 1:
                what = f"{fault.what}, and nothing brings back what was written"
            needs = "" if is_cut else _discard(end.seq)
            cure = f"ends with row {plan.end.seq} from now on"
            plan.findings.append(Finding(where=journal, what=what, cure=cure, needs=needs))
        elif fault is not None and not self._salvage.mended:
            cure = f"is written anew with its {plan.end.seq} rows"
            if self._salvage.last_seq > end.seq:
                cure += "; of what came later nobody has been told"
            plan.findings.append(Finding(where=journal, what=fault.what, cure=cure))

    def _look_at_versions(self, plan: Plan, standing: Standing) -> None:
        now, faults = standing.machine.version, {}
        for version in {*self._store.versions(), now}:
            if version <= now and isinstance(found := self._loaded(version), str):
                faults[version] = found
        for version, fault in sorted(faults.items()):
            file = self._store.path(version)
            if file.exists():
                plan.set_aside.append(file)
            if version < now:
                cure = "is set aside: no round builds on it any more"
                plan.findings.append(Finding(where=str(file), what=fault, cure=cure))
        if now not in faults:
            return
        path = str(self._store.path(now))
        whole = max((each for each in self._store.versions() if each < now and each not in faults), default=None)
        if whole is None:
            raise self._dead_end(f"version {now}: {faults[now]}")
        plan.remade = from_updates(whole, standing, self._store, self._part_files)
        cure = f"is made again from version {whole} and its accepted updates: the same bits as before"
        for copy in (self._run.best, self._run.final):
            if not plan.remade and (state := from_export(copy, whole, standing, self._store)) is not None:
                plan.remade = [state]
                cure = f"is made again from {copy.name}, which is the very same model"
        if plan.remade:
            plan.findings.append(Finding(where=path, what=faults[now], cure=cure))
            return
        limit = standing.closes[whole + 1] - 1
        plan.limit = limit if plan.limit is None else min(plan.limit, limit)
        back = f"the run goes back to version {whole}, to the round that made the next"
        cure = f"{back}: what was accepted for it no longer counts"
        plan.findings.append(Finding(where=path, what=faults[now], cure=cure, needs=_discard(limit)))

    def _look_at_updates(self, plan: Plan, standing: Standing, *, void: bool) -> None:
        for record in standing.machine.tally.accepted():
            if record.data is not None:
                continue
            fault = self._part_files.fault(record.lease, size=record.size, sha256=record.sha256)
            if fault is None:
                continue
            path = self._part_files.path(record.lease)
            what = f"the update of {record.device}, accepted for version {record.into}, {fault}"
            cure = "does not count; the device is asked again as any other"
            plan.findings.append(Finding(where=str(path), what=what, cure=cure, needs="" if void else VOID))
            plan.gives_up.append(f"{_named(record)}: its file {fault}")
            plan.voided.append(record)
            if path.exists():
                plan.set_aside.append(path)

    def _loaded(self, version: int) -> ServerState | str:
        """Return a version, or what is wrong with it."""
        try:
            return self._store.load(version)
        except ConfigError as error:
            return error.what

    def _accepted_beyond(self, standing: Standing) -> tuple[list[tuple[LeaseRecord, AcceptRecord]], list[AcceptRecord]]:
        """Return what was accepted, but is not by the rows that stay: what can be admitted again, and what cannot."""
        machine = standing.machine
        back: list[tuple[LeaseRecord, AcceptRecord]] = []
        lost: list[AcceptRecord] = []
        for rows in self._salvage.copied():
            records = [record for row in rows if (record := _record(row)) is not None]
            lease = next((each for each in records if isinstance(each, LeaseRecord)), None)
            accept = next((each for each in records if isinstance(each, AcceptRecord)), None)
            if lease is None or accept is None:
                continue
            known = machine.leases.get(lease.lease)
            lag = machine.version - lease.base_version
            if known is not None and known.state.is_final:
                continue
            is_timely = known is not None or 0 <= lag <= machine.settings.round.max_staleness
            if is_timely and not is_gone(self._part_files, accept):
                back.append((lease, accept))
            else:
                lost.append(accept)
        return back, lost

    def _say_what_goes(self, plan: Plan, standing: Standing, back: set[str], lost: list[AcceptRecord]) -> None:
        """Say what the rows after those that stay meant, as far as they, or their copies, can be read."""
        others, unreadable, updates = Counter[str](), [], {each.lease: _named(each) for each in lost}
        devices: dict[str, str] = {}
        for seq, row in self._salvage.unproved(standing.end.seq):
            match None if row is None else _record(row):
                case None:
                    unreadable.append(seq)
                case AcceptRecord() as record:
                    if record.lease not in back:
                        updates[record.lease] = f"{_named(record)} (row {seq})"
                case LeaseRecord(lease=lease) if lease in back:
                    pass
                case LeaseRecord(lease=lease, device=device):
                    devices[lease] = device
                    others[f"leases of {device}"] += 1
                case OutcomeRecord(lease=lease):
                    known = standing.machine.leases.get(lease)
                    device = devices.get(lease, "unknown devices") if known is None else known.record.device
                    others[f"outcomes of leases of {device}"] += 1
                case CommitRecord(version=version):
                    plan.gives_up.append(f"version {version} (row {seq})")
                case _:
                    others[f"rows of kind {row.kind if row is not None else ''}"] += 1
        plan.gives_up += sorted(updates.values())
        plan.gives_up += [f"{what}: {n}" for what, n in sorted(others.items())]
        if unreadable:
            plan.gives_up.append(f"what was said by rows that cannot be read: {_some(unreadable)}")


def _some(rows: Sequence[int]) -> str:
    """Return row numbers for people, not more than a few."""
    return ", ".join(map(str, rows[:20])) + (f" … ({len(rows)} in all)" if len(rows) > 20 else "")


def _discard(seq: int) -> str:
    return f"{DISCARD_AFTER} {seq}"


def _named(record: AcceptRecord) -> str:
    return f"the accepted update of {record.device} for version {record.into}"


def _record(row: Row) -> Record | None:
    try:
        return record_of(row)
    except InvalidState:
        return None
