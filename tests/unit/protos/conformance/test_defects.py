"""A teacher that breaks the contract in one way fails the checks that are for it, and no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from protos import handshake
from protos.codec import TargetRows
from protos.conformance import caller_checks
from protos.conformance.caller_checks import CALLER_CHECKS
from protos.conformance.description_checks import HANDSHAKE_CHECKS
from protos.conformance.error_checks import ERROR_CHECKS
from protos.conformance.outcomes import Check
from protos.conformance.row_checks import ROW_CHECKS
from protos.conformance.stream_checks import STREAM_CHECKS
from protos.conformance.temperature_checks import TEMPERATURE_CHECKS
from protos.target_rows import ITEM_MASS
from protos.teacher_pb2 import Compression, Description, ScoreError, ScoreReply
from tests.support import other_make
from tests.support.checked_teachers import (
    MANIFEST,
    checked,
    failures,
    of_another_make,
    skipped,
)
from tests.support.other_make import BigramTeacher
from tests.support.secure_fleet import TOKEN
from trainer.security.credentials import NO_SECURITY, SecurityFiles

ABOUT = other_make.describe(MANIFEST)
RANGES = "answers ranges as if each was alone"
SOFTENS = "softens rows at a temperature"
PINGS = "keeps a stream whose caller pings every 5 s"
# What gRPC's servers allow if they are not told otherwise.
FIVE_MINUTES_MS = 300_000


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


class SameDraws(BigramTeacher):
    """Draws depend on the input alone."""

    def _rows(self, request: Any) -> TargetRows:
        request.compression.seed = 0
        return super()._rows(request)


class AnyTemperature(BigramTeacher):
    """Takes temperatures that its Description does not allow, and changes nothing."""

    def _rows(self, request: Any) -> TargetRows:
        request.temperature = 1.0
        return super()._rows(request)


class Softens(BigramTeacher):
    """Softens as the contract says, but for `item_mass`, which it takes of the softened rows."""

    def _rows(self, request: Any) -> TargetRows:
        temperature = request.temperature or 1.0
        low, high = self.about.min_temperature, self.about.max_temperature
        if not low <= temperature <= high:
            raise ValueError(f"temperature must be in [{low}, {high}].")
        request.temperature = 1.0
        before_VD = self._before_VD
        try:
            self._before_VD = before_VD / temperature
            return super()._rows(request)
        finally:
            self._before_VD = before_VD


class OtherTemperature(BigramTeacher):
    """Serves those who expect rows of another temperature than it has."""

    def Score(self, requests: Iterator[Any], context: Any) -> Iterator[ScoreReply]:
        sent = context.invocation_metadata()

        class Caller:
            abort = context.abort

            def invocation_metadata(self) -> Any:
                return [it for it in sent if it[0] != handshake.TEMPERATURE]

        yield from super().Score(requests, Caller())


class Guarded(BigramTeacher):
    """Serves callers with the token alone."""

    def Describe(self, request: Any, context: Any) -> Description:
        self.check(context)
        return super().Describe(request, context)

    def Score(self, requests: Iterator[Any], context: Any) -> Iterator[ScoreReply]:
        self.check(context)
        yield from super().Score(requests, context)

    def check(self, context: Any) -> None:
        if not self.is_right(dict(context.invocation_metadata()).get("authorization")):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token must be right.")

    def is_right(self, sent: str | None) -> bool:
        return sent == f"Bearer {TOKEN}"


class AnyToken(Guarded):
    def is_right(self, sent: str | None) -> bool:
        return sent is not None


class StreamsUnguarded(Guarded):
    """Checks the token where it is asked what it is, and nowhere else."""

    def Score(self, requests: Iterator[Any], context: Any) -> Iterator[ScoreReply]:
        yield from BigramTeacher.Score(self, requests, context)


def of_range(low: float, high: float) -> Description:
    about = other_make.describe(MANIFEST)
    about.min_temperature, about.max_temperature = low, high
    return about


def broken_by(
    teacher: BigramTeacher,
    checks: Sequence[Check],
    *,
    ping_ms: int = 1,
    files: SecurityFiles = NO_SECURITY,
) -> set[str]:
    with of_another_make(teacher, ping_ms) as address:
        found = failures(checked(address, checks, files))
    assert all(found.values())
    return set(found)


def names_of(checks: Sequence[Check], beginning: str = "") -> set[str]:
    return {it.name for it in checks if it.name.startswith(beginning)}


@pytest.mark.parametrize(
    ("defect", "broken"),
    [
        (MassAfterTheCut, {"sends the mass of all items"}),
        (NoMass, {"sends kept mass and tail that make 1"}),
        (NoTail, {"cuts rows by top_k", "cuts rows by top_p", "sends the mass of all items"}),
        (SeedIgnored, {"draws the same rows from the same seed", RANGES}),
        (SameDraws, {"draws other rows from another seed"}),
        (Misplaces, {RANGES}),
        (LowIsLess, {"answers a low request of a run the same way"}),
    ],
)
def test_defect_of_rows_fails_there(defect: type[BigramTeacher], broken: set[str]) -> None:
    assert broken_by(defect(ABOUT), ROW_CHECKS) == broken


@pytest.mark.parametrize(
    ("defect", "broken"),
    [
        (Noisy, "answers the same request the same way"),
        (LooksAround, "answers a sequence the same way in company"),
    ],
)
def test_answers_that_are_never_the_same_fail_there_too(
    defect: type[BigramTeacher], broken: str
) -> None:
    # Whatever compares two answers finds these.
    assert broken in broken_by(defect(ABOUT), ROW_CHECKS)


def test_teacher_without_a_mass_need_not_give_it() -> None:
    about = other_make.describe(MANIFEST)
    del about.masses[:]
    with of_another_make(NoMass(about)) as address:
        report = checked(address, ROW_CHECKS)
    assert failures(report) == {}
    assert skipped(report) == {"sends the mass of all items"}


def test_stream_without_a_handshake_fails_all_checks_of_it() -> None:
    refusals = names_of(HANDSHAKE_CHECKS, "refuses a stream ")
    assert len(refusals) == 7
    assert broken_by(NoHandshake(ABOUT), HANDSHAKE_CHECKS) == refusals


def test_handshake_of_another_temperature_fails_alone() -> None:
    broken = {"refuses a stream with another conkd-temperature"}
    assert broken_by(OtherTemperature(ABOUT), HANDSHAKE_CHECKS) == broken


@pytest.mark.parametrize("defect", [EndsTheStream, OtherCode])
def test_refusal_of_another_sort_fails_every_check_of_refusals(
    defect: type[BigramTeacher],
) -> None:
    # The last ones; they are all made in one way.
    checks = ERROR_CHECKS[-3:]
    assert broken_by(defect(ABOUT), checks) == names_of(checks)


def test_defect_of_ranges_alone_fails_nothing_else() -> None:
    assert broken_by(AnyRange(ABOUT), ERROR_CHECKS) == {"refuses ranges out of order"}


def test_lost_reply_fails_there() -> None:
    broken = {"answers many requests of a stream"}
    assert broken_by(LosesReplies(ABOUT), STREAM_CHECKS) == broken


@pytest.mark.parametrize(
    ("teacher", "broken"),
    [
        (BigramTeacher(of_range(0.5, 4.0)), {SOFTENS}),
        (Softens(of_range(0.5, 4.0)), {SOFTENS}),
        (AnyTemperature(ABOUT), names_of(TEMPERATURE_CHECKS, "refuses ")),
    ],
    ids=["refuses what it allows", "softens masses", "allows more than it says"],
)
def test_defect_of_temperatures_fails_there(teacher: BigramTeacher, broken: set[str]) -> None:
    assert len(broken) in (1, 4)
    assert broken_by(teacher, TEMPERATURE_CHECKS) == broken


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_checks, "EVERY_S", 0.1)


@pytest.mark.usefixtures("quick_pings")
def test_server_that_allows_fewer_pings_fails_there() -> None:
    assert broken_by(BigramTeacher(ABOUT), CALLER_CHECKS, ping_ms=FIVE_MINUTES_MS) == {PINGS}
    assert broken_by(BigramTeacher(ABOUT), CALLER_CHECKS, ping_ms=50) == set()


@pytest.mark.usefixtures("quick_pings")
@pytest.mark.parametrize(
    ("teacher", "broken"),
    [
        (Guarded(ABOUT), ""),
        (BigramTeacher(ABOUT), "refuses a caller "),
        (StreamsUnguarded(ABOUT), "refuses a caller "),
        (AnyToken(ABOUT), "refuses a caller with another token"),
    ],
    ids=["none", "asks for no token", "asks in one method", "takes any token"],
)
def test_defect_of_tokens_fails_there(teacher: BigramTeacher, broken: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    files = SecurityFiles(token_file=str(token))
    expected = names_of(CALLER_CHECKS, broken) if broken else set()
    assert broken_by(teacher, CALLER_CHECKS, ping_ms=50, files=files) == expected
