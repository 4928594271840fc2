"""The network policies allow the arrows of the architecture and no others."""

from __future__ import annotations

import re
from itertools import product

import pytest

from meshkit import policy
from notifications import addresses
from tests.support.arrows import Network, Party
from tests.support.charts import SERVICES, Charts, Objects

GRPC, METRICS, HTTPS, POSTGRES, NATS, ROUTES, DNS = 50051, 9001, 8443, 5432, 4222, 6222, 53
PORTS = (GRPC, 50052, METRICS, HTTPS, 9901, 9902, POSTGRES, NATS, ROUTES, 8222, DNS, 443, 80)
KUBE_DNS = Party("dns", {"k8s-app": "kube-dns"}, "kube-system")
PROMETHEUS = Party("prometheus", {"app.kubernetes.io/name": "prometheus"}, "monitoring")
STRANGER = Party("stranger", {"app": "stranger"}, "bank")
NEIGHBOUR = Party("neighbour", {"app.kubernetes.io/name": "transactions"}, "elsewhere")
DATABASE = Party("database", address="192.0.2.20")
ISSUER = Party("issuer", address="192.0.2.10")
INTERNET = Party("internet", address="93.184.216.34")
METADATA = Party("metadata", address="169.254.169.254")
PRIVATE = Party("private", address="10.1.2.3")
Arrow = tuple[str, str, int]


def parties(objects: Objects) -> dict[str, Party]:
    """Every pod that is rendered, by component and name, and those around them."""
    found = {}
    for _, pod in objects.pods():
        labels = pod["metadata"]["labels"]
        name, component = labels["app.kubernetes.io/name"], labels["app.kubernetes.io/component"]
        known = name if component in {"service", "edge", "broker", "database"} else f"{name}/{component}"
        found[known] = Party(known, labels)
    around = (KUBE_DNS, PROMETHEUS, STRANGER, NEIGHBOUR, DATABASE, ISSUER, INTERNET, METADATA, PRIVATE)
    return {**found, **{one.name: one for one in around}}


def common(*, database: str) -> set[Arrow]:
    """The arrows of the picture that do not depend on where things are, with the database at `database`."""
    arrows = set()
    for service in SERVICES:
        declared = policy.load(service)
        arrows |= {(caller, service, GRPC) for caller in declared.callers}
        arrows |= {(service, database, POSTGRES), (f"{service}/migration", database, POSTGRES)}
        arrows |= {(service, "nats", NATS), (service, "dns", DNS), (f"{service}/migration", "dns", DNS)}
    arrows |= {(name, database, POSTGRES) for name in ("checker", "checker/grants")}
    arrows |= {("checker", "accounts", GRPC), ("checker", "dns", DNS), ("checker/grants", "dns", DNS)}
    arrows |= {("streams/operator", "nats", NATS), ("streams/operator", "dns", DNS)}
    arrows |= {("nats", "nats", ROUTES), ("nats", "dns", DNS), ("edge", "dns", DNS)}
    arrows |= {("payment-check/check", "edge", HTTPS), ("payment-check/check", "dns", DNS)}
    callers = ("internet", "private", "metadata", "database", "issuer", "stranger", "neighbour", "prometheus", "dns")
    arrows |= {(caller, "edge", HTTPS) for caller in callers}
    # Webhooks go to public addresses, whatever their port.
    return arrows | {("notifications", "internet", port) for port in PORTS}


EXPECTED = {
    "evaluation": common(database="postgres"),
    "production": common(database="database")
    | {(name, "issuer", 443) for name in (*SERVICES, "edge")}
    | {("prometheus", service, METRICS) for service in (*SERVICES, "checker")}
    | {("prometheus", "edge", 9902)},
}


@pytest.mark.parametrize("values", ["evaluation", "production"])
def test_exactly_the_arrows_of_the_architecture_are_allowed(values: str, request: pytest.FixtureRequest) -> None:
    """Each pair of parties, in both directions, at each port: what is allowed is what is drawn."""
    objects: Objects = request.getfixturevalue(values)
    known = parties(objects)
    network = Network(objects.kind("NetworkPolicy"))
    ours = {name for name, one in known.items() if not one.address and one.namespace == "bank" and one is not STRANGER}
    allowed = {
        (source, target, port)
        for source, target in product(known, known)
        if source in ours or target in ours
        for port in PORTS
        if network.allows(known[source], known[target], port, "UDP" if port == DNS and target == "dns" else "TCP")
    }
    assert allowed == EXPECTED[values]


