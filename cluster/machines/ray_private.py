"""All that machines use of Ray beside its public API, each with the reason.

Node providers of type `external` are public; what the launcher compares of a head is not, nor is a
client of the control plane that needs no raylet on its machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray._raylet import GcsClient  # pyright: ignore
from ray.autoscaler._private.util import hash_launch_conf
from ray.exceptions import RpcError

from trainer.common.errors import MachineError, first_line

ANSWER_S = 10.0
ALIVE = 0  # GcsNodeInfo.GcsNodeState


def launch_hash(node_config: dict[str, Any], auth: dict[str, Any]) -> str:
    """By what the launcher tells whether a head is of the file that it reads."""
    return hash_launch_conf(node_config, auth)


def alive_instances(address: str) -> Iterator[str]:
    """The launcher's names of all nodes that the control plane at `address` holds for alive.

    Raises:
        MachineError: if it does not answer.
    """
    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=ANSWER_S).values()
    except (RpcError, RuntimeError, OSError) as error:
        raise MachineError(f"Ray at {address} must answer, got: {first_line(error)}") from error
    return (it.instance_id for it in nodes if it.state == ALIVE)
