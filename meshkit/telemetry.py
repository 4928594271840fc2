"""Metrics and traces: the kit's own meters, and spans when an OTLP endpoint is set; it must never fail a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from meshkit import errors

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

    from meshkit.settings import ServiceSettings

# Seconds; from an in-memory answer to the longest deadline.
_CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

CALLS = Counter("florin_calls_total", "Calls answered.", ["method", "code"])
CALL_SECONDS = Histogram("florin_call_seconds", "Time to answer a call.", ["method"], buckets=_CALL_BUCKETS)
# To find a metric by its labels takes longer than to count.
calls = cache(CALLS.labels)
call_seconds = cache(CALL_SECONDS.labels)
CALLS_IN_FLIGHT = Gauge("florin_calls_in_flight", "Calls being answered.")
REFUSALS = Counter("florin_refusals_total", "Calls refused, by reason.", ["method", "reason"])
REPLAYS = Counter("florin_replays_total", "Answers given again for the same request_id.")
OUTGOING_CALLS = Counter("florin_outgoing_calls_total", "Calls to other services.", ["service", "method", "code"])
BATCH_ITEMS = Histogram(
    "florin_batch_items", "Items in a batch.", ["batch"], buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
)
BATCH_QUEUE = Gauge("florin_batch_queue", "Items waiting for a batch.", ["batch"])
POOL_WAIT = Histogram(
    "florin_pool_wait_seconds", "Wait for a database connection.", buckets=(0.0005, 0.001, 0.01, 0.1, 0.5, 2)
)
TRANSACTION_RETRIES = Counter("florin_transaction_retries_total", "Transactions run again.", ["cause"])
OUTBOX_UNPUBLISHED = Gauge("florin_outbox_unpublished", "Events written and not published yet, 100,000 at most.")
OUTBOX_AGE = Gauge("florin_outbox_oldest_seconds", "Age of the oldest unpublished event.")
EVENTS_PUBLISHED = Counter("florin_events_published_total", "Events published.", ["subject"])
EVENTS_CONSUMED = Counter("florin_events_consumed_total", "Events processed.", ["stream", "outcome"])
CONSUMER_LAG = Gauge("florin_consumer_lag", "Messages, of up to 100 events, that wait for this consumer.", ["stream"])
DEAD_LETTERS = Counter("florin_dead_letters_total", "Events given up and kept for redrive.", ["stream"])
WORKER_FAILURES = Counter("florin_worker_failures_total", "Failures of a background worker.", ["worker"])
READY = Gauge("florin_ready", "1 while the service takes calls.")


class Tracing:
    """Spans by OpenTelemetry when an endpoint is set; otherwise the incoming trace context is only handed on."""

    def __init__(self) -> None:
        self._tracer: Tracer | None = None
        self._provider: TracerProvider | None = None

    def configure(self, settings: ServiceSettings) -> None:
        """Begins to export spans if settings name an endpoint."""
        if settings.otlp_endpoint is None:
            return
        # Imported here: the exporter costs some 30 MB and a quarter of a second that most processes do not need.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        provider = TracerProvider(
            resource=Resource.create({"service.name": settings.service}),
            sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)),
        )
        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=True)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._provider = provider
        self._tracer = provider.get_tracer("florin")

    @contextmanager
    def span(self, name: str, traceparent: str = "", attributes: Mapping[str, str] | None = None) -> Iterator[str]:
        """A span below `traceparent`; gives the traceparent for what is called within it."""
        if self._tracer is None:
            yield traceparent
            return
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        parent = propagator.extract({"traceparent": traceparent} if traceparent else {})
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=SpanKind.SERVER,
            attributes=dict(attributes or {}),
            # An error's text may quote what the caller sent or a row holds; its reason is enough.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            carrier: dict[str, str] = {}
            propagator.inject(carrier)
            try:
                yield carrier.get("traceparent", traceparent)
            except Exception as error:
                span.set_attribute("error.type", errors.reason_of_error(error))
                span.set_status(StatusCode.ERROR)
                raise

    def close(self) -> None:
        """Sends what is left and ends."""
        if self._provider is not None:
            self._provider.shutdown()


TRACING = Tracing()
"""The process's tracing; a process has one."""
