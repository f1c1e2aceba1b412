"""The scripts that make a node of EC2 ready, with fakes of all that they call."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.student_runs import ROOT

SCRIPTS = ROOT / "cluster" / "aws"
LOG = 'echo "$(basename "$0") $*" >> "$HOME/ran"\n'
# As on a node with a GPU whose disks nobody has mounted; DISK, DRIVER and MISSING change it.
FAKES = {
    "sudo": 'while [[ $1 == *=* ]]; do shift; done\nexec "$@"\n',
    "dpkg": '[[ " ${MISSING:-} " != *" $2 "* ]]\n',
    "apt-get": LOG,
    "lspci": '[[ -z ${DRIVER:-} ]] || echo "3D controller: NVIDIA"\n',
    "nvidia-smi": '[[ -n ${DRIVER:-} ]] && echo "$DRIVER"\n',
    "lsblk": '[[ -z ${DISK:-} ]] || echo "$DISK Amazon EC2 NVMe Instance Storage"\n',
    "mountpoint": "[[ -e $HOME/mounted ]]\n",
    "mkfs.ext4": LOG,
    "mount": LOG + 'touch "$HOME/mounted"\n',
    "mkdir": '[[ $* != *"/mnt/scratch"* ]] || exit 0\nexec /bin/mkdir "$@"\n',
    "install": LOG,
    "ln": LOG,
}


class FakeNode:
    """A home, and a folder of fake commands before all others."""

    def __init__(self, folder: Path) -> None:
        self.home, self.commands = folder / "home", folder / "bin"
        self.conkd = self.home / "conkd"
        for it in (self.conkd / "protos", self.conkd / "cluster" / "aws", self.commands):
            it.mkdir(parents=True)
        for name, text in FAKES.items():
            self.add(self.commands / name, text)

    def add(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.commands}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(SCRIPTS / script)],
            env={"HOME": str(self.home), "PATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def ran(self) -> list[str]:
        log = self.home / "ran"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path)


def test_prepare_does_nothing_where_all_is_there(node: FakeNode) -> None:
    done = node.run("prepare.sh")
    assert (done.returncode, done.stderr, node.ran) == (0, "", [])


def test_prepare_installs_what_is_missing_alone(node: FakeNode) -> None:
    assert node.run("prepare.sh", MISSING="g++ nfs-common").returncode == 0
    update, install = node.ran
    assert update.endswith("update -qq")
    assert install.endswith("install -y -qq g++ nfs-common")


def test_prepare_puts_caches_on_the_instances_own_disk(node: FakeNode) -> None:
    assert node.run("prepare.sh", DISK="/dev/nvme1n1").returncode == 0
    assert node.ran[0] == "mkfs.ext4 -q -F -E nodiscard /dev/nvme1n1"
    assert node.ran[1] == "mount -o noatime /dev/nvme1n1 /mnt/scratch"
    links = [it for it in node.ran if it.startswith("ln ")]
    assert links == [
        f"ln -s /mnt/scratch/conkd/{it} {node.home}/{it}" for it in (".cache", ".triton")
    ]


def test_prepare_refuses_a_driver_that_is_too_old(node: FakeNode) -> None:
    assert node.run("prepare.sh", DRIVER="580.65.06").returncode == 0
    done = node.run("prepare.sh", DRIVER="550.54.15")
    assert done.returncode == 1
    assert done.stderr == (
        "error: the NVIDIA driver must be 580 or newer, got 550.54.15. Name another image: "
        "python -m cluster setup FILE --image ...\n"
    )


def sources(node: FakeNode) -> None:
    (node.conkd / "protos" / "teacher_pb2_grpc.py").touch()
    for name in ("pyproject.toml", "constraints.txt", "cluster/constraints-gpu.txt"):
        (node.conkd / name).write_text((ROOT / name).read_text())
    (node.conkd / "cluster/aws/install.sh").write_text((SCRIPTS / "install.sh").read_text())
    node.add(node.conkd / ".venv" / "bin" / "python", LOG)


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("580.65.06", "-c cluster/constraints-gpu.txt"),
        ("", "-c constraints.txt"),
    ],
)
def test_install_takes_what_runs_need_once(node: FakeNode, driver: str, options: str) -> None:
    sources(node)
    for _ in range(2):
        assert node.run("install.sh", DRIVER=driver).returncode == 0
    assert node.ran == [
        f"python -m pip install --quiet --disable-pip-version-check {options} -e .[aws]"
    ]
    (node.conkd / "pyproject.toml").write_text("# another release")
    assert node.run("install.sh", DRIVER=driver).returncode == 0
    assert len(node.ran) == 2


def test_install_without_stubs_is_one_line(node: FakeNode) -> None:
    done = node.run("install.sh")
    assert done.returncode == 1
    assert done.stderr.startswith("error: protos/ must come with its stubs, got none.")
    assert node.ran == []
