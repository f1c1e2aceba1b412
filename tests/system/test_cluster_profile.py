"""The command of the cluster's files that writes a line into ~/.bashrc, run in a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.commands.clean_host import remove_files
from tests.support.student_runs import ROOT

FILES = ("gpu.yaml", "local.yaml")
OWN = "export CONKD_SHARED=/mine\n"


def command(file: str) -> str:
    config = yaml.safe_load((ROOT / "cluster" / file).read_text())
    (found,) = [it for it in config["setup_commands"] if ".bashrc" in it]
    return found


def add(file: str, home: Path) -> str:
    """Run the command; what the shell has in CONKD_SHARED afterwards."""
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    shown = f'{command(file)}\n. ~/.bashrc; echo "$CONKD_SHARED"'
    run = ["bash", "-c", shown]
    return subprocess.run(
        run, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("before", [None, "", OWN, "alias a=b", OWN.rstrip(), f"{OWN}# the end\n"])
def test_the_files_line_is_added_once_whatever_the_user_has_there(
    file: str, before: str | None, tmp_path: Path
) -> None:
    profile = tmp_path / ".bashrc"
    if before is not None:
        profile.write_text(before)
    assert add(file, tmp_path) == "/shared"
    once = profile.read_text()
    assert add(file, tmp_path) == "/shared"
    assert profile.read_text() == once
    assert once.startswith(before or "")
    assert remove_files(tmp_path, tmp_path) == ([str(profile)], [])
    assert profile.read_text().rstrip("\n") == (before or "").rstrip("\n")


@pytest.mark.parametrize("file", FILES)
def test_a_line_that_came_later_or_is_of_another_folder_does_not_hold(
    file: str, tmp_path: Path
) -> None:
    earlier = "export RAY_AUTH_MODE=token CONKD_SHARED=/before PATH=$HOME/conkd/.venv/bin:$PATH\n"
    profile = tmp_path / ".bashrc"
    profile.write_text(earlier)
    assert add(file, tmp_path) == "/shared"
    profile.write_text(profile.read_text() + OWN)
    assert add(file, tmp_path) == "/shared"
    assert remove_files(tmp_path, tmp_path) == ([str(profile)], [])
    assert profile.read_text() == OWN
