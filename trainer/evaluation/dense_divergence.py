"""KL divergence of a student from the dense dialogue teacher, and what goes with it, by dialogue.

P positions of a batch, C of one chunk, V vocabulary, D hidden.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from trainer.common.atomic import write_json
from trainer.common.errors import InputError
from trainer.common.progress import progress_bar
from trainer.common.tables import fitted, terminal_width
from trainer.data.chains import dialogue_id, longest_first
from trainer.data.examples import Example
from trainer.data.loader import Positions, to_student_input
from trainer.data.model_input import reads_dialogues
from trainer.data.prepared import load_prepared
from trainer.evaluation.loaded_model import LoadedModel, check_knows, load_model
from trainer.scoring.metrics import METRICS, scores
from trainer.scoring.sums import DialogueSums

BATCH = 32
POSITION_CHUNK = 256
"""Positions whose distributions are held at once, of two models: 118 MB at 57,184 tokens."""


def print_divergence(arguments: argparse.Namespace) -> None:
    """Compare as the command line says: a table, and a file with the sums."""
    # Hugging Face's bar for the reading of weights is noise in logs.
    disable_progress_bar()
    data = load_prepared(arguments.data)
    student, teacher = (load_model(it) for it in (arguments.checkpoint, arguments.teacher))
    for loaded in (student, teacher):
        check_knows(loaded, data)
    examples = data.examples(arguments.split)[: arguments.limit]
    sums = divergence(student, teacher, examples)
    found = scores(sums)
    if arguments.output is not None:
        told = {"split": arguments.split, "scores": found, "sums": sums.to_dict()}
        write_json(arguments.output, told)
    cells = {name: "-" if value is None else f"{value:.4g}" for name, value in found.items()}
    rows = [(it.title, cells[it.name]) for it in METRICS if it.name in cells]
    title = f"{arguments.checkpoint} on {arguments.split}, {len(examples)} responses"
    columns = ("metric", "value")
    table = fitted(rows, columns, right=("value",), title=title, width=terminal_width())
    sys.stdout.write(f"{table}\n")


def divergence(
    student: LoadedModel, teacher: LoadedModel, examples: Sequence[Example]
) -> DialogueSums:
    """Sums over the positions of the gold responses, of each dialogue in its order.

    Each is given the gold action tokens in its own form; they meet by the index in the response
    (docs/loss.md). A teacher that reads them has its rows over words and items, as it is served.

    Raises:
        InputError: if there is no example.
    """
    if not examples:
        raise InputError("the split must have a response, got none. Take another split.")
    dialogues = list(dict.fromkeys(map(dialogue_id, examples)))
    row_of = {name: row for row, name in enumerate(dialogues)}
    counts = {name: np.zeros(len(dialogues)) for name in COUNTS}
    for batch, positions, measured in _measured(student, teacher, examples):
        rows = np.array([row_of[dialogue_id(it)] for it in batch])
        row_P = rows[positions.of_response(positions.example_P).numpy()]
        for name, values_P in _counted(
            measured, positions.of_response(positions.is_item_P)
        ).items():
            np.add.at(counts[name], row_P, values_P.numpy())
    return DialogueSums(dialogues=tuple(dialogues), counts=counts)


MEASURES = (
    *("kl_dialogue", "teacher_entropy", "student_entropy"),
    *("teacher_item_mass", "student_item_mass", "teacher_agreed"),
)
"""At every position: KL(P_phi || q) and the entropies in nats, mass on films, the same first id."""
COUNTS = (
    "positions",
    "item_positions",
    *MEASURES,
    *(f"{name}_item" for name in MEASURES),
)
"""Sums over positions, and over item steps alone."""


def _counted(measured: Mapping[str, Tensor], is_item_P: Tensor) -> dict[str, Tensor]:
    ones_P = torch.ones(len(is_item_P), dtype=torch.float64)
    at_items = {f"{name}_item": values_P * is_item_P for name, values_P in measured.items()}
    counted = {"positions": ones_P, "item_positions": ones_P * is_item_P}
    return {**counted, **measured, **at_items}


@torch.inference_mode()
def _measured(
    student: LoadedModel, teacher: LoadedModel, examples: Sequence[Example]
) -> Iterator[tuple[tuple[Example, ...], Positions, dict[str, Tensor]]]:
    """Batch, positions and MEASURES (float64 [P], on the CPU), batch by batch."""
    in_chains = any(reads_dialogues(it.limits) for it in (student, teacher))
    ordered = longest_first(examples, in_chains=in_chains)
    with progress_bar() as bar:
        task = bar.add_task("divergence", total=len(ordered))
        for start in range(0, len(ordered), BATCH):
            batch = tuple(ordered[start : start + BATCH])
            student_PD, positions = _states(student, batch)
            teacher_PD, _ = _states(teacher, batch)
            chunks = [
                _compare(student, student_CD, teacher, teacher_CD)
                for student_CD, teacher_CD in zip(
                    student_PD.split(POSITION_CHUNK), teacher_PD.split(POSITION_CHUNK), strict=True
                )
            ]
            measured_PM = torch.cat(chunks).double().cpu()
            yield batch, positions, dict(zip(MEASURES, measured_PM.T, strict=True))
            bar.advance(task, len(batch))


def _states(loaded: LoadedModel, batch: tuple[Example, ...]) -> tuple[Tensor, Positions]:
    """Hidden states at the responses' own tokens, [P, D], and all positions."""
    inputs = to_student_input(batch, loaded.vocabulary, loaded.limits)
    states_PD = loaded.model.response_states(inputs.model.to(loaded.model.device))
    return inputs.positions.of_response(states_PD), inputs.positions


def _compare(
    student: LoadedModel, student_CD: Tensor, teacher: LoadedModel, teacher_CD: Tensor
) -> Tensor:
    """MEASURES at the positions of a chunk, [C, measures]."""
    vocabulary = student.vocabulary
    items = slice(vocabulary.first_item_id, vocabulary.first_item_id + vocabulary.num_items)
    scores_q_CV, scores_p_CV = (
        (states_CD @ loaded.model.head.weight.T).float()
        for loaded, states_CD in ((student, student_CD), (teacher, teacher_CD))
    )
    if teacher.actions:
        # No infinity: 0 times it would be no number.
        scores_p_CV[:, vocabulary.rec_id :] = torch.finfo(scores_p_CV.dtype).min
    log_q_CV, log_p_CV = (scores.log_softmax(-1) for scores in (scores_q_CV, scores_p_CV))
    q_CV, p_CV = log_q_CV.exp(), log_p_CV.exp()
    measures = {
        "kl_dialogue": (p_CV * (log_p_CV - log_q_CV)).sum(-1),
        "teacher_entropy": -(p_CV * log_p_CV).sum(-1),
        "student_entropy": -(q_CV * log_q_CV).sum(-1),
        "teacher_item_mass": p_CV[:, items].sum(-1),
        "student_item_mass": q_CV[:, items].sum(-1),
        "teacher_agreed": (log_p_CV.argmax(-1) == log_q_CV.argmax(-1)).float(),
    }
    return torch.stack([measures[name] for name in MEASURES], dim=1)
