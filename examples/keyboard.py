"""The phone keyboard: which character comes next, learned from what is typed on phones and never leaves them.

The text is Python's own reference (`pydoc_data.topics`, part of every Python), one family of topics a phone: who writes
about numbers writes unlike somebody who writes about the debugger, and some write ten times as much. A paragraph that
stands in several topics is kept once, in the shortest of them, so that no phone trains on what another is tested on.

A phone's text is cut into blocks of whole paragraphs; fold k of 5 is every fifth block, from the k-th on, and is
what the phone is tested on in the task `fold_k`. A real device brings its own text with `--data`: a file, or a folder
of .txt files; without `--data` it takes the family that its id names.
"""

import functools
import hashlib
import math
import re
import string
from pydoc_data.topics import topics

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from shared.errors import ConfigError
from shared.task import Client, ClientId, Ratio
from shared.torch_task import Batch, TorchTask

__all__ = ["fold_0", "fold_1", "fold_2", "fold_3", "fold_4", "task", "task_of"]

ALPHABET = "\n" + string.printable[:95]
SYMBOLS = {character: i for i, character in enumerate(ALPHABET)}
START, UNKNOWN, N_SYMBOLS = len(ALPHABET), len(ALPHABET) + 1, len(ALPHABET) + 2
"""Fixed here, and so no fact about anybody's text: a symbol for the begin of a block, and one for each character that
is not printable ASCII, such as “ and ’."""
NOTHING = -100
"""The target behind the end of a block; `cross_entropy` skips it."""
N_FOLDS = 5
BLOCK = 600
"""Characters that a block has at least, but for the last of a text."""
WINDOW = 64
"""Characters that the network sees in one go, and is trained through."""

FAMILIES: dict[str, str] = {
    "assignment": "assignment augassign del pass exprlists",
    "attributes": "attribute-access attribute-references specialattrs",
    "calls": "calls callable-types function lambda return typesfunctions typesmethods",
    "classes": "class typesmodules customization",
    "compound": "compound",
    "debugger": "debugger",
    "errors": "assert context-managers exceptions raise try with",
    "flow": "async await break continue else for if while yield",
    "formats": "formatstrings",
    "imports": "import",
    "mappings": "dict typesmapping",
    "names": "atom-identifiers dynamic-features execmodel global id-classes identifiers naming nonlocal",
    "numbers": "atom-literals conversions floating imaginary integers numbers numeric-types",
    "objects": "bltin-code-objects bltin-ellipsis-object bltin-null-object bltin-type-objects objects",
    "operators": "binary bitwise booleans comparisons in operator-summary power shifting truth unary",
    "sequences": "lists sequence-types slicings subscriptions typesseq typesseq-mutable",
    "special": "specialnames",
    "strings": "string-methods strings",
    "types": "types",
}
"""Topics by family. A topic of another Python that is in none of them goes to the objects."""
EVERYBODY = Client(id=ClientId("everybody"), partition=(0, 1))
"""Whoever has all text in one place."""


def paragraphs(text: str) -> list[str]:
    """Return what stands between empty lines, each with the empty line behind it."""
    return [f"{part}\n\n" for part in re.split(r"\n\s*\n", text) if part.strip()]


@functools.cache
def texts() -> dict[str, list[str]]:
    """Return the paragraphs of each family, in order of its topics: none of them twice, whoever has it."""
    family_of = {topic: family for family, members in FAMILIES.items() for topic in members.split()}
    seen: set[str] = set()
    kept: dict[str, list[str]] = {topic: [] for topic in sorted(topics)}
    for topic in sorted(topics, key=lambda topic: (len(topics[topic]), topic)):
        for paragraph in paragraphs(topics[topic]):
            words = " ".join(paragraph.split())  # lines are broken elsewhere in each copy
            if words not in seen:
                seen.add(words)
                kept[topic].append(paragraph)
    found: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for topic, own in kept.items():
        found[family_of.get(topic, "objects")] += own
    return found


def blocks(paragraphs: list[str]) -> list[str]:
    """Return whole paragraphs together, `BLOCK` characters or more a block, but for the last."""
    found = [""]
    for paragraph in paragraphs:
        if len(found[-1]) >= BLOCK:
            found.append("")
        found[-1] += paragraph
    return found


def families_of(client: Client) -> list[str]:
    """Return whose text a device has: in a fleet of n, every n-th family; all of them in one place, where n is 1.

    Raises:
        ConfigError: there are more devices than families.
    """
    names = list(FAMILIES)
    if client.partition is None:
        return [names[int(hashlib.sha256(client.id.encode()).hexdigest(), 16) % len(names)]]
    i, n = client.partition
    if n > len(names):
        raise ConfigError(
            f"the text of {len(names)} families cannot be split over {n} devices", hint=f"take {len(names)} or fewer"
        )
    return names[i::n]


