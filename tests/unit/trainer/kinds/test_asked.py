"""The teachers that a run asks, by name."""

from __future__ import annotations

import pytest

from trainer.config.distill import DistillConfig
from trainer.config.named_teachers import CutConfig, NamedTeacher
from trainer.config.run import RunConfig
from trainer.kinds.asked import asked_teachers, names_of
from trainer.kinds.table import known_kinds
from trainer.kinds.teacher_kind import RowCut

NAMED = {
    "small": NamedTeacher(kind="dialogue", weights_digest="11aa", weight=0.25),
    "large": NamedTeacher(
        kind="dialogue", weights_digest="22bb", weight=0.75, cut=CutConfig(top_k=8)
    ),
}


def test_kind_without_names_has_one_teacher_of_its_own_name() -> None:
    asked = asked_teachers(DistillConfig())
    assert [(name, it.kind_name, it.weight) for name, it in asked.items()] == [
        ("dialogue", "dialogue", 1.0),
        ("recommendation", "recommendation", 1.0),
    ]
    assert asked["dialogue"].is_it("dialogue", "whatever it is")


def test_named_teachers_stand_for_their_kind_and_others_stay() -> None:
    distill = DistillConfig(teachers=NAMED, top_k=64)
    asked = asked_teachers(distill)
    assert list(asked) == ["large", "small", "recommendation"]
    assert names_of("dialogue", asked) == ["large", "small"]
    assert [it.weight for it in asked.values()] == [0.75, 0.25, 1.0]
    cuts = {name: it.kind.cut(distill) for name, it in asked.items()}
    assert (cuts["large"], cuts["small"]) == (RowCut(8, 1.0), RowCut(64, 1.0))
    assert cuts["recommendation"] == RowCut(2048, 0.95)
    assert asked["large"].is_it("dialogue", "22bbcc")
    assert not asked["large"].is_it("recommendation", "22bbcc")
    assert not asked["large"].is_it("dialogue", "11aa")


def test_named_teachers_of_a_kind_without_weight_are_not_asked() -> None:
    distill = DistillConfig(teachers=NAMED, gate="fixed", fixed_lambda=1.0)
    assert list(asked_teachers(distill)) == ["recommendation"]
    assert asked_teachers(DistillConfig(teachers=NAMED, gamma=0.0)) == {}


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "sun",
            "star",
            r"sun\.kind must be one of dialogue, recommendation, got star. Add the mod",
        ),
        ("recommendation", "dialogue", "recommendation must not have the name of another kind"),
    ],
)
def test_named_teacher_of_no_known_kind_is_refused(name: str, kind: str, message: str) -> None:
    distill = DistillConfig(teachers={name: NamedTeacher(kind=kind)})
    with pytest.raises(ValueError, match=message):
        known_kinds(RunConfig(data="", output="", distill=distill))
