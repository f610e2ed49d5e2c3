"""Flower's server strategies on given updates: `python -m bench.flower.strategies INPUTS.npz OUTPUTS.npz`.

Runs in Flower's own environment, where of ours nothing else can be imported. No server and no clients: each strategy is
given a model and the clients' replies, as its `start` would, round after round; a reply is the model plus the client's
delta, in the dtype that is asked for.

INPUTS: `first` (n_params,), `deltas` (n_rounds, n_clients, n_params), `counts` and `losses` (n_rounds, n_clients),
`strategies`, JSON: name -> [class, its numbers]. OUTPUTS: "NAME/DTYPE", the models after each round, (n_rounds,
n_params), float64.
"""

import json
import sys
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as strategies
from flwr.supercore.task_identity import TaskIdentity

DTYPES = ("float64", "float32")


def walk(strategy: Any, inputs: Any, dtype: str) -> Any:
    """Return the models after each round: (n_rounds, n_params) float64."""
    model, models = inputs["first"].astype(dtype), []
    for index, (deltas, counts, losses) in enumerate(
        zip(inputs["deltas"], inputs["counts"], inputs["losses"], strict=True)
    ):
        arrays = ArrayRecord({"w": Array(model)})
        strategy.configure_train(index + 1, arrays, ConfigRecord(), None)  # of no share of the clients: asks nobody
        replies = [
            _reply((model + delta.astype(dtype)).astype(dtype), int(count), float(loss))
            for delta, count, loss in zip(deltas, counts, losses, strict=True)
        ]
        found, _ = strategy.aggregate_train(index + 1, replies)
        model = found["w"].numpy().astype(dtype)  # what a client would be sent in that dtype
        models.append(model.astype(np.float64))
    return np.array(models)


def _reply(weights: Any, count: int, loss: float) -> Any:
    metrics = MetricRecord({"num-examples": count, "train_loss": loss})
    content = RecordDict({"arrays": ArrayRecord({"w": Array(weights)}), "metrics": metrics})
    return Message(content, dst_node_id=1, message_type="train")


def main(inputs_path: str, outputs_path: str) -> None:
    """Walk every strategy over the inputs, in both dtypes."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # a message wants to know whose it is
    inputs = np.load(inputs_path)
    outputs = {}
    for name, (kind, numbers) in json.loads(str(inputs["strategies"])).items():
        for dtype in DTYPES:
            strategy = getattr(strategies, kind)(fraction_train=0.0, **numbers)
            outputs[f"{name}/{dtype}"] = walk(strategy, inputs, dtype)
    np.savez(outputs_path, **outputs)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
