"""Teachers that keep the contract pass; one that breaks it in one way fails where it does."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from protos.codec import TargetRows
from protos.conformance.__main__ import main
from protos.conformance.run import CHECKS, Report, check_teacher
from protos.target_rows import ITEM_MASS
from protos.teacher_pb2 import Compression, Description, ScoreError, ScoreReply
from teacher_server.replica.service import TeacherServer
from teacher_server.scoring.kinds import load_teacher
from tests.support import other_make, other_make_requests, tiny_teachers
from tests.support.other_make import BigramTeacher
from trainer.config.language_model import LanguageModelConfig
from trainer.models.frozen import write_card
from trainer.models.frozen_recommender import load_recommender
from trainer.models.language_model import (
    build_language_model,
    load_language_model,
    write_language_model,
)
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import NO_SECURITY
from trainer.teacher_client.loop import Loop

MANIFEST = {
    "vocab_size": 40,
    "base_vocab_size": 25,
    "num_items": 12,
    "vocabulary_digest": "vocabulary-a",
}
KGSF = LanguageModelConfig(
    architecture="kgsf", num_layers=2, hidden_size=24, num_heads=2, max_positions=64
)
TIMEOUT_S = 60.0
SOFTENS = "softens rows at a temperature"
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


@contextlib.contextmanager
def replica(kind: str, folder: Path) -> Iterator[str]:
    """A replica of ours on a loop beside the test; its address."""
    loop = Loop("replica")
    server = None

    async def start() -> tuple[TeacherServer, int]:
        teacher = load_teacher(kind, folder, torch.device("cpu"))
        started = TeacherServer(teacher, replica_id="ours")
        return started, await started.start("127.0.0.1")

    try:
        server, port = loop.run(start())
        yield f"127.0.0.1:{port}"
    finally:
        if server is not None:
            loop.run(server.drain(0.2))
        loop.close()


@contextlib.contextmanager
def of_another_make(teacher: BigramTeacher) -> Iterator[str]:
    server, address = other_make.start(teacher)
    try:
        yield address
    finally:
        server.stop(0.2).wait()


def checked(address: str) -> Report:
    return check_teacher(address, ChannelFactory(NO_SECURITY), timeout_s=TIMEOUT_S)


def failures(report: Report) -> dict[str, str]:
    return {each.name: each.detail for each in report.results if each.outcome == "failed"}


def skipped(report: Report) -> set[str]:
    return {each.name for each in report.results if each.outcome == "not applicable"}


def test_our_causal_teacher_passes(folders: dict[str, Path]) -> None:
    with replica("dialogue", folders["gpt2"]) as address:
        report = checked(address)
    assert failures(report) == {}
    assert skipped(report) == {
        "refuses two ranges without the capability",
        "refuses a range before the last tokens without the capability",
    }
    assert len(report.results) == 1 + len(CHECKS)


def test_kgsf_teacher_passes(folders: dict[str, Path]) -> None:
    with replica("dialogue", folders["kgsf"]) as address:
        report = checked(address)
    assert failures(report) == {}
    assert skipped(report) == {*NO_RANGES, "refuses a column that it does not take"}


def test_recommendation_teacher_passes(folders: dict[str, Path]) -> None:
    with replica("recommendation", folders["recommendation"]) as address:
        report = checked(address)
    assert failures(report) == {}
    assert skipped(report) == {
        *NO_RANGES,
        "refuses two ranges without the capability",
        "refuses a range before the last tokens without the capability",
        "refuses an empty sequence",
        "refuses too many rows",
    }


def test_teacher_of_another_make_passes() -> None:
    with of_another_make(BigramTeacher(other_make.describe(MANIFEST))) as address:
        report = checked(address)
    assert failures(report) == {}
    assert skipped(report) == {
        "is healthy",
        SOFTENS,
        "refuses two ranges without the capability",
        "refuses a range before the last tokens without the capability",
    }


def test_teacher_that_refuses_the_temperature_it_allows_fails() -> None:
    about = other_make.describe(MANIFEST)
    about.min_temperature, about.max_temperature = 0.5, 4.0
    with of_another_make(BigramTeacher(about)) as address:
        report = checked(address)
    assert failures(report).keys() == {SOFTENS}


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


class NoHandshake(BigramTeacher):
    def Score(self, requests: Iterator[Any], context: Any) -> Iterator[ScoreReply]:
        yield from self._answers(requests)

    def _answers(self, requests: Iterator[Any]) -> Iterator[ScoreReply]:
        class Anybody:
            def invocation_metadata(self) -> Any:
                return ()

            def abort(self, *_: Any) -> None: ...

        yield from super().Score(requests, Anybody())


class EndsTheStream(BigramTeacher):
    """A malformed request takes its stream along."""

    def Score(self, requests: Iterator[Any], context: Any) -> Iterator[ScoreReply]:
        for reply in super().Score(requests, context):
            if reply.HasField("error"):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, reply.error.message)
            yield reply


class OtherCode(BigramTeacher):
    def Score(self, requests: Iterator[Any], context: Any) -> Iterator[ScoreReply]:
        for reply in super().Score(requests, context):
            if reply.HasField("error"):
                reply.error.code = ScoreError.INTERNAL
            yield reply


class LosesReplies(BigramTeacher):
    def Score(self, requests: Iterator[Any], context: Any) -> Iterator[ScoreReply]:
        for at, reply in enumerate(super().Score(requests, context)):
            if at != 50:
                yield reply


class Changed(BigramTeacher):
    """Right rows, changed after the fact."""

    def _rows(self, request: Any) -> TargetRows:
        return self.change(super()._rows(request), request.compression)

    def change(self, rows: TargetRows, asked: Compression) -> TargetRows:
        return rows


def with_columns(rows: TargetRows, **columns: Any) -> TargetRows:
    fields = {
        **{name: getattr(rows, name) for name in ("counts_R", "ids_E", "log_probs_E", "tail_R")},
        **{"masses": rows.masses, "vocab_size": rows.vocab_size},
        **columns,
    }
    return TargetRows(**fields)


class MassAfterTheCut(Changed):
    def change(self, rows: TargetRows, asked: Compression) -> TargetRows:
        first = self.about.first_item_id
        is_item_E = (rows.ids_E >= first) & (rows.ids_E < first + self.about.num_items)
        row_E = np.repeat(np.arange(rows.num_rows), rows.counts_R)
        kept_R = np.bincount(row_E, np.exp(rows.log_probs_E) * is_item_E, rows.num_rows)
        return with_columns(rows, masses={ITEM_MASS: kept_R.astype(np.float32)})


class NoMass(Changed):
    def change(self, rows: TargetRows, asked: Compression) -> TargetRows:
        return with_columns(rows, masses={})


class NoTail(Changed):
    """Renormalises what is left."""

    def change(self, rows: TargetRows, asked: Compression) -> TargetRows:
        kept_R = np.repeat(np.log1p(-rows.tail_R), rows.counts_R).astype(np.float32)
        return with_columns(
            rows, log_probs_E=rows.log_probs_E - kept_R, tail_R=np.zeros_like(rows.tail_R)
        )


class Noisy(BigramTeacher):
    """Answers otherwise each time."""

    def _rows(self, request: Any) -> TargetRows:
        self._next_DV = self._next_DV + 1e-3 * np.random.default_rng().normal(
            size=self._next_DV.shape
        )
        return super()._rows(request)


class SeedIgnored(BigramTeacher):
    def _row(self, before: Any, asked: Any, generator: Any) -> Any:
        return super()._row(before, asked, np.random.default_rng())


class Misplaces(BigramTeacher):
    """Takes the later ranges of a sequence one token too early."""

    def _rows(self, request: Any) -> TargetRows:
        starts = np.frombuffer(request.range_starts, "<i4").copy()
        if len(starts) == 3 and np.frombuffer(request.range_counts, "<i4").tolist() == [3]:
            starts[1:] -= 1
            request.range_starts = starts.tobytes()
        return super()._rows(request)


class LooksAround(BigramTeacher):
    """Each row depends on the last token of the whole request."""

    def _rows(self, request: Any) -> TargetRows:
        last = int(np.frombuffer(request.token_ids, "<i4")[-1:].sum())
        before_VD = self._before_VD
        try:
            self._before_VD = before_VD + 0.05 * last
            return super()._rows(request)
        finally:
            self._before_VD = before_VD


class LowIsLess(BigramTeacher):
    """Answers low requests with rows of its own."""

    def _rows(self, request: Any) -> TargetRows:
        before_VD = self._before_VD
        try:
            self._before_VD = before_VD + 0.05 * request.priority
            return super()._rows(request)
        finally:
            self._before_VD = before_VD


class AnyRange(BigramTeacher):
    """Asks for no order among ranges."""

    def _rows(self, request: Any) -> TargetRows:
        starts = np.frombuffer(request.range_starts, "<i4")
        if len(starts) == 2 and starts[0] > starts[1]:
            request.range_starts = starts[::-1].tobytes()
        return super()._rows(request)


ABOUT = other_make.describe(MANIFEST)


@pytest.mark.parametrize(
    ("defect", "broken"),
    [
        (NoHandshake, "refuses a stream "),
        (EndsTheStream, "refuses a"),
        (OtherCode, "refuses a"),
        (LosesReplies, "answers many requests of a stream"),
        (MassAfterTheCut, "sends the mass of all items"),
        (NoMass, "sends kept mass and tail"),
        (NoTail, "cuts rows by top_k"),
        (Noisy, "answers the same request the same way"),
        (SeedIgnored, "draws the same rows from the same seed"),
        (Misplaces, "answers ranges as if each was alone"),
        (LooksAround, "answers a sequence the same way in company"),
        (AnyRange, "refuses ranges out of order"),
        (LowIsLess, "answers a low request of a run the same way"),
    ],
)
def test_teacher_with_a_defect_fails_there(defect: type[BigramTeacher], broken: str) -> None:
    with of_another_make(defect(ABOUT)) as address:
        failed = failures(checked(address))
    assert [name for name in failed if name.startswith(broken)], failed
    assert all(failed.values())


def test_defect_of_ranges_alone_fails_nothing_else() -> None:
    with of_another_make(AnyRange(ABOUT)) as address:
        assert set(failures(checked(address))) == {"refuses ranges out of order"}


def test_teacher_without_a_mass_need_not_give_it() -> None:
    about = other_make.describe(MANIFEST)
    del about.masses[:]
    with of_another_make(NoMass(about)) as address:
        report = checked(address)
    assert failures(report) == {}
    assert "sends the mass of all items" in skipped(report)


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


def test_command_prints_a_line_for_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    with of_another_make(BigramTeacher(ABOUT)) as address:
        main([address])
        table = capsys.readouterr().out
        main([address, "--json"])
        content = json.loads(capsys.readouterr().out)
    lines = table.splitlines()
    assert lines[0] == f"{ABOUT.replica_id} at {address}"
    assert sum("  passed" in line for line in lines) == len(CHECKS) + 1 - 4
    assert lines[-1].startswith(f"{len(CHECKS) - 3} passed, 0 failed, 4 not applicable, in ")
    assert content["failed"] == 0 and len(content["checks"]) == len(CHECKS) + 1


def test_command_leaves_with_status_1_if_a_check_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with of_another_make(AnyRange(ABOUT)) as address, pytest.raises(SystemExit) as left:
        main([address])
    assert left.value.code == 1
    assert ", 1 failed, " in capsys.readouterr().out


def test_no_teacher_is_one_error() -> None:
    with pytest.raises(OSError, match=r"a teacher must describe itself at 127\.0\.0\.1:1, got UNA"):
        main(["127.0.0.1:1", "--timeout", "1"])
