"""A production issuer: RS256, EdDSA and ES256 keys over https from a private authority, for edge and services."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from joserfc import jwk, jwt

from florin.accounts.v1 import account_service_pb2, account_service_pb2_grpc
from local import binaries, certs
from local.processes import free_port, tail
from local.state import SERVICES, State
from meshkit.errors import Unavailable
from meshkit.settings import ServiceSettings
from meshkit.tokens import Verifier
from tests.support import programs
from tests.support.edge import ROOT, error_info
from tests.support.mesh import Mesh
from tests.support.parts import eventually, wait_until
from tests.support.programs import program

ISSUER = "https://login.bank.example"
AUDIENCE = "bank-payments"
ALGORITHMS = ("RS256", "EdDSA", "ES256")


def make_keys() -> dict[str, jwk.Key]:
    """A key of each algorithm, as an issuer that is changing over would publish them."""
    return {
        "RS256": jwk.RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": "rs"}),
        "EdDSA": jwk.OKPKey.generate_key("Ed25519", {"use": "sig", "alg": "EdDSA", "kid": "ed"}),
        "ES256": jwk.ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256", "kid": "es"}),
    }


@dataclass(slots=True)
class Deployment:
    """An edge and a replica of accounts that believe the production issuer."""

    keys: dict[str, jwk.Key]
    target: str
    ca: bytes

    def token(self, algorithm: str, key: jwk.Key | None = None, **claims: Any) -> str:
        """A token as docs/production.md says it has to be; claims can be changed."""
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada@bank.example", "iat": now, "exp": now + 600}
        said = {**usual, "tenant": "demo", "scope": "customers:read openid", **claims}
        key = key or self.keys[algorithm]
        return jwt.encode({"alg": algorithm, "kid": self.keys[algorithm].kid}, said, key, algorithms=[algorithm])

    def list_customers(self, token: str) -> account_service_pb2.ListCustomersResponse:
        """Calls through the edge."""
        credentials = grpc.ssl_channel_credentials(self.ca)
        with grpc.secure_channel(self.target, credentials) as channel:
            stub = account_service_pb2_grpc.AccountServiceStub(channel)
            answer: account_service_pb2.ListCustomersResponse = stub.ListCustomers(
                account_service_pb2.ListCustomersRequest(),
                metadata=[("authorization", f"Bearer {token}")],
                timeout=5,
            )
            return answer


def private_authority(folder: Path) -> State:
    """An authority of its own, with certificates for servers on this machine."""
    authority = State(folder / "authority")
    authority.root.mkdir()
    certs.ensure(authority)
    return authority


@contextmanager
def issuer_over_https(keys: dict[str, jwk.Key], certificate: tuple[Path, Path]) -> Iterator[int]:
    """The issuer's key set at /jwks.json."""
    body = json.dumps({"keys": [key.as_dict(private=False) for key in keys.values()]}).encode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            """Says nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def deployment(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Beside the session's mesh: accounts once more, and an edge, both with the issuer's settings of the page."""
    folder = tmp_path_factory.mktemp("issuer")
    authority = private_authority(folder)
    keys = make_keys()
    replica = programs.replica("accounts")
    edge_port, admin_port = free_port(), free_port()
    certificate, key = (str(path) for path in mesh.state.certificate("edge"))
    with contextlib.ExitStack() as running:
        keys_port = running.enter_context(issuer_over_https(keys, authority.certificate("edge")))
        jwks = f"https://localhost:{keys_port}/jwks.json"
        told = {
            "ACCOUNTS_JWT_ISSUER": ISSUER,
            "ACCOUNTS_JWT_AUDIENCE": AUDIENCE,
            "ACCOUNTS_JWKS_URL": jwks,
            "ACCOUNTS_JWKS_CA_FILE": str(authority.ca),
        }
        environment = programs.environment(mesh, replica, told)
        running.enter_context(program(programs.service("accounts"), folder / "accounts.log", environment))
        configuration = folder / "envoy.json"
        command = [sys.executable, str(ROOT / "envoy" / "generate.py"), "--output", str(configuration)]
        command += ["--listen", f"127.0.0.1:{edge_port}", "--admin", f"127.0.0.1:{admin_port}"]
        command += [part for service in SERVICES for part in ("--upstream", f"{service}={replica.address}")]
        command += ["--issuer", ISSUER, "--audience", AUDIENCE]
        command += ["--issuer-jwks", jwks, "--issuer-ca", str(authority.ca)]
        command += ["--tls-cert", certificate, "--tls-key", key, "--ca", str(mesh.state.ca)]
        command += ["--client-cert", certificate, "--client-key", key, "--access-log", str(folder / "access.log")]
        subprocess.run(command, check=True)
        envoy = [str(binaries.find().envoy), "-c", str(configuration), "--disable-hot-restart", "--concurrency", "1"]
        running.enter_context(program([*envoy, "--log-level", "warning"], folder / "envoy.log"))
        made = Deployment(keys, f"localhost:{edge_port}", mesh.state.ca.read_bytes())

        def answers() -> bool:
            try:
                made.list_customers(made.token("ES256"))
            except grpc.RpcError:
                return False
            return True

        try:
            wait_until(answers, 30)
        except AssertionError:
            logs = [tail(folder / name, 20) for name in ("accounts.log", "envoy.log", "access.log")]
            raise AssertionError("\n".join(logs)) from None
        yield made


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_the_production_issuer_is_believed(deployment: Deployment, mesh: Mesh, algorithm: str) -> None:
    """Its keys come over https from a server that a private authority signed for."""
    customer = mesh.customer(verified=False)
    assert customer in [found.name for found in deployment.list_customers(deployment.token(algorithm)).customers]