def test_webhooks_reach_what_the_service_takes_for_public(evaluation: Objects) -> None:
    """The policy's networks are those of notifications/addresses.py."""
    rules = evaluation.one("NetworkPolicy", "notifications")["spec"]["egress"]
    blocks = [peer["ipBlock"] for rule in rules for peer in rule["to"] if "ipBlock" in peer]
    assert [block["cidr"] for block in blocks] == ["0.0.0.0/0", str(addresses._GLOBAL_UNICAST_V6)]
    assert set(blocks[0]["except"]) == {str(one) for one in addresses._FORBIDDEN_V4}
    assert set(blocks[1]["except"]) == {str(one) for one in addresses._FORBIDDEN_V6}


def test_what_a_service_calls_is_what_its_policy_says(evaluation: Objects) -> None:
    """The chart's table of callers and callees cannot drift from each policy.yaml."""
    for service in SERVICES:
        declared = policy.load(service)
        found = evaluation.one("NetworkPolicy", service)["spec"]
        targets = [
            rule["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
            for rule in found["egress"]
            if rule["ports"] == [{"protocol": "TCP", "port": GRPC}]
        ]
        callers = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in found["ingress"][0]["from"]]
        assert (sorted(callers), sorted(targets)) == (sorted(declared.callers), sorted(declared.calls))


def test_the_checkers_replicas_are_told_where_they_are(charts: Charts) -> None:
    """A copy that is read in a database's place, or a port of its own, is nothing that a policy can guess."""
    elsewhere = ("--set", "databases.compliance.readHost=db-read.example")
    assert "checker: networkPolicy.database is not set: say where db-read.example is" in charts.refused(
        "checker", *elsewhere
    )
    place = "networkPolicy.database[0].ipBlock.cidr=192.0.2.20/32,databases.compliance.port=5433"
    found = charts.render("checker", *elsewhere, "--set", place).one("NetworkPolicy", "checker")["spec"]["egress"]
    (rule,) = [one for one in found if one["to"] == [{"ipBlock": {"cidr": "192.0.2.20/32"}}]]
    assert [one["port"] for one in rule["ports"]] == [5432, 5433]


def test_a_place_that_a_policy_needs_must_be_told(charts: Charts) -> None:
    """Nothing is opened to everywhere for want of an address; the refusal says what to write."""
    base = ("--set", "service=accounts", "--set", "tokens.issuer=https://i.example")
    keys = ("--set", "tokens.jwksSecret=keys")
    for arguments, named in (
        ((*base, "--set", "tokens.jwksUrl=https://i.example/k"), "networkPolicy.issuer"),
        ((*base, *keys, "--set", "database.host=db.example"), "networkPolicy.database"),
        ((*base, *keys, "--set", "broker.url=tls://nats.example:4222"), "networkPolicy.broker"),
        ((*base, *keys, "--set", "settings.otlp_endpoint=collector:4317"), "networkPolicy.traces"),
        ((*base, *keys, "--set", "metrics.serviceMonitor=true"), "networkPolicy.metrics"),
    ):
        assert re.search(rf"{named} is not set: .*say where", charts.refused("service", *arguments))


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("https://192.0.2.10/keys", 443),
        ("https://issuer2/keys", 443),
        ("https://[2001:db8::10]/keys", 443),
        ("https://192.0.2.10:8443/keys", 8443),
    ],
)
@pytest.mark.parametrize("chart", ["service", "edge"])
def test_the_issuers_port_is_that_of_its_address(charts: Charts, chart: str, address: str, port: int) -> None:
    """The end of a name or an address is no port."""
    told = (
        f"tokens.issuer=https://i.example,tokens.jwksUrl={address},networkPolicy.issuer[0].ipBlock.cidr=192.0.2.10/32"
    )
    more = ("--set", "service=accounts") if chart == "service" else ()
    policy_of = charts.render(chart, *more, "--set", told).one("NetworkPolicy", "accounts" if more else "edge")
    rules = [one for one in policy_of["spec"]["egress"] if one["to"] == [{"ipBlock": {"cidr": "192.0.2.10/32"}}]]
    assert [one["ports"] for one in rules] == [[{"protocol": "TCP", "port": port}]]


def test_callers_can_be_chosen(charts: Charts) -> None:
    """With clients named, nobody else reaches the edge but the check of `helm test`."""
    gateway = "edge.networkPolicy.clients[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=gateways"
    objects = charts.render("florin", "--set", gateway)
    known = {**parties(objects), "gateway": Party("gateway", {}, "gateways")}
    network = Network(objects.kind("NetworkPolicy"))
    callers = {name for name, one in known.items() if network.allows(one, known["edge"], HTTPS)}
    assert callers == {"gateway", "payment-check/check"}
