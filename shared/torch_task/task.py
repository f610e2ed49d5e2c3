"""A model, its data and a loss become a `Task`.

`fedavg` is McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017,
arXiv 1602.05629), algorithm 1, ClientUpdate; `fedsgd` is the same paper's single full pass: one gradient of the mean
loss over all of a client's examples, accumulated in pieces.

Bits: on a CPU the same seed gives the same bits. One training runs at a time in a process, under a forked random
generator and in one thread: small models are no faster in two, and sums in another order have other bits. Whoever has
a large model sets `OMP_NUM_THREADS`; then torch's own number is left alone.

Batch norm: a batch of one example has no variance. A last batch of one joins the batch before it; where every batch is
of one (a shard of a single example, or `batch_size = 1`), the layers normalise by their running statistics and leave
them as they are. Under `fedsgd` they always do: a gradient carries no statistics, and by fixed ones the gradient is
exactly the mean over examples, however they are split. Dropout stays on, seeded.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from shared.errors import ConfigError, InvalidState
from shared.task import Arrays, Client, Evaluated, Initial, Ratio, Trained, Work
from shared.torch_task.arrays import copy_into, entries_of, is_in_numpy, to_arrays
from shared.torch_task.batches import Batch, MetricSums, batches, n_examples, shuffled, split
from shared.torch_task.client_optimizers import ClientOptimizer, sgd
from shared.torch_task.seeding import alone, device_named

__all__ = ["TorchTask"]

_BUILD_SEED = 0
"""Models on clients are built under one seed, so that what does not travel starts alike everywhere."""
_PIECE = 256
"""Examples at a time where the split changes nothing: evaluation, and the pass of fedsgd."""


class TorchTask:
    """A `Task` made of parts. Keeps nothing between calls.

    Args:
        model: builds the network; called under a seed, in a forked random generator.
        loss: mean loss over a batch, a scalar tensor.
        train_data: a client's own examples, with a length; at least one.
        test_data: held-out examples of a client, or of the aggregator (client None); None: there are none here.
        metrics: of a batch, as ratios that are summed; `loss` is always added.
        optimizer: client optimizer from (parameters, learning rate), such as any of `torch.optim`.
        personal: name patterns (`head.*`) of entries that never travel: they stay on the client, in its state
            (FedPer, arXiv 1912.00818; FedBN, arXiv 2102.07623).
        max_gradient_norm: the gradient of a step is scaled down to this 2-norm; None: never.
        collate: makes a batch of a list of examples; None: torch's default.
        device: "auto" takes cuda, then mps, then cpu.
    """

    def __init__(
        self,
        *,
        model: Callable[[], nn.Module],
        loss: Callable[[nn.Module, Batch], Tensor],
        train_data: Callable[[Client], Dataset[Any]],
        test_data: Callable[[Client | None], Dataset[Any] | None] = lambda client: None,
        metrics: Callable[[nn.Module, Batch], Mapping[str, Ratio]] | None = None,
        optimizer: Callable[[Iterable[nn.Parameter], float], ClientOptimizer] = sgd,
        personal: Sequence[str] = (),
        max_gradient_norm: float | None = None,
        collate: Callable[[list[Any]], Batch] | None = None,
        device: str = "auto",
    ) -> None:
        if max_gradient_norm is not None and not max_gradient_norm > 0:
            raise ConfigError(f"max_gradient_norm is {max_gradient_norm}, it must be above 0")
        self._model, self._loss, self._metrics = model, loss, metrics
        self._train_data, self._test_data = train_data, test_data
        self._optimizer, self._personal = optimizer, tuple(personal)
        self._max_gradient_norm, self._collate, self._device_name = max_gradient_norm, collate, device

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`. bfloat16 entries appear as float32; integer ones are there, and stay the server's.

        Raises:
            ConfigError: a pattern of `personal` matches no name.
        """
        with alone(seed, torch.device("cpu")):
            model = self._model()
        entries = entries_of(model)
        for pattern in self._personal:
            if not fnmatch.filter(entries, pattern):
                raise ConfigError(f"personal {pattern!r} matches no entry of the model", hint=", ".join(entries))
        learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        travels = {name: entry for name, entry in entries.items() if not self._is_personal(name)}
        buffers = {name for name, entry in travels.items() if entry.is_floating_point() and name not in learned}
        return Initial(to_arrays(travels), frozenset(buffers))

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`.

        Raises:
            ConfigError: the client has no examples, or the algorithm is another than fedavg and fedsgd.
        """
        algorithms = {"fedavg": self._fedavg, "fedsgd": self._fedsgd}
        if work.algorithm not in algorithms:
            raise ConfigError(f"TorchTask knows {' and '.join(algorithms)}, not {work.algorithm!r}")
        dataset = self._train_data(client)
        if not n_examples(dataset):
            raise ConfigError(f"train_data({client.id!r}) is empty: a client needs at least one example")
        with self._built(parameters, work.state, seed=work.seed) as model:
            lost = {
                name: parameters[name] - entry.float().cpu().numpy()
                for name, entry in entries_of(model).items()
                if not is_in_numpy(entry) and name in parameters
            }
            trained = algorithms[work.algorithm](model, dataset, work)
        if trained.parameters is None or not lost:
            return trained
        # what the model's own dtype could not hold was not learned away: it stays part of the parameters
        whole = {name: array + lost.get(name, 0) for name, array in trained.parameters.items()}
        return dataclasses.replace(trained, parameters=whole)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """See `Task`."""
        dataset = self._test_data(client)
        if dataset is None or not n_examples(dataset):
            return None
        n = n_examples(dataset)
        totals = MetricSums()
        with self._built(parameters, state, seed=_BUILD_SEED) as model, torch.no_grad():
            model.eval()
            for size, batch in self._batches(dataset, split(range(n), _PIECE), model):
                totals.add("loss", Ratio(float(self._loss(model, batch)) * size, size))
                for name, ratio in (self._metrics(model, batch) if self._metrics else {}).items():
                    totals.add(name, ratio)
        return Evaluated(num_examples=n, metrics=totals.ratios())

    def _fedavg(self, model: nn.Module, dataset: Dataset[Any], work: Work) -> Trained:
        n = n_examples(dataset)
        norms = _norm_layers(model)
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = self._optimizer(learned, work.learning_rate)
        order = torch.Generator().manual_seed(work.seed)
        size = min(work.batch_size or n, n)
        n_batches = len(split(range(n), size, join_single=bool(norms)))
        n_steps = work.max_steps if work.max_steps is not None else (work.epochs or 1) * n_batches
        totals, step = MetricSums(), 0
        model.train()
        if size == 1:
            _freeze(norms)
        while step < n_steps:
            epoch = split(shuffled(n, order), size, join_single=bool(norms))
            for n_here, batch in self._batches(dataset, epoch[: n_steps - step], model):
                optimizer.zero_grad()
                loss = self._loss(model, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                if self._max_gradient_norm is not None:
                    nn.utils.clip_grad_norm_(learned, self._max_gradient_norm)
                optimizer.step()
                step += 1
                totals.add("loss", Ratio(loss.item() * n_here, n_here))
                if not work.progress(step, n_steps, loss=loss.item()):
                    n_steps = step
                    break
        travels, state = self._divided(model)
        return Trained(parameters=travels, num_examples=n, n_steps=step, metrics=totals.ratios(), state=state)

    def _fedsgd(self, model: nn.Module, dataset: Dataset[Any], work: Work) -> Trained:
        """One pass; ended by `progress`, it is the gradient over the examples seen, and says how many they were."""
        order = shuffled(n_examples(dataset), torch.Generator().manual_seed(work.seed))
        pieces = split(order, work.batch_size or _PIECE)
        named = dict(model.named_parameters())
        learned = {name: p for name, p in named.items() if p.requires_grad}
        # 16-bit sums would swallow the later pieces
        sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in learned.values()]
        totals, n_seen = MetricSums(), 0
        model.train()
        _freeze(_norm_layers(model))
        for step, (n_here, batch) in enumerate(self._batches(dataset, pieces, model), start=1):
            loss = self._loss(model, batch)
            found = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
            for total, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    total.add_(gradient, alpha=n_here)
            n_seen += n_here
            totals.add("loss", Ratio(loss.item() * n_here, n_here))
            if not work.progress(step, len(pieces), loss=loss.item()):
                break
        scale = 1 / n_seen
        if self._max_gradient_norm is not None:
            norm = float(torch.stack([total.norm() for total in sums]).norm()) / n_seen
            scale *= min(1.0, self._max_gradient_norm / norm) if norm else 1.0
        gradients = {name: torch.zeros_like(p) for name, p in named.items()}
        gradients.update(zip(learned, (total * scale for total in sums), strict=True))
        own = {name: p for name, p in learned.items() if self._is_personal(name)}
        if own:  # nobody else steps them
            for name, p in own.items():
                p.grad = gradients[name].to(p.dtype)
            self._optimizer(own.values(), work.learning_rate).step()
        return Trained(
            gradient=to_arrays({name: g for name, g in gradients.items() if not self._is_personal(name)}),
            num_examples=n_seen,
            n_steps=1,
            metrics=totals.ratios(),
            state=self._divided(model)[1],
        )

    @contextmanager
    def _built(self, parameters: Arrays, state: Arrays, *, seed: int) -> Iterator[nn.Module]:
        """Yield the model on its device with the values of `parameters`, and of `state` where they are personal."""
        device = device_named(self._device_name)
        with alone(_BUILD_SEED, device):
            model = self._model().to(device)
            for name, entry in entries_of(model).items():
                source = state if self._is_personal(name) else parameters
                if name in source:
                    copy_into(entry, source[name], name)
                elif entry.is_floating_point() and source is parameters:
                    raise InvalidState(f"the model has {name!r}, the given parameters have not")
            torch.manual_seed(seed)
            yield model

    def _batches(
        self, dataset: Dataset[Any], indexes: list[list[int]], model: nn.Module
    ) -> Iterator[tuple[int, Batch]]:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        return batches(dataset, indexes, collate=self._collate, device=device)

    def _is_personal(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._personal)

    def _divided(self, model: nn.Module) -> tuple[Arrays, Arrays]:
        """Return the entries that travel, and those that stay."""
        entries = entries_of(model)
        stays = {name: entry for name, entry in entries.items() if self._is_personal(name)}
        return to_arrays({name: entry for name, entry in entries.items() if name not in stays}), to_arrays(stays)


def _norm_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _freeze(norms: list[nn.Module]) -> None:
    for norm in norms:
        norm.eval()
