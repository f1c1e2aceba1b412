"""docs/results/ablation.md, made of the finished cells alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.ablation.arm_results import ArmResults, arm_results
from trainer.ablation.arms import TABLES, Table
from trainer.ablation.cell import Cell, read_cells
from trainer.ablation.checks import check_together
from trainer.ablation.marked_text import fill
from trainer.ablation.revision import SameRevisions
from trainer.ablation.steps_text import steps_lines
from trainer.ablation.table_text import score_table, table_lines
from trainer.common.atomic import write_text
from trainer.common.errors import MissingError
from trainer.evaluation.drawing import require_matplotlib
from trainer.kinds.names import DIALOGUE

SHOWN = (
    *("train.steps", "train.batch_size", "train.group", "distill.gamma", "distill.gate"),
    *("distill.eta", "distill.temperature", "distill.top_k", "student.architecture"),
    *("student.num_layers", "student.hidden_size"),
)
"""Settings that a table names; all of them are in each cell."""
WIDTH = 120
ELSEWHERE = {"tail": ("loss.md", ("kl_dialogue", "perplexity", "f1_at_10"))}
"""Table -> document beside the page's folder that has a part of it too, between marks."""
HEAD = """# Ablation

Made by `python -m trainer.ablate table` of the cells in `docs/results/cells/` alone; do not edit.
Each cell is an ordinary run of `deepspeed trainer/main.py` on redial-mini, scored on the test
split; nothing was chosen on test. An arm differs from the others of its table in what
`trainer/ablation/arms.py` declares for it, and a cell that differs in more is refused. Intervals
are bootstrap over dialogues, and over seeds where an arm has several, 1,000 resamples; tests are
paired over the same dialogues.
Definitions: [evaluation.md](../evaluation.md). Cells are made, and this page, by:

    python -m trainer.ablate --config trainer/configs/ablation.yaml
    python -m trainer.ablate --config trainer/configs/ablation-kgsf.yaml
    python -m trainer.ablate --config trainer/configs/ablation-teacher.yaml
    python -m trainer.ablate table
"""


def write_document(cells: Path, output: Path) -> None:
    """Check the cells, write the page, and its figures beside it.

    Raises:
        MissingError: if there is no cell.
        InputError: if cells of one table do not belong together.
    """
    require_matplotlib()
    same = SameRevisions.beside(cells)
    found = {name: read_cells(cells, name) for name in TABLES}
    if not any(found.values()):
        raise MissingError(
            f"--cells must hold finished cells, got none in {cells}. Make them with: "
            "python -m trainer.ablate --config trainer/configs/ablation.yaml"
        )
    for name, of_table in found.items():
        check_together(TABLES[name], of_table, same, cells)
    results = {name: arm_results(TABLES[name], it, cells) for name, it in found.items() if it}
    # Not above: matplotlib is an extra.
    from trainer.ablation.figures import draw_figures

    figures = draw_figures(results, output.parent)
    lines = [HEAD]
    for name, of_results in results.items():
        lines += [*_section(TABLES[name], found[name], of_results, figures[name]), ""]
    write_text(output, "\n".join(lines).rstrip() + "\n")
    for name, (document, metrics) in ELSEWHERE.items():
        if name in results:
            part = _part(TABLES[name], results[name], metrics, figures[name], output.parent.name)
            fill(output.parent.parent / document, name, part)


def _part(
    table: Table,
    results: Sequence[ArmResults],
    metrics: Sequence[str],
    figures: Sequence[str],
    folder: str,
) -> Iterator[str]:
    """What another document, beside the page's folder, has of a table."""
    yield ""
    yield from score_table(table, results, metrics, paper=())
    yield ""
    for figure in figures:
        yield f"![{table.title}: scores of the arms, with their intervals]({folder}/{figure})"
        yield ""


def _section(
    table: Table, cells: Sequence[Cell], results: Sequence[ArmResults], figures: Sequence[str]
) -> Iterator[str]:
    yield f"## {table.title}"
    yield ""
    yield _made_by(table, cells)
    yield ""
    yield from table_lines(table, results)
    learnt = list(steps_lines(table, cells))
    yield from ["", *learnt] if learnt else []
    for figure in figures:
        yield ""
        yield f"![{table.title}: scores of the arms, with their intervals]({figure})"


def _made_by(table: Table, cells: Sequence[Cell]) -> str:
    """What cells share, how long they took, and where."""
    shared = next((cell.shared for cell in cells if cell.shared), {})
    settings = ", ".join(f"{key} {shared[key]}" for key in SHOWN if key in shared)
    hours = sum(sum(cell.seconds.values()) for cell in cells) / 3600
    longest = max(sum(cell.seconds.values()) for cell in cells) / 60
    revisions = sorted({cell.revision.training[:12] for cell in cells})
    return textwrap.fill(
        f"Table `{table.name}`: {len(cells)} {'cell' if len(cells) == 1 else 'cells'}, "
        f"{hours:.1f} hours, the longest {longest:.1f} minutes, on "
        f"{'; '.join(_machines(cells))}. Training code {', '.join(revisions)}. "
        f"Shared settings: {settings}.{_own_teachers(cells)}",
        WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _own_teachers(cells: Sequence[Cell]) -> str:
    """Says so where the arms with the special token learn from a dialogue teacher of their own."""
    taught = [cell for cell in cells if cell.sources.get("teachers") and cell.settings]
    with_token, without = (
        {
            cell.sources["teachers"].get(DIALOGUE)
            for cell in taught
            if bool(cell.settings.get("action_tokens")) is has_token
        }
        - {None}
        for has_token in (True, False)
    )
    if not (with_token and without) or with_token == without:
        return ""
    return " Arms with the special token learn from a dialogue teacher that was fitted with it."


def _machines(cells: Sequence[Cell]) -> list[str]:
    return sorted({_machine(cell) for cell in cells})


def _machine(cell: Cell) -> str:
    facts = cell.machine
    return (
        f"{facts.get('cores')} cores of {facts.get('cpu')}, {facts.get('memory_gib')} GiB, "
        f"{facts.get('device')}, torch {facts.get('torch')}"
    )
