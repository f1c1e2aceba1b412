"""The commands of cluster/local.yaml that make the certificates, run in a shell."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.util import prepare_config

from tests.support.student_runs import ROOT
from trainer.security.credentials import SecurityFiles, read_credentials


def prepared() -> dict[str, Any]:
    """The config as `ray up` completes it from the provider's defaults."""
    return prepare_config(yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text()))


def test_certificates_are_made_on_the_head_once_and_by_commands_that_work(tmp_path: Path) -> None:
    made = [
        it
        for commands in ("head_setup_commands", "head_start_ray_commands")
        for it in prepared()[commands]
        if "conkd-tls" in it
    ]
    assert not any("conkd-tls" in it for it in prepared()["worker_setup_commands"])
    environment = {**os.environ, "HOME": str(tmp_path)}
    (tmp_path / "conkd").mkdir()
    (tmp_path / "conkd" / ".venv").symlink_to(sys.prefix)
    before = None
    for _ in range(2):
        for it in made:
            subprocess.run(["bash", "-c", it], env=environment, check=True, capture_output=True)
        folder = tmp_path / "conkd-tls"
        assert {it.name for it in folder.iterdir()} == {
            "ca.pem",
            "client.pem",
            "client.key",
            "token",
        }
        students = SecurityFiles(tls=str(folder), token_file=str(folder / "token"))
        servers = dataclasses.replace(students, tls=f"{folder}-server")
        read = [read_credentials(servers, role) for role in ("server", "client")]
        assert read[1] == read_credentials(students, "client")
        assert before is None or before == read
        before = read
