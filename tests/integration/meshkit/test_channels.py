"""Calls to a service with two replicas, one of which stops in the middle of everything: connections to it stand."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accounts.settings import Settings
from meshkit import channels
from meshkit.hedging import Budget
from tests.support import parts as real

REPLICA = """
import asyncio, os, sys
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from meshkit.lifecycle import SERVER_OPTIONS

async def main(certificate, key, ca):
    server = grpc.aio.server(options=SERVER_OPTIONS)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)

    async def say(request, context):
        return request or str(os.getpid()).encode()

    handlers = {"Say": grpc.unary_unary_rpc_method_handler(say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    pair = (open(key, "rb").read(), open(certificate, "rb").read())
    credentials = grpc.ssl_server_credentials([pair], open(ca, "rb").read(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def replicas(parts: real.Parts) -> Iterator[list[tuple[int, int]]]:
    """Two processes that serve as accounts; (process id, port) of each."""
    certificate, key = parts.state.certificate("accounts")
    command = [sys.executable, "-c", REPLICA, str(certificate), str(key), str(parts.state.ca)]
    root = Path(__file__).resolve().parents[3]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, text=True) for _ in range(2)]
    try:
        yield [(process.pid, int(process.stdout.readline())) for process in started if process.stdout is not None]
    finally:
        for process in started:
            process.kill()
            process.wait(10)


async def test_a_replica_that_stands_still_is_not_felt_and_then_left_alone(
    parts: real.Parts, replicas: list[tuple[int, int]]
) -> None:
    """No call fails: one that hangs is made at the other replica too, until pings find out and it is left alone."""
    settings = real.settings_for(parts, Settings, "unused")
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for _, port in replicas)
    channels._budgets["accounts"] = Budget()
    async with channels.connect(settings, target, "accounts") as channel:
        say: Any = channel.unary_unary("/test.Echo/Say")

        async def call() -> float:
            started = time.monotonic()
            answer: Any = await channels.call(say, b"hello", service="accounts", timeout_s=4)
            assert answer == b"hello"
            return time.monotonic() - started

        answered: set[int] = set()
        async with asyncio.timeout(10):
            while len(answered) < 2:  # the other one is connected a moment after the first
                answered.add(int(await channels.call(say, b"", service="accounts", timeout_s=4)))
        os.kill(replicas[0][0], signal.SIGSTOP)
        took = [await call() for _ in range(6)]
        assert max(took) > channels.HEDGE_SECONDS, "the stopped replica was never asked"
        assert max(took) < channels.HEDGE_SECONDS + 1.5

        async def quick() -> bool:
            # Round robin: of two calls one went to the stopped replica while that was still believed in.
            return max([await call(), await call()]) < channels.HEDGE_SECONDS

        await real.eventually(quick, 20)
        os.kill(replicas[0][0], signal.SIGCONT)
