"""When is a device in the middle of an upload? Seen from outside, by a plain subscriber.

An offer says how many chunks there will be, and each chunk is a message: when one has come and others are to come,
that is the middle. No clock is asked, so whoever waits for this instant finds it on any machine, however slow.
"""

from broker.transport import Transport
from shared.chunking import Bitmap, ChunkLayout
from shared.errors import FederationError, PeerError, TransportError
from shared.messages import Report
from shared.topics import ChunkTopic, ReportTopic, Topics
from shared.wire import decode

__all__ = ["MidUpload", "until_mid_upload"]

MAX_INLINE_BYTES = 262_144
"""Of an update that travels in its report, which is no upload in our sense but must be read."""


class MidUpload:
    """What was seen of one device's uploads.

    Args:
        topics: of the fleet.
        device: whose uploads.
    """

    def __init__(self, topics: Topics, device: str) -> None:
        self._topics = topics
        self._device = device
        self._arrived: dict[str, Bitmap] = {}

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe to."""
        start = f"{self._topics.root}/from/{self._device}"
        return (f"{start}/report/+", f"{start}/chunk/+/+")

    def saw(self, topic: str, payload: bytes) -> tuple[int, int] | None:
        """Take note of a message; return (chunks come, chunks of all) if the device is in mid-upload now."""
        try:
            match self._topics.parse(topic):
                case ReportTopic(_, lease):
                    report = decode(Report, payload, max_data_bytes=MAX_INLINE_BYTES)
                    if report.size is not None and report.chunk_bytes is not None:
                        n_chunks = len(ChunkLayout(report.size, report.chunk_bytes))
                        if lease not in self._arrived or self._arrived[lease].n != n_chunks:
                            self._arrived[lease] = Bitmap(n_chunks)
                case ChunkTopic(_, lease, chunk) if lease in self._arrived and chunk < self._arrived[lease].n:
                    arrived = self._arrived[lease]
                    arrived.add(chunk)
                    if not arrived.is_full:
                        return arrived.n_set, arrived.n
        except PeerError:  # the aggregator refuses it, too
            return None
        return None


async def until_mid_upload(transport: Transport, topics: Topics, device: str) -> tuple[int, int]:
    """Watch a device until it is in mid-upload; return (chunks come, chunks of all).

    Raises:
        FederationError: the broker, which is on this machine, cannot be reached.
    """
    watched = MidUpload(topics, device)
    try:
        async with transport.connect() as connection:
            await connection.subscribe(watched.filters, qos=0)
            async for message in connection.messages():
                progress = watched.saw(message.topic, message.payload)
                if progress is not None:
                    return progress
    except TransportError as error:
        raise FederationError(f"the watch on {device} lost the broker: {error}") from error
    raise FederationError(f"the watch on {device} ended without an upload")
