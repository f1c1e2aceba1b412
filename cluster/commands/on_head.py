"""Commands of ours on the head."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cluster.commands.cluster import Cluster
from cluster.head.shared import NAME_RULE, is_name

HEAD = ("python", "-m", "cluster.head")
STUDENTS = ("python", "-m", "cluster.students")


def answer_of(cluster: Cluster, *command: str) -> Any:
    """What a command of `cluster.head` answers in JSON."""
    return json.loads(cluster.answer([*HEAD, *command]))


def name_or_newest(cluster: Cluster, name: str | None) -> str:
    """A run's name; the cluster's newest run if none is given."""
    return name or cluster.answer([*HEAD, "newest"]).strip()


def run_name(text: str) -> str:
    """The type of an option that takes a run's name."""
    if not is_name(text):
        raise argparse.ArgumentTypeError(f"must be {NAME_RULE}, got {text}")
    return text
