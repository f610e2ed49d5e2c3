"""Server optimizers: the aggregated delta moves the model. One family a file."""

from aggregator.server_optimizers.adaptive import Adagrad, Adam, Yogi
from aggregator.server_optimizers.choice import load_optimizer
from aggregator.server_optimizers.momentum import FedAvgM, Sgd
from aggregator.server_optimizers.optimizer import LOWER, OptimizerState, ServerOptimizer, advance

__all__ = [
    "LOWER",
    "Adagrad",
    "Adam",
    "FedAvgM",
    "OptimizerState",
    "ServerOptimizer",
    "Sgd",
    "Yogi",
    "advance",
    "load_optimizer",
]
