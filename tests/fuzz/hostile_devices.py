"""What devices may send an aggregator: valid for its state, or one step beside it.

Not here: who takes it (`upward.py`).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from random import Random

import numpy as np

from aggregator.leases import Lease, LeaseBook
from aggregator.uploads import Uploads
from shared.codecs import CODECS, Codec
from shared.errors import OWN_RULES, Reason
from shared.messages import Kind
from shared.parameters import ParameterSpec
from shared.task import Initial
from shared.topics import CheckInTopic, ChunkTopic, ReportTopic, StatusTopic, Topics
from tests.fuzz.hostile_updates import drawn_update, sound_update
from tests.fuzz.mutation import Fields, bent, hostile_bytes, hostile_topic, packed, packed_json
from tests.fuzz.world import Payload

__all__ = ["DEVICES", "SPEC", "HostileDevices"]

SPEC = ParameterSpec.of(Initial({"w": np.zeros((50, 60), np.float32), "b": np.zeros(7, np.float32)}))
"""Three chunks of 4 KiB; small enough to travel in a report as well."""
DEVICES = tuple(f"d{i}" for i in range(40))
CLONED = DEVICES[-1]
"""Two devices have this name, and push each other out."""
KEPT_LEASES = 200
CHUNK_BYTES = (4096, 4096, 4096, 5000, 8192)
FLOODS = 0.001
HONEST = 0.55
"""Share of payloads that are let through as they are: somebody has to finish the rounds."""


class HostileDevices:
    """Draws payloads with the aggregator's books open before it.

    Args:
        rng: where every choice comes from.
        topics: of the fleet.
        run: the run served.
        leases: all there are.
        uploads: those under way.
    """

    def __init__(self, rng: Random, topics: Topics, run: str, leases: LeaseBook, uploads: Uploads) -> None:
        self._rng, self._topics, self._run, self._leases, self._uploads = rng, topics, run, leases, uploads
        self._updates: OrderedDict[str, bytes] = OrderedDict()  # lease -> what its device offered last
        self._boots = dict.fromkeys(DEVICES, 1)
        self._n_strangers = self._turn = 0
        self._flood: list[Payload] = []
        self._next: list[Payload] = []

    @property
    def is_flooding(self) -> bool:
        """Whether the next payload comes from a device that sends one as fast as it can."""
        return bool(self._flood)

    def draw(self) -> Payload:
        """Return the next payload."""
        for waiting in (self._flood, self._next):
            if waiting:
                return waiting.pop()
        payload = self._drawn()
        if self._rng.random() < FLOODS:
            self._flood = [payload] * self._rng.choice((5, 100))
        elif self._rng.random() < FLOODS:
            self._flood = self._everything()
        elif self._rng.random() < 3 * FLOODS and (lease := self._lease()) is not None:
            self._next = [self._another_offer(lease) for _ in range(12)]
        return payload

    def _drawn(self) -> Payload:
        rng = self._rng
        kind: Callable[[], tuple[str, bytes]] = rng.choices(
            (self._check_in, self._status, self._report, self._offer, self._chunk, self._other_report),
            (20, 12, 14, 14, 34, 6),
        )[0]
        if not any(self._leases.open(Kind.TRAIN)) and rng.random() < 0.5:
            kind = self._check_in
        topic, data = kind()
        if rng.random() < 0.06:
            topic = hostile_topic(rng, topic)
        if rng.random() < 0.08:
            data = hostile_bytes(rng, data)
        return Payload(topic, data)

    # who and under which lease

    def _device(self) -> str:
        if self._rng.random() < 0.03:  # one that nobody has heard of
            self._n_strangers += 1
            return f"stranger-{self._n_strangers}"
        return self._rng.choice(DEVICES)

    def _lease(self, kind: Kind = Kind.TRAIN) -> Lease | None:
        """Return a lease that may still be decided, or now and then one that is final."""
        known = list(self._leases.open(kind))
        if self._rng.random() < 0.06 and self._updates:
            return self._leases.get(self._rng.choice(list(self._updates)))
        return self._rng.choice(known) if known else None

    def _under(self, lease: Lease | None) -> tuple[str, str]:
        """Return device and lease for a topic, now and then somebody else's."""
        if lease is None or self._rng.random() < 0.01:
            return self._rng.choice(DEVICES), f"{self._rng.getrandbits(128):032x}"
        if self._rng.random() < 0.02:
            return self._rng.choice(DEVICES), lease.record.lease
        return lease.record.device, lease.record.lease

    # messages

    def _pack(self, fields: Fields) -> bytes:
        if self._rng.random() < HONEST:
            return packed(self._rng, fields, is_hostile=False)
        return packed(self._rng, bent(self._rng, fields) if self._rng.random() < 0.6 else fields)

    def _check_in(self) -> tuple[str, bytes]:
        rng, device = self._rng, self._device()
        live = self._leases.live_of(device)
        holds = [] if live is None or rng.random() < 0.05 else [{"lease": live.record.lease, "run": self._run}]
        if rng.random() < 0.1 and self._updates:
            holds.append({"lease": rng.choice(list(self._updates)), "run": rng.choice((self._run, "another"))})
        fields: Fields = {
            "v": 1,
            "run": self._run,
            "spec": SPEC.digest if rng.random() < 0.97 else "0" * 64,
            "boot": self._boot(device),
            "connection": rng.choice((1, 1, 1, 2, 3)) if rng.random() < 0.1 else 9,
            "protocols": [1] if rng.random() < 0.97 else [2, 3],
            "codecs": list(CODECS) if rng.random() < 0.97 else rng.choice(([], ["gzip"], ["gzip", "int8"])),
            "num_examples": 100,
            "memory_bytes": 2**30,
            "conditions": {"charging": True, "load": 0.5, "os": "linux"},
            "detail": "as usual",
            "holds": holds,
        }
        if rng.random() < 0.03:
            fields["refusal"] = rng.choice((rng.choice(list(Reason)), rng.choice(sorted(OWN_RULES)), Reason.DATA)).value
        if device == CLONED:
            self._turn += 1
            fields |= {"boot": f"twin-{self._turn % 2}", "connection": 10 + self._turn}
        if rng.random() < 0.03:
            fields["missing"] = "d" * 64
        return self._topics.build(CheckInTopic(device)), self._pack(fields)

    def _status(self) -> tuple[str, bytes]:
        rng, device = self._rng, self._device()
        live = self._leases.live_of(device)
        fields: Fields = {
            "v": 1,
            "online": rng.random() < 0.95,
            "boot": self._boot(device),
            "connection": 9,
            "phase": rng.choice(("idle", "training", "reporting", "stopped")),
            "round": 1,
            "lease": None if live is None else live.record.lease,
            "progress": rng.random(),
            "conditions": {"charging": True},
        }
        if rng.random() >= HONEST:
            fields = bent(rng, fields)
        data = b"" if rng.random() < 0.02 else packed_json(rng, fields)
        return self._topics.build(StatusTopic(device)), data

    def _report(self) -> tuple[str, bytes]:
        """The update in the report itself."""
        lease = self._lease()
        data = self._update(lease)
        fields = {**self._trained(lease, data), "data": data}
        if self._rng.random() < 0.04:
            fields |= self._rng.choice(({"sha256": "0" * 64}, {"data": data[1:]}))
        return self._topics.build(ReportTopic(*self._under(lease))), self._pack(fields)

    def _offer(self) -> tuple[str, bytes]:
        lease = self._lease()
        name = "" if lease is None else lease.record.lease
        data = self._updates.get(name)
        if data is None or self._rng.random() < 0.1:
            data = self._update(lease)
        self._updates[name] = data
        while len(self._updates) > KEPT_LEASES:
            self._updates.popitem(last=False)
        fields = {**self._trained(lease, data), "chunk_bytes": self._rng.choice(CHUNK_BYTES)}
        return self._topics.build(ReportTopic(*self._under(lease))), self._pack(fields)

    def _everything(self) -> list[Payload]:
        """Return every chunk of every upload, granted or not: nobody waits to be asked."""
        chunks = []
        for lease in self._leases.open(Kind.TRAIN):
            upload, data = self._uploads.get(lease.record.lease), self._updates.get(lease.record.lease, b"")
            if upload is None:
                continue
            for i in range(len(upload.layout)):
                at = i * upload.layout.chunk_bytes
                topic = self._topics.build(ChunkTopic(lease.record.device, lease.record.lease, i))
                chunks.append(Payload(topic, data[at : at + upload.layout.chunk_bytes]))
        return chunks

    def _another_offer(self, lease: Lease) -> Payload:
        """Return a sound offer whose content is new."""
        codec = _codec_of(lease)
        data = sound_update(self._rng, codec, SPEC.n_params)
        fields = {**self._trained(lease, data), "codec": codec.name, "run": self._run, "chunk_bytes": 4096}
        topic = self._topics.build(ReportTopic(lease.record.device, lease.record.lease))
        return Payload(topic, packed(self._rng, fields, is_hostile=False))

    def _chunk(self) -> tuple[str, bytes]:
        """A chunk that was granted, or of a wrong index, length or content, or that nobody asked for."""
        rng = self._rng
        under_way = [lease for lease in self._leases.open() if self._uploads.get(lease.record.lease)]
        lease = rng.choice(under_way) if under_way and rng.random() < 0.97 else self._lease()
        if lease is None:
            return self._topics.build(ChunkTopic(*self._under(None), 0)), b"chunk"
        upload, data = self._uploads.get(lease.record.lease), self._updates.get(lease.record.lease, b"")
        index = rng.randrange(5)
        if upload is not None and upload.granted and rng.random() < 0.9:
            index = rng.choice(sorted(upload.granted))
        chunk_bytes = 4096 if upload is None else upload.layout.chunk_bytes
        cut = data[index * chunk_bytes : (index + 1) * chunk_bytes]
        match rng.randrange(40):
            case 0:
                cut = cut[:-1]
            case 1:
                cut += b"\0"
            case 2:
                cut = rng.randbytes(len(cut))
            case 3:
                index = rng.choice((10**8, 999_999_999, 77))
        return self._topics.build(ChunkTopic(*self._under(lease), index)), cut

    def _other_report(self) -> tuple[str, bytes]:
        """An evaluation, or a failure."""
        rng = self._rng
        is_evaluation = rng.random() < 0.7
        lease = self._lease(Kind.EVALUATE if is_evaluation else Kind.TRAIN)
        fields: Fields = {"v": 1, "lease": lease.record.lease if lease else "0" * 32, "run": self._run}
        if is_evaluation:
            fields |= {"outcome": "evaluated", "num_examples": 20, "metrics": {"accuracy": [3.0, 20.0], "loss": 0.25}}
        else:
            errors = ("ValueError", "result", "not_finite", "spec", "state", "protocol", "data")
            fields |= {"outcome": "failed", "error": rng.choice(errors)}
        return self._topics.build(ReportTopic(*self._under(lease))), self._pack(fields)

    # parts of messages

    def _trained(self, lease: Lease | None, data: bytes) -> Fields:
        rng = self._rng
        return {
            "v": 1,
            "lease": lease.record.lease if lease else "0" * 32,
            "run": self._run if rng.random() < 0.99 else "another",
            "outcome": "trained",
            "codec": _codec_of(lease).name if rng.random() < 0.98 else rng.choice((*CODECS, "pickle", "")),
            "num_examples": rng.choice((1, 10, 2**53 - 1)),
            "n_steps": 3,
            "train_seconds": 1.5,
            "metrics": {"loss": 0.5, "accuracy": [1.0, 2.0]},
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def _update(self, lease: Lease | None) -> bytes:
        """Return an encoded update, sound or not."""
        return drawn_update(self._rng, _codec_of(lease), SPEC.n_params)

    def _boot(self, device: str) -> str:
        """Return the device's boot; devices reboot, and some are cloned."""
        boot = self._boots.get(device, 1)
        chance = self._rng.random()
        if device in self._boots and chance < 0.005:
            self._boots[device] = boot = boot + 1
        elif chance > 0.998:
            boot = max(1, boot - 1)
        return f"boot-{boot}"


def _codec_of(lease: Lease | None) -> Codec:
    return CODECS["float32" if lease is None or not lease.record.codec else lease.record.codec]
