from edge_client.fetch_window import ASKS_UNTIL_MISSING, MAX_WINDOW, FetchWindow


def test_window_grows_to_sixteen() -> None:
    """One topic first, then twice as many with each arrival, never more than sixteen out."""
    window = FetchWindow(range(200), 120.0)
    out = window.ask(0.0)
    assert out == [0]
    largest = 1
    while not window.is_complete:
        window.arrived(out.pop(0), 1.0)
        out += window.ask(1.0)
        largest = max(largest, len(out))
    assert largest == MAX_WINDOW == 16


def test_grown_window_asks_in_batches() -> None:
    """A SUBSCRIBE for every single chunk would cost more than the chunk."""
    window = FetchWindow(range(1000), 120.0)
    out, batches = window.ask(0.0), 1
    while not window.is_complete:
        window.arrived(out.pop(0), 1.0)
        new = window.ask(1.0)
        out += new
        batches += bool(new)
    assert batches <= 1000 / 8 + 10


def test_nothing_missing_is_complete_at_once() -> None:
    """A model that is whole asks for nothing."""
    window = FetchWindow([], 120.0)
    assert window.is_complete
    assert window.ask(0.0) == []
    assert window.deadline is None


def test_piece_that_was_not_asked_for_does_not_count() -> None:
    """A duplicate, or somebody else's subscription."""
    window = FetchWindow([0, 1], 120.0)
    window.ask(0.0)
    assert not window.arrived(1, 1.0)
    assert window.arrived(0, 1.0)
    assert not window.arrived(0, 1.0)


def test_patience_restarts_with_any_arrival() -> None:
    """120 s from the last chunk, whichever it was."""
    window = FetchWindow([0, 1, 2], 120.0)
    window.ask(0.0)
    assert window.deadline == 120.0
    window.arrived(0, 10.0)
    window.ask(10.0)
    assert window.deadline == 130.0


def test_patience_grows_with_the_slowest_chunk() -> None:
    """Four times the slowest so far, when that is more."""
    window = FetchWindow([0, 1], 120.0)
    window.ask(0.0)
    window.arrived(0, 100.0)
    window.ask(100.0)
    assert window.deadline == 500.0


def test_silence_asks_again_with_doubled_patience_and_ends_in_missing() -> None:
    """120 s, 240 s; the third time somebody has to be told; an arrival forgets it."""
    window = FetchWindow([0, 1], 120.0)
    window.ask(0.0)
    window.arrived(0, 1.0)
    window.ask(1.0)
    deadlines = []
    for _ in range(ASKS_UNTIL_MISSING - 1):
        assert not window.is_missing
        deadline = window.deadline
        assert deadline is not None
        deadlines.append(deadline)
        assert window.ask_again(deadline) == [1]
    assert deadlines == [121.0, 361.0]
    assert window.is_missing
    window.arrived(1, 400.0)
    assert not window.is_missing
