"""Traces: what is taken for a trace context, and what a span tells of a call that failed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshkit import identity
from meshkit.errors import Overloaded
from meshkit.telemetry import Tracing

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "00",
        "-",
        GIVEN.upper(),
        GIVEN + "0",
        GIVEN + "\n",
        GIVEN.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "00-" + "a" * 30_000 + "-b7ad6b7169203331-01",
    ],
)
def test_what_is_no_trace_context_is_dropped(text: str) -> None:
    """It would go into logs, rows and the headers of events."""
    assert identity.trace_given({"traceparent": text}) == ""


def test_a_trace_context_is_taken_as_it_is() -> None:
    """The W3C form of version 00."""
    assert identity.trace_given({"traceparent": GIVEN}) == GIVEN


def test_without_one_the_edges_name_of_the_call_is_the_trace() -> None:
    """The edge's log and the services' logs have one id in common, also without a collector."""
    made = identity.trace_named({"x-request-id": "c2260b61-0e38-40d7-bb5a-0c37ea7aa94e"})
    assert identity.trace_given({"traceparent": made}) == made
    assert made[3:35] == "c2260b610e3840d7bb5a0c37ea7aa94e"
    assert made.endswith("-00")
    for name in ("", "chosen-by-a-caller", "c2260b61"):
        assert identity.trace_named({"x-request-id": name}) == ""


@pytest.fixture
def spans() -> Iterator[tuple[Tracing, InMemorySpanExporter]]:
    """A tracing that keeps its spans."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing()
    tracing._provider, tracing._tracer = provider, provider.get_tracer("test")
    yield tracing, exporter
    tracing.close()


def test_a_span_belongs_to_the_callers_trace_and_hands_it_on(spans: tuple[Tracing, InMemorySpanExporter]) -> None:
    """What is called within it continues the trace under the span."""
    tracing, exporter = spans
    with tracing.span("GetAccount", GIVEN) as handed_on:
        pass
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == GIVEN[36:52]
    assert handed_on == f"00-{GIVEN[3:35]}-{span.context.span_id:016x}-01"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Overloaded(), "OVERLOADED"), (TimeoutError(), "DEADLINE_EXCEEDED"), (KeyError("AT6119043002"), "INTERNAL")],
)
def test_a_failed_calls_span_has_the_reason_and_no_text(
    spans: tuple[Tracing, InMemorySpanExporter], error: Exception, reason: str
) -> None:
    """The text of an error may quote a row or what the caller sent."""
    tracing, exporter = spans
    with pytest.raises(type(error)), tracing.span("GetAccount"):
        raise error
    (span,) = exporter.get_finished_spans()
    assert dict(span.attributes or {})["error.type"] == reason
    assert not span.status.is_ok
    assert not span.events
    assert "AT6119043002" not in span.to_json()


def test_without_an_endpoint_the_trace_is_handed_on() -> None:
    """A mesh without a collector does not break its callers' traces."""
    with Tracing().span("GetAccount", GIVEN) as handed_on:
        assert handed_on == GIVEN
