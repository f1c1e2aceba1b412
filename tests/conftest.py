from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.support.budgets import Clock
from tests.support.made_once import made_once

BESIDE = Path(__file__).resolve().parents[2] / "shared"
SHARED = Path(os.environ.get("CONKD_TEST_DATA", BESIDE))
# Fixtures that need it: the tests that use one of them are marked `redial`.
REAL_DATA = {"redial_dir", "dialogpt_tokenizer_dir"}


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "check tests/support/budgets.py, multiplied by so much: 1 for two slow cores"
    parser.addoption("--budgets", type=float, metavar="FACTOR", help=text)


def pytest_configure(config: pytest.Config) -> None:
    if config.option.budgets is not None:
        everything = config.option.markexpr != "not everything"
        clock = Clock(everything=everything, slowness=config.option.budgets)
        config.pluginmanager.register(clock, "budgets")
    # Two cores are shared by Ray, teachers and students.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # What a test reads of a pipe has the width that it needs, in xdist's workers too.
    os.environ.pop("COLUMNS", None)
    # A shell starts jobs in the background with Ctrl-C ignored, and processes pass that on: what a
    # test starts must end by it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REAL_DATA & set(getattr(item, "fixturenames", ())):
            item.add_marker("redial")


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
    """A small synthetic corpus, prepared by the command's own code."""
    return made_once(
        tmp_path_factory, "prepared", partial(prepare, "synthetic", "--dialogues", "60")
    )


@pytest.fixture(scope="session")
def redial_prepared(
    redial_dir: Path, dialogpt_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The real dialogues, prepared by the command's own code."""
    source = ("redial", "--input", str(redial_dir), "--tokenizer", str(dialogpt_tokenizer_dir))
    return made_once(tmp_path_factory, "redial-prepared", partial(prepare, *source))


def prepare(source: str, *options: str | Path) -> None:
    """Prepare a corpus; the last of the options is the folder to write."""
    # Not above: the process that hands out the tests to xdist's workers needs no torch.
    from trainer.data.__main__ import main

    *others, folder = map(str, options)
    main(["prepare", "--source", source, *others, "--output", folder])
