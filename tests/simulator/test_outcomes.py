from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError
from simulator.outcomes import outcomes_of, read_outcomes
from simulator.torture_checks import Row


def journal(*rows: tuple[str, str | None, dict[str, Any]]) -> list[Row]:
    """Rows in order, by kind, lease and body."""
    return [Row(seq=seq, kind=kind, lease=lease, body=body) for seq, (kind, lease, body) in enumerate(rows, start=1)]


def lease(name: str, device: str, *, device_class: str = "", kind: str = "train") -> tuple[str, str, dict[str, Any]]:
    """A lease row."""
    return "lease", name, {"device": device, "device_class": device_class, "kind": kind}


def outcome(name: str, how: str, *, is_lost: bool = False) -> tuple[str, str, dict[str, Any]]:
    """An outcome row."""
    return "outcome", name, {"outcome": how, "is_lost": is_lost}


def test_shares_by_class_are_of_the_leases_of_training() -> None:
    """Four leases of pi-4: two accepted, one late, one of which nothing came; an evaluation is none of them."""
    found = outcomes_of(
        journal(
            ("epoch", None, {}),
            lease("1", "porch-1", device_class="pi-4"),
            lease("2", "porch-2", device_class="pi-4"),
            lease("3", "porch-1", device_class="pi-4"),
            lease("4", "porch-2", device_class="pi-4"),
            lease("5", "porch-1", device_class="pi-4", kind="evaluate"),
            ("accept", "1", {"codec": "one-bit"}),
            ("accept", "3", {"codec": "int8"}),
            outcome("2", "discarded"),
            outcome("5", "accepted"),
            ("commit", None, {}),
            ("abandon", None, {}),
            ("finish", None, {}),
        ),
        [2.0],
    )
    assert found.by_class["pi-4"].shares() == {"accepted": 0.5, "too_late": 0.25, "rejected": 0.0, "lost": 0.25}
    assert found.by_class["pi-4"].devices == {"porch-1", "porch-2"}
    assert (found.committed, found.abandoned, found.starts, found.is_finished) == (1, 1, 1, True)
    assert found.total.leases == 4
    assert found.codecs == {"int8": 1, "one-bit": 1}


@pytest.mark.parametrize(
    ("how", "share"),
    [("discarded", "too_late"), ("cancelled", "too_late"), ("failed", "lost"), ("rejected", "rejected")],
)
def test_every_outcome_is_late_rejected_or_lost(how: str, share: str) -> None:
    """Good work that came too late is told apart from work that never came."""
    found = outcomes_of(journal(lease("1", "a-1"), outcome("1", how)), [])
    assert found.by_class["a"].shares()[share] == 1.0


def test_lease_that_nobody_had_heard_of_is_lost_however_it_ended() -> None:
    """It is cancelled when its version exists, as one that is only late; the journal tells them apart."""
    found = outcomes_of(journal(lease("1", "a-1"), outcome("1", "cancelled", is_lost=True)), [])
    assert found.total.shares() == {"accepted": 0.0, "too_late": 0.0, "rejected": 0.0, "lost": 1.0}


def test_reasons_are_counted_over_trainings_and_the_commonest_failure_is_in_words() -> None:
    """Two rejected for their norm, one for its codec; two of three that failed say the same; evaluations are none."""
    ends = [("rejected", "norm", ""), ("rejected", "codec", ""), ("rejected", "norm", "")]
    ends += [("failed", "training", "KeyError: 'x'"), ("failed", "training", "gone"), ("failed", "training", "gone")]
    rows = [lease("evaluation", "a-1", kind="evaluate"), outcome("evaluation", "failed")]
    for number, (how, reason, detail) in enumerate(ends):
        rows.append(lease(str(number), "a-1"))
        rows.append(("outcome", str(number), {"outcome": how, "reason": reason, "detail": detail}))
    found = outcomes_of(journal(*rows), [])
    assert found.reasons == {"rejected": {"codec": 1, "norm": 2}, "failed": {"training": 3}}
    assert found.failure == "gone"
    assert (found.total.rejected, found.total.lost) == (3, 3)


def test_device_without_a_class_is_counted_with_its_group() -> None:
    """porch-12 is of porch; one that is called like no group stands alone."""
    found = outcomes_of(journal(lease("1", "porch-12"), lease("2", "attic")), [])
    assert sorted(found.by_class) == ["attic", "porch"]


def test_median_is_of_committed_rounds() -> None:
    """No round, no median."""
    assert outcomes_of([], []).median_s == 0.0
    assert outcomes_of([], [1.0, 9.0, 3.0]).median_s == 3.0
    assert set(outcomes_of([], []).total.shares().values()) == {0.0}


def test_folder_that_is_no_run_s_is_refused(tmp_path: Path) -> None:
    """The error says which folder is meant."""
    with pytest.raises(ConfigError, match="runs/NAME"):
        read_outcomes(tmp_path)
