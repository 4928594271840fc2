"""Alarms and dashboards ask for metrics that the services have, with labels that these have."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from tests.support.charts import ROOT, SERVICES, Objects

KNOWN_LABELS = {"job", "le"}
WATCHED = (*SERVICES, "checker")


def metrics() -> dict[str, set[str]]:
    """Each sample's name → its labels, of all that is registered once every service is imported."""
    for service in WATCHED:
        importlib.import_module(f"{service}.app")
    found: dict[str, set[str]] = {}
    for collector, names in REGISTRY._collector_to_names.items():
        labels = set(getattr(collector, "_labelnames", ()))
        for name in names:
            found[name] = labels
    return found


def defined_in(name: str, service: str) -> bool:
    """Whether a metric is the kit's or the service's own: another service's would never have a value."""
    stem = re.sub(r"_(bucket|count|sum|total)$", "", name)
    folders = (ROOT / "meshkit", ROOT / service)
    return any(f'"{stem}' in path.read_text() for folder in folders for path in folder.glob("*.py"))


def queries(production: Objects) -> Iterator[tuple[str, str]]:
    """Service and expression of every alarm and every line of a dashboard."""
    for service in WATCHED:
        for group in production.one("PrometheusRule", service)["spec"]["groups"]:
            yield from ((service, rule["expr"]) for rule in group["rules"])
        board = json.loads(production.one("ConfigMap", f"{service}-dashboard")["data"][f"florin-{service}.json"])
        for panel in board["panels"]:
            yield from ((service, target["expr"]) for target in panel["targets"])


def test_every_query_asks_for_what_its_service_has(production: Objects) -> None:
    """Metric, labels, and the job of the monitor that reads it."""
    known = metrics()
    asked = 0
    for service, expression in queries(production):
        used = re.findall(r"\b(florin_[a-z_]+)(\{[^}]*\})?", expression)
        assert used, expression
        grouped = {label for text in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", text)}
        for name, matchers in used:
            asked += 1
            assert name in known, f"{service}: {name}"
            assert defined_in(name, service), f"{service}: {name}"
            assert f'job="{service}"' in matchers, expression
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) | grouped
            assert labels <= known[name] | KNOWN_LABELS, f"{service}: {name} {labels}"
    assert asked > 90


def test_the_monitors_find_the_services(production: Objects) -> None:
    """The job is the service's name, which alarms and dashboards go by."""
    for service in WATCHED:
        monitor = production.one("ServiceMonitor", service)["spec"]
        target = production.one("Service", service)
        assert monitor["selector"]["matchLabels"].items() <= target["metadata"]["labels"].items()
        assert target["metadata"]["labels"][monitor["jobLabel"]] == service
        assert monitor["endpoints"][0]["port"] in {port["name"] for port in target["spec"]["ports"]}


def test_the_dashboards_are_as_they_are_written() -> None:
    """Those in the repository are what charts/dashboards.py makes."""
    spec = importlib.util.spec_from_file_location("charts_dashboards", ROOT / "charts" / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(check=True) == 0


def test_the_alarms_of_the_documents_are_there(production: Objects) -> None:
    """docs/production.md names the metrics that somebody has to be woken for; each has its alarm."""
    page = (ROOT / "docs" / "production.md").read_text()
    table = page[page.index("| Alarm | Means |") :].split("\n\n")[0]
    named = set(re.findall(r"`(florin_[a-z_]+)", table))
    watched = {
        name
        for service in WATCHED
        for group in production.one("PrometheusRule", service)["spec"]["groups"]
        for rule in group["rules"]
        for name in re.findall(r"florin_[a-z_]+", rule["expr"])
    }
    assert named
    assert named <= watched, sorted(named - watched)


@pytest.mark.parametrize("service", WATCHED)
def test_an_alarm_says_what_to_do(production: Objects, service: str) -> None:
    """A summary, a description, a severity, and no two of one name."""
    rules = [rule for group in production.one("PrometheusRule", service)["spec"]["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert {"summary", "description"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in {"critical", "warning"}
