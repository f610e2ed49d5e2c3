"""Settings: one TOML file, the environment over it, explicit options over both.

`FEDMQ__ROUND__REPORT_GOAL=12` overrides `report_goal` of the table `[round]`; a value is read as JSON where its field
is not a string (`null` unsets it). Whatever is wrong in any of the three becomes one `ConfigError` that names file or
variable, key, value, what is allowed and, for an unknown key, the nearest known one. Secrets are never printed.

Paths in a TOML are relative to the current folder, like those on a command line. One thing alone is looked for in the
TOML's own folder first: the module of the task (`task.load_task`), so that a task may lie beside its settings.

Not here: which settings there are (each package's own `config.py`).
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from shared.errors import ConfigError

__all__ = ["ENV_PREFIX", "load_settings", "settings_digest", "settings_json"]

ENV_PREFIX: Final = "FEDMQ__"
_DELIMITER: Final = "__"
_MAX_SHOWN = 80
"""Characters of a wrong value that are shown."""
_NO_SUCH = "there is no such"
_LINK = re.compile(r" \(\[[^]]*\]\([^)]*\)\)")
"""In a description: for whoever reads it as a page."""
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):[^/\s]*@")

S = TypeVar("S", bound=BaseModel)
Key = tuple[str, ...]


def load_settings(
    kind: type[S],
    path: Path | None,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    *,
    with_environment: bool = True,
) -> S:
    """Return the settings that a file, the environment and options make together; the later wins.

    Args:
        kind: a frozen model with `extra="forbid"`; the `ValueError` of a validator is shown to the user as it is.
        path: the TOML; None: there is no file.
        overrides: from the command line, by dotted key, `{"broker.url": url}`; a value of None was not given.
        with_environment: False for settings inside others, which the environment speaks of in another way.

    Raises:
        ConfigError: the file cannot be read or is no TOML, a key is unknown, a value is not allowed.
    """
    where = str(path) if path else "settings"
    from_file = _read_toml(path) if path else {}
    from_environment, variables = _read_environment(kind) if with_environment else ({}, {})
    from_options: dict[str, Any] = {}
    for dotted, value in overrides.items():
        if value is not None:
            _merge(from_options, _nested(tuple(dotted.split(".")), value))
    together: dict[str, Any] = {}
    for layer in (from_file, from_environment, from_options):
        _merge(together, layer)
    try:
        return kind.model_validate(together)
    except ValidationError as error:
        problems: dict[Key, list[str]] = {}
        for each in error.errors(include_url=False):
            key = _key_of(each["loc"], together, is_missing=each["type"] == "missing")
            problems.setdefault(key, []).append(each["type"] + "\0" + str(each["msg"]))
    lines: list[str] = []
    source = ""
    for key, messages in problems.items():
        source = "option " if _has(from_options, key) else _variable_behind(key, variables)
        lines.append(source + _explain(kind, key, messages, together))
    # raised outside the handler: pydantic's own text would print the values, secrets too
    if len(lines) == 1:
        raise ConfigError(lines[0], where="" if source else where)  # no file is to blame for an option or a variable
    raise ConfigError(f"{len(lines)} problems", where=where, hint="\n  ".join(lines))


def settings_json(settings: BaseModel) -> str:
    """Return the settings as canonical JSON, sorted and without secrets: equal settings give equal text."""
    return json.dumps(_public(settings), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def settings_digest(settings: BaseModel) -> str:
    """Return the sha-256 of `settings_json` as 64 hex digits."""
    return hashlib.sha256(settings_json(settings).encode()).hexdigest()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 at byte {error.start}", where=str(path)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is no TOML: {error}", where=str(path)) from error


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Leave what is no JSON as it is: the field then says what it wants, in one place for all three sources."""
        return _json_or_text(value)


def _read_environment(kind: type[BaseModel]) -> tuple[dict[str, Any], dict[Key, str]]:
    """Return what the environment sets as nested dicts, and the variable that stands behind each key."""
    variables = {
        tuple(name[len(ENV_PREFIX) :].lower().split(_DELIMITER)): name
        for name in sorted(os.environ)
        if name.upper().startswith(ENV_PREFIX)
    }
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in kind.model_fields.items()}
    found: dict[str, Any] = _Environment(
        create_model("Environment", __base__=BaseSettings, **fields),
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=_DELIMITER,
        env_parse_none_str="null",
    )()
    for key, name in variables.items():
        # pydantic-settings drops what it does not know, and leaves the values of free tables strings
        if key[0] not in kind.model_fields or _is_in_free_table(kind, key):
            _merge(found, _nested(key, _json_or_text(os.environ[name])))
    return found, variables


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _explain(kind: type[BaseModel], key: Key, messages: list[str], values: Mapping[str, Any]) -> str:
    """Return one line: key, value, what is allowed."""
    dotted = ".".join(key)
    types, texts = zip(*(m.split("\0", 1) for m in messages), strict=True)
    field = _field_at(kind, key)
    about = ""
    is_listed = any(_NO_SUCH in text for text in texts)  # all that there are, in the message itself
    if field is not None and field.description and not is_listed:
        about = f" ({_LINK.sub('', field.description)})"
    if "extra_forbidden" in types:
        return f"{dotted}{_shown_as(kind, key, values)}: there is no such key; {_nearest(kind, key)}"
    if "missing" in types:
        return f"{dotted}: is missing{about}"
    allowed = " or ".join(dict.fromkeys(_in_our_words(text) for text in texts)).replace(" or must be ", " or ")
    return f"{dotted}{_shown_as(kind, key, values)}: {allowed}{about}" if key else allowed


