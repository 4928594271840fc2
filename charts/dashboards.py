"""Writes the Grafana dashboard of each service into charts/service/dashboards, and the checker's into its chart's, from
the metrics that they really have.

`python charts/dashboards.py` writes them, with `--check` it only compares. The services themselves are not imported:
tests/charts looks each metric up in what they register.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent

# Title, unit, and each line's expression and legend; JOB is the service, RATE Grafana's interval.
Panel = tuple[str, str, tuple[tuple[str, str], ...]]

COMMON: tuple[Panel, ...] = (
    ("Calls a second", "reqps", (("sum by (code) (rate(florin_calls_total{JOB}[RATE]))", "{{code}}"),)),
    (
        "Time to answer, 99 of 100",
        "s",
        (
            (
                "histogram_quantile(0.99, sum by (le, method) (rate(florin_call_seconds_bucket{JOB}[RATE])))",
                "{{method}}",
            ),
        ),
    ),
    ("Refusals a second", "reqps", (("sum by (reason) (rate(florin_refusals_total{JOB}[RATE]))", "{{reason}}"),)),
    (
        "Calls in flight, ready replicas",
        "short",
        (("sum(florin_calls_in_flight{JOB})", "in flight"), ("sum(florin_ready{JOB})", "ready")),
    ),
    (
        "Items in a batch, half of them",
        "short",
        (
            (
                "histogram_quantile(0.5, sum by (le, batch) (rate(florin_batch_items_bucket{JOB}[RATE])))",
                "{{batch}}",
            ),
        ),
    ),
    ("Items waiting for a batch", "short", (("sum by (batch) (florin_batch_queue{JOB})", "{{batch}}"),)),
    (
        "Wait for a database connection, 99 of 100",
        "s",
        (("histogram_quantile(0.99, sum by (le) (rate(florin_pool_wait_seconds_bucket{JOB}[RATE])))", "wait"),),
    ),
    (
        "Transactions run again",
        "ops",
        (("sum by (cause) (rate(florin_transaction_retries_total{JOB}[RATE]))", "{{cause}}"),),
    ),
    (
        "Events that wait to be told",
        "short",
        (
            ("max(florin_outbox_unpublished{JOB})", "events"),
            ("max(florin_outbox_oldest_seconds{JOB})", "oldest, seconds"),
        ),
    ),
    (
        "Events told and heard a second",
        "ops",
        (
            ("sum(rate(florin_events_published_total{JOB}[RATE]))", "told"),
            ("sum by (stream, outcome) (rate(florin_events_consumed_total{JOB}[RATE]))", "{{stream}} {{outcome}}"),
        ),
    ),
    (
        "Messages that wait for a consumer, events given up",
        "short",
        (
            ("max by (stream) (florin_consumer_lag{JOB})", "{{stream}}"),
            ("sum by (stream) (increase(florin_dead_letters_total{JOB}[RATE]))", "given up, {{stream}}"),
        ),
    ),
    (
        "Failures of workers",
        "ops",
        (("sum by (worker) (rate(florin_worker_failures_total{JOB}[RATE]))", "{{worker}}"),),
    ),
)

OWN: dict[str, tuple[Panel, ...]] = {
    "accounts": (
        ("Tenants and currencies that do not balance", "short", (("max(florin_ledger_imbalances{JOB})", "pairs"),)),
        (
            "Sealing",
            "short",
            (
                ("sum(rate(florin_sealed_journals_total{JOB}[RATE]))", "journals a second"),
                ("min(florin_seal_delay_seconds{JOB})", "delay, seconds"),
            ),
        ),
        ("Accounts that are followed", "short", (("sum(florin_account_watches_open{JOB})", "streams"),)),
    ),
    "transactions": (
        ("Open transfers", "short", (("max by (state) (florin_saga_open{JOB})", "{{state}}"),)),
        ("Oldest open transfer", "s", (("max by (state) (florin_saga_oldest_seconds{JOB})", "{{state}}"),)),
        (
            "Schedules",
            "short",
            (
                ("sum by (state) (rate(florin_schedule_runs_total{JOB}[RATE]))", "{{state}} a second"),
                ("min(florin_schedule_lag_seconds{JOB})", "lag, seconds"),
            ),
        ),
        (
            "Calls to other services a second",
            "reqps",
            (
                (
                    "sum by (service, code) (rate(florin_outgoing_calls_total{JOB}[RATE]))",
                    "{{service}} {{code}}",
                ),
                ("sum(rate(florin_second_calls_total{JOB}[RATE]))", "made twice"),
            ),
        ),
        ("Streams of transfers", "short", (("sum(florin_transfer_streams_open{JOB})", "open"),)),
    ),
    "compliance": (
        (
            "Payments decided a second",
            "ops",
            (("sum by (outcome) (rate(florin_compliance_screened_total{JOB}[RATE]))", "{{outcome}}"),),
        ),
        (
            "Limits that do not add up, lapsed reservations",
            "short",
            (
                ("max(florin_compliance_limit_imbalances{JOB})", "limits"),
                ("max(florin_compliance_reservations_lapsed{JOB})", "lapsed"),
            ),
        ),
    ),
    "notifications": (
        (
            "Webhook attempts a second",
            "ops",
            (("sum by (outcome) (rate(florin_webhook_attempts_total{JOB}[RATE]))", "{{outcome}}"),),
        ),
        ("Attempts that wait for their receiver", "short", (("sum(florin_webhook_attempts_in_flight{JOB})", "open"),)),
        ("Event streams", "short", (("sum(florin_event_streams_open{JOB})", "open"),)),
    ),
}

CHECKER: tuple[Panel, ...] = (
    ("Violations that stand", "short", (("max by (invariant) (florin_invariant_violations{JOB})", "{{invariant}}"),)),
    (
        "Since each invariant was judged",
        "s",
        (("time() - max by (invariant) (florin_invariant_last_checked_timestamp_seconds{JOB})", "{{invariant}}"),),
    ),
    (
        "Judged a second",
        "ops",
        (("sum by (invariant) (rate(florin_invariant_checked_total{JOB}[RATE]))", "{{invariant}}"),),
    ),
    (
        "How long the last sweep of a table took",
        "s",
        (("max by (table) (florin_checker_sweep_last_seconds{JOB})", "{{table}}"),),
    ),
    (
        "Rows of the sweep under way, of the last one",
        "short",
        (
            ("max by (table) (florin_checker_sweep_rows{JOB})", "{{table}}"),
            ("max by (table) (florin_checker_sweep_last_rows{JOB})", "{{table}}, last"),
        ),
    ),
    (
        "Since the last sweep ended",
        "s",
        (("time() - max by (table) (florin_checker_sweep_last_end_timestamp_seconds{JOB})", "{{table}}"),),
    ),
    (
        "Second looks that wait, journals left to the sweeps",
        "short",
        (
            ("max(florin_checker_waiting{JOB})", "looks"),
            ("sum(increase(florin_checker_tail_skipped_total{JOB}[RATE]))", "times left"),
        ),
    ),
    (
        "Readings that failed, freezes asked for",
        "ops",
        (
            ("sum by (cause) (rate(florin_checker_failures_total{JOB}[RATE]))", "{{cause}}"),
            ("sum by (outcome) (rate(florin_checker_freezes_total{JOB}[RATE]))", "freezes, {{outcome}}"),
        ),
    ),
    (
        "Checkers that work, that are ready",
        "short",
        (("sum(florin_checker_leading{JOB})", "work"), ("sum(florin_ready{JOB})", "ready")),
    ),
)
BOARDS = {
    **{service: ("service", (*own, *COMMON)) for service, own in OWN.items()},
    "checker": ("checker", CHECKER),
}
"""Name → the chart that has it, and its panels."""


def dashboard(service: str) -> str:
    """A dashboard as JSON: a service's own panels, then those that all have."""
    panels = [_panel(number, service, panel) for number, panel in enumerate(BOARDS[service][1])]
    made: dict[str, Any] = {
        "title": f"Florin {service}",
        "uid": f"florin-{service}",
        "tags": ["florin"],
        "timezone": "utc",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }
    return json.dumps(made, indent=1) + "\n"


def _panel(number: int, service: str, panel: Panel) -> dict[str, Any]:
    title, unit, lines = panel
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number + 1,
        "title": title,
        "type": "timeseries",
        "datasource": source,
        "gridPos": {"h": 8, "w": 8, "x": number % 3 * 8, "y": number // 3 * 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": source,
                "expr": expression.replace("JOB", f'job="{service}"').replace("RATE", "$__rate_interval"),
                "legendFormat": legend,
            }
            for position, (expression, legend) in enumerate(lines)
        ],
    }


def main(check: bool) -> int:
    """Writes the files, or says which are not as they would be written."""
    stale = []
    for service, (chart, _) in BOARDS.items():
        path = FOLDER / chart / "dashboards" / f"{service}.json"
        text = dashboard(service)
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"not as charts/dashboards.py writes them: {', '.join(stale)}; run `make charts-files`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
