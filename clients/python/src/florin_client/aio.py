"""The client for asyncio; it belongs to the event loop that it was made in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import grpc

from florin.accounts.v1 import balance_service_pb2
from florin.notifications.v1 import notification_service_pb2
from florin_client.client import OPTIONS, credentials
from florin_client.errors import refusal
from florin_client.pages import items_async as items
from florin_client.sending import ENDED_SECONDS, PATIENCE_SECONDS, Patience, deadlines, may_go_on, may_help, with_keys
from florin_client.services import AsyncServices

__all__ = ["Client", "items"]


class Client(AsyncServices):
    """As `florin_client.Client`, for asyncio: `await florin.transfers.CreateTransfer(…)`."""

    def __init__(
        self,
        target: str,
        *,
        token: str | Callable[[], str],
        ca: Path | bytes | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        give = token if callable(token) else lambda: token
        self._token = give
        self._patience_seconds = patience_seconds
        channel = grpc.aio.secure_channel(
            target, credentials(ca), options=OPTIONS, interceptors=[_Unary(give, patience_seconds), _Stream(give)]
        )
        super().__init__(channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection, and the calls on it."""
        await self._channel.close()

    async def watch_account(
        self, name: str, *, after_sequence: int | None = None
    ) -> AsyncIterator[balance_service_pb2.WatchAccountResponse]:
        """An account's balance and entries as they come, for ever; after a break it goes on where it was.

        Raises Refused, when asking again does not help.
        """
        request = balance_service_pb2.WatchAccountRequest(name=name, after_sequence=after_sequence)
        async for change in self._for_ever(lambda: self.balances.WatchAccount(request)):
            yield change
            request.after_sequence = change.sequence

    async def events(
        self, event_types: Sequence[str] = (), *, resume_token: str = ""
    ) -> AsyncIterator[notification_service_pb2.StreamEventsResponse]:
        """Events as they happen, for ever; after a break they go on after the last one. Raises Refused."""
        request = notification_service_pb2.StreamEventsRequest(event_types=event_types, resume_token=resume_token)
        async for answer in self._for_ever(lambda: self.notifications.StreamEvents(request)):
            yield answer
            request.resume_token = answer.event.resume_token

    async def _for_ever(self, begin: Callable[[], Any]) -> AsyncIterator[Any]:
        patience = Patience(self._patience_seconds)
        while True:
            try:
                async for answer in begin():
                    yield answer
                    patience = Patience(self._patience_seconds)
                await asyncio.sleep(ENDED_SECONDS)
            except grpc.RpcError as error:
                refused = refusal(error)
                pause = patience.pause(refused) if may_go_on(refused) else None
                if pause is None:
                    raise refused from None
                await asyncio.sleep(pause)


def _details(of: grpc.aio.ClientCallDetails, token: str) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(of.metadata or ()), ("authorization", f"Bearer {token}"))
    method = of.method.decode() if isinstance(of.method, bytes) else of.method
    timeout = of.timeout if of.timeout is not None else deadlines().get(method)
    return grpc.aio.ClientCallDetails(of.method, timeout, metadata, of.credentials, of.wait_for_ready)


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives a call the token, makes its refusal an exception, and sends it again if it got no answer."""

    def __init__(self, token: Callable[[], str], patience_seconds: float) -> None:
        self._token = token
        self._patience_seconds = patience_seconds

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        method = client_call_details.method
        again = (method.decode() if isinstance(method, bytes) else method) in deadlines()
        request = with_keys(request) if again else request
        patience = Patience(self._patience_seconds)
        while True:
            call = await continuation(_details(client_call_details, self._token()), request)
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                refused = refusal(error)
            pause = patience.pause(refused) if again and may_help(refused) else None
            if pause is None:
                raise refused
            await asyncio.sleep(pause)


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    """Gives a stream of answers the token."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_details(client_call_details, self._token()), request)
