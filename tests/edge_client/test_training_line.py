from dataclasses import dataclass

import pytest

from edge_client.training_line import TrainingLine


@dataclass(slots=True, eq=False)
class Training:
    """One that says how far it is."""

    fraction: float = 0.0


def test_waiting_shows_how_much_of_the_line_is_over() -> None:
    """It rises with those before it, goes over into the training itself without a step, and ends at 1."""
    line = TrainingLine()
    first, second, third = Training(), Training(), Training()
    seen = []
    with line.place(first), line.place(second):
        with line.place(third):
            first.fraction = 0.5
            seen.append(line.fraction(third))
            first.fraction = 1.0
            seen.append(line.fraction(third))
        assert line.fraction(first) == 1.0
    with line.place(first), line.place(second):
        assert line.fraction(second) == 0.5
    assert seen == pytest.approx([1 / 6, 1 / 3])


def test_training_alone_is_as_far_as_it_says() -> None:
    """Nobody before it: nothing is added."""
    line, only = TrainingLine(), Training(fraction=0.25)
    assert line.fraction(only) == 0.25
    with line.place(only):
        assert line.fraction(only) == 0.25


def test_line_moves_up_when_one_leaves_it() -> None:
    """What was cancelled before its turn counts as over, and nobody falls back."""
    line = TrainingLine()
    first, second, third = Training(fraction=0.2), Training(), Training()
    with line.place(first):
        with line.place(second):
            place = line.place(third)
            place.__enter__()
            before = line.fraction(third)
        assert line.fraction(third) == pytest.approx(before + 1 / 3)
    third.fraction = 1.0
    assert line.fraction(third) == 1.0
    place.__exit__(None, None, None)
