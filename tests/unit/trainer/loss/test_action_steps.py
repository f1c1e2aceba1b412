"""A student that predicts its action token: which row of a teacher each of its steps learns from.

Student and dialogue teacher may read action tokens in different forms. Rows meet by the index of
the response's token; at the action's own step there is no teacher.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from protos.codec import TargetRows
from protos.target_rows import ITEM_MASS, Targets
from protos.teacher_pb2 import FLOAT32, Compression
from teacher_server.scoring.teachers import DialogueTeacher
from tests.support import tiny_teachers
from trainer.config.distill import DistillConfig
from trainer.data.action_form import ACTION_HISTORY, ACTION_LOSS, ACTIONS, ActionForm
from trainer.data.examples import Example
from trainer.data.loader import Positions, to_student_input
from trainer.data.model_input import InputLimits, dialogue_input
from trainer.data.vocabulary import Vocabulary
from trainer.loss import conkd, gate_statistics
from trainer.loss.sparse_ce import sparse_cross_entropy_sum
from trainer.models.causal_lm import load_causal_lm

V, ITEMS, D = 12, range(6, 9), 5
REC, GEN = 9, 10
LENGTHS = (3, 2)
"""Tokens of each response, without its action."""
FORMS = ((), (ACTIONS,), (ACTIONS, ACTION_HISTORY), (ACTIONS, ACTION_HISTORY, ACTION_LOSS))


def whole_rows(dense_RV: np.ndarray) -> TargetRows:
    """Rows that keep every entry that has any mass."""
    row_E, id_E = dense_RV.nonzero()
    return TargetRows(
        counts_R=np.bincount(row_E, minlength=len(dense_RV)).astype(np.int32),
        ids_E=id_E.astype(np.int32),
        log_probs_E=np.log(dense_RV[row_E, id_E]).astype(np.float32),
        tail_R=np.zeros(len(dense_RV), np.float32),
        masses={ITEM_MASS: dense_RV[:, ITEMS.start : ITEMS.stop].sum(-1).astype(np.float32)},
        vocab_size=dense_RV.shape[1],
    )


def positions() -> Positions:
    """[REC] and a response with a film, then [GEN] and one without."""
    labels_P = torch.tensor([REC, 1, 7, 0, GEN, 2, 0])
    example_P = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    return Positions(
        labels_P=labels_P,
        example_P=example_P,
        weight_P=torch.tensor([1 / 4] * 4 + [1 / 3] * 3),
        is_item_P=labels_P == 7,
        is_action_P=labels_P >= REC,
    )


def rows_of(phi_RV: np.ndarray, psi_BV: np.ndarray) -> Targets:
    return {"dialogue": whole_rows(phi_RV), "recommendation": whole_rows(psi_BV)}


def paper_loss(
    logits_PV: Tensor, phi_RV: np.ndarray, psi_BV: np.ndarray, config: DistillConfig
) -> float:
    """Response by response: gold alone for the action, Eqs. 8-11 for the tokens behind it."""
    log_q_PV = torch.log_softmax(logits_PV, -1).numpy()
    labels, total, p, r = positions().labels_P.tolist(), 0.0, 0, 0
    for example, length in enumerate(LENGTHS):
        steps = length + 1
        total -= log_q_PV[p, labels[p]] / steps
        p += 1
        for _ in range(length):
            mass = phi_RV[r, ITEMS.start : ITEMS.stop].sum()
            lam = {
                "hard": float(mass >= config.eta),
                "soft": mass,
                "fixed": config.fixed_lambda,
            }[config.gate]
            taught = (1 - lam) * phi_RV[r] + lam * psi_BV[example]
            nll = -log_q_PV[p, labels[p]]
            total += (1 - config.gamma) * nll / steps
            total -= config.gamma * (taught * log_q_PV[p]).sum() / steps
            p, r = p + 1, r + 1
    return total


@pytest.fixture
def dense() -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Hidden states, output weight, and both teachers' whole rows."""
    rng = np.random.default_rng(3)
    phi_RV = np.zeros((sum(LENGTHS), V))
    phi_RV[:, :REC] = rng.dirichlet(np.ones(REC) * 0.4, size=sum(LENGTHS))
    psi_BV = np.zeros((len(LENGTHS), V))
    psi_BV[:, ITEMS.start : ITEMS.stop] = rng.dirichlet(np.ones(len(ITEMS)), size=len(LENGTHS))
    hidden_PD = torch.from_numpy(rng.normal(size=(7, D)))
    weight_VD = torch.from_numpy(rng.normal(size=(V, D)))
    return hidden_PD, weight_VD, phi_RV, psi_BV


