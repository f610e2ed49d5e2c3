"""Flower's simulation on Ray: `python -m bench.flower.simulation CLIENTS ROUNDS` prints the end of each round.

Runs in an environment with `flwr[simulation]`, where of ours only `bench.work` and `bench.round_log` can be imported.
"""

import os
import sys
from typing import Any

from flwr.client import ClientApp, NumPyClient
from flwr.common import Context, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation

from bench.round_log import announce_deviation, announce_round
from bench.work import MODEL_BYTES, add_one, deviation, first_model


class AddOne(NumPyClient):  # type: ignore[misc]  # Flower is not installed where types are checked
    """Adds one to every parameter."""

    def fit(self, parameters: list[Any], config: Any) -> tuple[list[Any], int, dict[str, float]]:
        """Train, as Flower calls it."""
        return [add_one(array) for array in parameters], 1, {}


class TimedFedAvg(FedAvg):  # type: ignore[misc]  # Flower is not installed where types are checked
    """FedAvg over all clients, that says when a round has ended."""

    def __init__(self, n_clients: int, n_rounds: int) -> None:
        super().__init__(
            fraction_fit=1.0,
            fraction_evaluate=0.0,
            min_fit_clients=n_clients,
            min_available_clients=n_clients,
            accept_failures=False,
            initial_parameters=ndarrays_to_parameters([first_model(int(os.environ[MODEL_BYTES]))]),
        )
        self._n_clients, self._n_rounds = n_clients, n_rounds

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Aggregate as FedAvg does."""
        if failures or len(results) != self._n_clients:
            sys.exit(f"round {server_round}: {len(results)} results and the failures {failures}")
        aggregated = super().aggregate_fit(server_round, results, failures)
        announce_round()
        if server_round == self._n_rounds:
            announce_deviation(deviation(parameters_to_ndarrays(aggregated[0])[0], self._n_rounds))
        return aggregated


def main(n_clients: int, n_rounds: int) -> None:
    """Simulate so many clients for so many rounds, an actor for each processor of this machine."""

    def client(context: Context) -> Any:
        return AddOne().to_client()

    def server(context: Context) -> Any:
        return ServerAppComponents(strategy=TimedFedAvg(n_clients, n_rounds), config=ServerConfig(num_rounds=n_rounds))

    run_simulation(
        server_app=ServerApp(server_fn=server),
        client_app=ClientApp(client_fn=client),
        num_supernodes=n_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
