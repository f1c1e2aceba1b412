"""`roll`: replicas are replaced one by one while students train on, and then the Directory.

A new replica is a new process: it reads certificates and token anew and imports the software that
is installed now. Serve replaces the replicas of another version of their deployment; here that
version is changed, and what Serve does is watched.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from teacher_server.fleet.deploy import POLL_S, replace, replace_directory, wait_until_ready
from teacher_server.fleet.directory_server import fetch_fleet
from teacher_server.fleet.local_cluster import FleetState, write_state
from teacher_server.fleet.replacing import Replacing
from teacher_server.fleet.roll_plan import has_room
from teacher_server.fleet.scaling import ScalingTarget
from teacher_server.fleet.status import FAILED, KindStatus, fleet_status, last_line
from teacher_server.fleet.trust import authorities, distrust
from trainer.common.errors import InputError, MachineError

DIRECTORY = "directory"
# For the Directory to answer: one that is asked once, on a machine that is busy with students.
ANSWER_S = 20.0
# Of a replica that does not start, and of Serve itself.
FAILURES = (MachineError, RayError, RayServeException)


class Roll:
    """One roll of a fleet on the connected cluster; the fleet's file always says what shall run."""

    def __init__(
        self, path: Path, state: FleetState, *, timeout_s: float, progress: Callable[[str], None]
    ) -> None:
        """`path` is the fleet's file; `timeout_s` is for each replica."""
        self.state = state
        self._path = path
        self._timeout_s = timeout_s
        self._progress = progress
        self._scaling = ScalingTarget(**state.scaling)
        self._replaced: dict[str, list[tuple[str, str]]] = {}

    def run(self, options: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
        """Replace all replicas and the Directory; old and new ids of each kind.

        Raises:
            MachineError: if new replicas of a kind do not start: its old ones are back then.
            InputError: if running students could not go on with certificates or token of now.
        """
        if _status_of(DIRECTORY).state == FAILED:
            # A roll before ended with it: the teachers are of now, and nobody answers the check.
            self._progress("the Directory did not start: it alone is started anew")
        else:
            self._check_files()
            if why := distrust(self.state.security, self.state.authorities):
                self._progress(f"warning: {why}")
            for kind, of_kind in options.items():
                self._replaced[kind] = self._roll_kind(kind, of_kind)
        try:
            self._replaced[DIRECTORY] = self._roll_directory()
            ranges = {kind: _status_of(kind).replica_range for kind in options}
            wait_until_ready(ranges, self.state, timeout_s=self._timeout_s, progress=self._progress)
        except MachineError as error:
            raise MachineError(
                f"{error} All teachers are replaced, and go on with the students that they have. "
                "For the Directory, roll again."
            ) from error
        now = authorities(self.state.security)
        self._record(dataclasses.replace(self.state, authorities=now))
        return self._replaced

    def _check_files(self) -> None:
        """A student that bears the files of now must get on with the servers of before.

        Most mistakes show there.
        """
        try:
            fetch_fleet(self.state.directory, ANSWER_S, self.state.security)
        except MachineError as error:
            raise InputError(
                "the Directory must answer to the certificates and the token of now, got: "
                f"{error} For another token, or a CA that it does not know, take the fleet down "
                "and up."
            ) from error

    def _roll_directory(self) -> list[tuple[str, str]]:
        replacing = Replacing(DIRECTORY, list(_status_of(DIRECTORY).replicas))
        replace_directory(self.state)
        self._wait(replacing)
        return replacing.pairs

    def _roll_kind(self, kind: str, options: Mapping[str, Any]) -> list[tuple[str, str]]:
        before, status = self.state, _status_of(kind)
        replacing = Replacing(kind, list(status.replicas))
        has_surge = has_room(self.state, kind, fleet_status())
        if not has_surge and len(status.replicas) == 1:
            self._progress(f"{kind}: no room for a second replica, so students wait for a start")
        try:
            # First the file: whoever reads it after us finds what Serve was told.
            self._record(_changed(before, kind, options))
            replace(self.state, kind, status.replica_range, self._scaling, has_surge=has_surge)
            self._wait(replacing)
        except KeyboardInterrupt:
            self._progress(f"{kind}: Serve goes on with it; `status` shows how far it is")
            raise
        except FAILURES as error:
            self._take_back(kind, before, status, error, has_surge=has_surge)
        return replacing.pairs

    def _record(self, state: FleetState) -> None:
        write_state(self._path, state)
        self.state = state

    def _take_back(
        self,
        kind: str,
        before: FleetState,
        status: KindStatus,
        error: Exception,
        *,
        has_surge: bool,
    ) -> None:
        """Have the replicas of before again; always raises."""
        why = _sentence(error)
        self._progress(f"{kind}: {why} Taking it back.")
        try:
            self._record(before)
            new = [it for it in _status_of(kind).replicas if it not in status.replicas]
            replace(before, kind, status.replica_range, self._scaling, has_surge=has_surge)
            self._wait(Replacing(kind, new))
        except FAILURES as second:
            raise MachineError(
                f"{why} The replicas of before are not all back, either: {_sentence(second)} Look "
                "at: python -m teacher_server status"
            ) from second
        replaced = ", ".join(self._replaced) or "none"
        raise MachineError(
            f"{why} The {kind} replicas are those of before, and so is the Directory; kinds that "
            f"were replaced already: {replaced}."
        ) from error

    def _wait(self, replacing: Replacing) -> None:
        """Watch Serve until all are replaced; each replica may take the whole time."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            status = _status_of(replacing.kind)
            if status.state == FAILED:
                why = last_line(status.message)
                raise MachineError(f"a new {replacing.kind} replica must start, got: {why}.")
            lines = replacing.look(_states(status))
            for line in lines:
                self._progress(line)
                deadline_s = time.monotonic() + self._timeout_s
            if replacing.is_done(_states(status), status.target):
                return
            if time.monotonic() > deadline_s:
                raise MachineError(
                    f"a new {replacing.kind} replica must be ready within {self._timeout_s:g} s, "
                    f"got {_states(status)}."
                )
            time.sleep(POLL_S)


def _changed(state: FleetState, kind: str, options: Mapping[str, Any]) -> FleetState:
    """The fleet with other options of a kind, and with a version that it never had."""
    return dataclasses.replace(
        state,
        options={**state.options, kind: options},
        versions={**state.versions, kind: secrets.token_hex(4)},
    )


def _status_of(kind: str) -> KindStatus:
    known = fleet_status()
    if kind not in known:
        raise MachineError(
            f"Ray Serve must know the {kind} of the fleet, got {', '.join(known) or 'nothing'}. "
            "Take the fleet down and up."
        )
    return known[kind]


def _sentence(error: Exception) -> str:
    """What went wrong; Ray's own errors are tracebacks."""
    if isinstance(error, MachineError):
        return str(error)
    return f"Ray Serve must replace the replicas, got: {last_line(str(error))}."


def _states(status: KindStatus) -> dict[str, str]:
    return {replica_id: state for replica_id, (state, _) in status.replicas.items()}
