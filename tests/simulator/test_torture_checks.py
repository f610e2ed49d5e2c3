"""The judge of the torture can say no: each promise is broken by hand once, and it finds exactly that."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from simulator.torture_checks import judge, read_rows
from simulator.torture_notes import What
from simulator.torture_task import sha256_of
from tests.simulator.torture_story import N_PARAMS, NUMBERS, Story, a_story, an_accept, lease


def _violations(story: Story) -> list[str]:
    return judge(story.rows, story.notes, story.held).violations


def _lost_row(story: Story) -> None:
    story.drop(5)


def _missing_row(story: Story) -> None:
    del story.rows[4]


def _counted_twice(story: Story) -> None:
    story.add("accept", lease(1), **an_accept(NUMBERS[0], 1, into=2))


def _counted_under_two_leases(story: Story) -> None:
    story.add("lease", lease(9), device="d1", base_version=1)
    story.add("accept", lease(9), **an_accept(NUMBERS[0], 1, into=2))


def _two_of_one_device(story: Story) -> None:
    story.rows.insert(7, replace(story.rows[6], lease=lease(9), body={**an_accept(1009, 3), "device": "d1"}))
    story.rows.insert(0, replace(story.rows[0], lease=lease(9)))
    story.drop(0)


def _without_lease(story: Story) -> None:
    story.add("accept", lease(9), **an_accept(1009, 9, into=2))


def _of_another_device(story: Story) -> None:
    story.change(5, device="d7")


def _closed_before(story: Story) -> None:
    story.add("lease", lease(9), device="d4", base_version=0)
    story.add("accept", lease(4), **an_accept(NUMBERS[3], 4))


def _other_bytes(story: Story) -> None:
    story.rows[4] = replace(story.rows[4], data=b"\0" * 64)


def _other_sha256(story: Story) -> None:
    story.change(6, sha256="0" * 64)


def _two_outcomes(story: Story) -> None:
    story.add("outcome", lease(1), outcome="discarded", reason="goal_met")


def _told_before_durable(story: Story) -> None:
    story.note(What.FINAL, "d4", lease=lease(4), outcome="accepted")


def _told_something_else(story: Story) -> None:
    story.note(What.FINAL, "d1", lease=lease(1), outcome="cancelled")


def _vanished(story: Story) -> None:
    story.held.clear()


def _forgotten_before_told(story: Story) -> None:
    story.notes = [note for note in story.notes if (note.what, note.device) != (What.FINAL, "d2")]


def _refused(story: Story) -> None:
    story.add("outcome", lease(4), outcome="rejected", reason="digest")


def _two_updates_under_one_lease(story: Story) -> None:
    story.note(What.OFFERED, "d4", lease=lease(4), sha256="1" * 64)


def _foreign_lease(story: Story) -> None:
    story.held = [replace(story.held[0], device="d5")]


def _trained_and_forgotten(story: Story) -> None:
    story.note(What.ASSIGNED, "d1", lease=lease(8), round_id=2)
    story.note(What.TRAINED, "d1", round_id=2, number=7, sha256=sha256_of(7, N_PARAMS))
    story.note(What.OFFERED, "d1", lease=lease(1), sha256=sha256_of(NUMBERS[0], N_PARAMS))
    story.note(What.TRAINED, "d1", round_id=3, number=8, sha256=sha256_of(8, N_PARAMS))


def _accepted_out_of_nothing(story: Story) -> None:
    story.notes = [note for note in story.notes if note.device != "d2"]


def test_story_in_which_every_promise_is_kept_passes() -> None:
    """Three updates counted, one still in its outbox, nothing to complain of."""
    story = a_story()
    verdict = judge(story.rows, story.notes, story.held)
    assert verdict.violations == []
    assert (verdict.updates, verdict.accepted, verdict.receipts) == (4, 3, 3)
    assert verdict.outcomes == {"accepted": 3, "still in an outbox": 1}


@pytest.mark.parametrize(
    ("doctor", "complaint"),
    [
        (_lost_row, "d1 was told ['accepted'] of lease"),
        (_missing_row, "row 5 of the journal is missing"),
        (_counted_twice, "has 2 final outcomes"),
        (_counted_under_two_leases, "count the same update"),
        (_two_of_one_device, "both count d1 for base version 0"),
        (_without_lease, "was never issued before it"),
        (_of_another_device, "is not of the device and base version"),
        (_closed_before, "counts for version 1, which was closed before it"),
        (_other_bytes, "row 5 holds other bytes than its sha256 says"),
        (_other_sha256, "with other bytes than d2 offered"),
        (_two_outcomes, "has 2 final outcomes"),
        (_told_before_durable, "was told ['accepted'] of lease"),
        (_told_something_else, "was told ['accepted', 'cancelled']"),
        (_vanished, "LOST: no outcome, and in no outbox"),
        (_forgotten_before_told, "LOST: accepted in the journal, but its device forgot it"),
        (_refused, "is rejected: digest"),
        (_two_updates_under_one_lease, "d4 offered two updates under lease"),
        (_foreign_lease, "which the journal does not know as its own"),
        (_trained_and_forgotten, "lived on, and neither offered nor kept it"),
        (_accepted_out_of_nothing, "for which no device ever had an update"),
    ],
)
def test_broken_promise_is_found(doctor: Callable[[Story], None], complaint: str) -> None:
    """Whatever is lost, counted twice or told wrongly has a sentence of its own."""
    story = a_story()
    doctor(story)
    assert any(complaint in violation for violation in _violations(story)), _violations(story)


def test_update_that_was_killed_before_it_was_stored_is_nobodys_loss() -> None:
    """A device that dies between training and the outbox has finished nothing."""
    story = a_story()
    story.note(What.TRAINED, "d1", round_id=2, number=7, sha256=sha256_of(7, N_PARAMS))
    story.note(What.BORN, "d1")
    assert _violations(story) == []


def test_update_whose_lease_was_cancelled_while_it_was_trained_is_no_loss() -> None:
    """Nobody wanted it any more."""
    story = a_story()
    story.add("lease", lease(9), device="d1", base_version=1)
    story.add("outcome", lease(9), outcome="cancelled", reason="committed")
    story.note(What.ASSIGNED, "d1", lease=lease(9), round_id=2)
    story.note(What.TRAINED, "d1", round_id=2, number=7, sha256=sha256_of(7, N_PARAMS))
    story.note(What.FINAL, "d1", lease=lease(9), outcome="cancelled", reason="committed")
    assert _violations(story) == []


def test_update_that_was_still_being_trained_when_newer_work_came_is_no_loss() -> None:
    """The device dropped it for that work, whether or not it heard what became of the lease."""
    story = a_story()
    story.note(What.ASSIGNED, "d1", lease=lease(8), round_id=2)
    story.note(What.ASSIGNED, "d1", lease=lease(9), round_id=3)
    story.note(What.TRAINED, "d1", round_id=2, number=7, sha256=sha256_of(7, N_PARAMS))
    story.note(What.TRAINED, "d1", round_id=3, number=8, sha256=sha256_of(8, N_PARAMS))
    assert _violations(story) == []


def test_device_may_forget_what_a_finished_run_never_told_it() -> None:
    """After the end of its run a device gives an update up by itself."""
    story = a_story()
    _forgotten_before_told(story)
    story.add("finish", None, cause="rounds")
    assert _violations(story) == []


def test_rows_are_read_from_the_journal_as_they_are(tmp_path: Path) -> None:
    """The query is the checker's own; it reads what anybody with sqlite3 reads."""
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE journal (seq, kind, lease, body, data, checksum)")
        connection.execute("""INSERT INTO journal VALUES (1, 'accept', 'x', '{"into": 3}', x'00ff', x'')""")
    (row,) = read_rows(tmp_path / "journal.sqlite")
    assert (row.seq, row.kind, row.lease, row.body, row.data) == (1, "accept", "x", {"into": 3}, b"\x00\xff")
