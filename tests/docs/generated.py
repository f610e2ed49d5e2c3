"""The parts of the docs that are made from the code, between `<!-- generated: name -->` and `<!-- end -->`.

`python -m tests.docs.generated` writes them anew. A table has columns of the code's and columns of a person's: the
latter are kept, row by row, and are empty for a row that is new, which a test then complains about.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, SecretStr

from aggregator.config import Settings
from aggregator.leases import TRANSITIONS as LEASES
from aggregator.leases import LeaseState
from aggregator.modes import MODES
from aggregator.phases import PHASES, PauseCause, Phase
from broker.config import BrokerSettings
from edge_client.config import EdgeSettings
from edge_client.phases import TRANSITIONS as DEVICE_PHASES
from edge_client.phases import Phase as DevicePhase
from shared import messages, topics
from shared.errors import Reason
from simulator.scenario import DeviceGroup, Scenario
from simulator.scenarios.attacks import AttackSettings
from simulator.scenarios.availability import Availability
from simulator.scenarios.device_classes import ClassSettings
from simulator.scenarios.faults import DeviceFaults, FleetFault
from tests.docs.scenario_tables import CLASS_HEAD, LINK_HEAD, class_rows, link_rows
from tests.test_architecture import PACKAGES, PURE

__all__ = ["PAGES", "Page", "blocks", "rewritten"]

ROOT = Path(__file__).parents[2]
Part: TypeAlias = Callable[[str], str]
"""Takes the block as it is, returns it as it should be."""
_BLOCK = re.compile(r"(?<=<!-- generated: )([\w. -]+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)

MESSAGES: tuple[type[BaseModel], ...] = (
    *(messages.Fleet, messages.Round, messages.ModelRef, messages.CheckIn, messages.Holding),
    *(messages.Assignment, messages.WorkOrder, messages.Report, messages.Receipt, messages.RetryWindow),
    *(messages.Control, messages.DeviceStatus, messages.AggregatorStatus),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A Markdown table whose last columns are kept.

    Args:
        head: names of all columns.
        rows: the first cells of each row; the first cell of all names the row.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __call__(self, old: str) -> str:
        """Return the table, with the kept cells of the old one."""
        n_kept = len(self.head) - len(self.rows[0])
        old_rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in old.strip().splitlines()]
        kept = {row[0]: row[-n_kept:] for row in old_rows if n_kept and len(row) == len(self.head)}
        rows = [[*row, *kept.get(row[0], [""] * n_kept)] for row in self.rows]
        return "".join(f"| {' | '.join(row)} |\n" for row in [self.head, ["---"] * len(self.head), *rows])


def topic_table() -> Table:
    """Every shape of `shared/topics.py`, and who says it to whom."""
    samples: dict[str, Any] = {"run": "r", "device": "d", "lease": "0" * 32, "digest": "0" * 64, "piece": 0, "chunk": 0}
    shown = {"lease": "lease", "digest": "digest", "piece": "j", "chunk": "i", "run": "run", "device": "device"}
    rows = []
    for kind in get_args(topics.Topic):
        names = [field.name for field in fields(kind)]
        topic = topics.Topics("f").build(kind(**{name: samples[name] for name in names})).split("/")[3:]
        parts = iter(shown[name] for name in names)
        shape = "/".join(f"{{{next(parts)}}}" if part in map(str, samples.values()) else part for part in topic)
        direction = {"to": "aggregator → device", "from": "device → aggregator"}.get(topic[0], "aggregator → all")
        rows.append((f"`{shape}`", direction))
    return Table(("topic after the root", "who → whom", "QoS", "retained", "what"), rows)


def message_table(kind: type[BaseModel]) -> Table:
    """Every field of a message, with its type and bounds and what its absence means."""
    schema = kind.model_json_schema()
    rows = []
    for name, field in schema["properties"].items():
        missing = "required" if name in schema.get("required", ()) else absent(field.get("default"))
        rows.append((f"`{name}`", in_words(field, schema.get("$defs", {})), missing))
    return Table(("field", "type", "when absent", "meaning"), rows)


def absent(default: object) -> str:
    """A default as a device author reads it."""
    match default:
        case None:
            return "none"
        case bool():
            return str(default).lower()
        case "" | [] | {}:
            return "empty"
    return str(default)


def in_words(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema in words; the words are those of the page's list of types."""
    words = partial(in_words, definitions=definitions)
    match schema:
        case {"anyOf": options}:
            return " or ".join(words(option) for option in options if option != {"type": "null"})
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            if name == "Reason":
                return "[reason](#reasons)"
            if "enum" in definitions[name]:
                return " or ".join(f"`{value}`" for value in definitions[name]["enum"])
            return f"[{name}](#{name.lower()})"
        case {"const": value}:
            return str(value)
        case {"prefixItems": [first, *_]}:
            return f"[{words(first)}, {words(first)}]"
        case {"type": "array", "items": items}:
            return f"list of {words(items)}{at_most(schema.get('minItems'), schema.get('maxItems'))}"
        case {"type": "object", "additionalProperties": values}:
            return f"map of word to {words(values)}{at_most(None, schema.get('maxProperties'))}"
        case {"type": "string", "format": "binary"}:
            return "bytes"
        case {"type": "string"}:
            return _string(schema)
        case {"type": "boolean"}:
            return "bool"
        case {"type": "integer" | "number" as kind}:
            return _number(kind, schema)
    raise NotImplementedError(f"no words for {schema}")


