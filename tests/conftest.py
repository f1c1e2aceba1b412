from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def pytest_configure(config: pytest.Config) -> None:
    # Two cores are shared by Ray, teachers and students.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="session")
def redial_dir() -> Path:
    folder = SHARED / "redial-mini"
    if not folder.is_dir():
        pytest.skip("real dialogues are not beside the repository (../shared/redial-mini)")
    return folder


@pytest.fixture(scope="session")
def dialogpt_tokenizer_dir() -> Path:
    folder = SHARED / "dialogpt-tokenizer"
    if not folder.is_dir():
        pytest.skip("the DialoGPT tokenizer is not beside the repository")
    return folder


@pytest.fixture(scope="session")
def prepared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic corpus, prepared by the real command."""
    folder = tmp_path_factory.mktemp("prepared")
    command = ["-m", "trainer.data", "prepare", "--source", "synthetic", "--dialogues", "60"]
    subprocess.run(
        [sys.executable, *command, "--output", str(folder)], check=True, capture_output=True
    )
    return folder
