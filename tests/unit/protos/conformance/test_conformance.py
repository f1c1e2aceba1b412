"""Teachers that keep the contract pass; what the command prints of it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from protos.conformance import caller_checks
from protos.conformance.__main__ import main
from protos.conformance.caller_checks import CALLER_CHECKS
from protos.conformance.report import as_json, as_text
from protos.conformance.run import CHECKS, Report
from protos.teacher_pb2 import Description
from teacher_server.replica import rpc
from tests.support import other_make, other_make_requests, tiny_teachers
from tests.support.checked_teachers import (
    MANIFEST,
    QUICK_PING_MS,
    QUICK_PING_S,
    checked,
    failures,
    of_another_make,
    replica,
    skipped,
)
from tests.support.other_make import BigramTeacher
from tests.support.secure_fleet import TOKEN
from trainer.config.language_model import LanguageModelConfig
from trainer.models.frozen import write_card
from trainer.models.frozen_recommender import load_recommender
from trainer.models.language_model import (
    build_language_model,
    load_language_model,
    write_language_model,
)
from trainer.security.credentials import SecurityFiles

KGSF = LanguageModelConfig(
    architecture="kgsf", num_layers=2, hidden_size=24, num_heads=2, max_positions=64
)
ABOUT = other_make.describe(MANIFEST)
TOKENS = {"refuses a caller without the token", "refuses a caller with another token"}
NO_RANGES = {
    "answers ranges as if each was alone",
    "answers merged sequences as if apart",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    vocabulary = tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_dialogue_teacher(root / "gpt2", vocabulary)
    tiny_teachers.write_recommendation_teacher(root / "recommendation", vocabulary)
    (root / "kgsf").mkdir()
    knowledge, _ = load_recommender(root / "recommendation")
    torch.manual_seed(0)
    write_language_model(root / "kgsf", build_language_model(KGSF, vocabulary, knowledge=knowledge))
    vocabulary.save(root / "kgsf")
    model = load_language_model(root / "kgsf", vocabulary)
    num_entities, num_words = model.knowledge_size
    card = Description(
        kind="dialogue",
        vocabulary_digest=vocabulary.digest,
        graph_digest="tiny-graph",
        max_tokens=model.limits.max_tokens,
        max_entities=model.limits.max_entities,
        max_words=model.limits.max_words,
        num_entities=num_entities,
        num_words=num_words,
    )
    write_card(root / "kgsf", card)
    return {name: root / name for name in ("gpt2", "kgsf", "recommendation")}


@pytest.fixture(autouse=True)
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of pings waits for no longer than a server here allows."""
    assert max(rpc.PING_MS, other_make.PING_MS) < 1000 * caller_checks.EVERY_S
    monkeypatch.setattr(rpc, "PING_MS", QUICK_PING_MS)
    monkeypatch.setattr(caller_checks, "EVERY_S", QUICK_PING_S)


def test_our_causal_teacher_passes(folders: dict[str, Path]) -> None:
    with replica("dialogue", folders["gpt2"]) as address:
        report = checked(address)
    assert failures(report) == {}
    assert skipped(report) == {
        *TOKENS,
        "refuses two ranges without the capability",
        "refuses a range before the last tokens without the capability",
    }
    assert len(report.results) == 1 + len(CHECKS)


@pytest.mark.everything
def test_kgsf_teacher_passes(folders: dict[str, Path]) -> None:
    with replica("dialogue", folders["kgsf"]) as address:
        report = checked(address)
    assert failures(report) == {}
    assert skipped(report) == {*TOKENS, *NO_RANGES, "refuses a column that it does not take"}


@pytest.mark.everything
def test_recommendation_teacher_passes(folders: dict[str, Path]) -> None:
    with replica("recommendation", folders["recommendation"]) as address:
        report = checked(address)
    assert failures(report) == {}
    assert skipped(report) == {
        *TOKENS,
        *NO_RANGES,
        "refuses two ranges without the capability",
        "refuses a range before the last tokens without the capability",
        "refuses an empty sequence",
        "refuses too many rows",
    }


