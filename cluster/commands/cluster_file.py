"""The file of a cluster, as far as commands read it themselves; the rest of it is Ray's."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.head.nodes import BOOTSTRAP
from cluster.machines.addresses import is_of_machines, workers_of
from trainer.common.errors import InputError
from trainer.common.text_files import read_text

OPTION = "--cluster"
FILE_VARIABLE = "CONKD_CLUSTER"
DEFAULT_FILE = Path("cluster/gpu.yaml")
REMEDY = "There are cluster/gpu.yaml and cluster/local.yaml."


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """What a cluster's file says of its provider and of the way in."""

    path: Path
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.config["cluster_name"]

    @property
    def is_local(self) -> bool:
        """Whether the machines are there with and without a cluster; all others are made for it."""
        return is_of_machines(self.config)

    @property
    def provider(self) -> dict[str, Any]:
        """The group `provider`."""
        return self.config["provider"]

    @property
    def user(self) -> str:
        """Who logs in."""
        return self.config["auth"]["ssh_user"]

    @property
    def is_on_head(self) -> bool:
        """Whether it is the copy that Ray's launcher puts on the head."""
        return self.path.expanduser() == BOOTSTRAP.expanduser()

    @property
    def head_address(self) -> str | None:
        """Where the head is reached; None for a cloud's, which its provider knows."""
        if self.is_on_head:
            return "127.0.0.1"
        return self.provider.get("external_head_ip") or self.provider.get("head_ip")

    @property
    def is_behind_head(self) -> bool:
        """Whether the other machines are reached through the head."""
        return "external_head_ip" in self.provider and not self.is_on_head

    @property
    def worker_addresses(self) -> tuple[str, ...]:
        """All machines of one's own but the head."""
        return tuple(it for group in workers_of(self.config).values() for it in group)


def read_cluster_file(path: Path) -> ClusterFile:
    """The checked file.

    Raises:
        MissingError: if there is none.
        InputError: if it lacks what commands read, or Ray's own schema refuses it.
    """
    text = read_text(path, remedy=REMEDY)
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} must be YAML, got: {error}. {REMEDY}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold key: value pairs, got {config!r:.80}. {REMEDY}")
    file = ClusterFile(path=path, config=config)
    _check(file)
    return file


def _check(file: ClusterFile) -> None:
    config = file.config
    for group, key in (("provider", "type"), ("auth", "ssh_user")):
        if not isinstance(config.get(group), dict) or not config[group].get(key):
            raise InputError(f"{file.path}: {group}.{key} must be set, got none. {REMEDY}")
    if not isinstance(config.get("cluster_name"), str):
        raise InputError(f"{file.path}: cluster_name must be a name, got none. {REMEDY}")
    types = config.get("available_node_types")
    if not isinstance(types, dict) or config.get("head_node_type") not in types:
        raise InputError(
            f"{file.path}: head_node_type must be one of available_node_types, got "
            f"{config.get('head_node_type')!r}. {REMEDY}"
        )
    if file.is_local:
        workers_of(config)


def add_file(parser: argparse.ArgumentParser) -> None:
    """The argument of commands that make and end machines: they take no default."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a file for Ray's launcher")


def add_cluster_option(parser: argparse.ArgumentParser) -> None:
    """The option of all other commands."""
    parser.add_argument(
        OPTION,
        dest="file",
        type=Path,
        metavar="FILE",
        default=Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE),
        help=f"the cluster's file; {FILE_VARIABLE} in the environment sets another default",
    )


def file_and_rest(arguments: argparse.Namespace) -> tuple[Path, list[str]]:
    """The cluster's file, also where it stands among options that another program reads.

    Raises:
        InputError: if the option has no value.
    """
    file, rest = arguments.file, []
    options = iter(arguments.options)
    for option in options:
        name, equals, value = option.partition("=")
        if name != OPTION:
            rest.append(option)
            continue
        value = value if equals else next(options, "")
        if not value:
            raise InputError(f"{OPTION} must have a value, got none. {REMEDY}")
        file = Path(value)
    return file, rest
