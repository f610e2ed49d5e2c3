"""The retained status of a device, for people and for selection, as JSON.

Not here: when it is said (`participant_machine.py`).
"""

from collections.abc import Mapping

from edge_client.eligibility import Refusal
from edge_client.events import SendStatus
from shared.messages import DeviceStatus
from shared.wire import encode_json

__all__ = ["STOPPED", "gone", "here"]

STOPPED = "stopped"
"""Phase of a device that has left in good order."""


def here(
    wish: SendStatus,
    *,
    boot: str,
    connection: int,
    progress: float | None,
    conditions: Mapping[str, bool | float | str],
) -> bytes:
    """Return the status of a device that is there.

    Args:
        wish: what the machine says.
        boot: nonce of this process.
        connection: number of the connection.
        progress: of fetching, training or uploading, in [0, 1].
        conditions: as last read.
    """
    status = DeviceStatus(
        online=True,
        boot=boot,
        connection=connection,
        phase=wish.phase,
        round=wish.round,
        lease=wish.lease,
        progress=progress,
        refusal=wish.refusal.reason if wish.refusal else None,
        detail=wish.refusal.detail[:256] if wish.refusal else "",
        conditions=dict(conditions),
    )
    return _fitting(status)


def gone(
    *, boot: str, connection: int, phase: str = "", lease: str | None = None, refusal: Refusal | None = None
) -> bytes:
    """Return the status of a device that is not there: its will, or its own last word.

    Args:
        boot: nonce of this process.
        connection: number of the connection.
        phase: `STOPPED` when it leaves in good order.
        lease: one that it still has a report for, in its last word.
        refusal: why it leaves, when it was turned away.
    """
    status = DeviceStatus(
        online=False,
        boot=boot,
        connection=connection,
        phase=phase,
        lease=lease,
        refusal=refusal.reason if refusal else None,
        detail=refusal.detail[:256] if refusal else "",
    )
    return _fitting(status)


def _fitting(status: DeviceStatus) -> bytes:
    """Return the status with as much of its detail as a status may have bytes."""
    said = encode_json(status)
    while len(said) > DeviceStatus.max_message_bytes and status.detail:
        status = status.model_copy(update={"detail": status.detail[: len(status.detail) // 2]})
        said = encode_json(status)
    return said
