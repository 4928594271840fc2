"""One release of everything, or one for each service: the same pods, each with its own version and way back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from florin.accounts.v1.account_service_pb2 import DESCRIPTOR
from tests.support.charts import (
    NAMESPACE,
    ROOT,
    SERVICES,
    SINGLE,
    Charts,
    Manifest,
    Objects,
    environment,
    without_release,
)


def described(objects: Objects) -> dict[tuple[str, str], Manifest]:
    """Kind and name → the object, without what only tells which release it is of."""
    made = [without_release(one) for one in objects.every]
    return {(one["kind"], one["metadata"]["name"]): one for one in made}


def test_single_releases_are_the_umbrella_in_parts(charts: Charts, production: Objects, tmp_path: Path) -> None:
    """With the same values, six releases render to the letter what the umbrella does for them."""
    together = described(production)
    whole = yaml.safe_load((ROOT / "charts" / "florin" / "values-production.yaml").read_text())
    defaults = yaml.safe_load((ROOT / "charts" / "florin" / "values.yaml").read_text())
    seen = set()
    for name in (*SERVICES, "checker", "edge"):
        mine = {**defaults[name], **whole.get(name, {})}
        told = tmp_path / f"{name}.yaml"
        shared = {**whole["global"], "image": {"pullPolicy": "IfNotPresent", **whole["global"]["image"]}}
        told.write_text(yaml.safe_dump({**mine, "global": shared}))
        chart = name if name in {"checker", "edge"} else "service"
        alone = described(charts.render(chart, "-f", str(told), release=name))
        for key, one in alone.items():
            assert one == together[key], key
        seen |= set(alone)
    left = {key for key in together if key not in seen}
    assert {name.partition("-")[0] for _, name in left} == {"nats", "streams", "operator", "florin", "payment"}


def test_a_migration_is_named_by_what_it_runs(charts: Charts) -> None:
    """A Job never changes, so another image is another Job; the same one is the same, and is not run again."""
    base = ("--set", "service=accounts", *SINGLE)
    names = [
        charts.render("service", *base, *more).one("Job", "accounts-migrate-*")["metadata"]["name"]
        for more in ((), ("--set", "replicas=5"), ("--set", "image.tag=2.0.0"), ("--set", "image.tag=2.0.0"))
    ]
    assert names[0] == names[1]
    assert names[1] != names[2]


def test_pods_wait_for_their_schema(evaluation: Objects) -> None:
    """A new version starts when its schema is there, and says what it waits for until then."""
    for service in SERVICES:
        pod = evaluation.one("Deployment", service)["spec"]["template"]["spec"]
        first = pod["initContainers"][0]
        assert first["args"] == ["await-schema", "600"]
        assert environment(first) == environment(pod["containers"][0])


def test_migrations_are_hooks_only_where_that_is_asked_for(charts: Charts, evaluation: Objects) -> None:
    """As a hook it needs nothing of the release that it runs before."""
    assert "annotations" not in evaluation.one("Job", "accounts-migrate-*")["metadata"]
    for hook, name in (("helm", "helm.sh/hook"), ("argocd", "argocd.argoproj.io/hook")):
        made = charts.render("service", "--set", f"service=accounts,migrations.hook={hook}", *SINGLE)
        job = made.one("Job", "accounts-migrate")  # the next one replaces it, found by its name
        assert name in job["metadata"]["annotations"]
        assert job["spec"]["template"]["spec"]["serviceAccountName"] == "default"


def test_a_canary_takes_nothing_from_the_release_beside_it(charts: Charts, tmp_path: Path) -> None:
    """It has pods of its own; what finds all pods of the service, or is one for all, stays with the first release."""
    whole = yaml.safe_load((ROOT / "charts" / "florin" / "values-production.yaml").read_text())
    shared = tmp_path / "mesh.yaml"
    shared.write_text(yaml.safe_dump({"global": whole["global"]}))
    told = ("-f", str(shared), "--set", "service=accounts")
    first = charts.render("service", *told)
    canary = charts.render("service", *told, "--set", "fullnameOverride=accounts-canary", release="canary")
    assert {one["kind"] for one in first.every} - {one["kind"] for one in canary.every} == {
        "Certificate",
        "ServiceMonitor",
        "PrometheusRule",
        "ConfigMap",
    }
    assert {one["metadata"]["name"] for one in first.every} & {one["metadata"]["name"] for one in canary.every} == set()
    pods = canary.one("Deployment", "accounts-canary")["spec"]["template"]
    assert first.one("Service", "accounts")["spec"]["selector"].items() <= pods["metadata"]["labels"].items()
    assert not first.one("Deployment", "accounts")["spec"]["selector"]["matchLabels"].items() <= (
        pods["metadata"]["labels"].items()
    )
    files = {volume["name"]: volume["secret"] for volume in pods["spec"]["volumes"] if "secret" in volume}
    assert files["tls"]["secretName"] == first.one("Certificate", "accounts")["spec"]["secretName"]


def test_the_edge_gives_a_canary_its_share(charts: Charts) -> None:
    """By Services that find the pods of one release alone, while the service's own finds those of both."""
    pods = {}
    for release, told in (("accounts", ""), ("canary", ",fullnameOverride=accounts-canary")):
        objects = charts.render("service", *SINGLE, "--set", f"service=accounts{told}", release=release)
        pods[release] = objects.one("Deployment", "accounts*")["spec"]["template"]["metadata"]["labels"].items()
        name = "accounts-stable" if release == "accounts" else "accounts-canary"
        alone = objects.one("Service", name)["spec"]["selector"].items()
        assert [one for one, labels in pods.items() if alone <= labels] == [release]
    edge = charts.render("edge", *SINGLE, "--set", "canary.service=accounts,canary.percent=5")
    arguments = edge.one("Deployment", "edge")["spec"]["template"]["spec"]["initContainers"][0]["args"]
    inside = "bank.svc.cluster.local:50051"
    assert f"--upstream=accounts=accounts-stable.{inside}" in arguments
    assert f"--canary=accounts:5=accounts-canary.{inside}" in arguments
    assert f"--upstream=transactions=transactions.{inside}" in arguments


