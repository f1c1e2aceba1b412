"""A fleet while `roll` changes it: its record always says what shall run, and Serve is watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from teacher_server.fleet.deploy import POLL_S
from teacher_server.fleet.local_cluster import FleetState, write_state
from teacher_server.fleet.replacing import Replacing
from teacher_server.fleet.scaling import ScalingTarget
from teacher_server.fleet.status import FAILED, KindStatus, fleet_status, last_line, status_in
from trainer.common.errors import MachineError

# Of a replica that does not start, and of Serve itself.
FAILURES = (MachineError, RayError, RayServeException, TimeoutError)

Pairs = list[tuple[str, str]]
"""Old and new replica ids."""


class FleetChange:
    """A fleet on the connected cluster, and who is told what becomes of it."""

    def __init__(
        self, path: Path, state: FleetState, *, timeout_s: float, progress: Callable[[str], None]
    ) -> None:
        """`path` is the fleet's file; `timeout_s` is for each replica."""
        self.state = state
        self.timeout_s = timeout_s
        self.progress = progress
        self.scaling = ScalingTarget(**state.scaling)
        self._path = path

    def record(self, state: FleetState) -> None:
        """Note what shall run, before Serve is told: whoever reads it after us finds that."""
        write_state(self._path, state)
        self.state = state

    def wait(self, replacing: Replacing) -> None:
        """Watch Serve until all are replaced; each replica may take the whole time.

        Raises:
            MachineError: if a new one does not start.
        """
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            status = status_of(replacing.kind)
            if status.state == FAILED:
                why = last_line(status.message)
                raise MachineError(f"a new {replacing.kind} replica must start, got: {why}.")
            lines = replacing.look(_states(status))
            for line in lines:
                self.progress(line)
                deadline_s = time.monotonic() + self.timeout_s
            if replacing.is_done(_states(status), status.target):
                return
            if time.monotonic() > deadline_s:
                raise MachineError(
                    f"a new {replacing.kind} replica must be ready within {self.timeout_s:g} s, "
                    f"got {_states(status)}."
                )
            time.sleep(POLL_S)


def status_of(group: str) -> KindStatus:
    """Serve's view of a group, or of the Directory; raises MachineError if it has none."""
    return status_in(fleet_status(), group)


def sentence(error: Exception) -> str:
    """What went wrong; Ray's own errors are tracebacks."""
    if isinstance(error, MachineError):
        return str(error)
    return f"Ray Serve must replace the replicas, got: {last_line(str(error))}."


def told(replaced: Sequence[str]) -> str:
    """The kinds that were replaced before, or that there are none."""
    return ", ".join(replaced) or "none"


def _states(status: KindStatus) -> dict[str, str]:
    return {replica_id: state for replica_id, (state, _) in status.replicas.items()}
