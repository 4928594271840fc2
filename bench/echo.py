"""A server that answers every call with an empty message at once: what a call costs before anything is done for it.

Run as `python -m bench.echo PORT CERTIFICATE KEY CA`; it speaks mTLS as the services do, and holds no logic.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop

_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse{status: SERVING}


class _Everything(grpc.GenericRpcHandler):
    """Takes any unary method, in bytes."""

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method: the edge's health checks get their answer, callers an empty message."""
        answer = _SERVING if handler_call_details.method.startswith("/grpc.health.") else b""

        async def handle(_request: bytes, _context: Any) -> bytes:
            return answer

        return grpc.unary_unary_rpc_method_handler(handle)


async def main() -> None:
    """Serves until it is ended."""
    port, certificate, key, authority = sys.argv[1:]
    credentials = grpc.ssl_server_credentials(
        [(Path(key).read_bytes(), Path(certificate).read_bytes())],
        root_certificates=Path(authority).read_bytes(),
        require_client_auth=True,
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Everything(),))
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
