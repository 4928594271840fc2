"""Helm installs, upgrades, goes back and takes away on a real API server, with both ways of applying."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer
from tests.support.charts import NAMESPACE, SERVICES, SINGLE, Charts

APPLY = ("true", "false")
"""On the server, as Helm 4 does by default, and on the client, as Helm 3 did."""


def helm(charts: Charts, cluster: Path, *arguments: str) -> str:
    """Runs helm in the namespace; gives what it printed. Raises AssertionError where it fails."""
    done = charts.run(*arguments, "--namespace", NAMESPACE, cluster=cluster)
    assert done.returncode == 0, done.stderr
    return done.stdout


def image(server: ApiServer, service: str) -> str:
    """The image that a service's Deployment has."""
    found = server.call("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{service}")
    text: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return text


def jobs(server: ApiServer, service: str) -> list[str]:
    """The migrations of a service."""
    found = server.call("GET", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs")["items"]
    return [one["metadata"]["name"] for one in found if one["metadata"]["name"].startswith(f"{service}-migrate-")]


@pytest.mark.parametrize("applied", APPLY)
def test_a_service_is_upgraded_and_goes_back_by_itself(
    server: ApiServer, charts: Charts, tmp_path: Path, applied: str
) -> None:
    """Its neighbour stays as it is; each version has its own migration; what was scaled stays scaled."""
    cluster = server.kubeconfig(tmp_path / "kubeconfig")
    way = f"--server-side={applied}"
    for service in ("accounts", "transactions"):
        told = ("--set", f"service={service},autoscaling.enabled={'true' if service == 'accounts' else 'false'}")
        helm(charts, cluster, "install", service, "service", *told, *SINGLE, way)
    try:
        first = jobs(server, "accounts")
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/accounts"
        scaled = server.call("GET", path)
        scaled["spec"]["replicas"] = 7
        server.call("PUT", path, scaled)
        newer = ("--set", "service=accounts,autoscaling.enabled=true,image.tag=9.9.9")
        helm(charts, cluster, "upgrade", "accounts", "service", *newer, *SINGLE, way)
        assert image(server, "accounts") == "florin/accounts:9.9.9"
        assert image(server, "transactions") == "florin/transactions:0.1.0"
        assert server.call("GET", path)["spec"]["replicas"] == 7
        assert jobs(server, "accounts") != first
        helm(charts, cluster, "rollback", "accounts", "1", way)
        assert image(server, "accounts") == "florin/accounts:0.1.0"
        assert jobs(server, "accounts") == first
        history = json.loads(helm(charts, cluster, "history", "accounts", "--output", "json"))
        assert [one["revision"] for one in history] == [1, 2, 3]
    finally:
        for service in ("accounts", "transactions"):
            helm(charts, cluster, "uninstall", service)
    left = server.call("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments")["items"]
    assert left == []


@pytest.mark.parametrize("applied", APPLY)
def test_the_umbrella_is_installed_and_upgraded_without_a_change(
    server: ApiServer, charts: Charts, tmp_path: Path, applied: str
) -> None:
    """The same again changes nothing: no Job that cannot be changed, no field that two want."""
    cluster = server.kubeconfig(tmp_path / "kubeconfig")
    way = f"--server-side={applied}"
    helm(charts, cluster, "install", "florin", "florin", way)
    try:
        before = {service: jobs(server, service) for service in SERVICES}
        helm(charts, cluster, "upgrade", "florin", "florin", way)
        assert {service: jobs(server, service) for service in SERVICES} == before
        generation = server.call("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/edge")["metadata"]
        assert generation["generation"] == 1
    finally:
        helm(charts, cluster, "uninstall", "florin")
