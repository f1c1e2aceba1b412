"""Settings as YAML, with overrides from a command line.

`load_config(RunConfig, path, ["distill.gamma=0"])` is the only way from a file to a config: unknown
keys, wrong types and values out of range are errors that name the key.
"""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from trainer.config.removed import REMOVED

ConfigT = TypeVar("ConfigT")


def load_config(cls: type[ConfigT], path: Path, overrides: list[str]) -> ConfigT:
    """A config from a YAML file and `key=value` overrides with dotted keys.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: for anything wrong in it; the message names the key and the remedy.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must be a config file, got nothing there. There are recipes in "
            "trainer/configs/."
        )
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be YAML, got: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold key: value pairs, got {type(settings).__name__}.")
    for override in overrides:
        _set_dotted(settings, override)
    return parse_config(cls, settings, str(path))


def parse_config(cls: type[ConfigT], settings: dict[str, Any], source: str) -> ConfigT:
    """A config from nested dicts; `source` is named in errors."""
    _refuse_unknown_keys(cls, settings, source, prefix="")
    try:
        return TypeAdapter(cls).validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] in ("value_error", "missing") else f", got {first['input']!r}"
        raise ValueError(f"{source}: {key + ': ' if key else ''}{problem}{got}") from error


def to_yaml(config: Any) -> str:
    """The config as YAML that load_config reads back to an equal config."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _set_dotted(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"an override must be key=value, got {override!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        child = settings.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(
                f"{key} must name a setting in a group of settings, got {child!r} for {parent}."
            )
        settings = child
    try:
        settings[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the value of {key} must be YAML, got {text!r}: {error}") from error


def _refuse_unknown_keys(cls: Any, settings: dict[str, Any], source: str, prefix: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    types = get_type_hints(cls)
    for key, value in settings.items():
        if f"{prefix}{key}" in REMOVED:
            raise ValueError(
                f"{source}: {prefix}{key} was removed, {REMOVED[prefix + key]}. Delete the key."
            )
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"Did you mean {prefix}{close[0]}?" if close else f"Known: {', '.join(fields)}."
            raise ValueError(
                f"{source}: every key must be a setting, got unknown key {prefix}{key}. {hint}"
            )
        if dataclasses.is_dataclass(types[key]) and isinstance(value, dict):
            _refuse_unknown_keys(types[key], value, source, f"{prefix}{key}.")
