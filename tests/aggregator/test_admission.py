"""Whether a message is believed: every check with its reason."""

from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from aggregator.admission import BURST_SECONDS, PRUNE_FROM, MessageRates, TokenBucket, check_report, lease_for
from aggregator.leases import Lease, LeaseBook
from shared.codecs import CODECS
from shared.errors import PeerError, Reason
from shared.messages import Kind, Report, Reported
from tests.aggregator.builders import RUN, a_lease, a_report, an_offer, lease_name

UPDATE = bytes(40)
N_PARAMS = 10


def a_book() -> LeaseBook:
    """Return a book with lease 1 of d1, to train, and lease 2 of d2, to evaluate."""
    book = LeaseBook()
    book.issue(a_lease(1, "d1"), now=0.0, expires_at=100.0)
    book.issue(a_lease(2, "d2", kind=Kind.EVALUATE), now=0.0, expires_at=100.0)
    return book


def check(lease: Lease, report: Report) -> None:
    """Hold a report against a lease."""
    check_report(report, lease, run=RUN, codec=CODECS["float32"], n_params=N_PARAMS)


def test_lease_is_the_devices_own() -> None:
    """It is returned as it stands in the book."""
    book = a_book()
    assert lease_for(book, "d1", lease_name(1)) is book[lease_name(1)]


@pytest.mark.parametrize(
    ("device", "name", "reason"),
    [("d1", lease_name(9), Reason.UNKNOWN_LEASE), ("d1", lease_name(2), Reason.FOREIGN_LEASE)],
)
def test_lease_that_is_unknown_or_anothers_is_refused(device: str, name: str, reason: Reason) -> None:
    """Each by its own reason."""
    with pytest.raises(PeerError) as caught:
        lease_for(a_book(), device, name)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("metrics", "said"),
    [({}, "needs the metric 'initial_loss'"), ({"loss": 1.0}, "the report has none"), ({"initial_loss": -1.0}, "= -1")],
)
def test_update_of_qfedavg_without_a_loss_is_refused(metrics: dict[str, Any], said: str) -> None:
    """By the name of the metric; with one it passes, and so does a report of failure without any."""
    lease, codec = a_book()[lease_name(1)], CODECS["float32"]
    known: dict[str, Any] = {"run": RUN, "codec": codec, "n_params": N_PARAMS, "needs_loss": True}
    with pytest.raises(PeerError, match=said) as caught:
        check_report(a_report(UPDATE, metrics=metrics), lease, **known)
    assert caught.value.reason is Reason.FIELDS
    check_report(a_report(UPDATE, metrics={"initial_loss": (3.0, 2.0)}), lease, **known)
    nothing: dict[str, Any] = {"data": None, "size": None, "sha256": None, "codec": ""}
    check_report(a_report(b"", outcome=Reported.FAILED, error="ValueError", **nothing), lease, **known)


def test_sound_reports_pass() -> None:
    """Inline, offered, failed and evaluated."""
    book = a_book()
    check(book[lease_name(1)], a_report(UPDATE))
    check(book[lease_name(1)], an_offer(UPDATE))
    nothing: dict[str, Any] = {"data": None, "size": None, "sha256": None, "codec": ""}
    check(book[lease_name(1)], a_report(b"", outcome=Reported.FAILED, error="ValueError", **nothing))
    check(book[lease_name(2)], a_report(b"", lease_name(2), outcome=Reported.EVALUATED, **nothing))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"run": "other"}, Reason.OTHER_RUN),
        ({"lease": lease_name(2)}, Reason.FIELDS),
        ({"codec": "float16"}, Reason.CODEC),
        ({"codec": "gzip"}, Reason.CODEC),
        ({"size": 39}, Reason.LENGTH),
        ({"size": 41}, Reason.LENGTH),
        ({"data": bytes(39)}, Reason.SIZE),
        ({"data": b""}, Reason.SIZE),
    ],
)
def test_report_that_does_not_fit_is_refused(fields: dict[str, Any], reason: Reason) -> None:
    """Another run, another lease, a codec that was not assigned, a length that no codec gives, data of another size."""
    with pytest.raises(PeerError) as caught:
        check(a_book()[lease_name(1)], a_report(UPDATE, **fields))
    assert caught.value.reason is reason


def test_report_of_the_other_kind_is_refused() -> None:
    """An update under a lease to evaluate, and the other way round."""
    book = a_book()
    nothing: dict[str, Any] = {"data": None, "size": None, "sha256": None, "codec": ""}
    for lease, report in [
        (book[lease_name(2)], a_report(UPDATE, lease_name(2))),
        (book[lease_name(1)], a_report(b"", outcome=Reported.EVALUATED, **nothing)),
    ]:
        with pytest.raises(PeerError) as caught:
            check(lease, report)
        assert caught.value.reason is Reason.FIELDS


def test_update_over_the_leases_own_cap_is_refused() -> None:
    """max_bytes was promised to the disk when the lease was given."""
    book = LeaseBook()
    row = a_lease(1)
    lease = book.issue(type(row)(**{**_fields(row), "max_bytes": 39}), now=0.0, expires_at=1.0)
    with pytest.raises(PeerError) as caught:
        check(lease, a_report(UPDATE))
    assert caught.value.reason is Reason.SIZE


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def test_bucket_allows_a_burst_and_then_its_rate() -> None:
    """Five a second: fifty at once, then five in the next second, and no more than fifty after a day."""
    bucket = TokenBucket.full(5.0, 0.0)

    def taken(now: float) -> int:
        for n in count():
            with suppress(PeerError):
                bucket.take(5.0, now)
                continue
            return n
        raise AssertionError

    assert [taken(0.0), taken(1.0), taken(1.1), taken(86_400.0)] == [50, 5, 0, 50]


def test_rates_are_per_device_and_forget_who_is_silent() -> None:
    """One device over its rate costs another nothing; ids that spoke once do not stay for ever."""
    rates = MessageRates(5.0)
    for _ in range(50):
        rates.take("loud", 0.0)
    with pytest.raises(PeerError):
        rates.take("loud", 0.0)
    rates.take("quiet", 0.0)
    for i in range(5 * PRUNE_FROM):
        rates.take(f"id-{i}", i * BURST_SECONDS / 100)
    assert len(rates) <= PRUNE_FROM


def test_a_lease_earns_its_answer_once() -> None:
    """However quick the rounds are, a device that answers its leases is never over its rate; repeats earn nothing."""
    rates = MessageRates(1.0)
    for number in range(200):  # all within one instant
        for _ in range(2):
            rates.take("d1", 0.0)
        rates.leased("d1", lease_name(number))
    for _ in range(10):  # what is left, while the last lease is repeated
        rates.take("d1", 0.0)
        rates.leased("d1", lease_name(199))
    with pytest.raises(PeerError, match="messages a second"):
        rates.take("d1", 0.0)
