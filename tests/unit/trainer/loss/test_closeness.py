"""Closeness of a student to its teachers against a slow, dense twin in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from trainer.loss.closeness import CLOSE_SUMS, watched_counts
from trainer.loss.soft_targets import SoftTargets, SparseRows, TeacherTerm
from trainer.loss.sparse_ce import SparseCrossEntropy
from trainer.loss.watched import CLOSE_KINDS, FIRST, MAX_WATCHED, watch

V, D, P, ITEMS = 60, 5, 50, (40, 55)
SUPPORTS = {"dialogue": (0, V), "recommendation": ITEMS}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    hidden_PD: Tensor
    weight_VD: Tensor
    targets: SoftTargets
    is_item_P: Tensor

    def close(self, chunk_size: int) -> dict[str, dict[str, float]]:
        """The sums of the fused loss, by kind and name."""
        head = nn.Linear(D, V, bias=False, dtype=torch.float64)
        head.weight.data = self.weight_VD
        _, _, close_KS = SparseCrossEntropy(head, chunk_size)(self.hidden_PD, self.targets)
        assert not close_KS.requires_grad
        return {
            kind: dict(zip(CLOSE_SUMS, row, strict=True))
            for kind, row in zip(CLOSE_KINDS, close_KS.tolist(), strict=True)
        }


def term(
    kind: str,
    weight: float,
    is_item_P: Tensor,
    weight_P: Tensor,
    generator: torch.Generator,
    num_rows: int = P,
) -> TeacherTerm:
    """Rows of 1 to 14 entries, which positions with a weight learn from."""
    first, end = SUPPORTS[kind]
    counts = torch.randint(1, 15, (num_rows,), generator=generator)
    kept = [
        torch.randperm(end - first, generator=generator)[:count].sort().values + first
        for count in counts
    ]
    rows = SparseRows(
        offsets_R1=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        ids_E=torch.cat(kept),
        probs_E=torch.rand(int(counts.sum()), generator=generator, dtype=torch.float64) / 15,
        tail_R=torch.zeros(num_rows, dtype=torch.float64),
    )
    row_P = torch.randint(0, num_rows, (P,), generator=generator)
    watched = watch(
        kind=kind,
        weight=weight,
        offsets_R1=rows.offsets_R1,
        ids_E=rows.ids_E,
        probs_E=rows.probs_E,
        row_P=row_P,
        weight_P=weight_P,
        is_item_P=is_item_P,
    )
    return TeacherTerm.of(rows, row_P, weight_P, SUPPORTS[kind], watched)


def make_case(seed: int, temperature: float = 1.0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    is_item_P = torch.rand(P, generator=generator) < 0.3
    # Teachers of a kind teach the same positions, a third of all.
    dialogue_P, recommendation_P = (
        (torch.rand(P, generator=generator, dtype=torch.float64) - 0.66).clamp(min=0)
        for _ in CLOSE_KINDS
    )
    terms = (
        term("dialogue", 0.75, is_item_P, dialogue_P, generator),
        term("dialogue", 0.25, is_item_P, dialogue_P, generator),
        term("recommendation", 1.0, is_item_P, recommendation_P, generator, num_rows=7),
    )
    return Case(
        hidden_PD=torch.randn(P, D, generator=generator, dtype=torch.float64),
        weight_VD=torch.randn(V, D, generator=generator, dtype=torch.float64),
        targets=SoftTargets(
            labels_P=torch.zeros(P, dtype=torch.int64),
            gold_P=torch.ones(P, dtype=torch.float64),
            terms=terms,
            temperature=temperature,
        ),
        is_item_P=is_item_P,
    )


def twin(case: Case) -> dict[str, dict[str, float]]:
    """The definitions, position by position."""
    q_PV = torch.softmax(case.hidden_PD @ case.weight_VD.T / case.targets.temperature, -1)
    sums = {kind: dict.fromkeys(CLOSE_SUMS, 0.0) for kind in CLOSE_KINDS}
    for term in case.targets.terms:
        watched = term.watched
        assert watched is not None
        of_kind, weight = sums[CLOSE_KINDS[watched.kind]], watched.weight
        for p in range(P):
            if term.weight_P[p] == 0:
                continue
            row = int(term.row_P[p])
            entries = slice(int(term.rows.offsets_R1[row]), int(term.rows.offsets_R1[row + 1]))
            probs = dict(
                zip(
                    term.rows.ids_E[entries].tolist(),
                    term.rows.probs_E[entries].tolist(),
                    strict=True,
                )
            )
            of_kind["student_mass"] += weight * sum(float(q_PV[p, id_]) for id_ in probs)
            if p not in watched.position_W.tolist():
                continue
            teachers = sorted(probs, key=lambda id_: -probs[id_])[:FIRST]
            students = sorted(range(*term.support), key=lambda id_: -float(q_PV[p, id_]))
            step = "item" if case.is_item_P[p] else "word"
            of_kind[f"agreed_{step}"] += weight * (teachers[0] == students[0])
            common = set(teachers) & set(students[: len(teachers)])
            of_kind[f"shared_{step}"] += weight * len(common) / len(teachers)
    return sums


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("chunk_size", [1, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_closeness_equals_the_dense_twin(seed: int, chunk_size: int, temperature: float) -> None:
    case = make_case(seed, temperature)
    got, wanted = case.close(chunk_size), twin(case)
    for kind in CLOSE_KINDS:
        assert got[kind] == pytest.approx(wanted[kind], rel=1e-12), kind
        assert min(wanted[kind].values()) >= 0.0 and wanted[kind]["student_mass"] > 0.0


def test_counts_are_the_positions_that_learn_and_those_watched() -> None:
    case = make_case(0)
    counts = watched_counts(case.targets)
    for kind, term in zip(CLOSE_KINDS, (case.targets.terms[0], case.targets.terms[2]), strict=True):
        learns_P = term.weight_P > 0
        assert counts[f"{kind}_learning"] == int(learns_P.sum())
        for step, is_P in (("item", case.is_item_P), ("word", ~case.is_item_P)):
            expected = min(MAX_WATCHED, int((learns_P & is_P).sum()))
            assert counts[f"{kind}_watched_{step}"] == expected


def test_positions_are_watched_evenly_and_only_where_they_learn() -> None:
    num = 10 * MAX_WATCHED
    weight_P = torch.ones(num)
    weight_P[::2] = 0.0
    watched = watch(
        kind="dialogue",
        weight=1.0,
        offsets_R1=torch.tensor([0, 2]),
        ids_E=torch.tensor([3, 8]),
        probs_E=torch.tensor([0.25, 0.5]),
        row_P=torch.zeros(num, dtype=torch.int64),
        weight_P=weight_P,
        is_item_P=torch.zeros(num, dtype=torch.bool),
    )
    assert watched is not None
    learning = list(range(1, num, 2))
    assert watched.position_W.tolist() == learning[:: len(learning) // MAX_WATCHED]
    assert watched.first_WF[0].tolist() == [8, 3] + [-1] * (FIRST - 2)
    assert (watched.num_learning, watched.num_items) == (num // 2, 0)


def test_a_kind_of_a_plugin_is_not_watched_and_counts_nothing() -> None:
    case = make_case(0)
    (first, *_) = case.targets.terms
    unwatched = dataclasses.replace(first, watched=None)
    targets = dataclasses.replace(case.targets, terms=(unwatched,))
    assert set(watched_counts(targets).values()) == {0}
    close = dataclasses.replace(case, targets=targets).close(chunk_size=7)
    assert {value for sums in close.values() for value in sums.values()} == {0.0}


def test_loss_and_gradients_keep_every_bit_whether_anything_is_watched_or_not() -> None:
    case = make_case(3)
    unwatched = dataclasses.replace(
        case.targets,
        terms=tuple(dataclasses.replace(it, watched=None) for it in case.targets.terms),
    )
    outcomes = []
    for targets in (case.targets, unwatched):
        leaf = case.hidden_PD.clone().requires_grad_()
        head = nn.Linear(D, V, bias=False, dtype=torch.float64)
        head.weight.data = case.weight_VD.clone()
        loss, nll_P, _ = SparseCrossEntropy(head, 7)(leaf, targets)
        loss.backward()
        outcomes.append([loss.detach(), nll_P, leaf.grad, head.weight.grad])
    for got, wanted in zip(*outcomes, strict=True):
        assert torch.equal(got, wanted)
