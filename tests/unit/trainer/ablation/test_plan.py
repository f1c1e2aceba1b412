from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.ablation_cells import ablation_config
from trainer.ablation.arms import CEILING, TABLES, VANILLA
from trainer.ablation.checks import declared_settings, shared_settings
from trainer.ablation.config import AblationConfig, TeacherPair
from trainer.ablation.plan import PlannedCell, planned_cells
from trainer.config.yaml_file import load_config

CONFIGS = Path(__file__).resolve().parents[4] / "trainer" / "configs"


def cells_of(config: AblationConfig, *tables: str, num_seeds: int = 1) -> list[PlannedCell]:
    return planned_cells(config, tables=tables, num_seeds=num_seeds)


@pytest.mark.parametrize("name", ["ablation", "ablation-kgsf"])
def test_configs_that_we_ship_plan_runs_that_are_valid(name: str) -> None:
    config = load_config(AblationConfig, CONFIGS / f"{name}.yaml", [])
    cells = cells_of(config, num_seeds=3)
    assert {cell.table.name for cell in cells} == set(config.tables)
    assert all(cell.config.train.group is not None for cell in cells), "all arms see one order"
    for table in config.tables:
        paths = [cell.path(Path("cells")) for cell in cells if cell.table.name == table]
        assert len(set(paths)) == len(paths)


def test_every_table_can_be_planned(tmp_path: Path) -> None:
    config = ablation_config(tmp_path, **{name: {} for name in TABLES})
    planned = {(cell.table.name, cell.arm.name) for cell in cells_of(config)}
    declared = {
        (table.name, arm.name)
        for table in TABLES.values()
        for arm in (*table.arms, *table.ceiling)
        # Weaker teachers are there if the config has them.
        if arm.name not in ("teachers_half", "teachers_quarter", "teachers_eighth")
    }
    assert planned == declared


def test_an_arm_is_the_run_with_the_settings_of_its_table_and_its_own(tmp_path: Path) -> None:
    config = ablation_config(tmp_path, paper={"train.steps": 7})
    cells = {cell.arm.name: cell for cell in cells_of(config)}
    assert {cell.config.train.num_steps for cell in cells.values()} == {7}
    assert cells[VANILLA].config.distill.gamma == 0.0
    assert cells["plus_D"].config.distill.fixed_lambda == 0.0
    assert cells["plus_R"].config.distill.fixed_lambda == 1.0
    assert cells["plus_D_R"].config.distill.gate == "hard"
    assert [cells[it].config.action_tokens for it in ("plus_D_R", "plus_D_R_ST")] == [False, True]
    assert cells["soft"].config.distill.gate == "soft"
    assert cells["lambda_0_5"].config.distill.fixed_lambda == 0.5
    assert Path(cells["plus_D"].config.output).parent == tmp_path / "runs" / "students"


def test_arms_of_a_table_share_every_setting_that_none_declares(tmp_path: Path) -> None:
    cells = [cell for cell in cells_of(ablation_config(tmp_path)) if cell.arm.name not in CEILING]
    assert all(shared_settings(cell) == shared_settings(cells[0]) for cell in cells)
    assert not set(shared_settings(cells[0])) & set(declared_settings(cells[0]))
    for cell in cells:
        assert declared_settings(cell).items() >= cell.arm.settings.items()


def test_seeds_come_one_after_another_and_the_teachers_once(tmp_path: Path) -> None:
    cells = cells_of(ablation_config(tmp_path), num_seeds=2)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert [cell.arm.name for cell in cells].count(CEILING[0]) == 1
    assert {cell.config.seed for cell in cells if cell.arm.name == VANILLA} == {0, 1}


def test_weaker_teachers_are_those_of_the_config(tmp_path: Path) -> None:
    config = ablation_config(tmp_path, teacher={})
    assert {cell.arm.name for cell in cells_of(config)} == {VANILLA, "teachers_full"}


def test_a_table_that_the_config_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--table must be one of the config's, paper, got tail"):
        cells_of(ablation_config(tmp_path), "tail")


def test_a_table_with_a_key_that_is_no_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got unknown key train\.no_such"):
        cells_of(ablation_config(tmp_path, paper={"train.no_such": 1}))
    with pytest.raises(ValueError, match=r"every key must be a setting, got no\.such"):
        cells_of(ablation_config(tmp_path, paper={"no.such": 1}))


def test_arms_with_the_special_token_take_the_teachers_that_the_config_has_for_them(
    tmp_path: Path,
) -> None:
    pair = TeacherPair(dialogue="with_tokens", recommendation="r")
    config = dataclasses.replace(ablation_config(tmp_path), token_teachers=pair)
    taken = {cell.arm.name: cell.teachers for cell in cells_of(config)}
    assert taken["soft"] == taken["plus_D_R_ST"] == pair
    assert taken["plus_D_R"] == taken[CEILING[0]] == config.teachers
