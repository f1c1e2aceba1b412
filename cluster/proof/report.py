"""What came of a proof: events and stalls, and whether all weights are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.proof.watch import Seen, longest_stall_s

CALM, IN_PROCESS = "calm", "in-process"


@dataclass(frozen=True, kw_only=True)
class Happened:
    """An event that is over."""

    text: str
    from_s: float
    done_s: float
    until_s: float
    """The start of the next one."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """All that was seen."""

    events: Sequence[Happened]
    seen: Mapping[str, Sequence[Seen]]
    """By student, of those under the events."""
    weights: Mapping[str, str]
    """SHA-256 by run: of the students, of the calm one, of the one with its own teachers."""
    num_steps: int
    spread: Mapping[str, int]
    """Kind -> hosts that had replicas of it before anything happened."""
    resends: Mapping[str, int]
    """Requests that a student had to send again."""

    @property
    def is_proved(self) -> bool:
        """Whether all runs have the same weights, bit for bit."""
        return len(set(self.weights.values())) == 1

    def stalls_s(self, event: Happened) -> list[float]:
        """The longest time without a step of each student, in the time of an event."""
        return [longest_stall_s(it, event.from_s, event.until_s) for it in self.seen.values()]

    def lines(self) -> Iterator[str]:
        """The events, then one line about the weights."""
        for event in self.events:
            yield event_line(event, self.stalls_s(event))
        sent = ", ".join(f"{name} {count}" for name, count in self.resends.items())
        yield f"{self.num_steps} steps each, none lost; requests sent again: {sent}"
        if self.is_proved:
            (digest,) = set(self.weights.values())
            yield f"SHA-256 of the weights: {' = '.join(self.weights)} = {digest}"
        else:
            texts = (f"{name} {digest}" for name, digest in self.weights.items())
            yield f"SHA-256 of the weights DIFFER: {', '.join(texts)}"

    def to_json(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "is_proved": self.is_proved,
            "weights": dict(self.weights),
            "steps": self.num_steps,
            "resends": dict(self.resends),
            "spread": dict(self.spread),
            "events": [
                {**vars(event), "stalls_s": [round(it, 1) for it in self.stalls_s(event)]}
                for event in self.events
            ],
            "seen": {
                name: [[round(it.at_s, 1), it.step] for it in seen]
                for name, seen in self.seen.items()
            },
        }


def event_line(event: Happened, stalls_s: Sequence[float]) -> str:
    """When, what, and for how long each student stood still."""
    stalls = ", ".join(f"{it:.1f} s" for it in stalls_s)
    return f"{event.from_s:5.0f} s  {event.text:<28} {stalls} without a step"


def digest_of(model: Path) -> str:
    """SHA-256 of the weights of an exported student."""
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