def _string(schema: Mapping[str, Any]) -> str:
    patterns = {f"^{topics.NAME.pattern}$": "name", "^[0-9a-f]{32}$": "lease", "^[0-9a-f]{64}$": "digest"}
    if "pattern" in schema:
        return patterns[schema["pattern"]]
    return "word" if schema.get("maxLength") == 64 else "text"


def _number(kind: str, schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum"))
    if (kind, low, high) == ("number", None, None):
        return "number"
    known: Mapping[tuple[str, Any, Any], str] = {
        ("integer", 0, messages.MAX_EXAMPLES): "count",
        ("number", 0, 1e9): "seconds",
        ("integer", 0, 2**63): "seed",
    }
    if (kind, low, high) in known:
        return known[kind, low, high]
    top = "2^53 − 1" if high == messages.MAX_EXAMPLES else f"{high:,}"
    return f"{kind}, {low} to {top}"


def at_most(low: int | None, high: int | None) -> str:
    """How many there may be, in brackets."""
    if high is None:
        return ""
    return f" ({low} to {high})" if low else f" (at most {high})"


def enum_table(kind: type[StrEnum]) -> Table:
    """Every member of an enumeration."""
    return Table(("word", "meaning"), [(f"`{member}`",) for member in kind])


def _in_order(table: Mapping[Any, frozenset[Any]]) -> list[Any]:
    return [state for state in type(next(iter(table))) if state in table]


def transition_table(table: Mapping[Any, frozenset[Any]]) -> Table:
    """Every state, and where it may go, in the order of the table."""
    order = _in_order(table)
    rows = [(f"`{state}`", ", ".join(f"`{to}`" for to in order if to in table[state]) or "nothing") for state in order]
    return Table(("state", "may become", "leaves it when"), rows)


def diagram(start: str, table: Mapping[Any, frozenset[Any]], old: str) -> str:
    """A table of transitions as a Mermaid state diagram."""
    order = _in_order(table)
    arrows = [f"    {state} --> {to}" for state in order for to in order if to in table[state]]
    ends = [f"    {state} --> [*]" for state in order if not table[state]]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {start}", *arrows, *ends, "```", ""])


def settings_table(kind: type[BaseModel], *, without: Sequence[str] = ()) -> Table:
    """Every key of a settings model, its default and its description."""
    rows = [row for row in _settings_rows(kind, "") if row[0].strip("`").partition(".")[0] not in without]
    return Table(("key", "default", "meaning"), rows)


def _settings_rows(kind: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for python_name, field in kind.model_fields.items():
        name = field.alias or python_name
        table = next((each for each in _alternatives(field.annotation) if _is_section(each)), None)
        if table is not None:
            yield from _settings_rows(table, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else _as_toml(field.get_default(call_default_factory=True))
        meaning = (field.description or _choices(field.annotation)).replace("<", "&lt;")
        yield f"`{prefix}{name}`", default, meaning


def _alternatives(annotation: object) -> tuple[Any, ...]:
    return (annotation, *get_args(annotation))


def _is_section(annotation: object) -> bool:
    # a range of seconds is one value to whoever writes it
    return isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation.__name__ != "Window"


def _choices(annotation: object) -> str:
    is_choice = get_origin(annotation) is Literal
    return "one of " + ", ".join(f"`{each}`" for each in get_args(annotation)) if is_choice else ""


def _as_toml(value: object) -> str:
    match value:
        case None | SecretStr():
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case BaseModel():
            pairs = ", ".join(f"{name} = {number:g}" for name, number in value.model_dump().items())
            return f"`{{ {pairs} }}`"
        case int() | float():
            return f"`{value:_}`" if value >= 10_000 else f"`{value:g}`"
        case {} | []:
            return f"`{value}`"
    return f'`"{value}"`'


def modes_table() -> Table:
    """What each mode makes of the knobs that are left unset, with a goal of 10."""
    kinds = [
        Settings.model_validate({"task": "t:t", "round": {"mode": mode, "report_goal": 10}, "stop": {"rounds": 1}})
        for mode in MODES
    ]
    knobs: dict[str, Callable[[Settings], object]] = {
        "round.over_selection": lambda each: each.round.over_selection,
        "round.outstanding": lambda each: each.round.outstanding,
        "round.quorum": lambda each: each.round.quorum,
        "round.max_staleness": lambda each: each.round.max_staleness,
        "training.max_seconds": lambda each: each.training.max_seconds,
        "server.normalize": lambda each: each.server.normalize,
    }
    rows = [(f"`{key}`", *(_as_toml(read(each)) or "none" for each in kinds)) for key, read in knobs.items()]
    return Table(("knob", *(f"`{mode}`" for mode in MODES), "meaning"), rows)


def rooms(package: str, old: str) -> str:
    """Every module of a package, with the first sentence of its docstring; ▣ is held to be pure by a test."""
    lines = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT / package))
        docstring = (ast.get_docstring(ast.parse(path.read_text())) or "").replace("|", "\\|")
        if path.name != "__init__.py":
            mark = "▣" if path.stem in PURE.get(package, ()) else ""
            lines.append(f"| `{name}` | {mark} | {docstring.splitlines()[0]} |\n")
    return "".join(["| file | | what it is |\n| --- | --- | --- |\n", *lines])


def listing(path: str, language: str, old: str) -> str:
    """A file, as it lies in the clone."""
    return f"```{language}\n{(ROOT / path).read_text()}```\n"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the docs, and its generated parts by name."""

    path: str
    parts: Mapping[str, Part]


PAGES: Sequence[Page] = (
    Page(
        "docs/protocol.md",
        {
            "topics": topic_table(),
            **{f"message {kind.__name__}": message_table(kind) for kind in MESSAGES},
            "outcomes": enum_table(messages.Outcome),
            "reasons": enum_table(Reason),
            "modes": modes_table(),
            "phases": transition_table(PHASES),
            "phase diagram": partial(diagram, Phase.WAITING, PHASES),
            "causes": enum_table(PauseCause),
            "leases": transition_table(LEASES),
            "lease diagram": partial(diagram, LeaseState.OUTSTANDING, LEASES),
            "device diagram": partial(diagram, DevicePhase.IDLE, DEVICE_PHASES),
        },
    ),
    Page(
        "docs/simulator.md",
        {
            "keys of a scenario": settings_table(Scenario, without=["classes", "devices", "faults"]),
            "keys of a group": settings_table(
                DeviceGroup, without=["link", "availability", "eligibility", "faults", "attack"]
            ),
            "keys of availability": settings_table(Availability),
            "keys of device faults": settings_table(DeviceFaults),
            "keys of fleet faults": settings_table(FleetFault),
            "keys of an attack": settings_table(AttackSettings),
            "keys of a class": settings_table(ClassSettings),
            "classes": Table(CLASS_HEAD, class_rows()),
            "links": Table(LINK_HEAD, link_rows()),
        },
    ),
    Page("docs/architecture.md", {f"rooms of {package}": partial(rooms, package) for package in PACKAGES}),
    Page(
        "README.md",
        {
            "my_task.py with torch": partial(listing, "examples/own_task_torch.py", "python"),
            "my_task.py with numpy": partial(listing, "examples/own_task_numpy.py", "python"),
            "settings of a run": settings_table(Settings, without=["broker"]),
            "settings of a broker": settings_table(BrokerSettings),
            "settings of a device": settings_table(EdgeSettings, without=["broker"]),
        },
    ),
)


def blocks(text: str) -> dict[str, str]:
    """Return the generated blocks of a page by name, as they stand."""
    return {match[1]: match[3] for match in _BLOCK.finditer(text)}


def rewritten(page: Page, text: str) -> str:
    """Return a page with its generated blocks made anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}{match[2]}{page.parts[match[1]](match[3])}", text)


def main() -> None:
    """Rewrite every page."""
    for page in PAGES:
        path = ROOT / page.path
        path.write_text(rewritten(page, path.read_text()))


if __name__ == "__main__":
    main()
