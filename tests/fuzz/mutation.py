"""What is valid made hostile: one field, one byte or one topic segment at a time, decided by a generator alone.

Not here: the valid messages (`upward.py`, `downward.py`).
"""

import json
import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgpack

__all__ = ["Fields", "bent", "hostile_bytes", "hostile_topic", "packed", "packed_json"]

Fields = dict[str, Any]
"""A message as a map, before it is packed."""

MAX_DEPTH = 400
"""Of maps within maps: more than any stack of a parser, less than our own packer takes."""

_NUMBERS: tuple[int | float, ...] = (
    *(0, -1, 1, 2, 4095, 4096, 4097, 262_144, 262_145),
    *(2**31, 2**32, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e9, 1e308, math.inf, -math.inf, math.nan),
)
_TEXTS = (
    *("", " ", "x", "null", "trained", "d0", "../../etc/passwd", "a\0b", "\x1b[2J\x1b]0;owned\a", "\r\nlevel=error"),
    *("\u202egnp.exe", "é" * 40, "𝕏" * 64, "\ud800", "x" * 64, "x" * 65, "x" * 256, "x" * 257, "A" * 64, "f" * 64),
    *("[bold red]markup[/]", "{event}", "%s%n", "0" * 32, "g" * 32),
)


def bent(rng: Random, fields: Fields) -> Fields:
    """Return a copy with one to three of its values, keys or entries spoilt."""
    out: Fields = _copied(fields)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        maps = list(_maps(out))
        where = rng.choice(maps) if rng.random() < 0.5 else maps[0]
        _spoil(rng, where)
    return out


def packed(rng: Random, fields: Fields, *, is_hostile: bool = True) -> bytes:
    """Return fields as msgpack, now and then with a key twice."""
    body = _packed(fields)
    if not is_hostile or rng.random() > 0.04 or not 0x80 <= body[0] < 0x8F:
        return body
    key = rng.choice(list(fields) or ["v"])
    extra = _packed(key) + _packed(_value(rng))
    return bytes([body[0] + 1]) + (extra + body[1:] if rng.random() < 0.5 else body[1:] + extra)


def _packed(value: object) -> bytes:
    body: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return body


def packed_json(rng: Random, fields: Fields) -> bytes:
    """Return fields as JSON, now and then with a key twice or a number of a thousand digits."""
    text = json.dumps(_plain(fields), ensure_ascii=rng.random() < 0.5)
    choice = rng.random()
    if choice < 0.02 and fields:
        text = text[:-1] + f', "{next(iter(fields))}": 1}}'
    elif choice < 0.03:
        text = text[:-1] + f', "connection": {"9" * rng.choice((20, 400, 900))}}}'
    elif choice < 0.04:
        text = "[" * rng.choice((10, 500)) + text
    return text.encode("utf-8", "surrogatepass")


