"""Flower's gRPC server with plain FedAvg: `python -m bench.flower.server ADDRESS DEVICES ROUNDS`.

Runs in Flower's own environment, where of ours only `bench.work` and `bench.round_log` can be imported.
"""

import os
import sys
from typing import Any

from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerConfig, start_server
from flwr.server.strategy import FedAvg

from bench.round_log import announce_deviation, announce_round
from bench.work import MODEL_BYTES, deviation, first_model


class TimedFedAvg(FedAvg):  # type: ignore[misc]  # Flower is not installed where types are checked
    """FedAvg over all clients, that says when a round has ended."""

    def __init__(self, n_devices: int, n_rounds: int) -> None:
        super().__init__(
            fraction_fit=1.0,
            fraction_evaluate=0.0,
            min_fit_clients=n_devices,
            min_available_clients=n_devices,
            accept_failures=False,
            initial_parameters=ndarrays_to_parameters([first_model(int(os.environ[MODEL_BYTES]))]),
        )
        self._n_devices, self._n_rounds = n_devices, n_rounds

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Aggregate as FedAvg does."""
        if failures or len(results) != self._n_devices:
            sys.exit(f"round {server_round}: {len(results)} results and the failures {failures}")
        aggregated = super().aggregate_fit(server_round, results, failures)
        announce_round()
        if server_round == self._n_rounds:
            announce_deviation(deviation(parameters_to_ndarrays(aggregated[0])[0], self._n_rounds))
        return aggregated


def main(address: str, n_devices: int, n_rounds: int) -> None:
    """Serve so many rounds, then let the clients go."""
    start_server(
        server_address=address,
        config=ServerConfig(num_rounds=n_rounds),
        strategy=TimedFedAvg(n_devices, n_rounds),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
