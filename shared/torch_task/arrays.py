"""A model's entries by name, as tensors and as the NumPy arrays that travel."""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import InvalidState
from shared.task import Arrays

__all__ = ["copy_into", "entries_of", "is_in_numpy", "to_arrays"]

_IN_NUMPY = (torch.float16, torch.float32, torch.float64)


def is_in_numpy(tensor: Tensor) -> bool:
    """Return whether NumPy has this tensor's dtype; bfloat16 it lacks."""
    return not tensor.is_floating_point() or tensor.dtype in _IN_NUMPY


def entries_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a `state_dict`; they share the model's memory."""
    return {name: entry for name, entry in model.state_dict().items() if isinstance(entry, Tensor)}


def to_arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """Return NumPy arrays; tensors that share their memory become one array, so that ties are seen."""
    arrays: dict[str, Any] = {}
    seen: dict[object, Any] = {}
    for name, tensor in tensors.items():
        memory = (tensor.data_ptr() or name, tensor.shape, tensor.stride(), tensor.dtype)
        if memory not in seen:
            seen[memory] = (tensor if is_in_numpy(tensor) else tensor.float()).detach().cpu().numpy()
        arrays[name] = seen[memory]
    return arrays


def copy_into(entry: Tensor, array: NDArray[Any], name: str) -> None:
    """Set an entry's values.

    Raises:
        InvalidState: the array has another shape.
    """
    if tuple(array.shape) != tuple(entry.shape):  # copy_ would broadcast
        raise InvalidState(f"{name!r} is {list(array.shape)}, the model's is {list(entry.shape)}")
    with torch.no_grad():
        entry.copy_(torch.tensor(array))
