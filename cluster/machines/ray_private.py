"""All that the cluster uses of Ray beside its public API, each with the reason.

What the fleet uses is in teacher_server/fleet/ray_private.py. Nothing of Ray is imported before it
is used: commands that need none of it must not wait for it.
tests/unit/cluster/test_ray_private.py names what a new version has taken away.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainer.common.errors import MachineError, first_line

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

ANSWER_S = 10.0
ALIVE = 0  # GcsNodeInfo.GcsNodeState


def launch_hash(node_config: dict[str, Any], auth: dict[str, Any]) -> str:
    """By what the launcher tells whether a head is of the file that it reads.

    Our node provider is public API; what the launcher compares of its head is not.
    """
    from ray.autoscaler._private.util import hash_launch_conf

    return hash_launch_conf(node_config, auth)


def alive_instances(address: str) -> Iterator[str]:
    """The launcher's names of all nodes that the control plane at `address` holds for alive.

    The public state API needs a raylet on this machine, or the dashboard.

    Raises:
        MachineError: if it does not answer.
    """
    from ray._raylet import GcsClient  # pyright: ignore
    from ray.exceptions import RpcError

    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=ANSWER_S).values()
    except (RpcError, RuntimeError, OSError) as error:
        raise MachineError(f"Ray at {address} must answer, got: {first_line(error)}") from error
    return (it.instance_id for it in nodes if it.state == ALIVE)


def judge_file(config: Mapping[str, Any]) -> None:
    """What `ray up` checks of a file before it talks to anybody.

    There is no public function that judges a file. Raises what Ray does: jsonschema's
    ValidationError for most, and whatever a wrong value leads to.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(copy.deepcopy(dict(config)))
    prepare_config(copy.deepcopy(dict(config)))


def node_provider(provider: Mapping[str, Any], cluster: str) -> Any:
    """The node provider of a file: `ray down` is public, and ends less than we have to."""
    from ray.autoscaler._private.providers import _get_node_provider

    return _get_node_provider(dict(provider), cluster)


def placement_group_of(group_id: str) -> PlacementGroup:
    """A placement group by its id: the public way is by name, within the caller's namespace."""
    from ray._raylet import PlacementGroupID  # pyright: ignore
    from ray.util.placement_group import PlacementGroup

    return PlacementGroup(PlacementGroupID(bytes.fromhex(group_id)))
