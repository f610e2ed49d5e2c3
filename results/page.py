"""The page docs/results.md, from the numbers alone, and the numbers as files beside it.

Not here: what a case says (`cases/`), its picture (`pictures.py`).
"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from results.case import Case, Found, Numbers, Run, Section, Verdict
from results.intervals import Interval
from shared.errors import ConfigError

__all__ = ["page", "read_found", "said", "write_found"]

WIDTH = 120
"""Characters a line of text."""
INTRODUCTION = """\
# Results

What learning with FedMQ is worth, against honest baselines. `make results` computes everything on this page from
scratch and draws its pictures: `python -m results CASE` does one case, `--quick` a small part of everything, `--render`
only the page from the numbers that are there.

* **Federated runs** are the real aggregator and the real devices, in virtual time ([simulator.md](simulator.md)), with
  real trainings. A run is a function of its seed, so that no number here depends on how fast the machine is; another
  processor's linear algebra may change last digits, and a digit now and then.
* **Brackets** are 95 % intervals of paired differences: what is compared has the same seed and the same held-out data.
  Folds share training data, so a plain t-test over them would promise too much; these are those of the corrected
  resampled t-test (Nadeau and Bengio, 2003): the variance of a mean over k folds is (1/k + 1/(k − 1)) s², not s²/k, and
  of several seeds on the same fold only their mean counts; where each of r seeds has folds of its own, it is (1/(rk) +
  1/(k − 1)) s² of all rk differences. Where each seed has data of its own, or nothing but the seed differs, it is
  Student's over the seeds.
* **The median device**: each device is compared with itself, on its own held-out data; the median over the devices is
  one number a run.
* **Baselines** get what favours them: their learning rate and number of passes are the best of a grid, by the very
  test data that they are then compared on. A use whose trainings take a minute had most of its grid tried on one fold
  beforehand. The federated side keeps the settings of its scenario.
* **The numbers** of every single run are in [docs/results](results), a file a case.
"""


def said(interval: Interval, form: str = "+.2f") -> str:
    """Return a mean with its interval, for people: "+1.20 [+0.80, +1.60]"."""
    mean = f"{interval.mean:{form}}"
    return f"{mean} [{interval.low:{form}}, {interval.high:{form}}]" if interval.is_known else f"{mean} [one run]"


def page(found: Mapping[str, tuple[Case, Found]]) -> str:
    """Return the page.

    Args:
        found: cases and their numbers by name, in the order of the page.
    """
    sections = {name: case.section(numbers) for name, (case, numbers) in found.items()}
    titles = {name: case.title for name, (case, _) in found.items()}
    head = ("case", "target", "found", "")
    rows = [
        (f"[{titles[name]}](#{_anchor(titles[name])})", each.target, each.found, _mark(each))
        for name, section in sections.items()
        for each in section.verdicts
    ]
    parts = [INTRODUCTION.rstrip(), "\n".join(_table([head, *rows]))]
    for name, section in sections.items():
        parts += _section(name, titles[name], section)
    return "\n\n".join(parts) + "\n"


def _section(name: str, title: str, section: Section) -> list[str]:
    parts = [f"## {title}", *map(_wrapped, section.text)]
    if section.picture:
        parts.append(f"![{section.picture}](results/{name}.png)")
    parts += ["\n".join(_table(table)) for table in section.tables]
    return [*parts, _wrapped(section.meaning)]


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def _mark(verdict: Verdict) -> str:
    return f"**{verdict.outcome}**" if verdict.outcome in ("missed", "open") else verdict.outcome


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *others = rows
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others)]


def _anchor(title: str) -> str:
    kept = "".join(sign for sign in title.lower() if sign.isalnum() or sign in "_- ")
    return kept.replace(" ", "-")


def write_found(path: Path, found: Found, sources: str) -> None:
    """Write a case's numbers: a line a run.

    Args:
        path: of the JSON.
        found: its runs and numbers.
        sources: digest of the code that computed them.
    """
    lines = [
        json.dumps({**_description(run), "numbers": found.numbers[run.key()]}, separators=(",", ":"), allow_nan=False)
        for run in found.runs
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"sources": "{sources}", "runs": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")


def read_found(path: Path) -> Found:
    """Read what `write_found` has written.

    Raises:
        ConfigError: it is not there, or no such file.
    """
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["runs"]
        runs = [Run(case=path.stem, **{name: row[name] for name in row if name != "numbers"}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = f"python -m results {path.stem} computes them"
        raise ConfigError(f"no numbers of a case: {error}", where=str(path), hint=hint) from error
    found = {run.key(): cast(Numbers, row["numbers"]) for run, row in zip(runs, rows, strict=True)}
    return Found(numbers=found, runs=runs)


def _description(run: Run) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(run.key())
    del fields["case"]
    return fields
