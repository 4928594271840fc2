"""The edge's configuration as text: what the contracts put into it, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local import binaries, certs, issuer
from local.state import State, open_state
from meshkit.lifecycle import SERVER_OPTIONS
from tests.support import edge
from transactions.settings import Settings

UPSTREAMS = {
    "accounts": ("127.0.0.1:5001", "127.0.0.1:5002"),
    "transactions": ("transactions:443",),
    "compliance": ("127.0.0.1:5004",),
    "notifications": ("127.0.0.1:5005",),
}


@pytest.fixture(scope="module")
def state() -> Iterator[State]:
    """A state folder with certificates."""
    with tempfile.TemporaryDirectory(prefix="florin-edge-") as folder:
        Path(folder).chmod(0o755)
        made = open_state(Path(folder) / "state")
        certs.ensure(made)
        issuer.ensure(made)
        yield made


@pytest.fixture(scope="module")
def settings(state: State) -> Any:
    """Settings of an edge with numeric and named upstreams."""
    return edge.settings(state, listen=18443, admin=18901, upstreams=UPSTREAMS, jwks=18902)


@pytest.fixture(scope="module")
def rendered(settings: Any) -> Any:
    """The configuration, read back."""
    return json.loads(edge.generator().render(settings))


def manager(rendered: Any) -> Any:
    """The HTTP connection manager's part."""
    return rendered["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def filter_named(rendered: Any, name: str) -> Any:
    """One HTTP filter's configuration."""
    return next(f["typed_config"] for f in manager(rendered)["http_filters"] if f["name"] == name)


def routes(rendered: Any) -> Any:
    """The routes by name."""
    return {route["name"]: route for route in manager(rendered)["route_config"]["virtual_hosts"][0]["routes"]}


def clusters(rendered: Any) -> Any:
    """The clusters by name."""
    return {cluster["name"]: cluster for cluster in rendered["static_resources"]["clusters"]}


def test_a_version_on_trial_gets_its_share(settings: Any, tmp_path: Path) -> None:
    """A group of its own by weight; each is looked up, checked and left alone for itself; a call may change over."""
    canaries = sys.modules["edge_arguments"].parse_canaries(["accounts:10=other:443", "transactions:1=127.0.0.1:9"])
    target = tmp_path / "envoy.json"
    target.write_text(edge.generator().render(replace(settings, canaries=canaries)))
    found = clusters(json.loads(target.read_text()))
    assert found["accounts"]["type"] == found["transactions"]["type"] == "STRICT_DNS"
    groups = found["accounts"]["load_assignment"]["endpoints"]
    assert [group["load_balancing_weight"] for group in groups] == [90, 10]
    assert [len(group["lb_endpoints"]) for group in groups] == [2, 1]
    assert "locality_weighted_lb_config" not in found["compliance"]["common_lb_config"]
    command = [str(binaries.find().envoy), "--mode", "validate", "-c", str(target), "--log-level", "error"]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("told", ["accounts=h:1", "accounts:0=h:1", "accounts:100=h:1", "ledger:5=h:1", "accounts:5="])
def test_a_share_that_makes_no_sense_is_refused(told: str) -> None:
    """With what to write instead."""
    arguments = sys.modules["edge_arguments"]
    with pytest.raises(arguments.EdgeError, match="give SERVICE:PERCENT=HOST:PORT"):
        arguments.parse_canaries([told])


def test_envoy_accepts_the_configuration(settings: Any, tmp_path: Path) -> None:
    """The real binary validates what the generator writes, with every option on."""
    target = tmp_path / "envoy.json"
    target.write_text(edge.generator().render(replace(settings, otlp="127.0.0.1:4317", open_reflection=True)))
    check = subprocess.run(
        [str(binaries.find().envoy), "--mode", "validate", "-c", str(target), "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert check.returncode == 0, check.stderr


def test_no_value_of_the_template_is_left_open(rendered: Any) -> None:
    """Every ${name} of the template has been replaced."""
    assert "${" not in json.dumps(rendered)


def test_every_public_method_has_a_route_and_a_scope_policy_and_no_internal_one_has(rendered: Any) -> None:
    """Routes and policies are the published methods, no more and no fewer."""
    contracts = edge.generator().load_contracts()
    public = {method.path for method in contracts.methods}
    policies = filter_named(rendered, "envoy.filters.http.rbac")["rules"]["policies"]
    assert set(routes(rendered)) - public == {
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "rest",
        "nothing",
    }
    assert public <= set(routes(rendered))
    assert set(policies) - public == {"reflection"}
    assert public <= set(policies)
    assert not any("LedgerService" in name or "ScreeningService" in name for name in routes(rendered))


def test_only_what_leads_nowhere_is_free_of_scopes(rendered: Any) -> None:
    """No route with a cluster switches the scope check off."""
    free = [
        name
        for name, route in routes(rendered).items()
        if "envoy.filters.http.rbac" in route.get("typed_per_filter_config", {})
    ]
    assert free == ["nothing"]
    assert "route" not in routes(rendered)["nothing"]


def test_a_routes_time_is_its_contracts_deadline_and_a_little_more(rendered: Any) -> None:
    """A service answers before the edge gives up, and a stream of events or of an account is not cut."""
    made = routes(rendered)
    get = made["/florin.accounts.v1.AccountService/GetAccount"]["route"]["max_stream_duration"]
    assert get["max_stream_duration"] == get["grpc_timeout_header_max"] == "2.2s"
    for name in ("notifications.v1.NotificationService/StreamEvents", "accounts.v1.BalanceService/WatchAccount"):
        stream = made[f"/florin.{name}"]["route"]
        assert stream["max_stream_duration"]["max_stream_duration"] == "0s"
        assert "grpc_timeout_header_max" not in stream["max_stream_duration"]
        assert stream["idle_timeout"] == "0s"


def test_a_stream_of_transfers_has_no_time_but_is_given_up_when_nothing_happens(rendered: Any) -> None:
    """The service ends an idle one before the edge does; it is not sent again, and is no body of a size."""
    route = routes(rendered)["/florin.transactions.v1.TransferService/StreamTransfers"]
    assert route["route"]["timeout"] == route["route"]["max_stream_duration"]["max_stream_duration"] == "0s"
    assert "grpc_timeout_header_max" not in route["route"]["max_stream_duration"]
    longest = next(one.le for one in Settings.model_fields["stream_idle_seconds"].metadata if hasattr(one, "le"))
    assert float(route["route"]["idle_timeout"].removesuffix("s")) > longest
    assert "retry_policy" not in route["route"]
    assert route["typed_per_filter_config"]["envoy.filters.http.body_size_limit"]["disabled"]


def test_a_replica_is_asked_for_its_health_as_a_whole(rendered: Any) -> None:
    """A replica of before, which does not know a service that was added, is healthy all the same."""
    asked = {
        cluster["name"]: cluster["health_checks"][0]["grpc_health_check"]
        for cluster in rendered["static_resources"]["clusters"]
        if "grpc_health_check" in cluster.get("health_checks", [{}])[0]
    }
    assert asked == {name: {} for name in (*UPSTREAMS, "reflection")}


def test_only_idempotent_calls_are_tried_again(rendered: Any) -> None:
    """Streams and methods that the contract does not call idempotent have no retries."""
    contracts = edge.generator().load_contracts()
    for method in contracts.methods:
        action = routes(rendered)[method.path]["route"]
        allowed = method.idempotent and not method.client_streaming and not method.server_streaming
        assert ("retry_policy" in action) == allowed, method.path
        quick = method.deadline_ms <= 5000 and method.rate != "ADMIN"
        assert ("hedge_policy" in action) == (allowed and quick), method.path


def test_another_replica_is_asked_well_before_the_deadline(rendered: Any) -> None:
    """After a quarter of the time; what is slow by nature is asked for once."""
    made = routes(rendered)
    for method, seconds in {
        "florin.transactions.v1.TransferService/CreateTransfer": "1.25s",
        "florin.accounts.v1.AccountService/GetBalance": "0.5s",
        "florin.transactions.v1.TransferService/BatchCreateTransfers": None,
        "florin.transactions.v1.TransferService/WaitTransfer": None,
        "florin.notifications.v1.NotificationService/CreateWebhookEndpoint": None,
    }.items():
        assert made[f"/{method}"]["route"]["retry_policy"].get("per_try_timeout") == seconds, method


def test_an_upstream_is_believed_only_with_its_own_identity(rendered: Any) -> None:
    """Each cluster asks for the SPIFFE name of its service; reflection takes any of the four."""
    for name in UPSTREAMS:
        context = clusters(rendered)[name]["transport_socket"]["typed_config"]["common_tls_context"]
        names = context["validation_context"]["match_typed_subject_alt_names"]
        assert names == [{"san_type": "URI", "matcher": {"exact": f"spiffe://florin/{name}"}}]
    everyone = clusters(rendered)["reflection"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert len(everyone) == 5


def test_named_upstreams_are_looked_up_and_numeric_ones_are_not(rendered: Any) -> None:
    """A host name gives a STRICT_DNS cluster, an address a STATIC one."""
    assert clusters(rendered)["accounts"]["type"] == "STATIC"
    assert clusters(rendered)["transactions"]["type"] == "STRICT_DNS"


def test_the_limit_by_address_comes_before_the_token_and_the_one_by_subject_after_it(rendered: Any) -> None:
    """Forged tokens are counted by address; the classes of rate are counted by tenant and subject."""
    order = [f["name"] for f in manager(rendered)["http_filters"]]
    assert order.index("florin.rate_by_address") < order.index("envoy.filters.http.jwt_authn")
    assert order.index("envoy.filters.http.jwt_authn") < order.index("florin.rate_by_subject")
    assert order[-1] == "envoy.filters.http.router"
    buckets = filter_named(rendered, "florin.rate_by_subject")["descriptors"]
    assert [b["entries"][0]["value"] for b in buckets] == ["READ", "WRITE", "BATCH", "ADMIN"]
    assert all([entry["key"] for entry in b["entries"]] == ["rate", "tenant", "subject"] for b in buckets)


def test_the_edge_ends_its_connections_before_the_services_do(rendered: Any) -> None:
    """A connection that the service ends while an answer is on its way loses the answer; the edge waits for it."""
    # gRPC takes up to a tenth off an age, so that connections do not all end at once.
    age_seconds = dict(SERVER_OPTIONS)["grpc.max_connection_age_ms"] / 1000 * 0.9
    for cluster in rendered["static_resources"]["clusters"]:
        if cluster["name"] in (*UPSTREAMS, "reflection"):
            options = next(iter(cluster["typed_extension_protocol_options"].values()))
            lasts = float(options["common_http_protocol_options"]["max_connection_duration"].removesuffix("s"))
            assert lasts + 5 < age_seconds


def test_the_access_log_holds_no_query_and_no_token(rendered: Any) -> None:
    """Paths are logged without their query; no header that could hold a secret is."""
    fields = manager(rendered)["access_log"][0]["typed_config"]["log_format"]["json_format"]
    assert fields["path"] == "%PATH(NQ:ORIG_OR_PATH)%"
    assert "AUTHORIZATION" not in json.dumps(fields).upper()


def test_the_admin_interface_stays_on_loopback(settings: Any) -> None:
    """An admin address that others could reach is refused."""
    module = edge.generator()
    with pytest.raises(module.EdgeError, match="loopback"):
        module.render(replace(settings, admin="0.0.0.0:9901"))


def test_keys_from_a_file_need_no_issuer_to_ask(settings: Any) -> None:
    """An issuer without an address, as that of an evaluation: its keys are read, nobody is asked for them."""
    made = json.loads(
        edge.generator().render(replace(settings, issuer_jwks=None, issuer_jwks_file="/etc/florin/issuer/jwks.json"))
    )
    assert "issuer" not in {one["name"] for one in made["static_resources"]["clusters"]}
    filters = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    provider = next(one for one in filters if one["name"].endswith("jwt_authn"))["typed_config"]["providers"]["issuer"]
    assert provider["local_jwks"] == {"filename": "/etc/florin/issuer/jwks.json"}
    assert "remote_jwks" not in provider


def test_prometheus_sees_the_numbers_and_nothing_else_of_the_admin_interface(settings: Any, rendered: Any) -> None:
    """One path, to be read; without being asked for there is no such listener."""
    assert [one["name"] for one in rendered["static_resources"]["listeners"]] == ["edge"]
    made = json.loads(edge.generator().render(replace(settings, stats="0.0.0.0:9902")))
    listener = made["static_resources"]["listeners"][0]
    routes = listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    assert [(one["match"]["path"], one["route"]["cluster"]) for one in routes] == [("/stats/prometheus", "admin")]
    assert routes[0]["match"]["headers"] == [{"name": ":method", "string_match": {"exact": "GET"}}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upstreams": {"accounts": ("127.0.0.1:1",)}}, "No upstream"),
        ({"listen": "8443"}, "HOST:PORT"),
        ({"listen": "127.0.0.1:99999"}, "HOST:PORT"),
        ({"issuer_jwks": "file:///keys"}, "http"),
        ({"issuer_jwks": "http://issuer.example/keys"}, "https"),
        ({"issuer_jwks_file": "/keys.json"}, "exactly one of --issuer-jwks and --issuer-jwks-file"),
        ({"issuer_jwks": None}, "exactly one of --issuer-jwks and --issuer-jwks-file"),
        ({"rate_read": 0}, "rate"),
    ],
)
def test_unusable_settings_are_refused_in_a_sentence(settings: Any, change: dict[str, Any], words: str) -> None:
    """Each wrong setting has a text that names it."""
    module = edge.generator()
    with pytest.raises(module.EdgeError, match=words):
        module.render(replace(settings, **change))


def test_the_command_writes_the_same_as_the_function(settings: Any, tmp_path: Path) -> None:
    """`python envoy/generate.py` with the options of the settings writes what `render` gives."""
    module = edge.generator()
    plain = replace(settings, rate_admin=50, rate_address=5000)
    options = ["--listen", plain.listen, "--admin", plain.admin, "--issuer", plain.issuer]
    options += ["--issuer-jwks", plain.issuer_jwks, "--tls-cert", plain.tls_cert, "--tls-key", plain.tls_key]
    options += ["--ca", plain.ca, "--client-cert", plain.client_cert, "--client-key", plain.client_key]
    options += ["--access-log", plain.access_log, "--cors-origin", edge.ORIGIN]
    for service, addresses in UPSTREAMS.items():
        options += ["--upstream", f"{service}={','.join(addresses)}"]
    target = tmp_path / "made.json"
    script = edge.ROOT / "envoy" / "generate.py"
    done = subprocess.run(
        [sys.executable, str(script), "--output", str(target), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert target.read_text() == module.render(plain)


def test_the_command_says_what_is_wrong_with_an_upstream(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown service ends the command with exit code 2 and a sentence."""
    module = edge.generator()
    needed = [
        "--output",
        "-",
        "--listen",
        "a:1",
        "--admin",
        "127.0.0.1:2",
        "--issuer",
        "i",
        "--issuer-jwks",
        "http://i",
    ]
    files = ["--tls-cert", "c", "--tls-key", "k", "--ca", "a", "--client-cert", "c", "--client-key", "k"]
    assert module.main([*needed, *files, "--upstream", "nobody=h:1"]) == 2
    assert "nobody" in capsys.readouterr().err
