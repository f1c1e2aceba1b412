"""The lease under which a node's ranks run: two attempts of a run never write side by side.

The supervisor beats to every node. A beat carries the token that the node's last answer brought, so
it proves that the supervisor was alive after that answer; the ranks may run for LEASE_S from the
moment at which the node made that token, by the node's own clock. Hence, of a node that last
answered at t (by the supervisor's clock), no rank runs after t + LEASE_S + END_S, whether the node,
the supervisor or the network between them has failed, and however late a beat arrives.
"""

from __future__ import annotations

BEAT_S = 1.0
LEASE_S = 18.0
# A guard looks at the clock, and kills.
END_S = 1.0
# A node that answers nothing for so long is lost. Its ranks have ended by then: others may start.
LOST_S = 20.0


class Lease:
    """A node's side."""

    def __init__(self) -> None:
        self._issued: dict[int, float] = {}
        self._last = 0

    def issue(self, now_s: float) -> int:
        """A new token."""
        self._last += 1
        self._issued[self._last] = now_s
        return self._last

    def until(self, token: int) -> float | None:
        """When the lease ends that a beat with this token renews; None for an older one.

        A token renews once: those before it are worth less, and are forgotten.
        """
        issued_s = self._issued.get(token)
        if issued_s is None:
            return None
        self._issued = {each: at_s for each, at_s in self._issued.items() if each > token}
        return issued_s + LEASE_S
