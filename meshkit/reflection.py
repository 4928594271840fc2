"""Server reflection (v1 and v1alpha) over the public contract of the whole mesh, so that any service can answer it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from florin.common.v1 import policy_pb2

PUBLIC_DESCRIPTORS = Path(policy_pb2.__file__).resolve().parents[3] / "public.binpb"
"""Written with the stubs: the contracts without internal services and without Florin's own options."""


class _Contracts:
    """A pool that finds methods by their names too, as `grpcurl describe SERVICE.METHOD` asks; protobuf's does not."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - the pool's name for it
        """The file that declares a symbol. Raises KeyError when none does."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def add(server: grpc.aio.Server) -> None:
    """Registers both versions of reflection. v1 differs from v1alpha in its name alone, so one servicer serves both."""
    contracts = descriptor_pb2.FileDescriptorSet.FromString(PUBLIC_DESCRIPTORS.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in contracts.file:
        pool.Add(file)
    names = [f"{file.package}.{service.name}" for file in contracts.file for service in file.service]
    names += ["grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME]
    servicer: Any = reflection.aio.ReflectionServicer(service_names=names, pool=_Contracts(pool))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for service in ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME):
        generic = grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((generic,))
