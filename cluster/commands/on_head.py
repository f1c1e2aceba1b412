"""Commands of ours on the head."""

from __future__ import annotations

import json
from typing import Any

from cluster.commands.cluster import Cluster

HEAD = ("python", "-m", "cluster.head")
STUDENTS = ("python", "-m", "cluster.students")


def answer_of(cluster: Cluster, *command: str) -> Any:
    """What a command of `cluster.head` answers in JSON."""
    return json.loads(cluster.answer([*HEAD, *command]))


def name_or_newest(cluster: Cluster, name: str | None) -> str:
    """A run's name; the cluster's newest run if none is given."""
    return name or cluster.answer([*HEAD, "newest"]).strip()
