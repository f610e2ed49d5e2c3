"""What is known of a device: from the journal's rows alone."""

from dataclasses import replace

import pytest

from aggregator.track_records import CLASS_PRIOR, DEVICE_PRIOR, TrackRecords
from shared.messages import Kind, Outcome
from tests.aggregator.builders import a_lease, an_accept


def some_records(
    *, n_lost: int = 0, n_counted: int = 0, device: str = "d1", device_class: str = "pi-4"
) -> TrackRecords:
    """Return the records of one device with so many leases lost, then so many counted."""
    records = TrackRecords()
    for _ in range(n_lost):
        records.asked(replace(a_lease(device=device), device_class=device_class))
        records.settled(device, Outcome.CANCELLED)
    for _ in range(n_counted):
        records.asked(replace(a_lease(device=device), device_class=device_class))
        records.counted(replace(an_accept(), device=device, num_examples=7, loss=0.5, seconds=3.0, round_id=2))
    return records


def test_candidate_is_what_its_last_update_said() -> None:
    """Counts sum over the run; examples, loss and seconds are those of the last that counted."""
    candidate = some_records(n_lost=1, n_counted=2).candidate("d1", "pi-5")
    assert (candidate.n_asked, candidate.n_counted, candidate.asked_round, candidate.counted_round) == (3, 2, 1, 2)
    assert (candidate.num_examples, candidate.loss, candidate.seconds) == (7, 0.5, 3.0)
    assert candidate.device_class == "pi-5"  # as it says now


def test_device_that_was_never_asked_has_the_chance_of_its_class() -> None:
    """And that of a class which nobody knows is the fleet's."""
    records = some_records(n_lost=10)
    fleet = 1 / 11
    of_class = CLASS_PRIOR * fleet / (10 + CLASS_PRIOR)
    assert TrackRecords().candidate("d1", "").chance == 1.0
    assert records.candidate("new", "pi-4").chance == pytest.approx(of_class)
    assert records.candidate("new", "phone").chance == pytest.approx(fleet)
    assert records.chance("d1") == pytest.approx(DEVICE_PRIOR * of_class / (10 + DEVICE_PRIOR))
    assert records.candidate("new", "pi-4").counted_round is None


def test_chance_approaches_the_share_that_counted() -> None:
    """One in four of a hundred; always above 0."""
    assert some_records(n_lost=75, n_counted=25).chance("d1") == pytest.approx(0.25, abs=0.02)
    assert 0 < some_records(n_lost=1000).chance("d1") < 0.001


def test_rejected_update_and_evaluation_say_nothing() -> None:
    """Nor does the end of a lease of a device that nobody knows."""
    records = some_records(n_counted=4)
    before = records.chance("d1")
    records.settled("d1", Outcome.REJECTED)
    records.settled("stranger", Outcome.FAILED)
    records.asked(a_lease(kind=Kind.EVALUATE))
    assert records.chance("d1") == before == 1.0
    assert records.n_asked == 4


def test_utilities_are_summed_by_round() -> None:
    """Examples x loss; who names no loss adds nothing, and no loss is below zero."""
    records = TrackRecords()
    for round_id, n, loss in ((1, 10, 2.0), (1, 10, 1.0), (2, 5, None), (3, 5, -1.0)):
        records.counted(replace(an_accept(), round_id=round_id, num_examples=n, loss=loss))
    assert records.utilities == (30.0, 0.0, 0.0)
    assert len(records) == 1


def an_upload(records: TrackRecords, *, size: int, seconds: float, others_s: float = 0.0) -> float | None:
    """Count an update of so many bytes that took so long, of which the device spent a part on other things."""
    update = replace(an_accept(), device="d1", size=size, seconds=seconds)
    quarter = others_s / 4
    records.counted(replace(update, fetch_seconds=2 * quarter, train_seconds=quarter, offline_seconds=quarter))
    return records.uplink("d1")


def test_uplink_is_what_came_up_in_the_time_that_was_left() -> None:
    """100 kB in 11 s, one of which is words; how long the device fetched, trained and was away does not matter."""
    assert TrackRecords().uplink("d1") is None
    assert an_upload(TrackRecords(), size=100_000, seconds=11.0) == pytest.approx(10_000)
    assert an_upload(TrackRecords(), size=100_000, seconds=71.0, others_s=60.0) == pytest.approx(10_000)
    assert an_upload(TrackRecords(), size=3_200, seconds=0.8) == pytest.approx(8_000)  # half of it, at most


def test_uplink_is_the_best_of_the_last_three() -> None:
    """What keeps an update from coming is not always the link; an hour of a good one is forgotten in time."""
    records = TrackRecords()
    for _ in range(3):
        an_upload(records, size=100_000, seconds=101.0)
    assert an_upload(records, size=100_000, seconds=11.0) == pytest.approx(10_000)
    assert an_upload(records, size=100_000, seconds=3601.0) == pytest.approx(10_000)
    assert an_upload(records, size=100_000, seconds=101.0) == pytest.approx(10_000)
    assert an_upload(records, size=100_000, seconds=101.0) == pytest.approx(1_000)


def test_words_that_do_not_fit_the_clock_say_nothing_of_a_link() -> None:
    """A device that was at work while nobody served the run, or that lies."""
    assert an_upload(TrackRecords(), size=100_000, seconds=10.0, others_s=10.0) is None


def test_update_that_came_too_late_on_its_way_up_halves_the_rate() -> None:
    """Of a device with no measure it says that the link is too thin; the next update that counts says how thin."""
    records = some_records()
    records.asked(a_lease(device="d1"))
    records.settled("d1", Outcome.CANCELLED)
    assert records.uplink("d1") is None
    records.settled("d1", Outcome.CANCELLED, was_uploading=True)
    assert records.uplink("d1") == 0.0
    assert an_upload(records, size=10_000, seconds=11.0) == pytest.approx(1_000)
    records.settled("d1", Outcome.DISCARDED, was_uploading=True)
    assert records.uplink("d1") == pytest.approx(500)


def test_codec_of_the_last_lease_is_remembered() -> None:
    """Of training work alone."""
    records = TrackRecords()
    assert records.codec_of("d1") == ""
    records.asked(replace(a_lease(device="d1"), codec="one-bit"))
    records.asked(replace(a_lease(device="d1", kind=Kind.EVALUATE), codec="int8"))
    assert records.codec_of("d1") == "one-bit"


def test_weight_is_relative_to_the_mean_of_all_by_the_last_update_of_each() -> None:
    """Weights 1 and 5 have the mean 3; whoever has sent nothing yet counts as the mean."""
    records = TrackRecords()
    assert records.relative_weight("a") == 1.0
    for device, weight in [("a", 7.0), ("b", 5.0), ("a", 1.0)]:
        records.asked(a_lease(device=device))
        records.counted(replace(an_accept(), device=device, weight=weight))
    assert [records.relative_weight(device) for device in "abc"] == pytest.approx([1 / 3, 5 / 3, 1.0])
