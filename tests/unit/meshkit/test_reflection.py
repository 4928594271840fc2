"""Reflection finds what people ask about by its name: services, methods and messages, and nothing internal."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meshkit import reflection


async def file_with(symbol: str) -> str:
    """The name of the file that a server says declares a symbol; empty when it says that there is none."""
    server = grpc.aio.server()
    reflection.add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)

    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            async for answer in stub.ServerReflectionInfo(ask(), timeout=5):
                files = answer.file_descriptor_response.file_descriptor_proto
                return str(descriptor_pb2.FileDescriptorProto.FromString(files[0]).name) if files else ""
    finally:
        await server.stop(0)
    raise AssertionError("reflection gave no answer")


@pytest.mark.parametrize("symbol", ["TransferService", "TransferService.CreateTransfer", "CreateTransferRequest"])
async def test_services_methods_and_messages_are_found_by_name(symbol: str) -> None:
    """`grpcurl describe` works for each of them."""
    assert await file_with(f"florin.transactions.v1.{symbol}") == "florin/transactions/v1/transfer_service.proto"


@pytest.mark.parametrize(
    "symbol",
    ["transactions.v1.TransferService.Nothing", "accounts.v1.LedgerService", "accounts.v1.LedgerService.PostJournals"],
)
async def test_what_is_internal_or_unknown_is_not_found(symbol: str) -> None:
    """The published contract has no internal service, and asking for nothing is an answer."""
    assert await file_with(f"florin.{symbol}") == ""


async def test_only_what_the_edge_serves_is_listed() -> None:
    """`grpcurl list` offers nothing that cannot be called: no internal service, no health checks."""
    server = grpc.aio.server()
    reflection.add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            (answer,) = [answer async for answer in stub.ServerReflectionInfo(ask(), timeout=5)]
    finally:
        await server.stop(0)
    assert {service.name for service in answer.list_services_response.service} == {
        "florin.accounts.v1.AccountService",
        "florin.accounts.v1.AuditService",
        "florin.accounts.v1.BalanceService",
        "florin.accounts.v1.FreezeService",
        "florin.accounts.v1.JournalService",
        "florin.accounts.v1.OverdraftService",
        "florin.accounts.v1.ReconciliationService",
        "florin.accounts.v1.StatementService",
        "florin.transactions.v1.ScheduleService",
        "florin.transactions.v1.ExchangeService",
        "florin.transactions.v1.FeeService",
        "florin.transactions.v1.PaymentFileService",
        "florin.transactions.v1.RailService",
        "florin.transactions.v1.TransferService",
        "florin.compliance.v1.ComplianceService",
        "florin.notifications.v1.NotificationService",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
