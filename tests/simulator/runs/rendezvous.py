"""A task that can only be trained by two at the same time: each waits until the other has come."""

import time
from pathlib import Path

from shared.task import Arrays, Client, Trained, Work
from tests.integration.linear import LinearTask

__all__ = ["Rendezvous"]

PATIENCE_S = 15.0


class Rendezvous(LinearTask):
    """See `Task`. The folder of the meeting is the option `folder`."""

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Meet somebody of the same round, then train."""
        place = Path(str(work.options["folder"])) / str(work.round_id)
        place.mkdir(exist_ok=True)
        (place / client.id).touch()
        until = time.monotonic() + PATIENCE_S
        while len(list(place.iterdir())) < 2:
            if time.monotonic() > until:
                raise RuntimeError("nobody else came")
            time.sleep(0.005)
        return super().train(parameters, work, client)
