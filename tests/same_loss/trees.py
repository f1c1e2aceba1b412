"""A tree of sources, and the commands that run in it with its own packages and stubs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.launch.child import Command
from cluster.launch.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
NUM_RANKS = 2


@dataclass(frozen=True, kw_only=True)
class Tree:
    """One checkout."""

    name: str
    """What it is called on the screen and in the names of logs."""
    root: Path

    def module(self, name: str, *argv: str) -> Command:
        """`python -m ARGV` in the root of the tree."""
        return self._command(name, sys.executable, "-m", *argv)

    def script(self, name: str, script: Path, *argv: str) -> Command:
        """A script in one process, after a check of where the packages come from."""
        return self._command(name, sys.executable, *self._wrapped(script), *argv)

    def student(self, name: str, *argv: str) -> Command:
        """`deepspeed trainer/main.py ARGV` on two ranks, after the same check."""
        # Run by the same path to the interpreter as everything else: the path is among the compiler
        # flags of DeepSpeed's extension, and other flags mean another build.
        deepspeed = (sys.executable, str(Path(sys.executable).with_name("deepspeed")))
        options = ("--num_accelerators", str(NUM_RANKS), "--master_port", str(free_port()))
        script = self._wrapped(self.root / "trainer/main.py")
        return self._command(name, *deepspeed, *options, *script, *argv)

    def stubs(self) -> Command:
        """The generated half of the packages."""
        outputs = ("--python_out=.", "--pyi_out=.", "--grpc_python_out=.")
        return self.module("stubs", "grpc_tools.protoc", "-I.", *outputs, "protos/teacher.proto")

    def _wrapped(self, script: Path) -> tuple[str, ...]:
        return (str(HERE / "run_tree.py"), "--tree", str(self.root), str(script))

    def _command(self, name: str, *argv: str) -> Command:
        return Command(
            name=f"{self.name} {name}", argv=argv, cwd=self.root, env=environment(self.root)
        )


def environment(root: Path) -> dict[str, str | None]:
    """Of a command in a tree: its own packages, and the CPU, whose sums are repeatable."""
    return {
        "PYTHONPATH": str(root),
        "PYTHONHASHSEED": "0",
        # DeepSpeed builds its CPU extension with the ninja that lies beside the interpreter.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        # The fleet is one of our own, also in a shell that is set up for another cluster.
        "RAY_ADDRESS": None,
    }


def find_commit(revision: str) -> str:
    """The commit of a revision of this repository; ValueError if there is none."""
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode:
        raise ValueError(
            f"BASE must be a revision of this repository, got {revision}. Try: git log --oneline"
        )
    return found.stdout.strip()


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of a commit for as long as the context lasts."""
    try:
        added = _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
        if added.returncode:
            raise OSError(f"{folder} must become a worktree of {commit}, got: {added.stderr}")
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))
        # What an interrupted `add` left.
        shutil.rmtree(folder, ignore_errors=True)


def _git(*argv: str) -> subprocess.CompletedProcess[str]:
    # A session of its own: a Ctrl-C in the terminal reaches only us.
    return subprocess.run(
        ("git", *argv),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