def test_several_audiences_may_stand_in_a_token(deployment: Deployment) -> None:
    """Many issuers put all of a client's audiences into one list."""
    token = deployment.token("RS256", aud=["other", AUDIENCE])
    deployment.list_customers(token)


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"aud": "other"}, grpc.StatusCode.PERMISSION_DENIED, "AUDIENCE_WRONG"),
        ({"iss": "https://issuer.florin.local"}, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
        ({"exp": 2_000_000_000 + 10 * 365 * 86_400}, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
        ({"scope": "openid"}, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        ({"tenant": None}, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
    ],
    ids=["audience", "issuer", "lifetime", "scope", "tenant"],
)
def test_a_token_that_differs_from_what_the_page_asks_for_is_refused(
    deployment: Deployment, changes: dict[str, Any], code: grpc.StatusCode, reason: str
) -> None:
    """Each with its reason."""
    with pytest.raises(grpc.RpcError) as caught:
        deployment.list_customers(deployment.token("RS256", **changes))
    info = error_info(caught.value)
    assert (caught.value.code(), info.reason if info else None) == (code, reason)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_signed_by_another_key_is_refused(deployment: Deployment, algorithm: str) -> None:
    """Also when it names the key of the issuer."""
    with pytest.raises(grpc.RpcError) as caught:
        deployment.list_customers(deployment.token(algorithm, key=make_keys()[algorithm]))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_of_the_development_issuer_is_refused(deployment: Deployment, mesh: Mesh) -> None:
    """A deployment has one issuer; what is good on a laptop is worth nothing there."""
    with pytest.raises(grpc.RpcError) as caught:
        deployment.list_customers(mesh.token("teller"))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("trusted", [True, False])
async def test_keys_are_fetched_only_from_a_server_of_the_named_authority(tmp_path: Path, trusted: bool) -> None:
    """Who stands between a service and its issuer cannot hand it keys."""
    authority = private_authority(tmp_path)
    keys = make_keys()
    with issuer_over_https(keys, authority.certificate("edge")) as port:
        ca = authority.ca if trusted else None
        url = f"https://localhost:{port}/jwks.json"
        told = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwks_url": url, "jwks_file": None, "jwks_ca_file": ca}
        verifier = Verifier(cast("ServiceSettings", SimpleNamespace(**told)))
        token = Deployment(keys, "", b"").token("RS256")
        if trusted:

            async def tenant() -> str:
                # A verifier says that it is unavailable while it has no keys yet.
                with contextlib.suppress(Unavailable):
                    return (await verifier.verify(f"Bearer {token}"))[0].tenant
                return ""

            assert await eventually(tenant) == "demo"
        else:
            with pytest.raises(Unavailable):
                await verifier.verify(f"Bearer {token}")
