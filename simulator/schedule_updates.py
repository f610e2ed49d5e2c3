"""What devices must have sent, whoever died: each update that counts is encoded anew, with what was left out before.

A codec that keeps on the device what it leaves out makes an update hang on those before it. From the journal's rows
and the deltas that the task has computed, what each device keeps is made again: it moves on with an update that counts,
and with no other.

Not here: everything else that must hold (`schedule_witness.py`), the states of algorithms (`schedule_states.py`).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import numpy as np

from aggregator.config import Settings
from aggregator.learning_settings import AUTO
from aggregator.records import AcceptRecord, LeaseRecord, Record
from aggregator.selection import seed_of
from shared.chunking import sha256_hex
from shared.codecs import CODECS, decode_vector
from shared.parameters import Vector

__all__ = ["UpdateBooks"]

CLOSE = 1e-5
"""Relative, of a norm: the aggregator reckons it in float32, block by block."""


class UpdateBooks:
    """The updates of one run.

    Args:
        settings: of it.
        records: the journal's rows.
        forgetful: devices that may have lost what they kept: their disk was full, or their folder deleted.
        note: takes each violation.
    """

    def __init__(
        self, settings: Settings, records: Sequence[Record], forgetful: Collection[str], note: Callable[[str], None]
    ) -> None:
        self._settings, self._forgetful, self._note = settings, forgetful, note
        self._leased = {record.lease: record for record in records if isinstance(record, LeaseRecord)}
        self._left_out: defaultdict[str, list[Vector | None]] = defaultdict(lambda: [None])
        """By device: what was kept once each of its updates counted, the newest last."""
        self.n_continued = 0
        """Updates that held what was left out of earlier ones."""

    def sent(self, record: AcceptRecord, wholes: Sequence[Vector]) -> bytes:
        """Enter an update that counts; return what its device must have sent.

        Args:
            record: its row.
            wholes: what its device has computed under this lease or one of the same seed, each (n,) float32.
        """
        codec, seed = CODECS[record.codec], self._codec_seed(record)
        kept = self._left_out[record.device]
        for left_out in kept[::-1] if record.device in self._forgetful else kept[-1:]:
            for whole in wholes:
                wanted = whole if left_out is None else whole + left_out
                payload = codec.encode(wanted, seed)
                if sha256_hex(payload) == record.sha256:
                    self._enter(record, wanted, payload)
                    self.n_continued += left_out is not None
                    return payload
        self._note(f"lease {record.lease} counts with {record.codec} that no device has computed")
        payload = codec.encode(wholes[0], seed) if wholes else b""
        self._enter(record, wholes[0], payload) if wholes else None
        return payload

    def _enter(self, record: AcceptRecord, wanted: Vector, payload: bytes) -> None:
        """Move on, and hold the factor on an update against its norm."""
        codec, limit = CODECS[record.codec], self._settings.server.clip_norm
        found = decode_vector(codec, payload, len(wanted))
        if codec.needs_feedback:
            self._left_out[record.device].append(wanted - found)
        norm = float(np.linalg.norm(found.astype(np.float64)))
        scale = min(1.0, limit / norm) if limit and norm else 1.0
        if abs(record.clip_scale - scale) > CLOSE:
            self._note(f"row {record.seq} scales an update of norm {norm:.6g} by {record.clip_scale}, not by {scale}")

    def _codec_seed(self, record: AcceptRecord) -> int:
        """Return what its encoding is drawn from; the codec must be the one that its device was told."""
        leased, named = self._leased[record.lease], self._settings.training.codec
        if record.codec != leased.codec or named not in (AUTO, record.codec):
            self._note(f"lease {record.lease} was for {leased.codec}, of {named}, and counts with {record.codec}")
        return seed_of(self._settings.seed, "codec", leased.round_id, record.device)
