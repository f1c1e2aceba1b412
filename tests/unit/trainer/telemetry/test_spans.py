"""Spans of a student and of the replicas that it asks, as a receiver of OTLP gets them."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.fake_teacher import FakeTeacher
from tests.support.replica_calls import int32, request, run, running, score
from tests.support.secure_fleet import ask, fleet
from tests.support.secure_fleet import run as run_fleet
from trainer.config.watch import check_endpoint
from trainer.security.credentials import NO_SECURITY
from trainer.telemetry.spans import Spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def receiver() -> Iterator[tuple[str, list[Span]]]:
    """URL of a receiver, and what it got."""
    got: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    got.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def attributes(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_request_is_a_span_of_its_parts_under_that_of_who_asked() -> None:
    async def scenario(url: str) -> None:
        spans = Spans(url, service="conkd-dialogue", instance="replica-1")
        async with running(FakeTeacher(), spans=spans) as (_, stub):
            good = request(1)
            good.traceparent = f"00-{TRACE}-{PARENT}-01".encode()
            bad = request(2, fields={"range_lengths": int32(0, 1)})
            bad.traceparent = b"\xff" * 1000
            await score(stub, [good, bad])

    with receiver() as (url, got):
        run(lambda: scenario(url))
    (good,) = (it for it in got if it.name == "score" and it.trace_id.hex() == TRACE)
    assert good.parent_span_id.hex() == PARENT
    assert attributes(good) == {"kind": "dialogue", "examples": 2, "outcome": "block"}
    parts = sorted(
        (it for it in got if it.parent_span_id == good.span_id),
        key=lambda it: it.start_time_unix_nano,
    )
    assert [it.name for it in parts] == ["queue", "forward", "encode"]
    for one, next_one in itertools.pairwise(parts):
        assert one.end_time_unix_nano == next_one.start_time_unix_nano
    (bad,) = (it for it in got if it.name == "score" and it.trace_id.hex() != TRACE)
    assert (bad.parent_span_id, attributes(bad)["outcome"]) == (b"", "invalid")


def test_question_of_a_student_is_the_parent_of_what_the_replicas_did() -> None:
    async def scenario(url: str) -> None:
        spans = [Spans(url, service=name, instance="0") for name in ("student", "teachers")]
        async with fleet(NO_SECURITY, spans=spans[1]) as running:
            await asyncio.to_thread(ask, running.directory, NO_SECURITY, spans=spans[0])

    with receiver() as (url, got):
        run_fleet(lambda: scenario(url))
    asked = {attributes(it)["kind"]: it for it in got if it.name == "targets"}
    assert sorted(map(str, asked)) == ["dialogue", "recommendation"]
    for kind, span in asked.items():
        (scored,) = (it for it in got if it.name == "score" and it.trace_id == span.trace_id)
        assert (scored.parent_span_id, attributes(scored)["kind"]) == (span.span_id, kind)
        assert attributes(span)["outcome"] == "rows"


def test_receiver_that_is_not_there_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")

    async def scenario() -> None:
        spans = Spans("http://127.0.0.1:1/v1/traces", service="a", instance="b")
        async with running(FakeTeacher(), spans=spans) as (_, stub):
            assert (await score(stub, [request(1)]))[1].WhichOneof("outcome") == "block"

    run(scenario)


def test_endpoint_that_is_no_url_names_its_option() -> None:
    check_endpoint("--spans", "")
    with pytest.raises(ValueError, match="--spans must be the URL of an OTLP/HTTP receiver"):
        check_endpoint("--spans", "127.0.0.1:4317")
