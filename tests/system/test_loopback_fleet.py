"""A fleet on loopback needs no other address of its machine, and outlives the one that it had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny_teachers
from tests.support.fleet_commands import COMMAND_S, environment
from tests.support.student_runs import ROOT

UNSHARE = ("unshare", "--net")
# The outward address and the route by which Ray finds it are loopback's own: no packet leaves.
STORY = """
set -e
fleet() { "$PYTHON" -m teacher_server "$@" --fleet "$FOLDER/fleet.json"; }
trap 'fleet down' EXIT
ip link set lo up
ip addr add 198.51.100.7/32 dev lo
ip route add default dev lo src 198.51.100.7
fleet up --dialogue "$FOLDER/dialogue" --port 31555
ip route del default
ip addr del 198.51.100.7/32 dev lo
fleet status
fleet scale dialogue=2
"""


@pytest.mark.everything
def test_fleet_on_loopback_outlives_the_outward_address(tmp_path: Path) -> None:
    if subprocess.run([*UNSHARE, "ip", "link"], capture_output=True).returncode:
        pytest.skip("needs the right to make network namespaces")
    tiny_teachers.write_dialogue_teacher(tmp_path / "dialogue", tiny_teachers.tiny_vocabulary())
    done = subprocess.run(
        [*UNSHARE, "bash", "-c", STORY],
        cwd=ROOT,
        env={**environment(), "PYTHON": sys.executable, "FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=2 * COMMAND_S,
    )
    assert done.returncode == 0, done.stderr
    assert "Ray runs at 127.0.0.1:" in done.stderr
    assert "dialogue 2/2 run" in done.stderr
    assert "the fleet is down" in done.stderr
