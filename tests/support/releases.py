"""Releases of our software, built as wheels and installed into a folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.student_runs import ROOT

PACKAGED = ("protos", "trainer", "teacher_server", "cluster")
NAMED = ("pyproject.toml", "README.md", "LICENSE")
# What the next release of a dialogue teacher can do, too.
TEACHERS = Path("teacher_server", "scoring", "teachers.py")
THIS_RELEASE = "description.capabilities.append(RANGES)"
NEXT_RELEASE = 'description.capabilities.extend([RANGES, "next"])'
VERSION = 'version = "0.1.0"'
NEXT_VERSION = 'version = "0.1.1"'
INSTALL_S = 120


def install_this_release(software: Path, work: Path) -> None:
    _install(_sources(work / "this"), software)


def install_next_release(software: Path, work: Path) -> None:
    """In the place of what is there: another patch number, and one capability more."""
    sources = _sources(work / "next")
    _replace(sources / "pyproject.toml", VERSION, NEXT_VERSION)
    _replace(sources / TEACHERS, THIS_RELEASE, NEXT_RELEASE)
    _install(sources, software)


def _sources(folder: Path) -> Path:
    no_caches = shutil.ignore_patterns("__pycache__")
    for package in PACKAGED:
        shutil.copytree(ROOT / package, folder / package, ignore=no_caches)
    for name in NAMED:
        shutil.copy(ROOT / name, folder / name)
    return folder


def _replace(file: Path, this: str, other: str) -> None:
    content = file.read_text()
    assert content.count(this) == 1, f"{file} must have {this!r} once"
    file.write_text(content.replace(this, other))


def _install(sources: Path, software: Path) -> None:
    """pip builds the wheel without a network: with the setuptools that is here."""
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    command = [sys.executable, "-m", "pip", "install", *offline]
    done = subprocess.run(
        [*command, "--upgrade", "--target", str(software), str(sources)],
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
    )
    assert done.returncode == 0, done.stderr
