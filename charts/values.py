"""Writes values.schema.json and README.md of each chart; what a service can be set comes from its settings themselves.

`python charts/values.py` writes them, with `--check` it only compares. Types of the values are told here, their
descriptions are the comments in values.yaml.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
if str(FOLDER.parent) not in sys.path:
    sys.path.append(str(FOLDER.parent))

from meshkit.process_settings import ProcessSettings  # noqa: E402 - the repository's root is on the path from here on

SERVICES = ("accounts", "transactions", "compliance", "notifications")
CHARTS = ("service", "checker", "edge", "florin")
BY_THE_CHART = frozenset(
    {
        "host", "grpc_port", "health_port", "probe_port", "database_url", "database_password_file",
        "owner_database_url", "owner_database_password_file", "runtime_role", "nats_url", "tls_cert_file",
        "tls_key_file", "tls_ca_file", "jwt_issuer", "jwt_audience", "jwks_url", "jwks_file", "jwks_ca_file",
        "encryption_key_file", "sealing_key_file", "accounts_target", "compliance_target", "webhook_ca_file",
        "drain_seconds", "grace_seconds", "rail_folder", "sealing_keys_file",
    }
    | {
        f"{service}{of}_database_{what}"
        for service in SERVICES for of in ("", "_owner") for what in ("url", "password_file")
    }
)  # fmt: skip
"""Settings that the chart itself gives, from its other values."""
NOT_IN_A_CLUSTER = frozenset({"webhook_allow_loopback", "sandbox_clock_file"})
"""Settings that only suit one machine."""
OF_A_COMMAND = frozenset({"archiver_database_url", "archiver_database_password_file"})
"""Settings that a service's pods must not have: a command alone reads them, some times a year, in a pod of its own."""

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
FREE: Schema = {"type": "object"}
FREE_LIST: Schema = {"type": "array"}
TEXTS: Schema = {"type": "array", "items": TEXT}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
URL: Schema = {
    "type": "string",
    "pattern": "^(https://[^/ ]+.*)?$",
    "description": "An address with https://, or nothing.",
}
DIGEST: Schema = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
SIZE: Schema = {"type": "string", "pattern": "^[0-9]+(Mi|Gi|Ti)$"}
DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(h|m|s))+$"}
ADDRESS: Schema = {"type": "string", "pattern": "^([^: ]+:[0-9]+)?$", "description": "HOST:PORT, or nothing."}
PORT: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": 65535}
COUNT: Schema = {"type": "integer", "minimum": 1}
AMOUNT_OF_PODS: Schema = {"type": ["integer", "string"], "pattern": "^[0-9]{1,3}%$", "minimum": 0}
SECONDS: Schema = {"type": "integer", "minimum": 0, "maximum": 3600}
PEERS: Schema = {"type": "array", "items": {"type": "object", "minProperties": 1}}
PULL: Schema = {"enum": ["", "Always", "IfNotPresent", "Never"]}
RESOURCES: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"requests": FREE, "limits": FREE, "claims": FREE_LIST},
    "required": ["requests", "limits"],
}
SPREAD: Schema = {"enum": ["ScheduleAnyway", "DoNotSchedule"]}