def _in_our_words(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = re.sub(r"^(Input|String|Dictionary|List|Set|Tuple|Value|Bytes) should ", "must ", message)
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a table", message)
    return _PASSWORD_IN_URL.sub(r"\1:***@", message)


def _nearest(kind: type[BaseModel], key: Key) -> str:
    siblings = sorted(_fields_of(_model_at(kind, key[:-1])))
    for near in difflib.get_close_matches(key[-1], siblings, 1):
        return f"did you mean {'.'.join((*key[:-1], near))}? There are: {', '.join(siblings)}"
    for known in _all_keys(kind):
        if known[-1] == key[-1]:
            return f"did you mean {'.'.join(known)}? There are: {', '.join(siblings)}"
    return f"there are: {', '.join(siblings)}"


def _shown_as(kind: type[BaseModel], key: Key, values: Mapping[str, Any]) -> str:
    value: Any = values
    for part in key:
        value = value[int(part)] if isinstance(value, list) else value[part]
    # a whole table says nothing, and may hold a secret
    return "" if isinstance(value, Mapping) else f" = {_shown(kind, key, value)}"


def _shown(kind: type[BaseModel], key: Key, value: object) -> str:
    """Return a value for a person; *** for a secret, and for a string under a key that may be a mistyped secret's."""
    field = _field_at(kind, key)
    if field is None and isinstance(value, str):
        secrets = {each[-1]: each[:-1] for each in _all_keys(kind) if _is_secret(_field_at(kind, each))}
        is_hidden = key[:-1] in secrets.values() or bool(difflib.get_close_matches(key[-1], secrets, 1))
    else:
        is_hidden = _is_secret(field)
    if is_hidden:
        return "***"
    text = _PASSWORD_IN_URL.sub(r"\1:***@", repr(value))
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _is_secret(field: FieldInfo | None) -> bool:
    return field is not None and any(t in (SecretStr, SecretBytes) for t in _types_in(field.annotation))


def _types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types_in(argument)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    return (t for t in _types_in(annotation) if isinstance(t, type) and issubclass(t, BaseModel))


def _fields_of(kind: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Return the fields by the names that a user writes: a key such as `class` is no name in Python."""
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def _model_at(kind: type[BaseModel], key: Key) -> type[BaseModel]:
    """Return the model of the table at `key`, or of the innermost one around it."""
    parts = iter(key)
    for part in parts:
        field = _fields_of(kind).get(part)
        inner = next(_models_in(field.annotation), None) if field else None
        if field is None or inner is None:
            break
        kind = inner
        if _is_collection(field):
            next(parts, None)
    return kind


def _field_at(kind: type[BaseModel], key: Key) -> FieldInfo | None:
    field: FieldInfo | None = None
    parts = iter(key)
    for part in parts:
        field = _fields_of(kind).get(part)
        inner = next(_models_in(field.annotation), None) if field else None
        if field is None or inner is None:
            return field  # unknown, or a key inside a free table
        kind = inner
        if _is_collection(field):
            next(parts, None)
    return field


def _is_collection(field: FieldInfo) -> bool:
    """Whether it is a list or table of models, whose next part is a number or a name of the user's own."""
    return any(get_origin(t) in (dict, list, tuple) and any(_models_in(t)) for t in _types_in(field.annotation))


def _is_in_free_table(kind: type[BaseModel], key: Key) -> bool:
    return any(
        field is not None and any(get_origin(t) is dict for t in _types_in(field.annotation))
        for field in (_field_at(kind, key[:i]) for i in range(1, len(key)))
    )


def _all_keys(kind: type[BaseModel], start: Key = ()) -> Iterator[Key]:
    for name, field in _fields_of(kind).items():
        yield (*start, name)
        for model in _models_in(field.annotation):
            yield from _all_keys(model, (*start, name))


def _key_of(loc: tuple[int | str, ...], values: Mapping[str, Any], *, is_missing: bool) -> Key:
    """Return the part of pydantic's path that the user wrote: it also names members of unions."""
    key: list[str] = []
    value: Any = values
    for part in loc:
        is_there = part in value if isinstance(value, Mapping) else isinstance(value, list) and isinstance(part, int)
        if is_there:
            value = value[part]
        elif not (is_missing and part == loc[-1]):
            break
        key.append(str(part))
    return tuple(key)


def _variable_behind(key: Key, variables: Mapping[Key, str]) -> str:
    for each, name in variables.items():
        n = min(len(key), len(each))
        if n and key[:n] == each[:n]:
            return f"{name}: "
    return ""


def _has(values: Mapping[str, Any], key: Key) -> bool:
    value: Any = values
    for part in key:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return bool(key)


def _nested(key: Key, value: Any) -> dict[str, Any]:
    for part in reversed(key):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = {**value} if isinstance(value, Mapping) else value


def _public(value: Any) -> Any:
    match value:
        case BaseModel():
            fields = type(value).model_fields
            return {name: _public(getattr(value, name)) for name, field in fields.items() if not _is_secret(field)}
        case Mapping():
            return {str(name): _public(each) for name, each in value.items()}
        case list() | tuple():
            return [_public(each) for each in value]
        case Enum():
            return _public(value.value)
        case Path():
            return str(value)
        case str():
            return _PASSWORD_IN_URL.sub(r"\1:***@", value)
        case _:
            return value
