"""Flower's clients, a thread each: `python -m bench.flower.clients ADDRESS COUNT`.

Runs in Flower's own environment, where of ours only `bench.work` and `bench.round_log` can be imported.
"""

import sys
import threading
from typing import Any

from flwr.client import NumPyClient
from flwr.compat.client.app import start_client

from bench.work import add_one


class AddOne(NumPyClient):  # type: ignore[misc]  # Flower is not installed where types are checked
    """Adds one to every parameter."""

    def fit(self, parameters: list[Any], config: Any) -> tuple[list[Any], int, dict[str, float]]:
        """Train, as Flower calls it."""
        return [add_one(array) for array in parameters], 1, {}


def main(address: str, count: int) -> None:
    """Take part until the server says that it is over."""
    threads = [
        threading.Thread(target=start_client, kwargs={"server_address": address, "client": AddOne().to_client()})
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
