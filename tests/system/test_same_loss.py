"""`make same-loss` as a whole: one ulp in a tree is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.same_loss.trees import ROOT

# Before anything of trainer/ is imported, whatever its modules are called.
PLANTED = """
import deepspeed as planted
import torch
_initialize = planted.initialize
def one_ulp_off(**arguments):
    with torch.no_grad():
        weight = next(arguments["model"].parameters())
        weight.copy_(torch.nextafter(weight, torch.full_like(weight, torch.inf)))
    return _initialize(**arguments)
planted.initialize = one_ulp_off
"""


def same_loss(*argv: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "tests.same_loss", *argv)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


def test_same_loss_of_an_unknown_revision_is_one_error_line() -> None:
    result = same_loss("no-such-revision")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: BASE must be a revision of this repository, got no-")


@pytest.mark.everything
def test_same_loss_of_a_tree_one_ulp_off_names_losses_and_weights(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for package in ("protos", "trainer", "teacher_server"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tree / package, ignore=skipped)
    main = tree / "trainer/main.py"
    start = "from __future__ import annotations\n"
    assert start in main.read_text()
    main.write_text(main.read_text().replace(start, start + PLANTED, 1))
    result = same_loss("HEAD", "--tree", str(tree), "--no-served", "--json")
    assert result.returncode == 1, result.stderr
    found = json.loads(result.stdout)
    assert not found["same"]
    names = {kind: [] for kind in ("corpus", "block", "metric", "export", "weight")}
    for difference in found["differences"]:
        names[difference["kind"]].append(difference["name"])
    assert "loss" in names["metric"]
    assert len(names["weight"]) > 1
    assert names["corpus"] == names["block"] == []
    # It has the weights' digest.
    assert names["export"] == ["student.json"]
