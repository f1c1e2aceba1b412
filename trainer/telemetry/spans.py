"""OpenTelemetry spans, if an endpoint is set; otherwise the library is not imported.

The requests of a student carry its span, so the spans of replicas appear under it. A thread of the
library sends them in batches over OTLP/HTTP and drops what its queue cannot hold. Sampling and
headers are settings of the library: OTEL_TRACES_SAMPLER and OTEL_EXPORTER_OTLP_HEADERS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.common.errors import InputError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

# W3C trace context: version, trace, span and flags.
MAX_TRACEPARENT = 64


class OpenSpan:
    """A span that has started."""

    def __init__(self, span: Span, tracer: Tracer) -> None:
        self._span = span
        self._tracer = tracer

    @property
    def traceparent(self) -> str:
        """The W3C header that names this span to another process."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def part(self, name: str, start_ns: int, end_ns: int) -> None:
        """Add a finished child span; nanoseconds since the epoch."""
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        self._tracer.start_span(name, context, start_time=start_ns).end(end_ns)

    def end(self, outcome: str) -> None:
        """Finish the span with an attribute `outcome`."""
        self._span.set_attribute("outcome", outcome)
        self._span.end()


class Spans:
    """The tracer of one process."""

    def __init__(self, endpoint: str, *, service: str, instance: str) -> None:
        """Start to send.

        Args:
            endpoint: URL of an OTLP/HTTP receiver.
            service: OpenTelemetry's `service.name`.
            instance: its `service.instance.id`.

        Raises:
            InputError: if the library is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise InputError(
                f"OpenTelemetry must be installed to send spans to {endpoint}, got: {error}. "
                "Run: pip install 'conkd[otel]'"
            ) from error
        names = {"service.name": service, "service.instance.id": instance}
        self._provider = TracerProvider(resource=Resource.create(names))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("conkd")

    def start(self, name: str, *, kind: str, examples: int, parent: bytes = b"") -> OpenSpan:
        """Start a span, as a child of `parent` if that is a valid traceparent."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # From the network: what is not a valid traceparent is ignored.
        carrier = parent[: MAX_TRACEPARENT + 1].decode("ascii", "replace")
        context = TraceContextTextMapPropagator().extract({"traceparent": carrier})
        attributes = {"kind": kind, "examples": examples}
        return OpenSpan(self._tracer.start_span(name, context, attributes=attributes), self._tracer)

    def close(self) -> None:
        """Send the remaining spans, then stop."""
        self._provider.shutdown()
