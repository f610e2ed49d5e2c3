"""What a device computes in one training: steps of FedAvg's kind, or FedSGD's one gradient.

FedAvg is McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017,
arXiv 1602.05629), algorithm 1, ClientUpdate; `fedsgd` is the same paper's single full pass: one gradient of the mean
loss over all of a client's examples, accumulated in pieces. `fedprox`, `scaffold` and `feddyn` are FedAvg's steps with
what `corrections.py` adds to each gradient. `qfedavg` (Li et al., "Fair Resource Allocation in Federated Learning",
ICLR 2020, arXiv 1905.10497, algorithm 2) trains as FedAvg does and reports F_k(w) of the received model, on which the
server's weights rest, as the metric `initial_loss`.

`head_epochs` is FedRep (Collins et al., ICML 2021, arXiv 2102.07078, algorithm 1): first the personal entries alone,
then what travels alone, the other part frozen each time. Steps of the latter are the training's `n_steps`, for they
alone made the delta; the paper's clients take one of them, ours as many as the work says. If the time is up before, one
is taken all the same.

Batch norm: a batch of one example has no variance. A last batch of one joins the batch before it; where every batch is
of one (a shard of a single example, or `batch_size = 1`), the layers normalise by their running statistics and leave
them as they are. Under `fedsgd` they always do: a gradient carries no statistics, and by fixed ones the gradient is
exactly the mean over examples, however they are split. Dropout stays on, seeded.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from shared.initial_loss import INITIAL_LOSS
from shared.task import Arrays, Ratio, Trained, Work
from shared.torch_task.arrays import entries_of, to_arrays
from shared.torch_task.batches import Batch, MetricSums, batches, n_examples, shuffled, split
from shared.torch_task.client_optimizers import ClientOptimizer, check_step, warn_of_scaffold
from shared.torch_task.corrections import Correction
from shared.torch_task.division import Division
from shared.torch_task.kept_moments import moments_of, restore_moments

__all__ = ["ALGORITHMS", "PIECE", "LocalTraining", "Recipe", "batches_for"]

PIECE = 256
"""Examples at a time where the split changes nothing: evaluation, and the pass of fedsgd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a task trains, whatever the model and the data. See `TorchTask`."""

    loss: Callable[[nn.Module, Batch], Tensor]
    optimizer: Callable[[Iterable[nn.Parameter], float], ClientOptimizer]
    keep_optimizer: bool
    max_gradient_norm: float | None
    collate: Callable[[list[Any]], Batch] | None
    head_epochs: int | None


def batches_for(
    model: nn.Module, dataset: Dataset[Any], indexes: list[list[int]], recipe: Recipe
) -> Iterator[tuple[int, Batch]]:
    """Yield each batch where the model is, with its number of examples."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return batches(dataset, indexes, collate=recipe.collate, device=device)


