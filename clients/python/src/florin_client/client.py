"""The client for blocking calls; it may be shared by threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import grpc

from florin.accounts.v1 import balance_service_pb2
from florin.notifications.v1 import notification_service_pb2
from florin_client.errors import Refused, refusal
from florin_client.sending import ENDED_SECONDS, PATIENCE_SECONDS, Patience, deadlines, may_go_on, may_help, with_keys
from florin_client.services import Services

OPTIONS = (
    ("grpc.enable_retries", 0),  # calls are sent again here, where it is known which may be
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class Client(Services):
    """A connection to Florin's edge, which speaks for who has the token.

    `target` is host and port. `token` is a token, or gives one whenever it is asked: for tokens that end. `ca` is the
    certificate authority of the edge, as a file or its PEM text; the machine's own if absent. `patience_seconds` is how
    long a call that got no answer is sent again.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | Callable[[], str],
        ca: Path | bytes | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._plain = grpc.secure_channel(target, credentials(ca), options=OPTIONS)
        caller = _Caller(token if callable(token) else lambda: token, patience_seconds)
        super().__init__(grpc.intercept_channel(self._plain, caller))
        self._patience_seconds = patience_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and the calls on it."""
        self._plain.close()

    def watch_account(
        self, name: str, *, after_sequence: int | None = None
    ) -> Iterator[balance_service_pb2.WatchAccountResponse]:
        """An account's balance and entries as they come, for ever; after a break it goes on where it was.

        Raises Refused, when asking again does not help.
        """
        request = balance_service_pb2.WatchAccountRequest(name=name, after_sequence=after_sequence)
        for change in self._for_ever(lambda: self.balances.WatchAccount(request)):
            yield change
            request.after_sequence = change.sequence

    def events(
        self, event_types: Sequence[str] = (), *, resume_token: str = ""
    ) -> Iterator[notification_service_pb2.StreamEventsResponse]:
        """Events as they happen, for ever; after a break they go on after the last one. Raises Refused.

        Whoever keeps `event.resume_token` can go on another day.
        """
        request = notification_service_pb2.StreamEventsRequest(event_types=event_types, resume_token=resume_token)
        for answer in self._for_ever(lambda: self.notifications.StreamEvents(request)):
            yield answer
            request.resume_token = answer.event.resume_token

    def _for_ever(self, begin: Callable[[], Any]) -> Iterator[Any]:
        patience = Patience(self._patience_seconds)
        while True:
            try:
                for answer in begin():
                    yield answer
                    patience = Patience(self._patience_seconds)
                time.sleep(ENDED_SECONDS)
            except Refused as refused:
                pause = patience.pause(refused) if may_go_on(refused) else None
                if pause is None:
                    raise
                time.sleep(pause)


def credentials(ca: Path | bytes | None) -> grpc.ChannelCredentials:
    """What an edge's certificate is checked with."""
    return grpc.ssl_channel_credentials(ca.read_bytes() if isinstance(ca, Path) else ca)


class _Details(grpc.ClientCallDetails):
    """A call's circumstances, with the token and a deadline."""

    def __init__(self, of: grpc.ClientCallDetails, token: str) -> None:
        self.method = of.method
        self.timeout = of.timeout if of.timeout is not None else deadlines().get(of.method)
        self.metadata = (*(of.metadata or ()), ("authorization", f"Bearer {token}"))
        self.credentials = of.credentials
        self.wait_for_ready = of.wait_for_ready
        self.compression = of.compression


class _Caller(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Gives every call the token, makes refusals exceptions, and sends calls again that got no answer."""

    def __init__(self, token: Callable[[], str], patience_seconds: float) -> None:
        self._token = token
        self._patience_seconds = patience_seconds

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        again = client_call_details.method in deadlines()
        request = with_keys(request) if again else request
        patience = Patience(self._patience_seconds)
        while True:
            call = continuation(_Details(client_call_details, self._token()), request)
            error = call.exception()
            if error is None:
                return call
            if not isinstance(error, grpc.RpcError):
                raise error
            refused = refusal(error)
            pause = patience.pause(refused) if again and may_help(refused) else None
            if pause is None:
                raise refused from None
            time.sleep(pause)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return _Answers(continuation(_Details(client_call_details, self._token()), request))

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        call = continuation(_Details(client_call_details, self._token()), request_iterator)
        error = call.exception()
        if isinstance(error, grpc.RpcError):
            raise refusal(error) from None
        return call

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return _Answers(continuation(_Details(client_call_details, self._token()), request_iterator))


class _Answers:
    """The answers of a stream; a refusal is raised where it ends."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise refusal(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)
