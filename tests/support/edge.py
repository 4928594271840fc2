"""The real Envoy with the generated configuration before small stand-ins for the services; no service is started."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import importlib.util
import json
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_status import rpc_status

from florin.accounts.v1 import account_service_pb2, account_service_pb2_grpc
from florin.notifications.v1 import notification_service_pb2, notification_service_pb2_grpc
from florin.transactions.v1 import transfer_service_pb2, transfer_service_pb2_grpc
from local import binaries, certs, issuer, processes
from local.processes import Child
from local.state import SERVICES, State, open_state
from meshkit.reflection import PUBLIC_DESCRIPTORS
from tests.support.parts import start, wait_until

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = "https://app.example"
ADMIN_RATE = 10
"""Administrative calls a second of one subject; the other classes keep their defaults."""


def generator() -> ModuleType:
    """envoy/generate.py, loaded by its path as local/ does."""
    if "edge_generate" not in sys.modules:
        spec = importlib.util.spec_from_file_location("edge_generate", ROOT / "envoy" / "generate.py")
        if spec is None or spec.loader is None:
            raise AssertionError("envoy/generate.py is missing")
        module = importlib.util.module_from_spec(spec)
        sys.modules["edge_generate"] = module
        spec.loader.exec_module(module)
    return sys.modules["edge_generate"]


def settings(state: State, *, listen: int, admin: int, upstreams: Mapping[str, tuple[str, ...]], jwks: int) -> Any:
    """Settings of an edge on loopback with the certificates of a state folder."""
    certificate, key = (str(path) for path in state.certificate("edge"))
    return generator().EdgeSettings(
        listen=f"127.0.0.1:{listen}",
        admin=f"127.0.0.1:{admin}",
        upstreams=dict(upstreams),
        issuer=issuer.ISSUER,
        issuer_jwks=f"http://127.0.0.1:{jwks}/jwks.json",
        tls_cert=certificate,
        tls_key=key,
        ca=str(state.ca),
        client_cert=certificate,
        client_key=key,
        access_log=str(state.logs / "access.log"),
        cors_origins=(ORIGIN,),
        rate_admin=ADMIN_RATE,
        # A burst of a test must not close its own connections' door for the others.
        rate_address=20_000,
    )


@dataclass(slots=True)
class Seen:
    """A call as a stand-in got it."""

    replica: str
    method: str
    metadata: dict[str, str]
    request: Any
    seconds_left: float | None


def refuse(context: Any, code: grpc.StatusCode, reason: str, text: str, *details: Any, **metadata: str) -> None:
    """Ends a call as the services do: with a google.rpc.Status that carries one ErrorInfo."""
    status = status_pb2.Status(code=code.value[0], message=text)
    info = error_details_pb2.ErrorInfo(reason=reason, domain="florin", metadata=metadata)
    for detail in (info, *details):
        status.details.add().Pack(detail)
    context.abort_with_status(rpc_status.to_status(status))


class StandIn:
    """One replica of a service that answers a few methods, each name for one behaviour."""

    def __init__(self, state: State, service: str, replica: str, seen: list[Seen]) -> None:
        self.service, self.replica, self.seen = service, replica, seen
        certificate, key = state.certificate(service)
        self._credentials = grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())], state.ca.read_bytes(), require_client_auth=True
        )
        self.port = 0
        self.start()

    def start(self) -> None:
        """Serves, after a stop on the same port."""
        # Without SO_REUSEPORT a port that is still held is an error here, not a second listener.
        self.server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        account_service_pb2_grpc.add_AccountServiceServicer_to_server(_Accounts(self), self.server)
        transfer_service_pb2_grpc.add_TransferServiceServicer_to_server(_Transfers(self), self.server)
        notification_service_pb2_grpc.add_NotificationServiceServicer_to_server(_Notifications(self), self.server)
        checks = health.HealthServicer()
        for name in ("", *(f"florin.{service}.v1.{rpc}" for service, rpc in _HEALTH_NAMES)):
            checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, self.server)
        _reflect(self.server)
        self.port = self.server.add_secure_port(f"127.0.0.1:{self.port}", self._credentials)
        self.server.start()

    def stop(self) -> None:
        """Closes the port and every connection at once."""
        self.server.stop(0).wait()

    def note(self, method: str, request: Any, context: Any) -> dict[str, str]:
        """Records the call and gives its metadata."""
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        left = context.time_remaining()
        self.seen.append(Seen(self.replica, method, metadata, request, left))
        return metadata


_HEALTH_NAMES = (
    ("accounts", "AccountService"),
    ("transactions", "TransferService"),
    ("compliance", "ComplianceService"),
    ("notifications", "NotificationService"),
)


class _Accounts(account_service_pb2_grpc.AccountServiceServicer):
    def __init__(self, stand_in: StandIn) -> None:
        self._in = stand_in

    def GetAccount(self, request: Any, context: Any) -> Any:
        self._in.note("GetAccount", request, context)
        if request.name == "accounts/missing":
            text = 'There is no "account" like that.\n'
            refuse(context, grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND", text, account="accounts/missing")
        if request.name == "accounts/busy":
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(2500)
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "Too much at once.", retry)
        if request.name == "accounts/slow" or (request.name, self._in.replica) == ("accounts/stuck", "accounts-0"):
            wait = threading.Event()
            context.add_callback(wait.set)
            wait.wait(20)
        response = account_service_pb2.GetAccountResponse()
        response.account.name = request.name
        response.account.display_name = self._in.replica
        return response

    def CreateAccount(self, request: Any, context: Any) -> Any:
        self._in.note("CreateAccount", request, context)
        broken = error_details_pb2.BadRequest()
        broken.field_violations.add(field="currency_code", description="must match the pattern")
        broken.field_violations.add(field="type", description="must not be 0")
        refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID", "Two rules are broken.", broken)

    def ListAccounts(self, request: Any, context: Any) -> Any:
        self._in.note("ListAccounts", request, context)
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")

    def CreateTenant(self, request: Any, context: Any) -> Any:
        self._in.note("CreateTenant", request, context)
        return account_service_pb2.CreateTenantResponse()


class _Transfers(transfer_service_pb2_grpc.TransferServiceServicer):
    def __init__(self, stand_in: StandIn) -> None:
        self._in = stand_in

    def CreateTransfer(self, request: Any, context: Any) -> Any:
        self._in.note("CreateTransfer", request, context)
        if request.remittance == "down":
            refuse(context, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "The database is unavailable.")
        response = transfer_service_pb2.CreateTransferResponse()
        response.transfer.name = "transfers/one"
        return response

    def GetTransfer(self, request: Any, context: Any) -> Any:
        self._in.note("GetTransfer", request, context)
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")


class _Notifications(notification_service_pb2_grpc.NotificationServiceServicer):
    def __init__(self, stand_in: StandIn) -> None:
        self._in = stand_in

    def StreamEvents(self, request: Any, context: Any) -> Iterator[Any]:
        self._in.note("StreamEvents", request, context)
        for number in range(3):
            response = notification_service_pb2.StreamEventsResponse()
            response.event.resume_token = str(number)
            yield response


def _reflect(server: grpc.Server) -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    contracts = descriptor_pb2.FileDescriptorSet.FromString(PUBLIC_DESCRIPTORS.read_bytes())
    for file in contracts.file:
        pool.Add(file)
    names = [f"{file.package}.{service.name}" for file in contracts.file for service in file.service]
    servicer: Any = reflection.ReflectionServicer(service_names=names, pool=pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME):
        generic = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((generic,))


@dataclass(slots=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class Edge:
    """A running Envoy, and what stands behind it."""

    state: State
    port: int
    admin: int
    seen: list[Seen] = field(default_factory=list)
    stand_ins: dict[str, list[StandIn]] = field(default_factory=dict)

    def token(self, role: str = "teller", **options: Any) -> str:
        """A good token of a role."""
        return issuer.mint(self.state, role, **options)

    def metadata(self, role: str = "teller", **options: Any) -> list[tuple[str, str]]:
        """The call metadata that carries a good token."""
        return [("authorization", f"Bearer {self.token(role, **options)}")]

    def channel(self) -> grpc.Channel:
        """A gRPC channel that trusts the mesh's authority."""
        credentials = grpc.ssl_channel_credentials(self.state.ca.read_bytes())
        return grpc.secure_channel(f"localhost:{self.port}", credentials)

    def tls(self) -> ssl.SSLContext:
        """TLS as a caller has it."""
        return ssl.create_default_context(cafile=str(self.state.ca))

    def http(
        self,
        method: str,
        path: str,
        *,
        body: bytes | str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One HTTP/1.1 call on a connection of its own."""
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.tls(), timeout=15)
        sent = {**({"authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                # Refused before it is all sent: the answer is there to be read all the same.
                connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return Answer(
                response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def calls(self, method: str) -> list[Seen]:
        """What the stand-ins saw of a method."""
        return [seen for seen in self.seen if seen.method == method]


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo of a refused call."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


@contextmanager
def running(canary_percent: int = 0) -> Iterator[Edge]:
    """Envoy with two stand-ins for accounts and one for each other service, gone afterwards.

    With a share, the second one of accounts is a canary that gets it.
    """
    with tempfile.TemporaryDirectory(prefix="florin-edge-") as folder:
        Path(folder).chmod(0o755)
        state = open_state(Path(folder) / "state")
        certs.ensure(state)
        issuer.ensure(state)
        edge = Edge(state, processes.free_port(), processes.free_port())
        for service in SERVICES:
            count = 2 if service == "accounts" else 1
            edge.stand_ins[service] = [StandIn(state, service, f"{service}-{n}", edge.seen) for n in range(count)]
        upstreams = {
            service: tuple(f"127.0.0.1:{one.port}" for one in stand_ins)
            for service, stand_ins in edge.stand_ins.items()
        }
        with _keys(state) as jwks:
            if canary_percent:
                upstreams["accounts"], tried = upstreams["accounts"][:1], upstreams["accounts"][1]
            made = settings(state, listen=edge.port, admin=edge.admin, upstreams=upstreams, jwks=jwks)
            if canary_percent:
                canaries = sys.modules["edge_arguments"].parse_canaries([f"accounts:{canary_percent}={tried}"])
                made = dataclasses.replace(made, canaries=canaries)
            configuration = state.root / "envoy.json"
            configuration.write_text(generator().render(made))
            program = [str(binaries.find().envoy), "-c", str(configuration), "--disable-hot-restart"]
            program += ["--concurrency", "2", "--log-level", "warning", "--file-flush-interval-msec", "1000"]
            process = start(Child("envoy", program, state.logs / "envoy.log", probe=_never))
            try:
                _wait(edge, lambda: process.poll() is None)
                yield edge
            finally:
                process.terminate()
                process.wait(15)
                for stand_in in [one for group in edge.stand_ins.values() for one in group]:
                    stand_in.stop()


async def _never() -> bool:
    return False


def _wait(edge: Edge, alive: Callable[[], bool]) -> None:
    def ready() -> bool:
        if not alive():
            raise AssertionError(f"Envoy ended:\n{processes.tail(edge.state.logs / 'envoy.log', 30)}")
        try:
            return edge.http("GET", "/v1/accounts/ready", token=edge.token()).status == 200
        except OSError:
            return False

    wait_until(ready, 20)


@contextmanager
def _keys(state: State) -> Iterator[int]:
    """The issuer's keys over HTTP, from a thread with a loop of its own."""
    loop = asyncio.new_event_loop()
    ready: list[int] = []
    stop = asyncio.Event()

    async def serve() -> None:
        async with issuer.serve(state, 0) as port:
            ready.append(port)
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not ready and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
