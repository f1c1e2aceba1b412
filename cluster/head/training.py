"""`train` on the head: the config kept on the shared folder, and the command of students."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cluster.head.filling import FOLDERS, Place, filled
from cluster.head.nodes import head_address
from cluster.head.shared import CONFIGS, shared_folder
from trainer.common.atomic import write_text
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config

CREDENTIALS = "~/conkd-tls"


def students_command(arguments: argparse.Namespace, config_text: str) -> list[str]:
    """Arguments of Python that start the run, or find it.

    Raises:
        UserError: if config, shared folder or cluster are not what the run needs.
    """
    shared = shared_folder()
    shared.check_room()
    path = shared.of(CONFIGS, f"{arguments.name}.yaml")
    write_text(path, config_text)
    config = load_config(RunConfig, path, arguments.overrides)
    place = Place(
        shared=shared,
        head_address=head_address(),
        credentials=Path(os.path.expanduser(CREDENTIALS)),
    )
    given = {*_dotted(yaml.safe_load(config_text) or {}), *map(_key, arguments.overrides)}
    folders = {key: getattr(config, key) for key in FOLDERS}
    overrides = [*arguments.overrides, *filled(arguments.name, folders, given, place)]
    return [
        *("-m", "cluster.students", "run", "--name", arguments.name),
        *("--nodes", str(arguments.nodes)),
        *(["--min-nodes", str(arguments.min_nodes)] if arguments.min_nodes else []),
        *(["--slots", str(arguments.slots)] if arguments.slots else []),
        *("--", "--config", str(path), *overrides),
    ]


def _key(override: str) -> str:
    return override.partition("=")[0]


def _dotted(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
