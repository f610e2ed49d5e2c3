import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidState, PeerError, Reason
from shared.messages import AggregatorStatus, CheckIn, DeviceStatus, Receipt, Report, Reported, WireMessage
from shared.wire import decode, decode_json, encode, encode_json
from tests.shared.wire_examples import DIGEST, EVERY, IN_JSON, LEASE

MAX_DATA = 32_768


def to_wire(message: WireMessage) -> bytes:
    """Encode as the topic of the message wants it."""
    return encode_json(message) if isinstance(message, IN_JSON) else encode(message)


def from_wire(kind: type[WireMessage], payload: bytes) -> WireMessage:
    """Decode as the topic of the message wants it."""
    return decode_json(kind, payload) if kind in IN_JSON else decode(kind, payload, max_data_bytes=MAX_DATA)


def as_map(message: WireMessage) -> dict[str, Any]:
    """The map that travels."""
    found: dict[str, Any] = (
        json.loads(to_wire(message)) if isinstance(message, IN_JSON) else msgpack.unpackb(to_wire(message))
    )
    return found


def packed(kind: type[WireMessage], fields: object) -> bytes:
    """Bytes of what may be no message."""
    found: bytes = json.dumps(fields).encode() if kind in IN_JSON else msgpack.packb(fields)
    return found


def refusal(kind: type[WireMessage], payload: bytes) -> Reason:
    """Why a payload is refused; what a log gets of it is one short line."""
    with pytest.raises(PeerError) as caught:
        from_wire(kind, payload)
    assert len(caught.value.detail.encode()) <= 256
    assert caught.value.detail.isprintable()
    return caught.value.reason


every_message = pytest.mark.parametrize("message", EVERY, ids=lambda m: type(m).__name__)


@every_message
def test_every_message_survives_the_wire(message: WireMessage) -> None:
    """What arrives equals what was sent, type by type, within the cap."""
    payload = to_wire(message)
    again = from_wire(type(message), payload)
    assert again == message
    assert again.model_dump_json() == message.model_dump_json()
    assert len(payload) - len(getattr(message, "data", None) or b"") <= message.max_message_bytes
    assert as_map(message)["v"] == 1


@every_message
def test_every_prefix_of_every_message_is_refused(message: WireMessage) -> None:
    """Also one byte too many: nothing cut or glued is read as a message."""
    payload = to_wire(message)
    for n in range(len(payload)):
        assert refusal(type(message), payload[:n]) in (Reason.MALFORMED, Reason.VERSION)
    assert refusal(type(message), payload + b"\0") is Reason.MALFORMED


@every_message
@pytest.mark.parametrize("version", [0, 2, -1, True, "1", 1.0, None, [1], 2**63])
def test_another_version_is_refused_before_anything_else(message: WireMessage, version: object) -> None:
    """Even where the other fields are none of ours."""
    assert refusal(type(message), packed(type(message), {**as_map(message), "v": version})) is Reason.VERSION
    assert refusal(type(message), packed(type(message), {"v": version, "zzz": 1})) is Reason.VERSION


@every_message
def test_a_missing_version_is_refused(message: WireMessage) -> None:
    """It is the one field that every version has."""
    fields = as_map(message)
    del fields["v"]
    assert refusal(type(message), packed(type(message), fields)) is Reason.VERSION


@every_message
def test_unknown_keys_are_ignored(message: WireMessage) -> None:
    """A newer peer of the same major version may say more."""
    payload = packed(type(message), {**as_map(message), "later": [1, {"x": None}]})
    assert from_wire(type(message), payload) == message


@every_message
def test_no_field_takes_a_value_of_another_type(message: WireMessage) -> None:
    """A map, a list of lists, and true where a number stands: each is refused, whatever the field."""
    fields = as_map(message)
    for name in fields.keys() - {"v"}:
        wrong_types: list[object] = [{"a": {"b": 1}}, [[[]]]]
        for wrong in wrong_types:
            assert refusal(type(message), packed(type(message), {**fields, name: wrong})) is Reason.FIELDS
        if type(fields[name]) in (int, float):
            for wrong_number in (True, str(fields[name]), -1, 2**63, float("1e300")):
                payload = packed(type(message), {**fields, name: wrong_number})
                assert refusal(type(message), payload) is Reason.FIELDS


@pytest.mark.parametrize("wrong", [0, -1, 2**53, 2**63, 2**64 - 1, True, 1.0, "1", None, [1]])
def test_a_number_of_examples_is_a_count_of_at_least_one(wrong: object) -> None:
    """It is a weight: nothing, less than nothing and what no number type holds are refused."""
    fields = {"v": 1, "lease": LEASE, "run": "r", "outcome": "evaluated", "num_examples": 1}
    assert decode(Report, msgpack.packb(fields)).num_examples == 1
    assert refusal(Report, msgpack.packb({**fields, "num_examples": wrong})) is Reason.FIELDS