@pytest.fixture(scope="module")
def other_report() -> Report:
    """Of the teacher of another make."""
    with pytest.MonkeyPatch.context() as patch, of_another_make(BigramTeacher(ABOUT)) as address:
        patch.setattr(caller_checks, "EVERY_S", QUICK_PING_S)
        return checked(address)


def test_teacher_of_another_make_passes(other_report: Report) -> None:
    assert failures(other_report) == {}
    assert skipped(other_report) == {
        *TOKENS,
        "is healthy",
        "softens rows at a temperature",
        "refuses two ranges without the capability",
        "refuses a range before the last tokens without the capability",
    }


def test_replica_with_a_token_passes(folders: dict[str, Path], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    files = SecurityFiles(token_file=str(token))
    with replica("recommendation", folders["recommendation"], files) as address:
        report = checked(address, CALLER_CHECKS, files)
    assert {it.outcome for it in report.results} == {"passed"}


def test_teacher_of_another_make_needs_neither_ray_nor_torch() -> None:
    # Which modules are loaded with it is tested in system/test_other_make.py.
    for module in (other_make, other_make_requests):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        names = [it.module or "" for it in ast.walk(tree) if isinstance(it, ast.ImportFrom)]
        names += [
            alias.name for it in ast.walk(tree) if isinstance(it, ast.Import) for alias in it.names
        ]
        foreign = {it for it in names if it.startswith(("ray", "torch", "trainer", "teacher"))}
        assert foreign == set()
        assert {"numpy", "protos"} <= {it.split(".")[0] for it in names}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "No Kind", "kind must be a name, got 'No Kind'"),
        ("weights_digest", "", "weights_digest must be told"),
        ("wire_version", 9, "wire_version must be 1, got 9"),
        ("temperature", 0.0, "temperature must be above 0"),
        ("num_items", 99, r"items must lie in the vocabulary of 40 ids, got \[25, 124\)"),
        ("max_tokens", 0, "one of max_tokens, max_entities, max_words must be above 0"),
        ("max_words", 4, "num_words must be told beside max_words"),
    ],
)
def test_wrong_description_fails_first_and_alone(field: str, value: Any, message: str) -> None:
    about = other_make.describe(MANIFEST)
    setattr(about, field, value)
    with of_another_make(BigramTeacher(about)) as address:
        report = checked(address)
    failed = failures(report)
    assert list(failed) == ["describes itself, twice the same"]
    assert re.search(message, failed["describes itself, twice the same"])
    assert len(skipped(report)) == len(CHECKS)


def test_report_has_a_line_for_each_check(other_report: Report) -> None:
    lines = as_text(other_report).splitlines()
    assert lines[0] == f"{ABOUT.replica_id} at {other_report.address}"
    assert sum("  passed" in line for line in lines) == len(CHECKS) + 1 - 6
    assert lines[-1].startswith(f"{len(CHECKS) - 5} passed, 0 failed, 6 not applicable, in ")
    content = json.loads(as_json(other_report))
    assert content["failed"] == 0 and len(content["checks"]) == len(CHECKS) + 1


def test_command_prints_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    with of_another_make(BigramTeacher(ABOUT)) as address:
        main([address])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{ABOUT.replica_id} at {address}")
    assert ", 0 failed, " in printed


def test_command_leaves_with_status_1_if_a_check_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    about = other_make.describe(MANIFEST)
    about.temperature = 0.0
    with of_another_make(BigramTeacher(about)) as address, pytest.raises(SystemExit) as left:
        main([address, "--json"])
    assert left.value.code == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 1


def test_no_teacher_is_one_error() -> None:
    with pytest.raises(OSError, match=r"a teacher must describe itself at 127\.0\.0\.1:1, got UNA"):
        main(["127.0.0.1:1", "--timeout", "1"])
