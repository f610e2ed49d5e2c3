import pytest

from simulator.runs.training_time import TrainingTime


def test_training_lasts_as_many_batches_as_were_named() -> None:
    """Ten of 0.5 s begun at 100 s end at 105 s; one that names none lasts one."""
    assert TrainingTime.of(100, 0.5, 10, None).ends_s == 105
    assert TrainingTime.of(100, 0.5, None, None).ends_s == 100.5
    assert TrainingTime.of(100, 0.5, 0, None).n_batches == 1


@pytest.mark.parametrize(("most", "batches"), [(1.0, 4), (0.85, 3), (0.1, 1), (100.0, 10)])
def test_training_is_cut_at_the_batch_in_which_its_seconds_are_over(most: float, batches: int) -> None:
    """With 0.3 s a batch and 1 s in all the time is up after the fourth."""
    assert TrainingTime.of(0, 0.3, 10, most).n_batches == batches


def test_progress_moves_by_whole_batches() -> None:
    """As a task tells it: nothing before the first batch is over, and no more than all."""
    time = TrainingTime.of(10, 2, 4, None)
    assert [time.fraction(now) for now in (10, 11.9, 12, 17, 18, 30)] == [0, 0, 0.25, 0.75, 1, 1]


def test_cancelled_training_ends_with_its_batch() -> None:
    """The batch that is computed is finished, and no other begun."""
    time = TrainingTime.of(10, 2, 4, None)
    assert [time.next_batch_s(now) for now in (10, 11, 12, 12.5, 99)] == [12, 12, 12, 14, 18]


def test_dropout_comes_at_the_end_of_a_batch() -> None:
    """Never before the first: until then nobody knows how long the training is."""
    time = TrainingTime.of(10, 2, 4, None)
    assert [time.drop_s(share) for share in (0.0, 0.2, 0.5, 0.99)] == [12, 12, 14, 18]
