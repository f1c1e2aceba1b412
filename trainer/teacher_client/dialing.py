"""Which replicas of one kind a rank dials now: its subset, and others where that does not do.

Policy without any gRPC in it, as `dispatch.py` is. A rank dials the first STREAMS replicas of its
order (`subset.py`), and

- for each of them that is in doubt the next one, at once: its stream ended or never opened, it has
  stalled, or it answers badly. One in doubt is dialed on; back for STEADY_S it replaces its
  replacement. At most twice as many streams as wanted are open so: where a whole fleet stalls, more
  streams do not help it;
- one more each time that it was short for GROW_S on end: every open stream had two unanswered
  requests or more at each look, so that requests of its own wait for one another; one less each
  time that it had fewer requests than streams for SHRINK_S on end.

So a run of R ranks dials at most R * max(MAX_STREAMS, N / R, rounded up) of N replicas while all
are well, and R * STREAMS while nobody is short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from trainer.teacher_client.replica import Replica
from trainer.teacher_client.subset import Caller, dial_order

STREAMS = 8
"""Replicas of a kind that a rank dials; where fewer are listed it dials all."""
MAX_STREAMS = 2 * STREAMS
"""So many if it is short: slow replicas may be in its subset. More if its share of the fleet is."""
GROW_S = 10.0
SHRINK_S = 60.0
# A connection that flaps must not open and close the stream to its replacement each time.
STEADY_S = 10.0
# With one request in work, a second one waits for it: another replica would begin it at once.
WAITING = 2


@dataclass(eq=False)
class _Lasting:
    """Whether something has been so at every look for long enough; then it begins anew."""

    for_s: float
    _since_s: float = math.inf

    def is_due(self, is_so: bool, now_s: float) -> bool:
        self._since_s = min(self._since_s, now_s) if is_so else math.inf
        if now_s - self._since_s < self.for_s:
            return False
        self._since_s = now_s
        return True


@dataclass(eq=False)
class Dialing:
    """The choice of one rank among the replicas of one kind."""

    caller: Caller
    _order: list[str] = field(default_factory=list)
    _extra: int = 0
    _sound_from_s: dict[str, float] = field(default_factory=dict)
    """Replicas that were lost -> monotonic time from which they are in no doubt."""
    _short: _Lasting = field(default_factory=lambda: _Lasting(GROW_S))
    _idle: _Lasting = field(default_factory=lambda: _Lasting(SHRINK_S))

    @property
    def wanted(self) -> int:
        """Streams that should be open, as far as there are replicas."""
        return STREAMS + self._extra

    @property
    def _most(self) -> int:
        listed = len(self._order)
        share = math.ceil(listed / self.caller.num_ranks)
        return max(STREAMS, min(listed, max(MAX_STREAMS, share)))

    def on_listed(self, replica_ids: Collection[str]) -> None:
        """Take in the fleet that the Directory lists now."""
        if set(replica_ids) == set(self._order):
            return
        self._order = dial_order(self.caller, replica_ids, STREAMS)
        self._extra = min(self._extra, self._most - STREAMS)
        self._sound_from_s = {
            name: from_s for name, from_s in self._sound_from_s.items() if name in replica_ids
        }

    def on_lost(self, replica_id: str) -> None:
        """The stream to a replica that is dialed ended, or did not open."""
        self._sound_from_s[replica_id] = math.inf

    def on_open(self, replica_id: str, now_s: float) -> None:
        """A stream opened."""
        if replica_id in self._sound_from_s:
            self._sound_from_s[replica_id] = now_s + STEADY_S

    def on_look(self, loads: Sequence[int], now_s: float) -> None:
        """Dial one more or one less if that is due.

        Args:
            loads: number of unanswered requests of each open stream.
            now_s: monotonic time.
        """
        is_short = len(loads) >= self.wanted and min(loads) >= WAITING
        if self._short.is_due(is_short, now_s) and self.wanted < self._most:
            self._extra += 1
        if self._idle.is_due(sum(loads) < len(loads), now_s) and self._extra:
            self._extra -= 1

    def chosen(
        self, is_aside: Callable[[str], bool], streams: Mapping[str, Replica], now_s: float
    ) -> list[str]:
        """Ids of the replicas to dial, in the rank's order.

        Args:
            is_aside: whether a replica was put aside.
            streams: the open ones, by replica id.
            now_s: monotonic time.
        """
        chosen, sound, ill = [], 0, 0
        for replica_id in self._order:
            if sound == self.wanted or sound + ill == 2 * self.wanted:
                break
            if not is_aside(replica_id):
                chosen.append(replica_id)
                is_sound = not self._is_in_doubt(replica_id, streams, now_s)
                sound += is_sound
                ill += not is_sound and replica_id in streams
        return chosen

    def spare(
        self, chosen: Collection[str], streams: Mapping[str, Replica], now_s: float
    ) -> list[Replica]:
        """Open streams to release: those beyond the choice, once others are open in their place.

        Args:
            chosen: what `chosen` gave.
            streams: the open ones, by replica id, of replicas that are listed.
            now_s: monotonic time.
        """
        opening = sum(
            name not in streams and not self._is_in_doubt(name, streams, now_s) for name in chosen
        )
        beyond = [name for name in self._order if name in streams and name not in chosen]
        return [streams[name] for name in beyond[opening:]]

    def _is_in_doubt(self, replica_id: str, streams: Mapping[str, Replica], now_s: float) -> bool:
        replica = streams.get(replica_id)
        is_ill = replica is not None and (replica.stalled or replica.avoided_until_s > now_s)
        return is_ill or now_s < self._sound_from_s.get(replica_id, -math.inf)