@pytest.mark.parametrize(
    "config",
    [
        DistillConfig(gate="hard", eta=0.2, gamma=0.7),
        DistillConfig(gate="soft", gamma=0.4),
        DistillConfig(gate="fixed", fixed_lambda=0.5, gamma=1.0),
    ],
    ids=["hard", "soft", "fixed"],
)
def test_loss_with_action_steps_is_the_papers_and_gold_at_the_action(
    dense: tuple[Tensor, Tensor, np.ndarray, np.ndarray], config: DistillConfig
) -> None:
    hidden_PD, weight_VD, phi_RV, psi_BV = dense
    mixed = conkd.mix_targets(positions(), rows_of(phi_RV, psi_BV), config, ITEMS)
    loss, _ = sparse_cross_entropy_sum(hidden_PD, weight_VD, mixed)
    expected = paper_loss(hidden_PD @ weight_VD.T, phi_RV, psi_BV, config)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_action_steps_are_neither_item_steps_nor_word_steps(
    dense: tuple[Tensor, Tensor, np.ndarray, np.ndarray],
) -> None:
    _, _, phi_RV, psi_BV = dense
    config = DistillConfig(gate="soft")
    counted = gate_statistics.gate_statistics(positions(), rows_of(phi_RV, psi_BV), config)
    mass_R = phi_RV[:, ITEMS.start : ITEMS.stop].sum(-1)
    assert counted.gate_item == pytest.approx(mass_R[1])
    assert counted.gate_word == pytest.approx(mass_R.sum() - mass_R[1])
    assert counted.histogram_item.sum() + counted.histogram_word.sum() == sum(LENGTHS)


def test_rows_for_the_action_steps_too_are_refused(
    dense: tuple[Tensor, Tensor, np.ndarray, np.ndarray],
) -> None:
    _, _, phi_RV, psi_BV = dense
    longer = np.concatenate([phi_RV, phi_RV[:2]])
    with pytest.raises(ValueError, match="dialogue rows must be 5, one per position, got 7"):
        conkd.mix_targets(positions(), rows_of(longer, psi_BV), DistillConfig(), ITEMS)


def dialogue(vocabulary: Vocabulary) -> list[Example]:
    """Two responses of one dialogue, one with a film."""
    film, eos = vocabulary.first_item_id + 3, vocabulary.eos_id
    first = [5, eos]
    later = [*first, 6, 7, eos, 8, film + 1, eos]
    parts = ((first, [6, 7, eos]), (later, [9, film, 4, eos]))

    def int32(ids: list[int]) -> np.ndarray:
        return np.array(ids, np.int32)

    return [
        Example(
            example_id=f"1:{2 * number + 1}",
            context_ids=int32(context),
            response_ids=int32(response),
            context_entities=int32([number]),
            context_words=int32([]),
            gold_items=int32([]),
            is_recommendation=film in response,
        )
        for number, (context, response) in enumerate(parts)
    ]


def prefixes(example: Example, form: ActionForm | None) -> list[list[int]]:
    """What a model of a form reads before each token of the response, written out."""
    context = example.context_ids.tolist()
    if form is not None and form.in_history and len(context) > 2:
        # The earlier turn of the recommender is [6, 7, end], and names no film.
        context = [*context[:2], form.gen_id, *context[2:]]
    if form is not None:
        context.append(form.rec_id if example.is_recommendation else form.gen_id)
    response = example.response_ids.tolist()
    return [context + response[:step] for step in range(len(response))]


