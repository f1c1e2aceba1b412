"""Input and output of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.bench.__main__ import NAMES, benchmarks, main
from cluster.bench.corpus import KINDS, fitted_corpus
from cluster.bench.result import BenchResult
from cluster.bench.scaling.grid import Grid
from cluster.bench.scaling.options import ScalingOptions
from cluster.bench.shown import to_json
from cluster.sources import DEFAULT_SOURCE, default_source
from trainer.models.frozen import CARD_NAME


def test_default_source_is_the_folder_beside_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    assert default_source() is None
    assert "SYNTHETIC" in capsys.readouterr().err
    (root / DEFAULT_SOURCE).mkdir(parents=True)
    assert default_source() == DEFAULT_SOURCE
    assert capsys.readouterr().err == ""


def test_json_names_the_data_also_where_it_is_synthetic() -> None:
    result = BenchResult(figures={"x": 1.0}, rows=[{"y": 2}], corpus="synthetic")
    content = json.loads(json.dumps(to_json("wire", None, result)))
    assert (content["benchmark"], content["corpus"], content["data"]) == (
        "wire",
        *["synthetic"] * 2,
    )
    assert (content["x"], content["rows"]) == (1.0, [{"y": 2}])
    assert to_json("wire", Path("../a"), result)["data"] == "../a"


def test_fitted_teachers_are_found_by_their_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        card = Path("bench/teachers/mine") / kind / CARD_NAME
        card.parent.mkdir(parents=True)
        card.touch()
    corpus = fitted_corpus(tmp_path / "mine")
    assert corpus.name == "mine"
    assert corpus.dialogue == Path("bench/teachers/mine/dialogue")
    assert capsys.readouterr().err == ""


def test_names_of_the_command_are_those_of_the_benchmarks() -> None:
    assert tuple(benchmarks(ScalingOptions(grid=Grid()))) == NAMES


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["no-such"],
            "NAME must be one of teachers, loss, step, memory, wire, service",
        ),
        (["wire", "--data", "no-such"], "--data must be a folder with dialogues, got no-such"),
    ],
)
def test_bench_with_a_wrong_argument_says_so(arguments: list[str], error: str) -> None:
    with pytest.raises((ValueError, OSError), match=error):
        main(arguments)
