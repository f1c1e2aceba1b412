"""The supervisor's side of one node: a beat at a time, its answers, and how long it is silent."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from cluster.students.lease import BEAT_S, END_S, LEASE_S, LOST_S
from cluster.students.node import Beat, NodeStart, Place
from trainer.common.errors import MachineError, first_line

# Less than the lease: of several nodes the first ones wait for the last.
START_S = 15.0
STOP_S = 12.0


class NodeLink:
    """Calls to a StudentNode.

    Attributes:
        place: where it is.
        exit_status: of its launcher; None while that runs.
        lost: why the node is given up; empty: it is not.
        is_silent: it is, because it does not answer: Ray may not know yet.
        sent: number of beats sent.
        answered: number of the last beat that was answered.
    """

    def __init__(self, actor: Any, place: Place, clock: Callable[[], float]) -> None:
        self.place = place
        self.exit_status: int | None = None
        self.lease_is_over = False
        self.lost = ""
        self.is_silent = False
        self.sent = self.answered = 0
        self._actor = actor
        self._clock = clock
        self._token = 0
        self._pending: Any = None
        self._sent_s = self._answered_s = clock()

    @property
    def free_s(self) -> float:
        """From when on no rank of this node's can run, by the clock."""
        return self._answered_s + LEASE_S + END_S

    def greet(self) -> Any:
        """Ask for the token of the start; what `start` waits for."""
        return self._actor.token.remote()

    def start(self, start: NodeStart, pending: Any) -> Any:
        """Start the launcher; what `started` waits for, so that all nodes start together."""
        token = self._got(pending)
        return None if token is None else self._actor.start.remote(start, token)

    def started(self, pending: Any) -> None:
        """The launcher runs; MachineError if the node cannot start one."""
        token = None if pending is None else self._got(pending)
        if token is not None:
            self._token = token
            self._sent_s = self._clock()

    def _got(self, pending: Any) -> int | None:
        """A token; None: the node is lost."""
        try:
            token: Any = ray.get(pending, timeout=START_S)
        except RayTaskError as error:
            raise MachineError(first_line(error.cause)) from error
        except RayError as error:
            self.lost = f"it did not start: {first_line(error)}"
            self.is_silent = isinstance(error, GetTimeoutError)
            return None
        self._answered_s = self._clock()
        return token

    def poll(self) -> tuple[str, ...]:
        """Send a beat if one is due, take an answer if there is one; lines of the ranks."""
        now_s = self._clock()
        if self._pending is None and now_s - self._sent_s >= BEAT_S:
            self.sent += 1
            self._sent_s = now_s
            self._pending = self._actor.beat.remote(self._token)
        lines: tuple[str, ...] = ()
        if self._pending is not None and ray.wait([self._pending], timeout=0)[0]:
            lines = self._take(self._pending)
        if not self.lost and now_s - self._answered_s > LOST_S:
            self.lost = f"no answer for {LOST_S:.0f} s"
            self.is_silent = True
        return lines

    def stop(self) -> Any:
        """End the ranks; what `stopped` waits for."""
        return self._actor.stop.remote()

    def stopped(self, pending: Any) -> tuple[str, ...] | None:
        """The last lines; None if the node did not say that its ranks have ended."""
        try:
            return ray.get(pending, timeout=STOP_S)
        except RayError:  # it is lost as well
            return None

    def _take(self, pending: Any) -> tuple[str, ...]:
        self._pending = None
        try:
            beat: Beat = ray.get(pending)
        except ActorUnavailableError:
            return ()  # the network; it may come back
        except RayError:
            self.lost = "Ray has lost it, or the actor there"
            return ()
        self._token, self._answered_s, self.answered = beat.token, self._clock(), self.sent
        self.exit_status, self.lease_is_over = beat.exit_status, beat.lease_is_over
        return beat.lines


def monotonic() -> float:
    """The supervisor's clock."""
    return time.monotonic()
