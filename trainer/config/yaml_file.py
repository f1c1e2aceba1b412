"""Settings as YAML, with overrides from a command line.

`load_config(RunConfig, path, ["distill.gamma=0"])` is the only way from a file to a config: unknown
keys, wrong types and values out of range are errors that name the key.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from trainer.common.errors import InputError, MissingError
from trainer.config.removed import REMOVED

ConfigT = TypeVar("ConfigT")


def load_config(cls: type[ConfigT], path: Path, overrides: list[str]) -> ConfigT:
    """A config from a YAML file and `key=value` overrides with dotted keys.

    Raises:
        MissingError: if the file is missing.
        InputError: for anything wrong in it; the message names the key and the remedy.
    """
    if not path.is_file():
        raise MissingError(
            f"{path} must be a config file, got nothing there. There are recipes in "
            "trainer/configs/."
        )
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} must be YAML, got: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold key: value pairs, got {type(settings).__name__}.")
    for override in overrides:
        _set_dotted(settings, override)
    return parse_config(cls, settings, str(path))


def parse_config(cls: type[ConfigT], settings: dict[str, Any], source: str) -> ConfigT:
    """A config from nested dicts; `source` is named in errors.

    Unknown keys are errors if `cls` says so with `__pydantic_config__`, as every config here does;
    groups of settings inherit it.
    """
    _refuse_removed(cls, settings, source)
    try:
        return TypeAdapter(cls).validate_python(settings)
    except ValidationError as error:
        raise InputError(f"{source}: {_problem(cls, error)}") from error


def setting_names(cls: type[Any], prefix: str = "") -> list[str]:
    """Dotted names of all settings; a group's own name comes before those of its settings."""
    names: list[str] = []
    for name, type_ in get_type_hints(cls).items():
        if name not in {field.name for field in dataclasses.fields(cls)}:
            continue
        names.append(f"{prefix}{name}")
        if dataclasses.is_dataclass(type_) and isinstance(type_, type):
            names += setting_names(type_, f"{prefix}{name}.")
    return names


def to_yaml(config: Any) -> str:
    """The config as YAML that load_config reads back to an equal config."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


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
    try:
        settings[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"the value of {key} must be YAML, got {text!r}: {error}") from error


def _refuse_removed(cls: type[Any], settings: dict[str, Any], source: str) -> None:
    removed = REMOVED.keys() - setting_names(cls)
    found = [f"{key} was removed, {REMOVED[key]}" for key in _dotted(settings) if key in removed]
    if found:
        remedy = "Delete the key." if len(found) == 1 else "Delete these keys."
        raise InputError(f"{source}: {'; '.join(found)}. {remedy}")


def _dotted(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


def _problem(cls: type[Any], error: ValidationError) -> str:
    """One problem of several: an unknown key may be why another one is missing."""
    problems = error.errors(include_url=False)
    unknown = [each for each in problems if each["type"] == "unexpected_keyword_argument"]
    first = (unknown or problems)[0]
    key = ".".join(str(part) for part in first["loc"])
    if unknown:
        return f"every key must be a setting, got unknown key {key}. {_hint(cls, key)}"
    text = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] in ("value_error", "missing") else f", got {first['input']!r}"
    return f"{key + ': ' if key else ''}{text}{got}"


def _hint(cls: type[Any], key: str) -> str:
    names = setting_names(cls)
    group, _, last = key.rpartition(".")
    siblings = [name for name in names if name.rpartition(".")[0] == group]
    elsewhere = [name for name in names if name.rpartition(".")[2] == last]
    leaves = {name.rpartition(".")[2]: name for name in siblings}
    close = [leaves[leaf] for leaf in difflib.get_close_matches(last, leaves, n=1)] or elsewhere
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(siblings)}."
