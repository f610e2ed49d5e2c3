"""Encoded updates of every codec: sound, or with one thing in them that no codec makes.

Not here: the messages that they travel in (`hostile_devices.py`).
"""

import struct
from random import Random

import numpy as np

from shared.codecs import CODECS, Codec

__all__ = ["ZSTD_BOMB", "drawn_update", "sound_update"]

ZSTD_BOMB = bytes.fromhex("28b52ffd0058") + 400 * ((131_072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0")
"""A frame of Zstandard: 1.6 kB, which unpack to 50 MiB, and no end."""
_SKIPPABLE = bytes.fromhex("502a4d1804000000") + bytes(4)
_FLOATS = (float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 1e30, 1e-45, -0.0)
ONE_BIT_SEED_BYTES, SCALE_BYTES, PLACE_BYTES = 8, 4, 2


def sound_update(rng: Random, codec: Codec, n_params: int) -> bytes:
    """Return what an honest device may send; its values differ."""
    steps = np.arange(n_params, dtype=np.float32) % 7 + 1
    return codec.encode(steps * np.float32(rng.uniform(-1.0, 1.0)), rng.getrandbits(60))


def drawn_update(rng: Random, codec: Codec, n_params: int) -> bytes:
    """Return a sound update, or in one of five cases one that is spoilt where it hurts most."""
    data = sound_update(rng, codec, n_params)
    match rng.randrange(40):
        case 0 | 1:
            return _with_a_float(rng, codec, data)
        case 2:
            return data[: rng.randrange(len(data))]
        case 3:
            return data + bytes(rng.randrange(1, 2000))
        case 4:
            return rng.randbytes(len(data))
        case 5 | 6 if codec.name == "top-1-percent":
            return _with_a_place(rng, data)
        case 5 | 6 if codec.name == "int8-zstd":
            return rng.choice((ZSTD_BOMB, data + data, _SKIPPABLE + data, data[:-1] + b"\0", data + b"\0"))
        case 7:  # of another codec: its length is another one
            return sound_update(rng, rng.choice(list(CODECS.values())), n_params)
    return data


def _with_a_float(rng: Random, codec: Codec, data: bytes) -> bytes:
    """Put a number that is none, or a huge one, where the codec has a scale, or anywhere."""
    last = len(data) - SCALE_BYTES
    match codec.name:
        case "top-1-percent":
            at = 0
        case "one-bit":
            at = ONE_BIT_SEED_BYTES
        case "int8" | "int8-zstd":
            at = rng.randrange(0, last, SCALE_BYTES + 256)
        case _:
            at = rng.randrange(0, last, 4)
    at = rng.choice((at, at, rng.randrange(last)))
    return data[:at] + struct.pack("<f", rng.choice(_FLOATS)) + data[at + SCALE_BYTES :]


def _with_a_place(rng: Random, data: bytes) -> bytes:
    """Put a count or a place of top-k where there is none: beyond the end, twice, or anywhere in what follows."""
    at = rng.randrange(SCALE_BYTES, len(data) - PLACE_BYTES, PLACE_BYTES)
    there = data[at - PLACE_BYTES : at]
    return data[:at] + rng.choice((b"\xff\xff", b"\0\0", there)) + data[at + PLACE_BYTES :]
