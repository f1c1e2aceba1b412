"""A file for Ray's launcher, judged by Ray itself, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from cluster.machines.ray_private import judge_file
from trainer.common.errors import InputError, MissingError

STUBS = Path("protos/teacher_pb2_grpc.py")


def check_schema(path: Path, config: Mapping[str, Any]) -> None:
    """What `ray up` checks before it talks to anybody, and that what it sends is there.

    Raises:
        InputError: if a key is unknown, or a value is of the wrong sort.
        MissingError: if a file that goes to the nodes is not here.
    """
    from jsonschema import ValidationError

    try:
        # Ray warns of each single file that is sent, for the sake of Docker.
        with redirect_stdout(StringIO()):
            judge_file(config)
    except ValidationError as error:
        place = ".".join(map(str, error.absolute_path)) or "the file"
        raise InputError(
            f"{path}: {place} must be as Ray's launcher takes it, got: {error.message[:200]}. "
            "cluster/gpu.yaml has an example."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} must be as Ray's launcher takes it, got: {error}. cluster/gpu.yaml has an "
            "example."
        ) from error
    _check_sent(path, config)


def _check_sent(path: Path, config: Mapping[str, Any]) -> None:
    sent = [Path(it) for it in config.get("file_mounts", {}).values()]
    for file in sent:
        if not file.expanduser().exists():
            raise MissingError(
                f"{path}: {file} must be there to go to the nodes, got none. Run from the root of "
                "the repository."
            )
    if STUBS.parent in sent and not STUBS.exists():
        raise MissingError(f"{STUBS} must be there to go to the nodes, got none. Run: make protos")
