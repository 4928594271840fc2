"""What the charts tell a service is what it reads: its own settings class takes what is rendered."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from local import deployment
from local.state import State
from tests.support.charts import ROOT, SERVICES, SINGLE, Charts, Manifest, Objects, containers, environment


@pytest.fixture(scope="session")
def values() -> ModuleType:
    """charts/values.py, loaded by its path: the folder is no package."""
    spec = importlib.util.spec_from_file_location("charts_values", ROOT / "charts" / "values.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Secret → key → value, as `florin deploy secrets` makes them, with what production brings itself."""
    state: State = deployment.prepare(tmp_path_factory.mktemp("secrets") / "made", namespace="bank", hosts=[])
    made = json.loads(deployment.manifests(state, "bank", production=False))
    found = {
        one["metadata"]["name"]: {key: base64.b64decode(value) for key, value in one["data"].items()}
        for one in made["items"]
    }
    authority = {"ca.crt": state.ca.read_bytes()}
    return {**found, "database-ca": authority, "issuer-ca": authority, "receivers": authority}


def loaded(values: ModuleType, pod: Manifest, folder: Path, secrets: dict[str, dict[str, bytes]]) -> BaseModel:
    """The settings of a pod's service, read from the environment and the files that the pod would have."""
    container = containers(pod)[-1]
    told = environment(container)
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "secret" in volume:
            place = folder / mount["mountPath"].strip("/")
            place.mkdir(parents=True)
            for key, value in secrets[volume["secret"]["secretName"]].items():
                (place / key).write_bytes(value)
    service = pod["metadata"]["labels"]["app.kubernetes.io/name"]
    moved = {
        name: value.replace("/etc/florin", f"{folder}/etc/florin") if name.endswith("_FILE") else value
        for name, value in told.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(f"{service.upper()}_")]:
            patch.delenv(name)
        for name, value in moved.items():
            patch.setenv(name, value)
        made: BaseModel = values.settings_class(service)()
    assert {name.removeprefix(f"{service.upper()}_").lower() for name in told} <= set(type(made).model_fields)
    return made


def test_a_service_starts_with_what_it_is_told(
    objects: Objects, values: ModuleType, tmp_path: Path, secrets: dict[str, dict[str, bytes]]
) -> None:
    """Every variable is a setting, every file is mounted and good, for pods and for their migrations."""
    for service in SERVICES:
        for kind, name in (("Deployment", service), ("Job", f"{service}-migrate-*")):
            pod = objects.one(kind, name)["spec"]["template"]
            made: Any = loaded(values, pod, tmp_path / f"{service}-{kind}", secrets)
            assert "sslmode=verify-full" in made.database_url
            assert made.host == "0.0.0.0"
            assert (made.owner_database_url is not None) == (kind == "Job")


def test_the_checker_starts_with_what_it_is_told(
    charts: Charts, objects: Objects, values: ModuleType, tmp_path: Path, secrets: dict[str, dict[str, bytes]]
) -> None:
    """So do the Job that gives its roles their rights, and one that reads a copy of a database in its place."""
    for kind, name in (("Deployment", "checker"), ("Job", "checker-grants-*")):
        pod = objects.one(kind, name)["spec"]["template"]
        made: Any = loaded(values, pod, tmp_path / kind, secrets)
        assert made.accounts_target == "dns:///accounts.bank.svc.cluster.local:50051"
        for service in SERVICES:
            assert made.connection(service)["user"] == f"{service}_checker"
            assert made.connection(service)["password"] == secrets[f"{service}-database-checker"]["password"].decode()
            if kind == "Job":
                assert made.connection(service, as_owner=True)["user"] == f"{service}_owner"
            assert (getattr(made, f"{service}_owner_database_url") is not None) == (kind == "Job")
    place = "networkPolicy.database[0].ipBlock.cidr=192.0.2.20/32,databases.accounts.readHost=copy,database.host=db"
    read = charts.render("checker", "--set", place)
    urls = {
        kind: loaded(values, read.one(kind, name)["spec"]["template"], tmp_path / f"copy-{kind}", secrets)
        for kind, name in (("Deployment", "checker"), ("Job", "checker-grants-*"))
    }
    job: Any = urls["Job"]
    pods: Any = urls["Deployment"]
    assert (pods.connection("accounts")["host"], pods.connection("compliance")["host"]) == ("copy", "db")
    assert job.connection("accounts", as_owner=True)["host"] == "db"


def test_each_setting_of_the_checker_can_be_set(
    charts: Charts, values: ModuleType, tmp_path: Path, secrets: dict[str, dict[str, bytes]]
) -> None:
    """Whatever is in its settings class is in the chart's schema, and arrives; what the chart gives itself is not."""
    fields = values.settings_class("checker").model_fields
    offered = values.settings_of("checker")
    assert set(fields) == set(offered) | (set(fields) & (values.BY_THE_CHART | values.NOT_IN_A_CLUSTER))
    special = {"freezing_invariants": ["INV-2"], "runtime_roles": {"accounts": "ledger"}}
    wanted = {
        name: special.get(name) or sample(name, declared, fields[name].default) for name, declared in offered.items()
    }
    told = tmp_path / "values.json"
    told.write_text(json.dumps({"settings": wanted}))
    pod = charts.render("checker", "-f", str(told)).one("Deployment", "checker")["spec"]["template"]
    made: Any = loaded(values, pod, tmp_path / "pod", secrets)
    found = {name: getattr(made, name) for name in wanted}
    assert {**found, "freezing_invariants": list(made.freezing_invariants)} == wanted