def section(**properties: Schema) -> Schema:
    """A section that has these values and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


ISSUER = section(name=TEXT, kind={"enum": ["Issuer", "ClusterIssuer"]}, group=TEXT)
TOKENS = section(issuer=TEXT, audience=TEXT, jwksUrl=URL, jwksSecret=TEXT, caSecret=TEXT)
BROKER = section(url={"type": "string", "pattern": "^(tls://[^: ]+:[0-9]+)?$", "description": "tls://HOST:PORT."})
SSL_MODE: Schema = {"enum": ["", "verify-full", "verify-ca", "require"]}
POD: dict[str, Schema] = {
    "disruptionBudget": section(enabled=FLAG, maxUnavailable=AMOUNT_OF_PODS),
    "topologySpread": section(zone=SPREAD, node=SPREAD),
    "nodeSelector": LABELS,
    "tolerations": FREE_LIST,
    "affinity": FREE,
    "priorityClassName": TEXT,
    "podAnnotations": LABELS,
    "podLabels": LABELS,
    "serviceAccount": section(create=FLAG, name=TEXT, annotations=LABELS),
    "resources": RESOURCES,
    "replicas": COUNT,
    "fullnameOverride": TEXT,
    "commonLabels": LABELS,
    "clusterDomain": TEXT,
    "tokens": TOKENS,
    "certificates": section(issuerRef=ISSUER, duration=DURATION, renewBefore=DURATION),
}
IMAGE: dict[str, Schema] = {"registry": TEXT, "tag": TEXT, "pullPolicy": PULL, "pullSecrets": TEXTS}
POLICY: dict[str, Schema] = {"dns": PEERS, "issuer": PEERS, "traces": PEERS, "metrics": PEERS}
GLOBAL = section(
    image=section(**IMAGE),
    tokens=TOKENS,
    broker=BROKER,
    database=section(host=TEXT, port=PORT, sslMode=SSL_MODE, caSecret=TEXT),
    certificates=section(issuerRef=ISSUER),
    metrics=section(serviceMonitor=FLAG, rules=FLAG, dashboards=FLAG, labels=LABELS),
    networkPolicy=section(**POLICY, database=PEERS, broker=PEERS),
    clusterDomain=TEXT,
)


def settings_class(service: str) -> type[ProcessSettings]:
    """What a service, or the checker, is told from outside."""
    found: type[ProcessSettings] = importlib.import_module(f"{service}.settings").Settings
    return found


def settings_of(service: str) -> dict[str, Schema]:
    """The settings that may be set in a cluster, each as its class declares it."""
    made = {}
    for name, declared in settings_class(service).model_json_schema()["properties"].items():
        if name in BY_THE_CHART or name in NOT_IN_A_CLUSTER or name in OF_A_COMMAND:
            continue
        kept = {key: value for key, value in declared.items() if key not in {"title", "default"}}
        if "anyOf" in kept:  # it may be absent
            present = [one for one in kept.pop("anyOf") if one.get("type") != "null"]
            kept |= present[0]
        made[name] = kept
    return made


def service_schema() -> Schema:
    """What charts/service takes."""
    lag = section(enabled=FLAG, metric=TEXT, average=COUNT)
    cluster = section(
        enabled=FLAG, instances=COUNT, size=SIZE, storageClass=TEXT, imageName=TEXT, resources=RESOURCES,
        parameters=LABELS, backup=FREE,
    )  # fmt: skip
    made = section(
        **POD,
        enabled=FLAG,
        service={"enum": ["", *SERVICES]},
        image=section(**IMAGE, repository=TEXT, digest=DIGEST),
        settings=FREE,  # which ones is a question of the service, below
        broker=BROKER,
        tls=section(existingSecret=TEXT),
        database=section(
            host=TEXT, port=PORT, name=TEXT, role=TEXT, ownerRole=TEXT, sslMode=SSL_MODE, caSecret=TEXT,
            existingSecret=TEXT, ownerExistingSecret=TEXT, cluster=cluster,
        ),
        encryption=section(existingSecret=TEXT),
        sealing=section(enabled=FLAG, existingSecret=TEXT),
        webhooks=section(caSecret=TEXT),
        rail=section(existingClaim=TEXT),
        targets=section(accounts=TEXT, compliance=TEXT),
        migrations=section(
            enabled=FLAG, hook={"enum": ["none", "helm", "argocd"]}, waitSeconds=COUNT,
            backoffLimit={"type": "integer", "minimum": 0}, activeDeadlineSeconds=COUNT, resources=RESOURCES,
        ),
        autoscaling=section(enabled=FLAG, minReplicas=COUNT, maxReplicas=COUNT, cpu=COUNT, consumerLag=lag),
        shutdown=section(preStopSeconds={**SECONDS, "minimum": 1}, drainSeconds=SECONDS, graceSeconds=SECONDS),
        networkPolicy=section(**POLICY, enabled=FLAG, database=PEERS, broker=PEERS, webhooks=PEERS),
        metrics=section(
            serviceMonitor=FLAG, rules=FLAG, dashboards=FLAG, interval=DURATION, labels=LABELS, dashboardLabels=LABELS
        ),
    )  # fmt: skip
    made["properties"]["global"] = GLOBAL
    made["allOf"] = [
        {
            "if": {"properties": {"service": {"const": service}}},
            "then": {"properties": {"settings": section(**settings_of(service))}},
        }
        for service in SERVICES
    ]
    return made


def checker_schema() -> Schema:
    """What charts/checker takes."""
    database = {"host": TEXT, "port": PORT, "caSecret": TEXT}
    named = dict.fromkeys(("readHost", "name", "role", "ownerRole", "existingSecret", "ownerExistingSecret"), TEXT)
    own = {name: one for name, one in POD.items() if name not in {"fullnameOverride", "tokens"}}
    made = section(
        **own,
        enabled=FLAG,
        image=section(**IMAGE, repository=TEXT, digest=DIGEST),
        settings=section(**settings_of("checker")),
        tls=section(existingSecret=TEXT),
        database=section(**database, sslMode=SSL_MODE),
        databases=section(**dict.fromkeys(SERVICES, section(**database, **named))),
        grants=section(enabled=FLAG, waitSeconds=COUNT, resources=RESOURCES),
        sealing=section(existingSecret=TEXT),
        accountsTarget=TEXT,
        networkPolicy=section(enabled=FLAG, dns=PEERS, database=PEERS, metrics=PEERS),
        metrics=section(
            serviceMonitor=FLAG, rules=FLAG, dashboards=FLAG, interval=DURATION, labels=LABELS, dashboardLabels=LABELS
        ),
    )
    made["properties"]["global"] = GLOBAL
    return made


def edge_schema() -> Schema:
    """What charts/edge takes."""
    rate: Schema = {"type": "integer", "minimum": 1}
    made = section(
        **POD,
        enabled=FLAG,
        image=section(**IMAGE, repository=TEXT, digest=DIGEST),
        configurator=section(repository=TEXT, digest=DIGEST),
        tls=section(existingSecret=TEXT, publicSecret=TEXT, hosts=TEXTS),
        upstreams=section(**dict.fromkeys(SERVICES, ADDRESS)),
        canary=section(service={"enum": ["", *SERVICES]}, percent={"type": "integer", "minimum": 1, "maximum": 99}),
        corsOrigins={"type": "array", "items": {"type": "string", "pattern": "^https?://[^/ ]+$"}},
        openReflection=FLAG,
        rates=section(**dict.fromkeys(("read", "write", "batch", "admin", "address", "total"), rate)),
        limits=section(bodyBytes=rate, heapBytes=rate, connections=rate, streamsPerConnection=rate),
        traces=section(endpoint=ADDRESS, percent={"type": "number", "minimum": 0, "maximum": 100}),
        expose=section(
            type={"enum": ["ClusterIP", "LoadBalancer", "NodePort"]},
            port={**PORT, "type": "integer"},
            nodePort=PORT,
            annotations=LABELS,
            sourceRanges=TEXTS,
        ),
        gateway=section(mode={"enum": ["", "passthrough", "reencrypt"]}, parentRefs=FREE_LIST, tlsRouteVersion=TEXT),
        ingress=section(enabled=FLAG, className=TEXT, annotations=LABELS, tlsSecret=TEXT),
        concurrency=COUNT,
        autoscaling=section(enabled=FLAG, minReplicas=COUNT, maxReplicas=COUNT, cpu=COUNT),
        shutdown=section(drainSeconds={**SECONDS, "minimum": 3}),
        networkPolicy=section(**POLICY, enabled=FLAG, clients=PEERS),
        metrics=section(serviceMonitor=FLAG, interval=DURATION, labels=LABELS),
    )
    made["properties"]["global"] = GLOBAL
    return made


def umbrella_schema() -> Schema:
    """What charts/florin takes beside what it hands on, which the charts that get it check."""
    part: Schema = {"type": "object", "properties": {"enabled": FLAG}, "required": ["enabled"]}
    made = section(
        **dict.fromkeys((*SERVICES, "checker", "edge"), part),
        postgres=section(
            enabled=FLAG, image=TEXT, size=SIZE, storageClass=TEXT, existingSecret=TEXT, tlsSecret=TEXT,
            resources=RESOURCES,
        ),
        nats=section(
            enabled=FLAG, image=TEXT, replicas={"enum": [1, 3, 5]}, size=SIZE, storageClass=TEXT, tlsSecret=TEXT,
            syncInterval={"enum": ["always", "100ms", "250ms", "500ms", "1s"]}, resources=RESOURCES,
        ),
        streams=section(enabled=FLAG, replicas={"enum": [None, 1, 3, 5]}, tlsSecret=TEXT),
        operator=section(repository=TEXT, digest=DIGEST),
        test=section(signingSecret=TEXT, tokensSecret=TEXT, tenant=TEXT),
        priorityClasses=section(create=FLAG),
    )  # fmt: skip
    made["properties"]["global"] = GLOBAL
    return made


def schema(chart: str) -> str:
    """The values.schema.json of a chart."""
    made = {"service": service_schema, "checker": checker_schema, "edge": edge_schema, "florin": umbrella_schema}[
        chart
    ]()
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **made}, indent=1) + "\n"


def readme(chart: str) -> str:
    """The README.md of a chart: what it is, and a table of its values."""
    about = yaml.safe_load((FOLDER / chart / "Chart.yaml").read_text())
    rows = [f"| `{name}` | {told} | `{default}` |" for name, told, default in documented(chart)]
    return "\n".join(
        [
            f"# charts/{chart}",
            "",
            about["description"],
            "",
            "How it is installed: `docs/deploy.md`. Written by `charts/values.py` from the comments in `values.yaml`.",
            "A name that is none of these is refused.",
            "",
            "| Value | What | Default |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def documented(chart: str) -> list[tuple[str, str, str]]:
    """Name, description and default of each value that has a description."""
    text = (FOLDER / chart / "values.yaml").read_text()
    values = yaml.safe_load(text)
    found: list[tuple[str, str, str]] = []
    path: list[tuple[int, str]] = []
    told = ""
    for line in text.splitlines():
        comment = re.match(r"\s*# -- (.*)", line)
        entry = re.match(r"(\s*)([A-Za-z][A-Za-z0-9]*):", line)
        if comment:
            told = comment.group(1)
        elif entry:
            depth = len(entry.group(1))
            path = [*((level, name) for level, name in path if level < depth), (depth, entry.group(2))]
            if told:
                names = [name for _, name in path]
                default = values
                for name in names:
                    default = default[name]
                shown = json.dumps(default) if not isinstance(default, str) else default or '""'
                found.append((".".join(names), told.replace("|", "\\|"), shown))
            told = ""
    return found


def main(check: bool) -> int:
    """Writes the files, or says which are not as they would be written."""
    stale = []
    for chart in CHARTS:
        for name, text in (("values.schema.json", schema(chart)), ("README.md", readme(chart))):
            path = FOLDER / chart / name
            if not check:
                path.write_text(text)
            elif not path.exists() or path.read_text() != text:
                stale.append(f"{chart}/{name}")
    if stale:
        print(f"not as charts/values.py writes them: {', '.join(stale)}; run `make charts-files`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
