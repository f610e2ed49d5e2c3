"""TorchTask: a model, its data and a loss become a `Task`. The one folder of ours that imports torch."""

from shared.torch_task.batches import Batch
from shared.torch_task.client_optimizers import ClientOptimizer, adam, momentum, sgd
from shared.torch_task.division import norm_layers
from shared.torch_task.task import TorchTask

__all__ = ["Batch", "ClientOptimizer", "TorchTask", "adam", "momentum", "norm_layers", "sgd"]
