"""Settings as YAML, with overrides from a command line.

`load_config(RunConfig, path, ["distill.gamma=0"])` is the only way from a file to a config: unknown
keys, wrong types and values out of range are errors that name the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from trainer.common.command import MAX_WHOLE
from trainer.common.errors import InputError, first_line
from trainer.common.text_files import read_text
from trainer.config.removed import REMOVED

ConfigT = TypeVar("ConfigT")
# Type of pydantic's error -> our words, where its own speak of Python.
RULES = {"dataclass_type": "a group of settings (key: value)"}
MAX_SHOWN = 80
WHOLE = re.compile(r"[+-]?[0-9_]+", re.ASCII)
MAX_DIGITS = 32


def load_config(cls: type[ConfigT], path: Path, overrides: list[str]) -> ConfigT:
    """A config from a YAML file and `key=value` overrides with dotted keys.

    Raises:
        MissingError: if the file is missing.
        InputError: for anything wrong in it; the message names the file or the override, the key
            and the remedy.
    """
    text = read_text(path, remedy="There are recipes in trainer/configs/.")
    settings = _parse_yaml(text, str(path)) or {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise InputError(f"{path} must hold key: value pairs, got {_shown(settings)}.")
    for override in overrides:
        _set_dotted(settings, override)
    return _validated(cls, settings, str(path), overrides)


def parse_config(cls: type[ConfigT], settings: dict[str, Any], source: str) -> ConfigT:
    """A config from nested dicts; `source` is named in errors.

    Unknown keys are errors if `cls` says so with `__pydantic_config__`, as every config here does;
    groups of settings inherit it.
    """
    return _validated(cls, settings, source, [])


def _validated(
    cls: type[ConfigT], settings: dict[str, Any], source: str, overrides: list[str]
) -> ConfigT:
    _refuse_removed(cls, settings, source)
    try:
        for key, value in _dotted(settings):
            _check_number(_type_at(cls, key), key, value)
        return _adapter(cls).validate_python(settings)
    except ValidationError as error:
        key, problem = _problem(cls, error)
    except InputError as error:
        key, problem = str(error).partition(" ")[0], str(error)
    raise InputError(f"{_source_of(key, source, overrides)}: {problem}")


@functools.cache
def _hints(cls: type[Any]) -> Mapping[str, Any]:
    """The types of a config's fields, looked up once."""
    return get_type_hints(cls)


@functools.cache
def _adapter(cls: type[ConfigT]) -> TypeAdapter[ConfigT]:
    """Made once: it takes a tenth of a second, and an ablation reads hundreds of configs."""
    return TypeAdapter(cls)


def _source_of(key: str, source: str, overrides: list[str]) -> str:
    """The last override that set the key, or its group; else the file."""
    for override in reversed(overrides):
        name = override.partition("=")[0]
        if f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}."):
            return _shown(override, quoted=False)
    return source


def setting_names(cls: type[Any]) -> list[str]:
    """Dotted names of all settings; a group's own name comes before those of its settings."""
    return [name for name, _ in setting_types(cls)]


