"""A client's examples in batches: which go together, in which order, on which device; and what is summed over them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.errors import ConfigError
from shared.task import Metric, Ratio

__all__ = ["Batch", "MetricSums", "batches", "n_examples", "shuffled", "split"]

Batch: TypeAlias = Any
"""Whatever `collate` makes: a tensor, or tuples, lists and dicts of them, nested."""


def n_examples(dataset: Dataset[Any]) -> int:
    """Return how many there are.

    Raises:
        ConfigError: it does not say.
    """
    try:
        return len(dataset)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f"{type(dataset).__name__} has no length: a task's data needs len() and [index]") from error


def shuffled(n: int, generator: torch.Generator) -> list[int]:
    """Return the indexes below `n` in the generator's order."""
    order: list[int] = torch.randperm(n, generator=generator).tolist()
    return order


def split(order: Sequence[int], size: int, *, join_single: bool = False) -> list[list[int]]:
    """Return indexes in batches of `size`; a last one of a single example joins the one before if `join_single`."""
    found = [list(order[start : start + size]) for start in range(0, len(order), size)]
    if join_single and size > 1 and len(found) > 1 and len(found[-1]) == 1:
        single = found.pop()
        found[-1] += single
    return found


def batches(
    dataset: Dataset[Any],
    indexes: list[list[int]],
    *,
    collate: Callable[[list[Any]], Batch] | None,
    device: torch.device,
) -> Iterator[tuple[int, Batch]]:
    """Yield each batch on the device, with its number of examples."""
    loader: Iterable[Batch] = DataLoader(
        dataset, batch_sampler=indexes, collate_fn=collate, generator=torch.Generator()
    )
    for here, batch in zip(indexes, loader, strict=True):
        yield len(here), _moved(batch, device)


def _moved(batch: Batch, device: torch.device) -> Batch:
    match batch:
        case Tensor():
            return batch.to(device)
        case Mapping():
            return {name: _moved(part, device) for name, part in batch.items()}
        case tuple() if hasattr(batch, "_fields"):
            return type(batch)(*(_moved(part, device) for part in batch))
        case tuple() | list():
            return type(batch)(_moved(part, device) for part in batch)
        case _:
            return batch


class MetricSums:
    """Ratios summed over batches."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, ratio: object) -> None:
        """Add a batch's.

        Raises:
            ConfigError: it is no ratio.
        """
        if not (isinstance(ratio, tuple) and len(ratio) == 2):
            raise ConfigError(f"metric {name!r} is a {type(ratio).__name__}, not a Ratio(numerator, denominator)")
        numerator, denominator = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (numerator + float(ratio[0]), denominator + float(ratio[1]))

    def ratios(self) -> dict[str, Metric]:
        """Return the sums."""
        return {name: Ratio(*sums) for name, sums in self._sums.items()}
