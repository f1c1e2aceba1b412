from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cluster.head import training
from cluster.head.training import students_command
from cluster.students.options import parse, run_options
from trainer.common.errors import InputError, MissingError
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config

CONFIG = """\
data: build/redial
output: runs/x
student: {num_layers: 1, hidden_size: 32, num_heads: 2}
teachers: {patience_s: 900}
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONKD_SHARED", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(training, "head_address", lambda: "10.0.0.1")
    (tmp_path / "data" / "redial").mkdir(parents=True)
    return tmp_path


def asked(*overrides: str, min_nodes: int | None = None) -> argparse.Namespace:
    return argparse.Namespace(
        name="run", nodes=2, min_nodes=min_nodes, slots=4, overrides=list(overrides)
    )


def test_command_is_one_that_students_take_and_has_all_that_the_cluster_knows(shared: Path) -> None:
    python, module, *argv = students_command(asked("train.steps=5", min_nodes=1), CONFIG)
    assert (python, module) == ("-m", "cluster.students")
    options = run_options(parse(argv))
    assert (options.name, options.nodes, options.min_nodes, options.slots) == ("run", 2, 1, 4)
    config = load_config(RunConfig, options.config, list(options.overrides))
    assert config.data == str(shared / "data" / "redial")
    assert config.output == str(shared / "runs" / "run")
    assert config.teachers.directory == "10.0.0.1:50051"
    assert config.teachers.tls == "/home/me/conkd-tls"
    assert config.teachers.token_file == "/home/me/conkd-tls/token"
    # The file's own: only what nobody set is filled in.
    assert config.teachers.patience_s == 900
    assert config.train.steps == 5


def test_config_of_the_laptop_is_kept_where_all_nodes_read_it(shared: Path) -> None:
    students_command(asked(), CONFIG)
    assert (shared / "configs" / "run.yaml").read_text() == CONFIG


def test_mistakes_are_found_before_a_node_is_asked_for(shared: Path) -> None:
    with pytest.raises(InputError, match=r"train\.stepps"):
        students_command(asked("train.stepps=5"), CONFIG)
    with pytest.raises(MissingError, match="python -m cluster push build/other"):
        students_command(asked("data=build/other"), CONFIG)
