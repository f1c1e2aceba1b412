"""What a proof prints: each event with its stalls, and one line about the weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cluster.proof.events import EVENTS, events_of
from cluster.proof.pace import PacedTeachers, allow
from cluster.proof.picture import draw_proof
from cluster.proof.report import Happened, Proof
from cluster.proof.watch import Seen

SEEN = {
    name: [Seen(at_s=float(at), step=at) for at in range(1, 4)] + [Seen(at_s=12.5, step=4)]
    for name in ("student1", "student2")
}
PROOF = Proof(
    events=[Happened(text="a replica is killed", from_s=2.0, done_s=2.5, until_s=5.0)],
    seen=SEEN,
    weights=dict.fromkeys(("student1", "student2", "calm", "in-process"), "ab12"),
    num_steps=4,
    spread={"dialogue": 2},
    resends={"student1": 3, "student2": 0},
)


def test_equal_weights_are_one_line() -> None:
    assert PROOF.is_proved
    assert [*PROOF.lines()] == [
        "    2 s  a replica is killed          9.5 s, 9.5 s without a step",
        "4 steps each, none lost; requests sent again: student1 3, student2 0",
        "SHA-256 of the weights: student1 = student2 = calm = in-process = ab12",
    ]


def test_other_weights_are_named_and_nothing_is_proved() -> None:
    other = dataclasses.replace(PROOF, weights={**PROOF.weights, "student2": "cd34"})
    assert not other.is_proved
    line = [*other.lines()][-1]
    assert line.startswith("SHA-256 of the weights DIFFER: student1 ab12, student2 cd34, calm ab12")


def test_json_has_all_and_the_picture_is_drawn(tmp_path: Path) -> None:
    content = json.loads(json.dumps(PROOF.to_json()))
    assert content["is_proved"] is True
    assert content["events"][0]["stalls_s"] == [9.5, 9.5]
    assert content["seen"]["student1"][-1] == [12.5, 4]
    draw_proof(PROOF, tmp_path / "proof.png")
    assert (tmp_path / "proof.png").read_bytes().startswith(b"\x89PNG")


def test_events_of_some_names_keep_what_belongs_together() -> None:
    assert [it.text for it in events_of(["power", "replica"])] == [
        *("a teacher host loses power", "it has power again", "a replica is killed")
    ]
    assert len(events_of(EVENTS)) == 10


def test_paced_teachers_ask_when_they_may(tmp_path: Path) -> None:
    asked = []

    class FakeTeachers:
        counters = kinds = identity = limits = None

        def submit(self, examples: object, temperature: float) -> None:
            asked.append((examples, temperature))
            if len(asked) == 2:
                raise InterruptedError

    allow(tmp_path / "pace", 1)
    teachers = PacedTeachers(FakeTeachers(), tmp_path / "pace")  # pyright: ignore
    teachers.submit(["a"], 2.0)  # pyright: ignore
    allow(tmp_path / "pace", 2)
    with pytest.raises(InterruptedError):
        teachers.submit(["b"])  # pyright: ignore
    assert asked == [(["a"], 2.0), (["b"], 1.0)]
