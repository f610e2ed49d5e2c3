"""What `asyncio.TaskGroup` leaves to its user: late tasks, one error out of many, a cancel that must not be lost.

In Python 3.11 and 3.12 a group whose child fails in the very moment in which its parent is cancelled raises the child's
error and forgets the cancel: a device that is told to stop while its link breaks would go on for ever.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn

from shared.errors import TransportError, leaf_of

__all__ = ["rethrow", "spawn"]


def spawn(group: asyncio.TaskGroup, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None] | None":
    """Start a task in a group; nothing when the group is ending, whose tasks may still run for a moment."""
    try:
        return group.create_task(work, name=name)
    except RuntimeError:
        work.close()
        return None


def rethrow(errors: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the error that says most of a group: anything rather than a lost link, which many tasks notice.

    Raises:
        asyncio.CancelledError: nothing worse has happened, and the present task is being cancelled.
        BaseException: what has happened.
    """
    task = asyncio.current_task()
    said_most = leaf_of(errors)
    if isinstance(said_most, TransportError) and task is not None and task.cancelling():
        raise asyncio.CancelledError from errors
    raise said_most from errors
