"""What a platform that probes by gRPC is told on a port without TLS, and how a pod waits for its schema."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from florin.accounts.v1 import account_service_pb2, account_service_pb2_grpc
from meshkit import command, health, lifecycle
from notifications.app import build
from notifications.settings import Settings
from tests.support import parts as real
from tests.support.parts import fresh_database, settings_for

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_drained_service_is_alive_and_not_ready(parts: real.Parts) -> None:
    """Readiness goes as the drain begins, so that no call comes; liveness stays, so that nobody kills it meanwhile."""
    settings = settings_for(parts, Settings, fresh_database(parts, "notifications"), probe_port=0)
    async with lifecycle.running(settings, build) as running:
        assert running.probe_port is not None
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.probe_port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            async def told(name: str) -> int:
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                return int(answer.status)

            assert (await told(""), await told(health.LIVE)) == (SERVING, SERVING)
            await running.readiness.drain()
            assert (await told(""), await told(health.LIVE)) == (NOT_SERVING, SERVING)


async def test_the_probe_port_answers_nothing_but_health(parts: real.Parts) -> None:
    """It asks for no certificate, so it must not be a way to the service."""
    settings = settings_for(parts, Settings, fresh_database(parts, "notifications"), probe_port=0)
    async with (
        lifecycle.running(settings, build) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.probe_port}") as channel,
    ):
        accounts = account_service_pb2_grpc.AccountServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await accounts.ListCustomers(account_service_pb2.ListCustomersRequest(), timeout=5)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_there_is_no_probe_port_unless_it_is_asked_for(parts: real.Parts) -> None:
    """A mesh on one machine has none."""
    settings = settings_for(parts, Settings, fresh_database(parts, "notifications"))
    async with lifecycle.running(settings, build) as running:
        assert running.probe_port is None


async def test_a_schema_is_waited_for_until_somebody_brings_it_up(
    parts: real.Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    """While there is none the wait goes on and says so once; when it comes, it ends."""
    name = fresh_database(parts, "notifications", "0001")
    settings = settings_for(parts, Settings, name)
    waiting = asyncio.create_task(command.await_schema(settings, 30))
    while "the schema is 0001" not in (said := capsys.readouterr().err):
        await asyncio.sleep(0.02)
        assert not waiting.done()
    assert said.count("no usable schema yet") == 1
    await asyncio.to_thread(real.migrate, parts, "notifications", name)
    await asyncio.wait_for(waiting, 10)


async def test_a_schema_that_never_comes_ends_the_wait(parts: real.Parts, capsys: pytest.CaptureFixture[str]) -> None:
    """With what was missing to the last, and an exit code that a pod is started again by."""
    name = f"notifications_{time.monotonic_ns():x}"
    parts.postgres.create_databases([name])
    with pytest.raises(SystemExit) as ended:
        await command.await_schema(settings_for(parts, Settings, name), 0)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "alembic_version" in said
    assert "gave up after 0 s" in said