class LocalTraining:
    """One training of one model, which it changes.

    Args:
        recipe: of the task.
        division: what travels, what is personal; the base is frozen already.
        model: with the received values.
        dataset: the client's, at least one example.
        work: what is asked.
    """

    def __init__(self, recipe: Recipe, division: Division, model: nn.Module, dataset: Dataset[Any], work: Work) -> None:
        self._recipe, self._division, self._model, self._dataset, self._work = recipe, division, model, dataset, work
        norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        self._still = [norm for name, norm in norms.items() if division.has_frozen_statistics(name)]
        self._norms = [norm for norm in norms.values() if norm not in self._still]
        self._learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._head = {name: p for name, p in self._learned.items() if division.is_personal(name)}
        self._body = {name: p for name, p in self._learned.items() if name not in self._head}
        self._order = torch.Generator().manual_seed(work.seed)
        self._sums = MetricSums()
        self._moments: dict[str, Any] = {}

    def fedavg(self) -> Trained:
        """Take steps; ended early by `progress`, they are those that were taken."""
        work, n = self._work, n_examples(self._dataset)
        size = min(work.batch_size or n, n)
        n_batches = len(split(range(n), size, join_single=bool(self._norms)))
        n_head = (self._recipe.head_epochs or 0) * n_batches
        n_steps = work.max_steps if work.max_steps is not None else (work.epochs or 1) * n_batches
        if work.algorithm == "qfedavg":
            self._look_at_the_received(n_head + n_steps)
        self._begin_to_train(by_running_statistics=size == 1)
        correction = Correction(self._travelling(), work.correction, work.mu)
        n_taken = self._take_steps(self._head, n_head, size, 0, n_head + n_steps) if n_head else 0
        learned, n_more = self._body if n_head else self._learned, n_steps if n_taken == n_head else 1
        n_body = self._take_steps(learned, n_more, size, n_taken, n_head + n_steps, correction)
        travels, stays = self._divided()
        return Trained(
            parameters=travels,
            num_examples=n,
            n_steps=n_body,
            metrics=self._sums.ratios(),
            state={**stays, **self._moments},
        )

    def fedsgd(self) -> Trained:
        """Make one pass; ended by `progress`, it is the gradient over the examples seen, and says how many."""
        work, model, n = self._work, self._model, n_examples(self._dataset)
        size = min(work.batch_size or n, n)
        n_head = (self._recipe.head_epochs or 0) * len(split(range(n), size))
        pieces = split(shuffled(n, self._order), work.batch_size or PIECE)
        self._begin_to_train(by_running_statistics=True)
        n_taken = self._take_steps(self._head, n_head, size, 0, n_head + len(pieces)) if n_head else 0
        learned = self._body if n_head else self._learned
        for name, p in self._learned.items():
            p.requires_grad_(name in learned)
        # 16-bit sums would swallow the later pieces
        sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in learned.values()]
        n_seen = 0
        for step, (n_here, batch) in enumerate(self._batches(pieces if n_taken == n_head else pieces[:1]), start=1):
            loss = self._recipe.loss(model, batch)
            found = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
            for total, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    total.add_(gradient, alpha=n_here)
            n_seen += n_here
            self._sums.add("loss", Ratio(loss.item() * n_here, n_here))
            if not work.progress(n_taken + step, n_head + len(pieces), loss=loss.item()):
                break
        scale = 1 / n_seen
        if self._recipe.max_gradient_norm is not None:
            norm = float(torch.stack([total.norm() for total in sums]).norm()) / n_seen
            scale *= min(1.0, self._recipe.max_gradient_norm / norm) if norm else 1.0
        named = {name: p for name, p in model.named_parameters() if self._division.travels(name)}
        gradients = {name: torch.zeros_like(p) for name, p in named.items()}
        means = dict(zip(learned, (total * scale for total in sums), strict=True))
        gradients.update({name: mean for name, mean in means.items() if name in named})
        self._step_own({name: mean for name, mean in means.items() if name not in named})
        return Trained(
            gradient=to_arrays(gradients),
            num_examples=n_seen,
            n_steps=1,
            metrics=self._sums.ratios(),
            state={**self._divided()[1], **self._moments},
        )

    def _take_steps(
        self,
        learned: Mapping[str, nn.Parameter],
        n_steps: int,
        size: int,
        n_before: int,
        n_in_all: int,
        correction: Correction | None = None,
    ) -> int:
        """Step these parameters, and no others.

        Args:
            learned: by name.
            n_steps: at most; the first is taken in any case.
            size: examples a batch.
            n_before: steps taken before.
            n_in_all: steps of this training, for `progress`.
            correction: of what travels.

        Returns:
            How many were taken: fewer, when the time was up.
        """
        n, step, is_over = n_examples(self._dataset), 0, False
        for name, p in self._learned.items():
            p.requires_grad_(name in learned)
        optimizer = self._begin(learned)
        while step < n_steps and not is_over:
            epoch = split(shuffled(n, self._order), size, join_single=bool(self._norms))
            for n_here, batch in self._batches(epoch[: n_steps - step]):
                optimizer.zero_grad()
                loss = self._recipe.loss(self._model, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                if self._recipe.max_gradient_norm is not None:
                    nn.utils.clip_grad_norm_(learned.values(), self._recipe.max_gradient_norm)
                if correction is not None:
                    correction.add()
                optimizer.step()
                step += 1
                self._sums.add("loss", Ratio(loss.item() * n_here, n_here))
                if not self._work.progress(n_before + step, n_in_all, loss=loss.item()):
                    is_over = True
                    break
        self._end(optimizer, learned)
        return step

    def _step_own(self, gradients: Mapping[str, Tensor]) -> None:
        """Take one step in what is personal: nobody else does."""
        own = {name: self._learned[name] for name in gradients}
        if own:
            for name, p in own.items():
                p.grad = gradients[name].to(p.dtype)
            optimizer = self._begin(own)
            optimizer.step()
            self._end(optimizer, own)

    @torch.no_grad()
    def _look_at_the_received(self, n_steps: int) -> None:
        """Report its loss: without dropout, by running statistics, and without a trace in the training that follows."""
        self._model.eval()
        for n_here, batch in self._batches(split(range(n_examples(self._dataset)), PIECE)):
            self._sums.add(INITIAL_LOSS, Ratio(float(self._recipe.loss(self._model, batch)) * n_here, n_here))
            self._work.progress(0, n_steps)  # a cancel is heard; time that is up is up after the first step
        torch.manual_seed(self._work.seed)

    def _begin(self, parameters: Mapping[str, nn.Parameter]) -> ClientOptimizer:
        """Return an optimizer of these parameters, with the moments that were kept."""
        optimizer = self._recipe.optimizer(list(parameters.values()), self._work.learning_rate)
        check_step(optimizer)
        if self._work.algorithm == "scaffold":
            warn_of_scaffold(optimizer, self._work.learning_rate)
        if self._recipe.keep_optimizer:
            restore_moments(optimizer, parameters, self._work.state)
        return optimizer

    def _end(self, optimizer: ClientOptimizer, parameters: Mapping[str, nn.Parameter]) -> None:
        """Keep its moments, where they are to be kept."""
        if self._recipe.keep_optimizer:
            self._moments.update(moments_of(optimizer, parameters))

    def _batches(self, indexes: list[list[int]]) -> Iterator[tuple[int, Batch]]:
        return batches_for(self._model, self._dataset, indexes, self._recipe)

    def _begin_to_train(self, *, by_running_statistics: bool) -> None:
        """Switch the model to training; batch norms of the base go by their running statistics in any case."""
        self._model.train()
        for norm in (*self._still, *(self._norms if by_running_statistics else ())):
            norm.eval()

    def _travelling(self) -> dict[nn.Parameter, list[str]]:
        """Return what is stepped and travels, with all its names."""
        names: dict[nn.Parameter, list[str]] = defaultdict(list)
        for name, p in self._model.named_parameters(remove_duplicate=False):
            if p.requires_grad and self._division.travels(name):
                names[p].append(name)
        return names

    def _divided(self) -> tuple[Arrays, Arrays]:
        """Return the entries that travel, and those that stay on the client."""
        entries, division = entries_of(self._model), self._division
        travel = {name: entry for name, entry in entries.items() if division.travels(name)}
        return to_arrays(travel), to_arrays({n: entry for n, entry in entries.items() if division.is_personal(n)})


ALGORITHMS: dict[str, Callable[[LocalTraining], Trained]] = {
    **dict.fromkeys(("fedavg", "fedprox", "scaffold", "feddyn", "qfedavg"), LocalTraining.fedavg),
    "fedsgd": LocalTraining.fedsgd,
}
"""By the name in `training.algorithm`."""
