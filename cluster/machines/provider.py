"""Ray's launcher and autoscaler on machines that one has: a node provider of type `external`.

Ray's own `local` provider has one type of node, so no students among teachers, and under the
autoscaler that `ray up` starts since 2.50 only some of the machines join: it does not tell that
autoscaler that the head runs. Here each type of node has a list of machines. All of them are
wanted at any time: one that is lost is tried again until it is back.

Nothing is made or ended: to "launch" a node is to let the launcher log in to a machine of its type
and start Ray there.
"""

from __future__ import annotations

import copy
import json
import logging
import socket
import threading
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UP_TO_DATE,
    TAG_RAY_LAUNCH_CONFIG,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from cluster.machines.addresses import KEY, workers_of
from cluster.machines.ray_private import launch_hash
from trainer.common.atomic import write_json

Tags = dict[str, str]
STATE = "~/.ray/machines.json"
# Between a machine's address and the number of its launch.
MARK = "@"
# What the head is known by; the launcher would start it over if it were not the file's.
LAUNCH, HEAD_TYPE = "head_launch_hash", "head_node_type"
logger = logging.getLogger(__name__)


class Machines(NodeProvider):
    """Nodes are launches of machines: their ids are an address, and a number beside it.

    The autoscaler counts on it that no id comes back: it gives a lost node up and launches another
    at once, while the first one is still in its books. The head's id is its address alone, and it
    is always there. Which workers were launched is kept in a file of the head: an
    autoscaler that is started again there goes on with them.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._lock = threading.RLock()
        self._file = Path(STATE).expanduser()
        self._head: str = provider_config["head_ip"]
        self._head_tags: Tags = {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
            TAG_RAY_USER_NODE_TYPE: provider_config.get(HEAD_TYPE, ""),
            TAG_RAY_NODE_NAME: f"ray-{cluster_name}-head",
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
            TAG_RAY_LAUNCH_CONFIG: provider_config.get(LAUNCH, ""),
        }

    def non_terminated_nodes(self, tag_filters: Tags) -> list[str]:
        """The head and the launched workers whose tags have all of these."""
        with self._lock:
            nodes = {self._head: self._head_tags, **self._workers()}
        return [it for it, tags in nodes.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        """Whether it is the head or was launched."""
        return node_id in self.non_terminated_nodes({})

    def is_terminated(self, node_id: str) -> bool:
        """The opposite of `is_running`."""
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> Tags:
        """Tags of a node; none of one that was given up meanwhile."""
        with self._lock:
            if node_id == self._head:
                return dict(self._head_tags)
            return self._workers().get(node_id, {})

    def set_node_tags(self, node_id: str, tags: Tags) -> None:
        """Add tags; nothing if the node was given up meanwhile."""
        with self._lock:
            if node_id == self._head:
                self._head_tags.update(tags)
                return
            num_launches, workers = self._read()
            if node_id in workers:
                workers[node_id].update(tags)
                self._write(num_launches, workers)

    def internal_ip(self, node_id: str) -> str:
        """The address by which nodes reach it."""
        return socket.gethostbyname(address_of(node_id))

    def external_ip(self, node_id: str) -> str:
        """The address by which the launcher reaches it: provider.external_head_ip for the head."""
        outside = self.provider_config.get("external_head_ip") if node_id == self._head else None
        return socket.gethostbyname(outside or address_of(node_id))

    def create_node(self, node_config: dict[str, Any], tags: Tags, count: int) -> dict[str, Any]:
        """Launch machines of `node_config`'s list that are not launched yet.

        Raises:
            ValueError: if fewer than `count` are left; none is launched then.
        """
        with self._lock:
            if tags.get(TAG_RAY_NODE_KIND) == NODE_KIND_HEAD:
                self._head_tags = dict(tags)
                return {self._head: tags}
            num_launches, workers = self._read()
            taken = set(map(address_of, workers))
            free = [it for it in node_config[KEY] if it not in taken]
            if len(free) < count:
                raise ValueError(f"{count} machines must be free, got {free} of {node_config[KEY]}")
            launched = {
                f"{address}{MARK}{num_launches + number}": dict(tags)
                for number, address in enumerate(free[:count], start=1)
            }
            self._write(num_launches + count, {**workers, **launched})
        logger.info("Machines: launching %s", ", ".join(launched))
        return dict(launched)

    def terminate_node(self, node_id: str) -> None:
        """Give a worker up; the autoscaler then launches it again, as it wants all."""
        with self._lock:
            num_launches, workers = self._read()
            if workers.pop(node_id, None) is not None:
                self._write(num_launches, workers)

    def nodes_for_teardown(self, tag_filters: Tags) -> list[str]:
        """Only what is launched: there is nothing on a machine that outlives Ray."""
        return self.non_terminated_nodes(tag_filters)

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """The file as the launcher takes it: all machines of a type are wanted at any time."""
        config = copy.deepcopy(cluster_config)
        workers = workers_of(config)
        for name, addresses in workers.items():
            config["available_node_types"][name].update(
                min_workers=len(addresses), max_workers=len(addresses)
            )
        config["max_workers"] = sum(map(len, workers.values()))
        head_type = config[HEAD_TYPE]
        head = config["available_node_types"][head_type].get("node_config", {})
        config["provider"][HEAD_TYPE] = head_type
        config["provider"][LAUNCH] = launch_hash(head, config["auth"])
        return config

    def _workers(self) -> dict[str, Tags]:
        return self._read()[1]

    def _read(self) -> tuple[int, dict[str, Tags]]:
        """How often machines were launched, and the tags of the nodes that are."""
        if not self._file.is_file():
            return 0, {}
        content = json.loads(self._file.read_text())
        # Of another cluster that this machine was the head of: gone.
        is_ours = content["cluster"] == self.cluster_name
        return (content["launches"], content["workers"]) if is_ours else (0, {})

    def _write(self, num_launches: int, workers: dict[str, Tags]) -> None:
        content = {"cluster": self.cluster_name, "launches": num_launches, "workers": workers}
        write_json(self._file, content)


def address_of(node_id: str) -> str:
    """The machine of a node."""
    return node_id.partition(MARK)[0]