@functools.cache
def blocks_of(client: Client) -> list[list[str]]:
    """Return the blocks of each text that a device has."""
    if client.data is None:
        return [blocks(texts()[family]) for family in families_of(client)]
    files = sorted(client.data.glob("*.txt")) if client.data.is_dir() else [client.data]
    own = [paragraphs(file.read_text(errors="replace")) for file in files]
    if not any(own):
        raise ConfigError(f"{client.data}: there is no text in it", hint="name a file, or a folder of .txt files")
    return [blocks(text) for text in own if text]


def encoded(text: str) -> NDArray[np.int64]:
    """Return the symbol of each character: (characters,) int64."""
    return np.array([SYMBOLS.get(character, UNKNOWN) for character in text], dtype=np.int64)


def windows(blocks: list[str]) -> TensorDataset:
    """Return pairs of inputs and targets, (WINDOW,) int64 each: every character of every block is a target once.

    A window begins with the character before its first target, the first of a block with `START`.
    """
    inputs, targets = [np.empty((0, WINDOW), np.int64)], [np.empty((0, WINDOW), np.int64)]
    for block in blocks:
        symbols = encoded(block)
        n = -(-len(symbols) // WINDOW) * WINDOW
        given, wanted = np.full(n, START), np.full(n, NOTHING)
        given[1 : len(symbols)], wanted[: len(symbols)] = symbols[:-1], symbols
        inputs.append(given.reshape(-1, WINDOW))
        targets.append(wanted.reshape(-1, WINDOW))
    return TensorDataset(torch.from_numpy(np.concatenate(inputs)), torch.from_numpy(np.concatenate(targets)))


def fold_of(n_blocks: int, seed: int | None) -> list[int]:
    """Return in which fold each block of a text is held out: every fifth in the same, or by a seed."""
    order = np.arange(n_blocks) if seed is None else np.random.default_rng([seed, n_blocks]).permutation(n_blocks)
    return [int(place) % N_FOLDS for place in order]


def divided(fold: int, seed: int | None, client: Client, *, is_held_out: bool) -> TensorDataset:
    """Return the windows of a device's blocks that are, or are not, of a fold."""
    return windows(
        [
            block
            for text in blocks_of(client)
            for of, block in zip(fold_of(len(text), seed), text, strict=True)
            if (of == fold) is is_held_out
        ]
    )


@functools.cache
def train_data(fold: int, seed: int | None, client: Client) -> TensorDataset:
    """Return what a device learns from: its text but for the blocks of a fold."""
    return divided(fold, seed, client, is_held_out=False)


@functools.cache
def test_data(fold: int, seed: int | None, client: Client | None) -> TensorDataset:
    """Return the blocks of a fold: of a device's own text; for the aggregator (None) of every family's."""
    return divided(fold, seed, client or EVERYBODY, is_held_out=True)


class NextCharacter(nn.Module):
    """Embedding, one LSTM, and a score for each symbol: 31,762 parameters, 124 KB."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_SYMBOLS, 24)
        self.memory = nn.LSTM(24, 64, batch_first=True)  # torch has it three times as fast as a GRU
        self.scores = nn.Linear(64, N_SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the scores of what comes behind each of the symbols (n, length): (n, length, N_SYMBOLS)."""
        found: Tensor = self.scores(self.memory(self.embedding(symbols))[0])
        return found


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of a character, in nats."""
    given, wanted = batch
    return functional.cross_entropy(model(given).flatten(0, 1), wanted.flatten(), ignore_index=NOTHING)


def metrics(model: nn.Module, batch: Batch) -> dict[str, Ratio]:
    """Return the bits that a character costs by the model's chances, and how many it would have guessed."""
    given, wanted = batch
    is_there = wanted != NOTHING
    scores, wanted = model(given)[is_there], wanted[is_there]  # (characters, N_SYMBOLS), (characters,)
    bits = float(functional.cross_entropy(scores, wanted, reduction="sum")) / math.log(2)
    right = int((scores.argmax(dim=1) == wanted).sum())
    return {"bits_per_character": Ratio(bits, len(wanted)), "accuracy": Ratio(right, len(wanted))}


def task_of(fold: int, seed: int | None = None) -> TorchTask:
    """Return the task whose devices are tested on fold `fold` of 0..4, and learn from the other four.

    Args:
        fold: of 0..4.
        seed: by which blocks are divided into folds; None: every fifth block, from the fold's on.
    """
    return TorchTask(
        model=NextCharacter,
        loss=loss,
        metrics=metrics,
        train_data=functools.partial(train_data, fold, seed),
        test_data=functools.partial(test_data, fold, seed),
        max_gradient_norm=1.0,
    )


fold_0, fold_1, fold_2, fold_3, fold_4 = map(task_of, range(N_FOLDS))
task = fold_0