def hostile_bytes(rng: Random, payload: bytes) -> bytes:
    """Return a payload cut, stretched, with bits turned over, or not of our making at all."""
    data = bytearray(payload)
    match rng.randrange(8):
        case 0:
            return payload[: rng.randrange(len(payload) + 1)]
        case 1 | 2 if data:
            for _ in range(rng.choice((1, 1, 2, 8))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(data)
        case 3 if data:
            at = rng.randrange(len(data))
            return payload[:at] + rng.randbytes(rng.choice((1, 4, 64))) + payload[at:]
        case 4 if data:
            at, n = rng.randrange(len(data)), rng.choice((1, 4, 64))
            return payload[:at] + payload[at + n :]
        case 5:
            return payload + payload
        case 6:
            return rng.choice(_BOMBS)
    return rng.randbytes(rng.choice((0, 1, 16, 300, 5000)))


def hostile_topic(rng: Random, topic: str) -> str:
    """Return a topic with a segment more, less, swapped, of another alphabet, very long, or with wildcards."""
    segments = topic.split("/")
    at = rng.randrange(len(segments))
    match rng.randrange(7):
        case 0:
            del segments[at]
        case 1:
            segments.insert(at, rng.choice(_SEGMENTS))
        case 2 | 3:
            segments[at] = rng.choice(_SEGMENTS)
        case 4:
            other = rng.randrange(len(segments))
            segments[at], segments[other] = segments[other], segments[at]
        case 5:
            segments[at] = _twisted(rng, segments[at])
        case _:
            segments += ["x"] * rng.choice((1, 50, 5000))
    return "/".join(segments)


def _twisted(rng: Random, segment: str) -> str:
    ways: tuple[Callable[[str], str], ...] = (
        str.upper,
        lambda s: s + "\0",
        lambda s: s + "\n",
        lambda s: " " + s,
        lambda s: "0" + s,
        lambda s: s[:-1],
        lambda s: s * 40,
        lambda s: s.translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")),
        lambda s: "-" + s,
        lambda s: s.replace("d", "ԁ"),
    )
    return rng.choice(ways)(segment)


_SEGMENTS = (
    *("", ".", "..", "+", "#", "$SYS", "from", "to", "status", "check-in", "report", "chunk", "assignment", "model"),
    *("-1", "1.5", "01", "999999999", "9999999999", "1e3", "é", "\ud800", "\0", "x" * 64, "x" * 65_000, "0" * 32),
)
_BOMBS = (
    b"\xdf\xff\xff\xff\xff",  # a map, an array, bytes, a text that say they are 4 GiB
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\x91" * 4000,
    b"\x81" * 4000,
    b"\x81\xa1v" * 1300,
    b"[" * 1000,
    b'{"a":' * 200,
    b"\x80" * 4000,
    b"\xc1",
    b"\x00",
    b"null",
    b"{}",
)


def _spoil(rng: Random, fields: Fields) -> None:
    """Do one thing to a map."""
    keys = list(fields)
    match rng.randrange(10):
        case 0 if keys:
            del fields[rng.choice(keys)]
        case 1:
            fields[rng.choice(_TEXTS)] = _value(rng)
        case 2 if len(keys) > 1:
            one, other = rng.sample(keys, 2)
            fields[one], fields[other] = fields[other], fields[one]
        case 3:
            fields.update({f"k{i}": i for i in range(rng.choice((20, 70)))})
        case _ if keys:
            key = rng.choice(keys)
            fields[key] = _near(rng, fields[key]) if rng.random() < 0.4 else _value(rng)


def _near(rng: Random, value: object) -> object:
    """Return something that is nearly right."""
    match value:
        case bool():
            return int(value)
        case int():
            near = rng.choice((value + 1, value - 1, -value, value * 2))
            return rng.choice((max(-(2**63), min(near, 2**64 - 1)), float(value), str(value)))
        case float():
            return rng.choice((-value, value * 1e300, int(value) if abs(value) < 1e18 else 0, math.nan))
        case str():
            return rng.choice((value.upper(), value[:-1], value + "0", value.encode("utf-8", "replace"), [value]))
        case bytes():
            return rng.choice((value[:-1], value + b"\0", value[::-1], value.hex()[:200], rng.randbytes(len(value))))
        case list():
            return rng.choice((value * 2, value[:-1], [*value, _value(rng)], [value], {"0": value}))
        case dict():
            return rng.choice(({}, [*value], {**value, "": 0}, [value]))
    return 0


def _value(rng: Random) -> Any:
    """Return a value that hardly any field may have."""
    match rng.randrange(10):
        case 0 | 1 | 2:
            return rng.choice(_NUMBERS)
        case 3 | 4:
            return rng.choice(_TEXTS)
        case 5:
            return rng.choice((None, True, False, b"", b"\0" * 32, rng.randbytes(rng.choice((1, 33, 3000)))))
        case 6:
            return [rng.choice(_NUMBERS)] * rng.choice((0, 1, 2, 3, 65))
        case 7:
            return {str(i): rng.choice(_TEXTS) for i in range(rng.choice((0, 1, 17, 65)))}
        case 8:
            return _nested(rng.choice((3, 60, MAX_DEPTH)), is_map=rng.random() < 0.5)
    return rng.choice((msgpack.ExtType(5, b"code"), msgpack.Timestamp(1), {1: 2}, {b"v": 1}, {None: None}))


def _nested(depth: int, *, is_map: bool) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"": value} if is_map else [value]
    return value


def _maps(fields: Fields) -> list[Fields]:
    """Return a map and every map right within it."""
    found = [fields]
    for value in fields.values():
        inside = value if isinstance(value, list) else [value]
        found += [each for each in inside if isinstance(each, dict) and all(isinstance(key, str) for key in each)]
    return found


def _copied(value: Any) -> Any:
    match value:
        case dict():
            return {key: _copied(each) for key, each in value.items()}
        case list() | tuple():
            return [_copied(each) for each in value]
    return value


def _plain(value: Any) -> Any:
    """Return a value without what JSON cannot say."""
    match value:
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case bytes():
            return value.hex()
        case None | bool() | int() | float() | str():
            return value
    return str(value)
