import math
from itertools import combinations
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from aggregator.config import Settings
from examples import keyboard
from examples.keyboard import ALPHABET, FAMILIES, N_SYMBOLS, NOTHING, START, UNKNOWN
from shared.config import load_settings
from shared.errors import ConfigError
from shared.parameters import ParameterSpec
from shared.task import Arrays, Client, ClientId, Ratio, Work, load_task
from simulator.scenario import Scenario, dotted
from tests import task_work

ROOT = Path(__file__).parents[2]
N = len(FAMILIES)
SMALL = list(FAMILIES).index("objects")
Block = tuple[int, ...]


def phone(i: int, n: int = N) -> Client:
    """Phone i of n."""
    return Client(id=ClientId(f"phone-{i}"), partition=(i, n))


def blocks_in(data: TensorDataset) -> list[Block]:
    """The blocks whose characters are the targets, as symbols: a window that begins with `START` begins a block."""
    found: list[list[int]] = []
    for given, wanted in zip(*(tensor.tolist() for tensor in data.tensors), strict=True):
        if given[0] == START:
            found.append([])
        found[-1] += [symbol for symbol in wanted if symbol != NOTHING]
    return [tuple(block) for block in found]


def some_work(epochs: int = 1) -> Work:
    """The work of the scenario."""
    return task_work.some_work(epochs=epochs, batch_size=8, learning_rate=4.0)


def bits(parameters: Arrays, client: Client) -> float:
    """Of a model on a phone's own held-out text."""
    evaluated = keyboard.task.evaluate(parameters, client, {})
    assert evaluated is not None
    ratio = evaluated.metrics["bits_per_character"]
    assert isinstance(ratio, Ratio)
    return ratio.numerator / ratio.denominator


def test_every_paragraph_is_on_one_phone_and_none_is_lost() -> None:
    """However its lines are broken, a paragraph is kept once; and each topic's are kept."""
    kept = [" ".join(paragraph.split()) for own in keyboard.texts().values() for paragraph in own]
    assert len(kept) == len(set(kept))
    assert set(kept) == {" ".join(p.split()) for text in topics.values() for p in keyboard.paragraphs(text)}


def test_topics_belong_to_one_family_and_families_are_uneven() -> None:
    """No topic is named twice; the richest phone has more than four times the text of the poorest."""
    named = [topic for members in FAMILIES.values() for topic in members.split()]
    assert len(named) == len(set(named))
    sizes = [sum(map(len, own)) for own in keyboard.texts().values()]
    assert min(sizes) > 5 * keyboard.BLOCK
    assert max(sizes) > 4 * min(sizes)


def test_blocks_are_the_text_and_no_paragraph_is_cut() -> None:
    """Put together they are what was cut; all but the last have their length."""
    for own in keyboard.texts().values():
        found = keyboard.blocks(own)
        assert "".join(found) == "".join(own)
        assert all(len(block) >= keyboard.BLOCK for block in found[:-1])
        assert all(block.endswith("\n\n") for block in found)


@pytest.mark.parametrize("client", [phone(SMALL), phone(2, 5), None], ids=["family", "a fifth", "everybody"])
def test_each_block_is_held_out_in_one_fold_and_learned_from_in_four(client: Client | None) -> None:
    """Folds are disjoint, their union is everything, and no block is in both parts of one."""
    learner = client or keyboard.EVERYBODY
    held_out = [set(blocks_in(keyboard.test_data(fold, None, client))) for fold in range(5)]
    learned = [set(blocks_in(keyboard.train_data(fold, None, learner))) for fold in range(5)]
    assert all(held_out)
    assert all(not a & b for a, b in combinations(held_out, 2))
    whole = set().union(*held_out)
    assert [whole - mine for mine in held_out] == learned


@pytest.mark.parametrize("n", [1, 5, N])
def test_one_place_has_what_the_phones_have_together(n: int) -> None:
    """For training and for testing, with as many phones as there are families or with fewer."""
    for data in (keyboard.train_data, keyboard.test_data):
        together = [block for i in range(n) for block in blocks_in(data(3, None, phone(i, n)))]
        assert sorted(together) == sorted(blocks_in(data(3, None, keyboard.EVERYBODY)))
    central = keyboard.test_data(3, None, None).tensors[0]
    assert central.equal(keyboard.test_data(3, None, keyboard.EVERYBODY).tensors[0])


def test_each_character_is_predicted_once_from_those_before_it() -> None:
    """An input is the target before it; before the first of a block it is `START`."""
    text = "ab“\n" * 40
    given, wanted = (tensor.flatten() for tensor in keyboard.windows([text, "z"]).tensors)
    n = len(text)
    assert wanted[:n].tolist() == [ALPHABET.index("a"), ALPHABET.index("b"), UNKNOWN, ALPHABET.index("\n")] * 40
    assert given[0] == START
    assert given[1:n].equal(wanted[: n - 1])
    assert (wanted != NOTHING).sum() == n + 1
    assert wanted[-keyboard.WINDOW] == ALPHABET.index("z")
    assert given[-keyboard.WINDOW] == START


def test_symbols_are_a_fact_of_the_file_alone() -> None:
    """One for each printable character of ASCII, whether anybody types it or not; all others share one."""
    assert keyboard.encoded(ALPHABET).tolist() == list(range(96))
    assert set(map(chr, range(32, 127))) <= set(ALPHABET)
    assert keyboard.encoded("é“\t\x00").tolist() == [UNKNOWN] * 4
    assert sorted({*range(96), START, UNKNOWN}) == list(range(N_SYMBOLS))


