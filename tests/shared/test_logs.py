import io
import json
from collections.abc import Iterator

import pytest
import structlog

from shared.logs import set_up_logs


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Other tests log as if nothing had been set up."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_is_an_event_with_its_fields_as_json() -> None:
    """One object a line, with level and time in UTC."""
    out = io.StringIO()
    set_up_logs("info", stream=out)
    structlog.contextvars.bind_contextvars(run="digits")
    structlog.get_logger().info("round_committed", round=17, accepted=18)
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "round_committed", "level": "info", "round": 17, "accepted": 18, "run": "digits"}


def test_lines_below_the_level_are_not_written() -> None:
    """At `warning` neither debug nor info."""
    out = io.StringIO()
    set_up_logs("warning", stream=out)
    log = structlog.get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["c"]


@pytest.mark.parametrize("as_json", [True, False])
def test_an_exception_is_written_with_its_trace(as_json: bool) -> None:
    """On a terminal and as JSON, each on as few lines as the form allows."""
    out = io.StringIO()
    set_up_logs("info", stream=out, as_json=as_json)
    try:
        raise ValueError("the cause")
    except ValueError:
        structlog.get_logger().exception("training_failed", lease="ab")
    assert "ValueError: the cause" in out.getvalue()
    assert "training_failed" in out.getvalue()
    if as_json:
        assert len(out.getvalue().splitlines()) == 1


def test_a_terminal_gets_words_not_json() -> None:
    """What a stream is decides, unless told."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    set_up_logs("info", stream=out)
    structlog.get_logger().info("round_committed", round=17)
    assert "round_committed" in out.getvalue()
    assert not out.getvalue().startswith("{")
