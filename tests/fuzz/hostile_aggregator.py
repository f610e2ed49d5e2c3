"""What somebody may tell a device: an aggregator's words, valid for its state, or one step beside it.

Among them are models whose name fits what they are, but what they are is spoilt.

Not here: who takes it (`downward.py`).
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from shared.chunking import ChunkLayout, sha256_hex
from shared.codecs import CODECS
from shared.errors import Reason
from shared.messages import MAX_EXAMPLES, Action, Outcome
from shared.parameters import ParameterSpec
from shared.task import Initial
from shared.topics import (
    AssignmentTopic,
    ControlTopic,
    FleetTopic,
    IndexTopic,
    ModelTopic,
    ReceiptTopic,
    RoundTopic,
    Topics,
)
from tests.fuzz.mutation import Fields, bent, hostile_bytes, hostile_topic, packed
from tests.fuzz.world import Payload

__all__ = ["N_PARAMS", "HostileAggregator"]

N_PARAMS = 2500
"""Three chunks of 4 KiB, so that an update is too large for a report when nothing may be."""
RUNS = ("run-1", "run-1", "run-1", "run-2")
SPEC = ParameterSpec.of(Initial({"w": np.zeros(N_PARAMS, np.float32)}))
CHUNK_BYTES = 4096
KEPT_MODELS = 8
HONEST = 0.5


class HostileAggregator:
    """Draws payloads, knowing what the device asked for.

    Args:
        rng: where every choice comes from.
        topics: of the fleet.
        device: who is told.
    """

    def __init__(self, rng: Random, topics: Topics, device: str) -> None:
        self._rng, self._topics, self._device = rng, topics, device
        self.wanted: dict[str, None] = {}
        """Topics of pieces of models that the device is subscribed to."""
        self._leases: deque[str] = deque(maxlen=40)
        self._pieces: dict[str, bytes] = {}  # topic -> what is retained there
        self._models: OrderedDict[str, Fields] = OrderedDict()
        self._epoch, self._version = 1000, 0

    def hears(self, holds: Sequence[str]) -> None:
        """The device has checked in."""
        self._leases.extend(holds)

    def draw(self) -> Payload:
        """Return the next payload."""
        rng = self._rng
        kind: Callable[[], tuple[str, bytes]] = rng.choices(
            (self._piece, self._assignment, self._receipt, self._control, self._round, self._fleet),
            (30 if self.wanted else 3, 14, 20, 6, 8, 6),
        )[0]
        topic, data = kind()
        if rng.random() < 0.05:
            topic = hostile_topic(rng, topic)
        if rng.random() < 0.07:
            data = hostile_bytes(rng, data)
        return Payload(topic, data, retained=rng.random() < 0.2)

    def _piece(self) -> tuple[str, bytes]:
        """A piece of an index or a chunk of a model: asked for, or not; right, or not."""
        rng = self._rng
        if self.wanted and rng.random() < 0.95:
            topic = rng.choice(list(self.wanted))
        elif self._pieces:
            topic = rng.choice(list(self._pieces))
        else:
            return self._topics.build(IndexTopic("run-1", "0" * 64, 0)), b"index"
        data = self._pieces.get(topic, b"unknown")
        match rng.randrange(30):
            case 0:
                data = bytes(len(data))
            case 1:
                data += b"\0"
            case 2:
                topic = topic[:-1] + rng.choice("0123456789")
        return topic, data

    def _assignment(self) -> tuple[str, bytes]:
        rng = self._rng
        kind = rng.choice(("train", "train", "train", "evaluate"))
        lease = f"{rng.getrandbits(128):032x}"
        if self._leases and rng.random() < 0.3:
            lease = rng.choice(self._leases)
        else:
            self._leases.append(lease)
        fields: Fields = {
            "lease": lease,
            "run": rng.choice(RUNS),
            "round": self._version,
            "kind": kind,
            "model": self._model(),
            "codec": "float32" if rng.random() < 0.7 else rng.choice((*CODECS, *CODECS, "unknown", "")),
            "codec_seed": rng.getrandbits(60),
            "max_bytes": 10**9,
            "seconds_left": 600.0,
            "status_every_s": rng.choice((0.0, 1e-9, 1e9)) if rng.random() < 0.05 else 15.0,
        }
        if kind == "train":
            fields["work"] = {
                "seed": 1,
                "algorithm": "fedavg",
                "epochs": 1,
                "learning_rate": 0.1,
                "options": {"momentum": 0.9, "name": "x", "flag": True},
            }
        if rng.random() < 0.1:
            fields["max_seconds"] = rng.choice((0.0, 1e-300, 1e9))
        return self._topics.build(AssignmentTopic(self._device)), self._pack(fields)

    def _receipt(self) -> tuple[str, bytes]:
        rng = self._rng
        outcome = rng.choices(list(Outcome), [4 if each.is_final else 12 for each in Outcome])[0]
        fields: Fields = {
            "lease": self._lease(),
            "run": rng.choice(RUNS),
            "outcome": outcome.value,
            "detail": "because",
            "staleness": rng.choice((0, 0, 3)),
        }
        if outcome.is_final and rng.random() < 0.7:
            fields["reason"] = rng.choice(list(Reason)).value
        if outcome is Outcome.NEED:
            high = rng.choice((1, 3, 40, 2**53 - 1))
            pairs = [sorted((rng.randrange(high), rng.randrange(high))) for _ in range(rng.choice((0, 1, 2, 32)))]
            fields["need"] = pairs if rng.random() < 0.9 else [pair[::-1] for pair in pairs]
        if outcome is Outcome.BUSY or rng.random() < 0.1:
            fields["retry_s"] = self._retry()
        return self._topics.build(ReceiptTopic(self._device)), self._pack(fields)

    def _control(self) -> tuple[str, bytes]:
        rng = self._rng
        fields: Fields = {"action": rng.choice(list(Action)).value, "detail": "so it is"}
        if fields["action"] == "cancel":
            fields["lease"] = self._lease()
        elif rng.random() < 0.8:
            fields["retry_s"] = self._retry()
        if rng.random() < 0.8:
            usual = [each for each in Reason if each is not Reason.CLONED_ID]
            fields["reason"] = "cloned_id" if rng.random() < 0.01 else rng.choice(usual).value
        return self._topics.build(ControlTopic(self._device)), self._pack(fields)

    def _round(self) -> tuple[str, bytes]:
        rng = self._rng
        run = rng.choice(RUNS)
        fields: Fields = {
            "run": run,
            "round": self._version,
            "state": rng.choice(("open", "open", "open", "paused", "finished")),
            "model": self._model(),
            "report_goal": 4,
        }
        return self._topics.build(RoundTopic(run)), self._pack(fields)

    def _fleet(self) -> tuple[str, bytes]:
        rng = self._rng
        fields: Fields = {
            "run": rng.choice(RUNS),
            "chunk_bytes": rng.choice((4096, 8192, 262_144)),
            "inline_bytes": rng.choice((0, 0, 1024, 65_536)),
            "check_in_interval_s": rng.choice((0.0, 1e9)) if rng.random() < 0.1 else 30.0,
            "reconnect_window_s": rng.choice((0.0, 1e9)) if rng.random() < 0.02 else 2.0,
            "codecs": list(CODECS),
        }
        return self._topics.build(FleetTopic()), self._pack(fields)

    # parts of messages

    def _pack(self, fields: Fields) -> bytes:
        rng = self._rng
        if rng.random() < 0.01:
            self._epoch = min(self._epoch + 1, MAX_EXAMPLES)
        epoch = self._epoch if rng.random() < 0.98 else rng.choice((0, self._epoch - 1))
        fields = {"v": 1, "epoch": epoch, **fields}
        if rng.random() < HONEST:
            return packed(rng, fields, is_hostile=False)
        fields = bent(rng, fields)
        said = fields.get("epoch")
        if type(said) is int and self._epoch < said <= MAX_EXAMPLES:  # it may be believed: from now on less is not
            self._epoch = said
        return packed(rng, fields)

    def _lease(self) -> str:
        if self._leases and self._rng.random() < 0.95:
            return self._rng.choice(self._leases)
        return f"{self._rng.getrandbits(128):032x}"

    def _retry(self) -> Fields:
        low, high = self._rng.choice(((0.0, 0.0), (1.0, 3.0), (20.0, 30.0), (30.0, 1.0), (0.0, 1e9)))
        return {"min": low, "max": high}

    def _model(self) -> Fields:
        """Return a reference to a model: the newest, an older one, or a new one."""
        if self._models and self._rng.random() < 0.8:
            known = list(self._models.values())
            return dict(known[-1] if self._rng.random() < 0.8 else self._rng.choice(known))
        return dict(self._publish())

    def _publish(self) -> Fields:
        """Retain a new model; every fourth has an index that says what it should not, under its right name."""
        rng = self._rng
        self._version += 1
        blob = np.full(N_PARAMS, rng.uniform(-1.0, 1.0), "<f4").tobytes()
        if rng.random() < 0.1:
            blob = rng.randbytes(len(blob))
        layout = ChunkLayout(len(blob), CHUNK_BYTES)
        chunks = [bytes(layout.cut(blob, i)) for i in range(len(layout))]
        head: Fields = {
            "spec": SPEC.to_wire(),
            "size": len(blob),
            "chunk_bytes": CHUNK_BYTES,
            "sha256": hashlib.sha256(blob).digest(),
        }
        tail = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
        is_spoilt = rng.random() < 0.25
        index = packed(rng, bent(rng, head) if is_spoilt else head, is_hostile=is_spoilt) + tail
        if is_spoilt and rng.random() < 0.3:
            index = hostile_bytes(rng, index) or b"\0"
        digest = sha256_hex(index)
        pieces = ChunkLayout(len(index), CHUNK_BYTES)
        for run in dict.fromkeys(RUNS):
            for j in range(len(pieces)):
                self._pieces[self._topics.build(IndexTopic(run, digest, j))] = bytes(pieces.cut(index, j))
            for i, chunk in enumerate(chunks):
                self._pieces[self._topics.build(ModelTopic(run, digest, i))] = chunk
        self._models[digest] = {
            "version": self._version,
            "digest": digest,
            "index_bytes": len(index),
            "chunk_bytes": CHUNK_BYTES,
        }
        if len(self._models) > KEPT_MODELS:
            gone, _ = self._models.popitem(last=False)
            self._pieces = {topic: data for topic, data in self._pieces.items() if f"/{gone}/" not in topic}
        return self._models[digest]