def setting_types(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all settings with their types, in the order of `setting_names`."""
    for name, type_ in _hints(cls).items():
        if name not in {field.name for field in dataclasses.fields(cls)}:
            continue
        yield f"{prefix}{name}", type_
        if dataclasses.is_dataclass(type_) and isinstance(type_, type):
            yield from setting_types(type_, f"{prefix}{name}.")


def _type_at(cls: type[Any], key: str) -> Any:
    """Type of a setting by its dotted key, within a mapping too; None where there is none."""
    type_: Any = cls
    for name in key.split(".") if key else ():
        if dataclasses.is_dataclass(type_) and isinstance(type_, type):
            type_ = _hints(type_).get(name)
        elif get_origin(type_) is Mapping:
            type_ = get_args(type_)[1]
        else:
            return None
    return type_


def to_yaml(config: Any) -> str:
    """The config as YAML that load_config reads back to an equal config."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _check_number(type_: Any, key: str, value: Any) -> None:
    """Refuse what Python takes for a number and no setting means: truth values, huge numbers."""
    if isinstance(value, bool):
        if type_ is not None and not dataclasses.is_dataclass(type_) and bool not in _parts(type_):
            raise InputError(f"{key} must not be a truth value, got {str(value).lower()}.")
    elif _is_huge(value):
        raise InputError(f"{key} must be a number of at most 64 bits, got {_shown(value)}.")


def _is_huge(value: Any) -> bool:
    """Whether it is a whole number of more than 64 bits, in quotes or not."""
    if isinstance(value, str) and WHOLE.fullmatch(value.strip()):
        return len(value) > MAX_DIGITS or abs(int(value)) > MAX_WHOLE
    return isinstance(value, int) and abs(value) > MAX_WHOLE


def _parts(type_: Any) -> tuple[Any, ...]:
    """The type, and those that it is made of: of `int | None` both."""
    return (type_, *(part for each in get_args(type_) for part in _parts(each)))


def _set_dotted(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"an override must be key=value, got {override!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        child = settings.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(
                f"{key} must name a setting in a group of settings, got {child!r} for {parent}."
            )
        settings = child
    settings[last] = _parse_yaml(text, f"the value of {key}")


def _parse_yaml(text: str, what: str) -> Any:
    """The value of YAML text; InputError whatever is wrong with it."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
        # ValueError: a date or a number that Python refuses; RecursionError: nested too deep;
        # the others come from keys that no dictionary takes.
        raise InputError(f"{what} must be YAML, got {_shown(text)}: {first_line(error)}") from error


def _shown(value: object, *, quoted: bool = True) -> str:
    """The value, or its beginning: a line of an error is no place for a file."""
    text = repr(value) if quoted else str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _refuse_removed(cls: type[Any], settings: dict[str, Any], source: str) -> None:
    removed = REMOVED.keys() - setting_names(cls)
    keys = [key for key, _ in _dotted(settings)]
    found = [f"{key} was removed, {REMOVED[key]}" for key in keys if key in removed]
    if found:
        remedy = "Delete the key." if len(found) == 1 else "Delete these keys."
        raise InputError(f"{source}: {'; '.join(found)}. {remedy}")


def _dotted(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting and group by its dotted key, a group before what is in it."""
    for key, value in settings.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


def _problem(cls: type[Any], error: ValidationError) -> tuple[str, str]:
    """Key and text of one problem of several: an unknown key may be why another one is missing."""
    problems = error.errors(include_url=False)
    unknown = [each for each in problems if each["type"] == "unexpected_keyword_argument"]
    first = (unknown or problems)[0]
    key = ".".join(str(part) for part in first["loc"])
    if unknown:
        return key, f"every key must be a setting, got unknown key {key}. {_hint(cls, key)}"
    if first["type"] == "value_error":
        # One of our own rules, which names its key.
        text = first["msg"].removeprefix("Value error, ")
        return text.partition(" ")[0], text
    if first["type"] == "missing":
        return key, f"{key} must be given, got nothing. Add it to the file, or as {key}=VALUE."
    if first["type"] == "invalid_key":
        return key, f"every key must be text, got {_shown(first['input'])}."
    rule = RULES.get(first["type"], first["msg"].removeprefix("Input should be "))
    return key, f"{key} must be {rule}, got {_shown(first['input'])}."


def _hint(cls: type[Any], key: str) -> str:
    names = setting_names(cls)
    group, _, last = key.rpartition(".")
    prefix, of_group = f"{group}." if group else "", _type_at(cls, group)
    fields = dataclasses.fields(of_group) if dataclasses.is_dataclass(of_group) else ()
    siblings = [f"{prefix}{it.name}" for it in fields]
    elsewhere = [name for name in names if name.rpartition(".")[2] == last]
    # The outermost first: of train.steps and a schedule's steps, train.steps.
    elsewhere.sort(key=lambda name: name.count("."))
    leaves = {name.rpartition(".")[2]: name for name in siblings}
    close = [leaves[leaf] for leaf in difflib.get_close_matches(last, leaves, n=1)] or elsewhere
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(siblings)}."