def test_a_second_edge_has_callers_and_a_certificate_of_its_own(charts: Charts) -> None:
    """For example one for those inside: neither gets the calls, the secret or the monitor of the other."""
    told = "fullnameOverride=inner,certificates.issuerRef.name=florin,metrics.serviceMonitor=true"
    prometheus = "networkPolicy.metrics[0].podSelector.matchLabels.app=prometheus"
    inner = charts.render("edge", *SINGLE, "--set", f"{told},{prometheus}", release="inner")
    labels = inner.one("Deployment", "inner")["spec"]["template"]["metadata"]["labels"]
    other = charts.render("edge", *SINGLE).one("Deployment", "edge")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        inner.one("Service", "inner")["spec"]["selector"],
        inner.one("PodMonitor", "inner")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert not selector.items() <= other.items()
    assert inner.one("Certificate", "inner")["spec"]["secretName"] == "inner-tls"


def test_certificates_name_identities(production: Objects) -> None:
    """Each has its SPIFFE name and the DNS names that it is reached by, and goes where it is mounted from."""
    for name in (*SERVICES, "edge", "nats", "operator"):
        one = production.one("Certificate", name)["spec"]
        assert one["uris"] == [f"spiffe://florin/{name}"]
        assert one["dnsNames"][0] == name
        assert one["secretName"] == f"{name}-tls"
        assert "server auth" in one["usages"]
    assert f"*.nats-pods.{NAMESPACE}.svc.cluster.local" in production.one("Certificate", "nats")["spec"]["dnsNames"]
    assert "payments.bank.example" in production.one("Certificate", "edge")["spec"]["dnsNames"]


def test_a_database_cluster_of_its_own_has_the_roles_of_the_documents(charts: Charts) -> None:
    """CloudNativePG makes the owner and the runtime role without more rights than they need, and commits wait for a
    second copy."""
    made = charts.render("service", "--set", "service=accounts,database.cluster.enabled=true", *SINGLE)
    spec = made.one("Cluster", "accounts-db")["spec"]
    role = spec["managed"]["roles"][0]
    assert (role["name"], role["bypassrls"], role["superuser"]) == ("accounts_runtime", False, False)
    assert spec["bootstrap"]["initdb"]["owner"] == "accounts_owner"
    assert spec["postgresql"]["synchronous"] == {"method": "any", "number": 1, "dataDurability": "required"}
    told = environment(made.one("Deployment", "accounts")["spec"]["template"]["spec"]["containers"][0])
    assert told["ACCOUNTS_DATABASE_URL"] == (
        "postgresql+psycopg://accounts_runtime@accounts-db-rw:5432/accounts"
        "?sslmode=verify-full&sslrootcert=/etc/florin/database-ca/ca.crt"
    )


def test_the_notes_end_in_a_first_call_that_can_be_made(charts: Charts) -> None:
    """Service, method and fields are those of the contract, and the commands those of florin."""
    done = charts.run("install", "florin", "florin", "--dry-run=client", "--namespace", NAMESPACE)
    assert done.returncode == 0, done.stderr
    notes = done.stdout[done.stdout.index("NOTES:") :]
    service, method = re.findall(r"localhost:8443 (\S+)/(\S+)", notes)[0]
    asked = json.loads(re.findall(r"-d '(.*)'", notes)[0])
    request = DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name[method].input_type
    assert set(asked) <= set(request.fields_by_name)
    assert f"-n {NAMESPACE}" in notes
    assert "florin deploy token --folder FOLDER --as operator --tenant demo" in notes


def test_scaling_by_waiting_messages_is_asked_for(charts: Charts) -> None:
    """By CPU alone unless somebody has an adapter that serves the lag."""
    base = ("--set", "service=notifications,autoscaling.enabled=true", *SINGLE)
    plain = charts.render("service", *base).one("HorizontalPodAutoscaler", "notifications")["spec"]["metrics"]
    assert [one["type"] for one in plain] == ["Resource"]
    lag = charts.render("service", *base, "--set", "autoscaling.consumerLag.enabled=true")
    more = lag.one("HorizontalPodAutoscaler", "notifications")["spec"]["metrics"]
    assert [one["type"] for one in more] == ["Resource", "External"]


def test_the_edge_is_reached_in_the_ways_that_clusters_have(charts: Charts) -> None:
    """A load balancer, a Gateway that passes TLS on or makes it anew, an Ingress."""
    host = "tls.hosts[0]=pay.example,gateway.parentRefs[0].name=public"
    made = {
        mode: charts.render("edge", *SINGLE, "--set", host, "--set", f"gateway.mode={mode}")
        for mode in ("passthrough", "reencrypt")
    }
    route = made["passthrough"].one("TLSRoute", "edge")["spec"]
    assert (route["hostnames"], route["rules"][0]["backendRefs"]) == (["pay.example"], [{"name": "edge", "port": 443}])
    assert made["reencrypt"].one("BackendTLSPolicy", "edge")["spec"]["validation"]["hostname"] == "edge"
    ingress = charts.render("edge", *SINGLE, "--set", host, "--set", "ingress.enabled=true").one("Ingress", "edge")
    assert ingress["spec"]["rules"][0]["host"] == "pay.example"
    balanced = charts.render("edge", *SINGLE, "--set", "expose.type=LoadBalancer").one("Service", "edge")["spec"]
    assert (balanced["type"], balanced["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
