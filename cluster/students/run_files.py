"""What lies in a run's folder beside its output: the log, and the state of its supervisor."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

from trainer.common.atomic import write_json
from trainer.common.errors import InputError, MissingError
from trainer.common.outputs import check_output
from trainer.common.text_files import read_json_object

VARIABLE = "CONKD_SHARED"
RUNS = "runs"
LOG_NAME = "train.log"
STATE_NAME = "supervisor.json"
CONFIG_NAME = "given.yaml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = "at most 64 letters, digits and . _ -, with a letter or digit first"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a supervisor writes, so that the next one of the run goes on, and others can see it."""

    run: str
    id: str
    epoch: int
    """Grows with each start of a supervisor. One that reads a larger one has been replaced."""
    state: str
    """waiting, running, done, failed or stopped."""
    message: str = ""
    """The last event, in one line."""
    wanted_nodes: int = 0
    nodes: tuple[str, ...] = ()
    """Addresses of the nodes that train."""
    ranks: int = 0
    attempt: int = 0
    has_begun: bool = False
    """Whether an attempt of this run has trained: only the first may forget older checkpoints."""
    step: int = 0
    """Of the last line of metrics.jsonl."""
    updated: float = 0.0
    """Time of day of the last write, in seconds."""
    exit_status: int | None = None
    """Of the run; None while it goes on."""

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.exit_status is not None


def run_folder(name: str) -> Path:
    """The folder of a run in the shared folder.

    Raises:
        InputError: if there is no shared folder that can be written.
    """
    shared = os.environ.get(VARIABLE, "")
    if not shared or not Path(shared).is_dir():
        raise InputError(
            f"{VARIABLE} must name the folder that all nodes share, got {shared or 'nothing'}. "
            "Mount it, or set the variable to where it is."
        )
    check_output("the shared folder", Path(shared))
    return Path(shared) / RUNS / name


def read_state(folder: Path) -> RunState:
    """The state of the run's newest supervisor.

    Raises:
        MissingError: if no run was started there.
        InputError: if the file is not one of this version.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise MissingError(
            f"a run must have been started in {folder}, got none. Start it with: python -m "
            f"cluster.students run --name {folder.name} ..."
        )
    content = read_json_object(path)
    try:
        return RunState(**{**content, "nodes": tuple(content["nodes"])})
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path} must be the state of a run of this version, got: {error!r}. Remove the file."
        ) from error


def write_state(folder: Path, state: RunState) -> None:
    """Replace the state, by one rename."""
    write_json(folder / STATE_NAME, dataclasses.asdict(state))