@pytest.mark.parametrize(
    ("of_teacher", "of_student"),
    list(itertools.product(FORMS, FORMS)),
    ids=lambda names: "+".join(names) or "plain",
)
def test_each_step_learns_from_the_teachers_row_of_the_same_token(
    tmp_path: Path, of_teacher: tuple[str, ...], of_student: tuple[str, ...]
) -> None:
    vocabulary = tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_dialogue_teacher(tmp_path, vocabulary, actions=of_teacher)
    teacher = DialogueTeacher.load(tmp_path, torch.device("cpu"))
    model = load_causal_lm(tmp_path, vocabulary).module.double()
    items = range(vocabulary.first_item_id, vocabulary.rec_id)
    examples = dialogue(vocabulary)
    asked = InputLimits.of(teacher.description)
    rows = teacher.score(
        [dialogue_input(each, asked) for each in examples], Compression(values=FLOAT32)
    )
    limits = InputLimits(
        takes_ranges=True, actions=ActionForm.of(of_student, items, vocabulary.eos_id)
    )
    given = to_student_input(tuple(examples), vocabulary, limits)
    config = DistillConfig(gate="fixed", fixed_lambda=0.0, gamma=1.0)
    mixed = conkd.mix_targets(given.positions, {"dialogue": rows}, config, items)
    (term,) = mixed.terms
    form = ActionForm.of(of_teacher, items)
    seen_P = given.model.input_ids_BL.flatten()[given.model.hidden_index_P].tolist()
    p = 0
    for each in examples:
        if ACTION_LOSS in of_student:
            assert mixed.labels_P[p] in (vocabulary.rec_id, vocabulary.gen_id)
            assert seen_P[p] == vocabulary.eos_id
            assert (term.weight_P[p], mixed.gold_P[p]) == (0.0, given.positions.weight_P[p])
            p += 1
        for label, prefix in zip(each.response_ids, prefixes(each, form), strict=True):
            with torch.no_grad():
                scores_V = model(torch.tensor([prefix])).logits[0, -1]
            if form is not None:
                scores_V[items.stop :] = -torch.inf
            row = int(term.row_P[p])
            entries = slice(*term.rows.offsets_R1[row : row + 2])
            got_V = torch.zeros(vocabulary.size, dtype=torch.float64)
            got_V[term.rows.ids_E[entries]] = term.rows.probs_E[entries].double()
            torch.testing.assert_close(got_V, scores_V.softmax(-1), rtol=1e-4, atol=1e-6)
            assert mixed.labels_P[p] == label
            p += 1
    assert p == len(mixed.labels_P)


def test_a_teacher_of_action_tokens_takes_them_and_gives_them_no_mass(tmp_path: Path) -> None:
    vocabulary = tiny_teachers.tiny_vocabulary()
    names = (ACTIONS, ACTION_HISTORY)
    tiny_teachers.write_dialogue_teacher(tmp_path, vocabulary, actions=names)
    teacher = DialogueTeacher.load(tmp_path, torch.device("cpu"))
    assert [*teacher.description.capabilities] == [*names, "ranges"]
    limits = InputLimits.of(teacher.description)
    assert limits.actions is not None
    inputs = [dialogue_input(each, limits) for each in dialogue(vocabulary)]
    rows = teacher.score(inputs, Compression(values=FLOAT32))
    assert rows.ids_E.max() == vocabulary.rec_id - 1
    model = load_causal_lm(tmp_path, vocabulary).module.double()
    with torch.no_grad():
        last_V = model(torch.from_numpy(inputs[-1].tokens.astype(np.int64))[None]).logits[0, -1]
    probs_V = last_V[: vocabulary.rec_id].softmax(-1)
    # Over words and items alone, so the gate reads the item mass without the tokens' own.
    assert rows.item_mass_R[-1] == pytest.approx(
        float(probs_V[vocabulary.first_item_id :].sum()), rel=1e-5
    )
