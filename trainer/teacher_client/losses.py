"""Whether a request kills the replicas that get it.

A stream that ends says nothing of the process behind it: a connection may have flapped. A replica
id names one process for its life, so it tells the two apart: whoever is met again under the same id
lives, and whoever the Directory no longer lists, or whose address another process has, does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# A request that this many processes died of is likely to have killed them.
MAX_DEATHS = 5
# Streams that end closer together count as one: a node takes all of its replicas along.
DEATHS_APART_S = 2.0


@dataclass(eq=False)
class Losses:
    """The processes whose streams ended while they had one request."""

    missed: set[str] = field(default_factory=set)
    """Replica ids whose fate is open."""
    dead: set[str] = field(default_factory=set)
    _last_s: float = -math.inf

    @property
    def is_deadly(self) -> bool:
        """Whether so many different processes died of it that no more shall."""
        return len(self.dead) >= MAX_DEATHS

    def on_end(self, replica_id: str, now_s: float) -> None:
        """A stream ended without a farewell."""
        if now_s - self._last_s > DEATHS_APART_S:
            self.missed.add(replica_id)
            self._last_s = now_s

    def on_alive(self, replica_id: str) -> None:
        """The same process was met again: its connection flapped."""
        self.missed.discard(replica_id)
        self.dead.discard(replica_id)

    def on_gone(self, replica_id: str) -> None:
        """That process is no more."""
        if replica_id in self.missed:
            self.missed.discard(replica_id)
            self.dead.add(replica_id)
