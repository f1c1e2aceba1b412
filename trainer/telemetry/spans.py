"""OpenTelemetry spans, for who asks for them; without that nothing of the library is imported.

A span of a student's question goes with its requests, so that what the replicas did for it appears
under it. Spans leave in batches, by a thread of the library, over OTLP/HTTP; what its queue cannot
hold is dropped. How many are sampled and what is sent along are the library's own settings: the
environment variables OTEL_TRACES_SAMPLER and OTEL_EXPORTER_OTLP_HEADERS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

# W3C trace context: version, trace, span and flags.
MAX_TRACEPARENT = 64


class OpenSpan:
    """A span that has begun."""

    def __init__(self, span: Span, tracer: Tracer) -> None:
        self._span = span
        self._tracer = tracer

    @property
    def traceparent(self) -> str:
        """Names the span to another process."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def part(self, name: str, start_ns: int, end_ns: int) -> None:
        """A span within this one that is over; nanoseconds since the epoch."""
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        self._tracer.start_span(name, context, start_time=start_ns).end(end_ns)

    def end(self, outcome: str) -> None:
        """It is over."""
        self._span.set_attribute("outcome", outcome)
        self._span.end()


class Spans:
    """Where the spans of one process go."""

    def __init__(self, endpoint: str, *, service: str, instance: str) -> None:
        """Begin to send.

        Args:
            endpoint: URL of an OTLP/HTTP receiver.
            service: what the process is.
            instance: which one of them.

        Raises:
            ValueError: if the library is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ValueError(
                f"OpenTelemetry must be installed to send spans to {endpoint}, got: {error}. "
                "Run: pip install 'conkd[otel]'"
            ) from error
        names = {"service.name": service, "service.instance.id": instance}
        self._provider = TracerProvider(resource=Resource.create(names))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("conkd")

    def start(self, name: str, *, kind: str, examples: int, parent: bytes = b"") -> OpenSpan:
        """Begin a span, under one of another process if that is named by its traceparent."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # From the network: whatever does not read as a traceparent is none.
        carrier = parent[: MAX_TRACEPARENT + 1].decode("ascii", "replace")
        context = TraceContextTextMapPropagator().extract({"traceparent": carrier})
        attributes = {"kind": kind, "examples": examples}
        return OpenSpan(self._tracer.start_span(name, context, attributes=attributes), self._tracer)

    def close(self) -> None:
        """Send what is left, then stop."""
        self._provider.shutdown()
