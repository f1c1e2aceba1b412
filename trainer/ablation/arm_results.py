"""The cells of one table by arm: their sums over all gold and over new items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.ablation.arms import Table
from trainer.ablation.cell import Cell, cell_path
from trainer.ablation.seed_means import SeedMean, seed_means
from trainer.common.errors import InputError
from trainer.scoring.paired import Paired, paired
from trainer.scoring.sums import DialogueSums

ALL, NEW = "paper.all", "paper.new"


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmResults:
    """One arm: the sums of its seeds, by view."""

    name: str
    seeds: tuple[int, ...]
    sums: Mapping[str, Sequence[DialogueSums]]

    def means(self, view: str) -> dict[str, SeedMean]:
        """Means over seeds with their intervals."""
        return seed_means(self.sums[view])

    def against(self, other: ArmResults, view: str) -> dict[str, Paired]:
        """This arm over another one."""
        return paired(self.sums[view], other.sums[view])


def arm_results(table: Table, cells: Sequence[Cell], folder: Path) -> list[ArmResults]:
    """The arms that have cells, in the table's order, teachers last.

    Raises:
        InputError: naming the cell whose sums are broken or of other dialogues than the first's.
    """
    order = [arm.name for arm in (*table.arms, *table.ceiling)]
    by_arm = {name: [cell for cell in cells if cell.arm == name] for name in order}
    results = [_results(name, found, folder) for name, found in by_arm.items() if found]
    _check_dialogues(results, table, folder)
    return results


def _results(name: str, cells: Sequence[Cell], folder: Path) -> ArmResults:
    ordered = sorted(cells, key=lambda cell: cell.seed)
    sums = {
        view: [
            DialogueSums.from_dict(cell.sums[view], f"{cell_path(folder, cell)}: {view}")
            for cell in ordered
        ]
        for view in (ALL, NEW)
    }
    return ArmResults(name=name, seeds=tuple(cell.seed for cell in ordered), sums=sums)


def _check_dialogues(results: Sequence[ArmResults], table: Table, folder: Path) -> None:
    for arm in results:
        for seed, sums in zip(arm.seeds, arm.sums[ALL], strict=True):
            first = results[0].sums[ALL][0].dialogues
            if sums.dialogues != first:
                raise InputError(
                    f"{folder / table.name / arm.name}-seed{seed}.json must be of the dialogues of "
                    f"{results[0].name}, which are {len(first)}, got {len(sums.dialogues)} others. "
                    "Score both on the same examples."
                )
