"""Which models of a run may be on the broker: each version as it was cut for the wire, once or more often.

A version is cut when it is published, into chunks of the size that was set then; a start with another size cuts the
newest version anew, so that the broker's limits can be met. What was cut before stays until the next version is
published, for devices may be in the middle of it, and is deleted then: nothing on the broker is forgotten.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from aggregator.model_store import ServerState
from aggregator.publishing import ModelBlob, model_blob
from aggregator.records import CommitRecord, ConfigRecord, Record
from shared.messages import ModelRef

__all__ = ["PastModels", "chunk_sizes"]


def chunk_sizes(records: Iterable[Record], now: int) -> dict[int, list[int]]:
    """Return for each version the chunk sizes with which it was published, the last one last.

    Args:
        records: of the journal.
        now: the chunk size of this start.
    """
    sizes: dict[int, list[int]] = {0: []}
    version, size = 0, None
    for record in records:
        match record:
            case ConfigRecord():
                size = json.loads(record.settings).get("transfer", {}).get("chunk_bytes")
            case CommitRecord():
                version = record.version
                sizes[version] = []
            case _:
                continue
        if size is not None and size not in sizes[version]:
            sizes[version].append(size)
    sizes[version] = [each for each in sizes[version] if each != now] + [now]
    return sizes


class PastModels:
    """Versions on disk, cut as they were published. Blocks: hashes each as often as it was cut.

    Args:
        load: returns a version.
        versions: on disk and committed, the newest last.
        sizes: as `chunk_sizes` returns them.
    """

    def __init__(
        self, load: Callable[[int], ServerState], versions: Sequence[int], sizes: Mapping[int, Sequence[int]]
    ) -> None:
        self.models: dict[int, ModelRef] = {}
        """Each version as it was cut last."""
        self.outdated: list[ModelRef] = []
        """What was cut before, with other chunks: to be deleted from the broker."""
        for version in versions:
            state = load(version)
            for chunk_bytes in sizes[version]:
                self.newest: ModelBlob = model_blob(state.parameters, state.spec, version, chunk_bytes)
                if version in self.models:
                    self.outdated.append(self.models[version])
                self.models[version] = self.newest.ref
