from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.messages import (
    MAX_HOLDS,
    Action,
    AggregatorStatus,
    Assignment,
    CheckIn,
    Control,
    Holding,
    Outcome,
    Receipt,
    Report,
    Reported,
    WorkOrder,
    for_people,
    metric,
)
from shared.task import Ratio
from shared.wire import encode, encode_json
from tests.shared.wire_examples import DIGEST, EVERY, LEASE

AN_ASSIGNMENT = next(m for m in EVERY if isinstance(m, Assignment) and m.work)
TRAINED: dict[str, Any] = {
    "lease": LEASE,
    "run": "r",
    "outcome": Reported.TRAINED,
    "codec": "float32",
    "num_examples": 1,
    "size": 4,
    "sha256": DIGEST,
}


@pytest.mark.parametrize(
    ("changes", "is_whole"),
    [
        ({"data": b"1234"}, True),
        ({"chunk_bytes": 4096}, True),
        ({}, False),
        ({"data": b"1234", "chunk_bytes": 4096}, False),
        ({"data": b"1234", "size": None}, False),
        ({"data": b"1234", "sha256": None}, False),
        ({"data": b"1234", "codec": ""}, False),
        ({"data": b"1234", "num_examples": None}, False),
        ({"outcome": Reported.EVALUATED, "size": None, "sha256": None}, True),
        ({"outcome": Reported.EVALUATED, "size": None, "sha256": None, "num_examples": None}, False),
        ({"outcome": Reported.EVALUATED, "data": b"1234", "size": None, "sha256": None}, False),
        ({"outcome": Reported.EVALUATED}, False),
        ({"outcome": Reported.FAILED, "size": None, "sha256": None, "num_examples": None}, True),
        ({"outcome": Reported.FAILED, "chunk_bytes": 4096, "size": None, "sha256": None}, False),
    ],
)
def test_a_report_is_an_update_an_offer_or_neither(changes: dict[str, Any], is_whole: bool) -> None:
    """Trained: data or an offer, with codec, size and digest; else none of them."""
    if is_whole:
        Report(**{**TRAINED, **changes})
    else:
        with pytest.raises(ValidationError):
            Report(**{**TRAINED, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"lease": "x"},
        {"lease": LEASE.upper()},
        {"lease": LEASE + "\n"},
        {"run": ""},
        {"run": "A"},
        {"run": "a/b"},
        {"run": "a" * 64},
        {"sha256": DIGEST[1:]},
        {"chunk_bytes": 4095},
        {"chunk_bytes": 262_145},
        {"size": -1},
        {"n_steps": -1},
        {"n_steps": 1.0},
        {"train_seconds": -1.0},
        {"train_seconds": "1"},
        {"codec": "x" * 65},
        {"codec": "é" * 200},
        {"metrics": {"x" * 65: 1.0}},
        {"metrics": {f"m{i}": 1.0 for i in range(65)}},
        {"outcome": "won"},
        {"data": "1234"},
    ],
)
def test_fields_out_of_bounds_are_refused(changes: dict[str, Any]) -> None:
    """Names by their grammar, counts and sizes by their range, text by its bytes."""
    with pytest.raises(ValidationError):
        Report(**{**TRAINED, "chunk_bytes": 4096, **changes})


@given(st.text(max_size=600))
def test_a_text_for_people_is_one_short_printable_line(text: str) -> None:
    """Line ends, control characters and surrogates are gone; the start is what is kept."""
    line = for_people(text)
    assert line.isprintable()
    assert len(line.encode()) <= 256
    assert for_people(line) == line
    if text.isprintable() and len(text.encode()) <= 256:
        assert line == text


def test_words_of_an_error_are_shortened_and_never_refused() -> None:
    """A device says what went wrong, however long and in whatever script its error is."""
    report = Report(lease=LEASE, run="r", outcome=Reported.FAILED, error="Fehler: \n" + "größer " * 100 + "\ud800")
    assert report.error.startswith("Fehler:  größer")
    assert len(report.error.encode()) <= 256


