"""Machines of a cloud, which Ray's node providers name and end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

from cluster.aws.roles import AWS
from cluster.aws.ssh_key import laptop_key
from cluster.commands.cluster_file import ClusterFile
from cluster.machines.ray_private import node_provider
from trainer.common.errors import MachineError, MissingError, UserError, first_line

KIND = "ray-node-type"
ENDS_S = 300.0
POLL_S = 5.0


def head_address(file: ClusterFile) -> str:
    """Where the head of a cloud's cluster is reached.

    Raises:
        MissingError: if the cluster has none.
        MachineError: if the provider does not answer.
    """
    with _provider_errors(file):
        from ray.autoscaler.sdk import get_head_node_ip

        return get_head_node_ip(str(file.path))


def private_key(file: ClusterFile) -> str:
    """The file's key, or that of the pair that Ray made: as `ray attach` finds it."""
    key = file.config["auth"].get("ssh_private_key")
    if key is not None:
        return key
    if file.provider["type"] == AWS:
        # Not from Ray: where the file is missing it makes another pair.
        return str(laptop_key(file.path, file.config))
    with _provider_errors(file):
        from ray.autoscaler.sdk import bootstrap_config

        return bootstrap_config(dict(file.config))["auth"]["ssh_private_key"]


def end_nodes(file: ClusterFile, *, workers_only: bool) -> list[str]:
    """End all machines of a cloud's cluster, and wait for it; those that are left."""
    with _provider_errors(file):
        provider = node_provider(file.provider, file.name)
        kinds = ("worker",) if workers_only else ("worker", "head")
        end_s = time.monotonic() + ENDS_S
        while nodes := [it for kind in kinds for it in _nodes(provider, kind)]:
            provider.terminate_nodes(nodes)
            if time.monotonic() > end_s:
                break
            time.sleep(POLL_S)
    return [f"{it}: still there" for it in nodes]


def _nodes(provider: Any, kind: str) -> list[str]:
    return provider.nodes_for_teardown({KIND: kind})


@contextmanager
def _provider_errors(file: ClusterFile) -> Iterator[None]:
    """What Ray's provider raises and prints, as one line of ours."""
    log = logging.getLogger("ray")
    level = log.level
    log.setLevel(logging.WARNING)
    with redirect_stdout(StringIO()):
        try:
            yield
        except UserError:
            raise
        except RuntimeError as error:
            raise MissingError(
                f"the cluster {file.name} must be up, got: {first_line(error)} Start it: python "
                f"-m cluster up {os.fspath(file.path)}"
            ) from error
        except Exception as error:
            # botocore and click, of which neither need be installed: all are of Exception alone.
            raise MachineError(
                f"the provider of {file.path} must answer, got: {first_line(error)}. Look at its "
                "credentials and region."
            ) from error
        finally:
            log.setLevel(level)