def _report(**fields: object) -> bytes:
    found: bytes = msgpack.packb(
        {"v": 1, "lease": LEASE, "run": "r", "outcome": "evaluated", "num_examples": 1, **fields}
    )
    return found


def _check_in(**fields: object) -> bytes:
    found: bytes = msgpack.packb({"v": 1, "boot": "b", "connection": 1, "protocols": [1], "codecs": [], **fields})
    return found


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused_wherever_they_stand(bad: float) -> None:
    """In metrics, ratios, conditions and durations, as msgpack and as JSON."""
    for payload in (
        _report(metrics={"loss": bad}),
        _report(metrics={"accuracy": [bad, 1.0]}),
        _report(metrics={"accuracy": [1.0, bad]}),
        _report(train_seconds=bad),
    ):
        assert refusal(Report, payload) is Reason.FIELDS
    assert refusal(CheckIn, _check_in(conditions={"load": bad})) is Reason.FIELDS
    status = {"v": 1, "online": True, "boot": "b", "connection": 1}
    assert refusal(DeviceStatus, json.dumps({**status, "progress": bad}).encode()) is Reason.MALFORMED
    assert refusal(DeviceStatus, b'{"v": 1, "progress": 1e999}') is Reason.FIELDS


@pytest.mark.parametrize(
    "metrics",
    [{"a": [True, 1.0]}, {"a": ["1", "2"]}, {"a": [1.0]}, {"a": [1.0, 2.0, 3.0]}, {"a": True}, {"a": "1"}, [1]],
)
def test_a_metric_is_a_float_or_a_pair_of_them(metrics: object) -> None:
    """Pairs become tuples, nothing else becomes a number."""
    assert decode(Report, _report(metrics={"a": [1, 2.5], "b": 3})).metrics == {"a": (1.0, 2.5), "b": 3.0}
    assert refusal(Report, _report(metrics=metrics)) is Reason.FIELDS


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (b"", "nothing"),
        (b"\xc1", "a byte that msgpack never uses"),
        (b"\xc0", "nil"),
        (b"\x01", "a number"),
        (b"\x90", "an array"),
        (b"\xa1x", "a string"),
        (b"\x81\x01\x01", "a key that is a number"),
        (b"\x81\xc4\x01v\x01", "a key that is bytes"),
        (b"\x82\xa1v\x01\xa1v\x01", "a key twice"),
        (b"\x82\xa1v\x01\xa1x\x82\xa1a\x01\xa1a\x02", "a key twice inside"),
        (b"\x81\xa1v\xd6\xff\x00\x00\x00\x00", "a timestamp"),
        (b"\x81\xa1v\xc7\x01\x05x", "an extension"),
        (b"\x81\xa1v\xa2\xff\xfe", "a string that is no UTF-8"),
        (b"\xdd\xff\xff\xff\xff", "an array of four thousand million"),
        (b"\xdf\xff\xff\xff\xff", "a map of four thousand million"),
        (b"\x81\xa1x\xdc\x00\x41" + b"\x01" * 65, "an array of 65"),
        (b"\xde\x00\x41" + b"".join(b"\xa2%c%c\x01" % (65 + i // 9, 65 + i % 9) for i in range(65)), "a map of 65"),
        (b"\x81\xa1x\xda\x01\x01" + b"x" * 257, "a string of 257 bytes"),
        (b"\x91" * 4000 + b"\x90", "a deep nest"),
        (b"\x81\xa1x" + b"\x9f" * 2000, "a nest that does not end"),
        (b"\xdc\x00\x40" + b"\xdc\x00\x40" * 64 + b"\x90" * 3000, "a wide nest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_garbage_is_refused_as_malformed(payload: bytes, what: str) -> None:
    """Before a field is looked at."""
    assert refusal(Report, payload) is Reason.MALFORMED


@pytest.mark.parametrize("opening", [b"\x90", b"\x80", b"\xa0", b"\xc0", b"\x91\x90"])
def test_nests_as_large_as_a_report_may_be_cost_neither_time_nor_memory(opening: bytes) -> None:
    """64 arrays of 64 arrays … up to the largest payload: refused in well under a millisecond and a megabyte."""
    wide = b"\xdc\x00\x40"
    payload = (b"\x82\xa1v\x01\xa1x" + wide + wide + (wide + opening * 64) * 600)[: 4096 + MAX_DATA]
    assert refusal(Report, payload) is Reason.MALFORMED
    best = min(_seconds(lambda: refusal(Report, payload)) for _ in range(5))
    tracemalloc.start()
    refusal(Report, payload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert best < 2e-3
    assert peak < 1_000_000


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_a_payload_over_its_cap_is_not_even_looked_at() -> None:
    """The map has 4 KiB, `data` what the caller allows, and JSON of a device 1 KiB."""
    assert refusal(CheckIn, b"\xc1" * (4096 + MAX_DATA + 1)) is Reason.PAYLOAD_TOO_LARGE
    assert refusal(DeviceStatus, b"{" * 1025) is Reason.PAYLOAD_TOO_LARGE
    with pytest.raises(PeerError) as caught:
        decode(CheckIn, b"\xc1" * 4097)
    assert caught.value.reason is Reason.PAYLOAD_TOO_LARGE


def test_data_may_be_as_long_as_allowed_and_no_longer() -> None:
    """Where nobody allowed any there is none."""
    report = Report(
        lease=LEASE,
        run="r",
        outcome=Reported.TRAINED,
        codec="float32",
        num_examples=1,
        size=1000,
        sha256=DIGEST,
        data=bytes(1000),
    )
    assert decode(Report, encode(report), max_data_bytes=1000) == report
    for allowed in (999, 0):
        with pytest.raises(PeerError) as caught:
            decode(Report, encode(report), max_data_bytes=allowed)
        assert caught.value.reason is Reason.MALFORMED


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_a_message_or_one_refusal(payload: bytes) -> None:
    """Nothing but `PeerError` gets out of either decoder."""
    for kind in (Report, DeviceStatus):
        with pytest.raises(PeerError):
            from_wire(kind, payload)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from([m for m in EVERY if not isinstance(m, IN_JSON)]), st.data())
def test_a_field_of_anything_is_valid_or_one_refusal(message: WireMessage, data: st.DataObject) -> None:
    """Whatever stands in a field of a good message; and what is taken survives the wire again."""
    fields = as_map(message)
    name = data.draw(st.sampled_from(sorted(fields)))
    try:
        found = from_wire(type(message), msgpack.packb({**fields, name: data.draw(junk)}))
    except PeerError:
        return
    assert from_wire(type(message), encode(found)) == found


@given(st.text(alphabet='{}[]",:0123456789truefalsnve \\u\ud800', max_size=60))
def test_json_of_any_kind_is_a_status_or_one_refusal(text: str) -> None:
    """Surrogates, big numbers and all."""
    with pytest.raises(PeerError):
        decode_json(DeviceStatus, text.encode(errors="surrogatepass"))


@pytest.mark.parametrize(
    "payload",
    [b"[]", b"null", b'{"v":1,"v":1}', b'{"v":1} x', b"{'v':1}", b'{"v":1}'.decode().encode("utf-16"), b"[" * 1000,
     b'{"v":' + b"9" * 1000 + b"}", b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_json_that_is_no_map_of_ours_is_refused(payload: bytes) -> None:
    """Other types, doubled keys, other encodings, deep nests."""
    assert refusal(DeviceStatus, payload) in (Reason.MALFORMED, Reason.VERSION)


def test_defaults_do_not_travel_in_msgpack_but_stay_in_json() -> None:
    """A plain receipt is small; a person who subscribes to a status sees all of it."""
    receipt = {"v": 1, "epoch": 1, "lease": LEASE, "run": "r", "outcome": "accepted"}
    assert as_map(decode(Receipt, msgpack.packb(receipt))) == receipt
    status = AggregatorStatus(online=True, epoch=1, instance="i", run="r")
    assert as_map(status)["have"] == 0
    assert "seconds_left" not in as_map(status)


def test_what_every_peer_would_refuse_is_not_sent() -> None:
    """A message over its cap is our own mistake."""
    with pytest.raises(InvalidState, match="bytes for a CheckIn, 4096 are allowed"):
        encode(CheckIn(boot="b", connection=1, protocols=[1], codecs=["é" * 64] * 32))
    conditions: dict[str, bool | float | str] = {f"{i:02}": '"' * 18 for i in range(14)}
    with pytest.raises(InvalidState, match="bytes for a DeviceStatus, 1024 are allowed"):
        encode_json(DeviceStatus(online=True, boot="b", connection=1, detail='"' * 256, conditions=conditions))


def test_a_message_is_decoded_in_microseconds() -> None:
    """Up to the field checks an offer costs well under a millisecond on the loop."""
    offer = next(encode(m) for m in EVERY if isinstance(m, Report) and m.chunk_bytes)
    assert min(_seconds(lambda: decode(Report, offer)) for _ in range(20)) < 5e-4