def test_the_owner_of_a_schema_is_known_to_its_migrations_alone(objects: Objects) -> None:
    """And to what gives the checker its rights. A service that is broken into cannot change its schema, or what is
    append-only."""
    for label, pod in objects.pods():
        text = json.dumps(pod)
        if not re.search("-migrate-|/checker-grants-|^StatefulSet/postgres$", label):
            assert "owner" not in text, label


TEXTS = {"log_level": "debug", "business_time_zone": "Europe/Vienna", "otlp_endpoint": "collector:4317",
    "rail_bic": "FLORATWW", "rail_settlement_account": "accounts/out-{currency}",
    "rail_suspense_account": "accounts/kept-{currency}"}  # fmt: skip


def sample(name: str, declared: dict[str, Any], present: Any) -> Any:
    """Another value of a setting that it may have."""
    if "enum" in declared:
        return next(one for one in declared["enum"] if one != present)
    match declared["type"]:
        case "integer" | "number":
            raised = (present or 0) + 1
            return raised if raised <= declared.get("maximum", raised) else present / 2
        case "boolean":
            return not present
        case "object":
            return {"EUR": 500}
    return TEXTS[name]


@pytest.mark.parametrize("service", SERVICES)
def test_each_setting_of_a_service_can_be_set(
    charts: Charts, values: ModuleType, service: str, tmp_path: Path, secrets: dict[str, dict[str, bytes]]
) -> None:
    """Whatever is in a settings class is in the chart's schema, and arrives; what the chart gives itself is not."""
    fields = values.settings_class(service).model_fields
    offered = values.settings_of(service)
    others = values.BY_THE_CHART | values.NOT_IN_A_CLUSTER | values.OF_A_COMMAND
    assert set(fields) == set(offered) | (set(fields) & others)
    wanted = {name: sample(name, declared, fields[name].default) for name, declared in offered.items()}
    told = tmp_path / "values.json"
    told.write_text(
        json.dumps({"service": service, "settings": wanted, "networkPolicy": {"traces": [{"podSelector": {}}]}})
    )
    made: Any = loaded(
        values,
        charts.render("service", *SINGLE, "-f", str(told)).one("Deployment", service)["spec"]["template"],
        tmp_path / "pod",
        secrets,
    )
    assert {name: getattr(made, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "accounts.replicaz=3"), "accounts:\n- at '': additional properties 'replicaz' not allowed"),
        (
            ("--set", "accounts.settings.log_levle=debug"),
            "at '/settings': additional properties 'log_levle' not allowed",
        ),
        (("--set", "transactions.settings.ledger_batch_max=9"), "additional properties 'ledger_batch_max' not allowed"),
        (("--set", "accounts.settings.ledger_batch_max=many"), "/settings/ledger_batch_max': got string, want integer"),
        (("--set", "accounts.settings.otlp_endpoint=none"), "/settings/otlp_endpoint': 'none' does not match"),
        (("--set", "accounts.settings.host=::"), "additional properties 'host' not allowed"),
        (("--set", "notifications.settings.webhook_allow_loopback=true"), "'webhook_allow_loopback' not allowed"),
        (("--set", "nats.replicas=2"), "at '/nats/replicas': value must be one of 1, 3, 5"),
        (("--set", "edge.tokens.jwksUrl=http://issuer"), "at '/tokens/jwksUrl': 'http://issuer' does not match"),
        (("--set", "global.imagePullSecret=x"), "at '/global': additional properties 'imagePullSecret' not allowed"),
        (("--set", "global.tokens.issuer="), "tokens.issuer is not set: write the `iss` that tokens have"),
        (("--set", "global.tokens.jwksSecret="), "set exactly one of tokens.jwksUrl"),
        (("--set", "accounts.service=transactions"), "accounts.service must be accounts"),
        (("--set", "transactions.rail.existingClaim=rail"), "rail.existingClaim needs settings.rail_bic"),
        (("--set", "accounts.targets.accounts=x"), "targets is for transactions alone"),
        (("--set", "accounts.settings.drain_seconds=1"), "additional properties 'drain_seconds' not allowed"),
        (("--set", "edge.gateway.mode=passthrough"), "gateway.parentRefs is empty: name the Gateway"),
        (("--set", "edge.ingress.enabled=true"), "tls.hosts is empty: name the host that callers use"),
    ],
)
def test_a_mistake_is_told_in_words(charts: Charts, arguments: tuple[str, ...], said: str) -> None:
    """Where it is and what would be right; nothing is installed that does something else than was meant."""
    assert said in charts.refused("florin", *arguments)


def test_a_database_that_nothing_uses_is_refused(charts: Charts) -> None:
    """Who names an external database and leaves the bundled one on made a mistake that would look like a success."""
    external = "global.database.host=db.example,global.networkPolicy.database[0].ipBlock.cidr=192.0.2.20/32"
    assert "set postgres.enabled=false" in charts.refused("florin", "--set", external)


def test_the_files_that_are_written_from_the_code_are_up_to_date(values: ModuleType) -> None:
    """Schemas, tables of values and dashboards in the repository are what their generators write."""
    assert values.main(check=True) == 0


def test_every_value_is_described(values: ModuleType) -> None:
    """A value without a description cannot be set by anyone but its author."""
    for chart in values.CHARTS:
        schema = json.loads((ROOT / "charts" / chart / "values.schema.json").read_text())
        described = {name for name, _, _ in values.documented(chart)}
        undescribed = [
            name
            for name, declared in schema["properties"].items()
            if name not in described | {"enabled", "global"}
            and not any(other.startswith(f"{name}.") for other in described)
            and declared
        ]
        assert undescribed == [], chart
