from __future__ import annotations

import dataclasses

import pytest
import torch

from trainer.config.distill import DistillConfig
from trainer.config.named_teachers import NamedTeacher
from trainer.config.run import RunConfig
from trainer.kinds.table import TEACHER_KINDS, asked_kinds, known_kinds, share_P

MOON = dataclasses.replace(TEACHER_KINDS["dialogue"], share=None)
KINDS = {**TEACHER_KINDS, "moon": MOON, "sun": MOON}


@pytest.mark.parametrize(
    ("distill", "names"),
    [
        (DistillConfig(), ["dialogue", "recommendation"]),
        (DistillConfig(gamma=0.0), []),
        (DistillConfig(gate="fixed", fixed_lambda=0.0), ["dialogue"]),
        (DistillConfig(gate="fixed", fixed_lambda=1.0), ["recommendation"]),
        (DistillConfig(gate="fixed", fixed_lambda=0.5), ["dialogue", "recommendation"]),
        (DistillConfig(shares={"sun": 0.5}), ["dialogue", "recommendation", "sun"]),
        (
            DistillConfig(gate="fixed", fixed_lambda=1.0, shares={"sun": 0.5, "moon": 0.25}),
            ["recommendation", "moon", "sun"],
        ),
    ],
    ids=str,
)
def test_only_kinds_that_weigh_something_are_asked(
    distill: DistillConfig, names: list[str]
) -> None:
    assert list(asked_kinds(distill, KINDS)) == names


@pytest.mark.parametrize("shares", [{}, {"moon": 0.25}, {"moon": 0.25, "sun": 0.5}], ids=str)
def test_shares_of_all_kinds_sum_to_one_at_every_position(shares: dict[str, float]) -> None:
    distill = DistillConfig(shares=shares)
    gate_P = torch.tensor([0.0, 0.3, 1.0])
    parts = [share_P(*each, gate_P, distill) for each in asked_kinds(distill, KINDS).items()]
    torch.testing.assert_close(sum(parts) + torch.zeros(3), torch.ones(3))


@pytest.mark.parametrize("gamma", [0.0, 0.4])
@pytest.mark.parametrize("name", ["dialogue", "mars"])
def test_share_of_a_kind_that_takes_none_is_refused_with_those_that_do(
    name: str, gamma: float
) -> None:
    distill = DistillConfig(gamma=gamma, shares={name: 0.5})
    with pytest.raises(ValueError, match=f"among: moon, sun .* got {name}. Add its module"):
        asked_kinds(distill, KINDS)
    with pytest.raises(ValueError, match=f"among: none .* dialogue and recommendation.*got {name}"):
        asked_kinds(distill)


@pytest.mark.parametrize("shares", [{"moon": 0.0}, {"moon": 0.5, "sun": 0.5}, {"moon": -0.1}])
def test_shares_that_leave_nothing_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"distill\.shares must be above 0 and sum to less than 1"):
        DistillConfig(shares=shares)


def test_named_teacher_of_a_kind_without_a_share_is_refused() -> None:
    named = {"mine": NamedTeacher(kind="moon", weights_digest="a")}
    with pytest.raises(ValueError, match=r"distill\.shares must name moon"):
        asked_kinds(DistillConfig(shares={"sun": 0.5}, teachers=named), KINDS)


def test_plugin_that_cannot_be_imported_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 'no\.such\.module'"):
        known_kinds(RunConfig(data="", output="", plugins=("no.such.module",)))
