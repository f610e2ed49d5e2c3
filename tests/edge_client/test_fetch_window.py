from edge_client.fetch_window import ASKS_UNTIL_MISSING, MAX_WINDOW, SOON_S, FetchWindow


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


def test_thin_link_has_little_under_way() -> None:
    """While a piece takes as long as it takes here there is one on its way, so that nothing else waits for minutes."""
    window = FetchWindow(range(20), 120.0)
    now = 0.0
    while not window.is_complete:
        pieces = window.ask(now) or window.asked
        assert len(window.asked) <= 2
        now += SOON_S + 1.0
        window.arrived(pieces[0], now)


def test_window_recovers_with_the_link() -> None:
    """It halves with a piece that took long, and doubles again with those that come soon."""
    window = FetchWindow(range(100), 120.0)
    now, largest = 0.0, []
    for took_s in [1.0] * 8 + [SOON_S + 1.0] * 40 + [1.0] * 30:
        window.ask(now)
        now += took_s
        window.arrived(window.asked[0], now)
        largest.append(len(window.asked) + 1)
    assert max(largest[:8]) >= 8
    assert largest[47] == 1
    assert max(largest[48:]) >= 8