def test_the_users_own_options_are_never_shortened() -> None:
    """Another value than the one in the TOML would be another experiment."""
    with pytest.raises(ValidationError, match="at most 256 bytes"):
        WorkOrder(seed=1, algorithm="fedavg", learning_rate=0.1, options={"name": "x" * 257})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_message_holds_a_number_that_is_none(bad: float) -> None:
    """Neither options nor rates nor conditions."""
    with pytest.raises(ValidationError):
        WorkOrder(seed=1, algorithm="fedavg", learning_rate=bad)
    with pytest.raises(ValidationError):
        WorkOrder(seed=1, algorithm="fedavg", learning_rate=0.1, options={"mu": bad})
    with pytest.raises(ValidationError):
        CheckIn(boot="b", connection=1, protocols=[1], codecs=[], conditions={"load": bad})


@pytest.mark.parametrize("name", ["x" * 64, "é" * 64])
def test_tables_of_a_user_stay_under_the_cap_of_their_message(name: str) -> None:
    """The largest table that is taken still travels; a larger one is refused when the message is made."""
    n_most = 0
    for n in range(64):
        metrics = {f"{i:02}{name[2:]}": (1.5, 2.5) for i in range(n)}
        options: dict[str, bool | float | str] = {f"{i:02}{name[2:]}": 0.5 for i in range(n)}
        try:
            report = Report(**{**TRAINED, "chunk_bytes": 4096, "error": "e" * 256, "run": "r" * 63, "metrics": metrics})
            work = WorkOrder(seed=2**62, algorithm="fedavg", learning_rate=0.1, options=options)
        except ValidationError as error:
            assert "at most 2048 bytes of names and values" in str(error)  # noqa: PT017
            break
        n_most = n
        assert len(encode(report)) <= 4096
        assert len(encode(AN_ASSIGNMENT.model_copy(update={"work": work}))) <= 4096
    assert n_most >= 10


def test_metrics_for_people_are_left_out_rather_than_refused() -> None:
    """A diverged loss, or forty metrics with long names, must not silence the aggregator's status."""
    metrics = {"loss": float("nan"), "accuracy": 0.5, **{f"{i:064}": 0.25 for i in range(40)}}
    status = AggregatorStatus(online=True, epoch=1, instance="i", run="r", metrics=metrics)
    assert status.metrics["accuracy"] == 0.5
    assert "loss" not in status.metrics
    assert 5 < len(status.metrics) < 20
    assert len(encode_json(status)) < 2048


def test_conditions_keep_their_type() -> None:
    """True stays true, a number a number, a word a word."""
    found = CheckIn(boot="b", connection=1, protocols=[1], codecs=[], conditions={"a": True, "b": 1.5, "c": "wifi"})
    assert found.conditions == {"a": True, "b": 1.5, "c": "wifi"}
    assert found.conditions["a"] is True


def test_more_than_sixteen_leases_are_not_held() -> None:
    """The served run's come first; the rest is told at the next check-in."""
    holding = Holding(lease=LEASE, run="r")
    with pytest.raises(ValidationError):
        CheckIn(boot="b", connection=1, protocols=[1], codecs=[], holds=[holding] * (MAX_HOLDS + 1))


def test_all_outcomes_but_a_grant_and_a_wait_are_final() -> None:
    """After a final one the device may forget the lease."""
    assert {outcome for outcome in Outcome if not outcome.is_final} == {Outcome.NEED, Outcome.BUSY}


def test_a_wire_metric_is_the_tasks_own_type_again() -> None:
    """A pair is a ratio."""
    assert metric((3.0, 4.0)) == Ratio(3, 4)
    assert isinstance(metric((3.0, 4.0)), Ratio)
    assert metric(0.5) == 0.5


def test_every_message_of_the_aggregator_carries_its_epoch() -> None:
    """Devices ignore a lower one than the highest they have seen; what devices send has none."""
    with_epoch = {type(m).__name__ for m in EVERY if "epoch" in type(m).model_fields}
    assert with_epoch == {"Fleet", "Round", "Assignment", "Receipt", "Control", "AggregatorStatus"}


def test_messages_do_not_change() -> None:
    """They are values."""
    with pytest.raises(ValidationError):
        EVERY[0].v = 1  # type: ignore[misc]


def test_optional_parts_are_absent_by_default() -> None:
    """A cancel names a lease, a come-back a window; neither must."""
    assert Control(epoch=1, action=Action.UPGRADE).lease is None
    assert Receipt(epoch=1, lease=LEASE, run="r", outcome=Outcome.BUSY).need == []
    assert Assignment.model_fields["work"].default is None