def test_the_model_is_small() -> None:
    """It travels in 124 KB."""
    assert ParameterSpec.of(keyboard.task.initial_parameters(1)).n_params == 31_762


def test_a_model_that_knows_nothing_needs_the_bits_of_its_symbols() -> None:
    """All symbols alike: log2(98) bits a character, padding not counted; characters are summed over batches."""
    nothing = {name: np.zeros_like(array) for name, array in keyboard.task.initial_parameters(1).parameters.items()}
    evaluated = keyboard.task.evaluate(nothing, None, {})
    assert evaluated is not None
    cost = evaluated.metrics["bits_per_character"]
    assert isinstance(cost, Ratio)
    assert cost.denominator == sum(map(len, blocks_in(keyboard.test_data(0, None, None))))
    assert cost.numerator / cost.denominator == pytest.approx(math.log2(N_SYMBOLS), rel=1e-5)


def test_a_model_that_is_sure_and_right_needs_no_bits() -> None:
    """Accuracy 1 and next to no bits, for a model that was told what comes."""

    class Told(nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return 50.0 * nn.functional.one_hot(wanted.clamp(min=0), N_SYMBOLS).float()

    given, wanted = keyboard.test_data(0, None, phone(SMALL)).tensors
    found = keyboard.metrics(Told(), (given, wanted))
    assert found["accuracy"].numerator == found["accuracy"].denominator > 1000
    assert found["bits_per_character"].numerator < 1e-6 * found["bits_per_character"].denominator


def test_a_phone_learns_from_its_text() -> None:
    """Two passes over a small phone's text save half of the bits on what it did not train on."""
    start = keyboard.task.initial_parameters(1).parameters
    trained = keyboard.task.train(start, some_work(epochs=2), phone(SMALL))
    assert trained.parameters is not None
    assert trained.num_examples == len(keyboard.train_data(0, None, phone(SMALL)))
    assert bits(trained.parameters, phone(SMALL)) < 0.8 * bits(start, phone(SMALL))


def test_split_is_the_same_in_another_process() -> None:
    """Two phones that run the same Python agree on who has what."""
    program = "from examples.keyboard import test_data; print(test_data(2, None, None).tensors[0].tolist())"
    assert task_work.printed_elsewhere(program) == str(keyboard.test_data(2, None, None).tensors[0].tolist())


def test_a_phone_brings_its_own_text(tmp_path: Path) -> None:
    """A file, or every .txt of a folder; a fifth of it is held out."""
    text = "".join(f"Line {i} of what was typed.\n\n" for i in range(300))
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text(text.upper())
    (tmp_path / "c.jpg").write_bytes(b"\xff")
    one, both = (Client(id=ClientId("own"), data=path) for path in (tmp_path / "a.txt", tmp_path))
    for fold in range(5):
        n_test, n_train = (
            sum(map(len, blocks_in(d(fold, None, one)))) for d in (keyboard.test_data, keyboard.train_data)
        )
        assert n_test + n_train == len(text)
        assert 0.1 < n_test / len(text) < 0.3
        assert len(keyboard.train_data(fold, None, both)) == 2 * len(keyboard.train_data(fold, None, one))


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    """More phones than families, and a file without text."""
    with pytest.raises(ConfigError, match=f"{N} families cannot be split over {N + 1} devices"):
        keyboard.train_data(0, None, phone(0, N + 1))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ConfigError, match=r"empty\.txt: there is no text in it"):
        keyboard.train_data(0, None, Client(id=ClientId("own"), data=tmp_path / "empty.txt"))


def test_a_phone_without_partition_has_the_family_that_its_id_names() -> None:
    """The same each time, and one of all."""
    mine = blocks_in(keyboard.train_data(0, None, Client(id=ClientId("pi-7"))))
    assert mine in [blocks_in(keyboard.train_data(0, None, phone(i))) for i in range(N)]


def test_scenario_has_a_phone_for_each_family_and_can_run_every_fold() -> None:
    """What `python -m simulator run` reads is valid, and names what there is."""
    scenario = load_settings(Scenario, ROOT / "examples" / "keyboard.toml")
    settings = load_settings(Settings, None, dotted(scenario.run), with_environment=False)
    assert [device.partition for device in scenario.plan()] == [(i, N) for i in range(N)]
    assert load_task(settings.task, ROOT) is keyboard.task is keyboard.fold_0
    for fold in range(5):
        evaluated = load_task(f"examples.keyboard:fold_{fold}", ROOT).evaluate(
            keyboard.task.initial_parameters(1).parameters, phone(SMALL), {}
        )
        assert evaluated is not None
        assert evaluated.num_examples == len(keyboard.test_data(fold, None, phone(SMALL)))


def test_another_seed_divides_the_same_blocks_otherwise() -> None:
    """Over the five folds every block is held out once, whoever divides."""
    by_seed = [[blocks_in(keyboard.test_data(fold, seed, phone(0))) for fold in range(5)] for seed in (1, 2)]
    assert by_seed[0] != by_seed[1]
    one, other = (sorted(block for fold in folds for block in fold) for folds in by_seed)
    assert one == other
