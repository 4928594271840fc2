"""gRPC in: message → use case → message; no SQL, no decisions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.rpc import status_pb2

from florin.transactions.v1 import transfer_pb2, transfer_service_pb2_grpc
from florin.transactions.v1 import transfer_service_pb2 as pb
from meshkit import clock, identity, interceptors
from meshkit.errors import DomainError, RequestInvalid
from meshkit.identity import Principal
from meshkit.interceptors import Malformed
from transactions import messages, state_tokens
from transactions.model import Transfer
from transactions.operations import Transfers, check
from transactions.orders import Declined
from transactions.ports import Ledger, Screening
from transactions.preview import preview
from transactions.streams import Asked, Streams


class TransferServicer(transfer_service_pb2_grpc.TransferServiceServicer):
    """florin.transactions.v1.TransferService."""

    def __init__(self, transfers: Transfers, streams: Streams, ledger: Ledger, screening: Screening) -> None:
        self._transfers = transfers
        self._streams = streams
        self._ledger = ledger
        self._screening = screening

    async def CreateTransfer(self, request: pb.CreateTransferRequest, context: Any) -> pb.CreateTransferResponse:  # noqa: N802, ARG002
        """See the contract."""
        call = identity.current()
        order = messages.order(request, call.who, call.fingerprint, call.request_id)
        check(order)
        if request.validate_only:
            order = await self._transfers.orders.previewed(order)
            shown, expected = await preview(order, self._ledger, self._screening)
            if expected is not None:
                tokens = self._transfers.orders.state_tokens
                shown.state_token, until = tokens.seal(order, state_tokens.fingerprint(request), expected)
                shown.state_token_expire_time.CopyFrom(clock.timestamp(until))
            return pb.CreateTransferResponse(transfer=messages.previewed(order, call.who, shown), preview=shown)
        transfer = await self._transfers.orders.create(order, call.deadline)
        return pb.CreateTransferResponse(transfer=messages.transfer(transfer, call.who))

    async def BatchCreateTransfers(  # noqa: N802
        self,
        request: pb.BatchCreateTransfersRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.BatchCreateTransfersResponse:
        """See the contract."""
        call = identity.current()
        orders = [_item(item, call.who) for item in request.requests]
        results = await self._transfers.orders.create_batch(orders, call.deadline)
        return pb.BatchCreateTransfersResponse(results=[_result(result, call.who) for result in results])

    async def StreamTransfers(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamTransfersRequest | Malformed], context: Any
    ) -> AsyncIterator[pb.StreamTransfersResponse]:
        """See the contract. The initial metadata are sent at once: until then the edge counts the time of a request."""
        call = identity.current()
        with self._streams.place(call.who):
            await context.send_initial_metadata(())
            async for answer in self._streams.carry(call, requests, lambda message: _asked(message, call.who)):
                transfer, status = _told(answer.result, call.who)
                yield pb.StreamTransfersResponse(
                    position=answer.position, request_id=answer.request_id, transfer=transfer, status=status
                )

    async def GetTransfer(self, request: pb.GetTransferRequest, context: Any) -> pb.GetTransferResponse:  # noqa: N802, ARG002
        """See the contract."""
        who = identity.current().who
        transfer = await self._transfers.get(who, _id(request.name))
        return pb.GetTransferResponse(transfer=messages.transfer(transfer, who))

    async def ListTransfers(self, request: pb.ListTransfersRequest, context: Any) -> pb.ListTransfersResponse:  # noqa: N802, ARG002
        """See the contract."""
        who = identity.current().who
        page, token = await self._transfers.list_page(who, request.filter, request.page_size, request.page_token)
        return pb.ListTransfersResponse(
            transfers=[messages.transfer(transfer, who) for transfer in page], next_page_token=token
        )

    async def WaitTransfer(self, request: pb.WaitTransferRequest, context: Any) -> pb.WaitTransferResponse:  # noqa: N802, ARG002
        """See the contract."""
        call = identity.current()
        # A tenth of a second is kept for the answer to travel.
        seconds = max(call.remaining_s() - 0.1, 0.0)
        if request.HasField("timeout"):
            seconds = min(seconds, request.timeout.ToTimedelta().total_seconds())
        transfer = await self._transfers.wait(call.who, _id(request.name), seconds)
        return pb.WaitTransferResponse(transfer=messages.transfer(transfer, call.who))

    async def CancelTransfer(self, request: pb.CancelTransferRequest, context: Any) -> pb.CancelTransferResponse:  # noqa: N802, ARG002
        """See the contract."""
        call = identity.current()
        transfer = await self._transfers.cancel(call, _id(request.name))
        return pb.CancelTransferResponse(transfer=messages.transfer(transfer, call.who))

    async def ReverseTransfer(self, request: pb.ReverseTransferRequest, context: Any) -> pb.ReverseTransferResponse:  # noqa: N802, ARG002
        """See the contract."""
        call = identity.current()
        original = _id(request.name)
        order = messages.reversal(request, call, original)
        transfer = await self._transfers.reverse(original, order, call, return_fee=request.return_fee)
        return pb.ReverseTransferResponse(reversal=messages.transfer(transfer, call.who))

    async def CaptureTransfer(self, request: pb.CaptureTransferRequest, context: Any) -> pb.CaptureTransferResponse:  # noqa: N802, ARG002
        """See the contract."""
        call = identity.current()
        order = messages.capture(request, call, _id(request.name))
        capture = await self._transfers.authorizations.capture(order, call)
        return pb.CaptureTransferResponse(capture=messages.transfer(capture, call.who))

    async def VoidTransfer(self, request: pb.VoidTransferRequest, context: Any) -> pb.VoidTransferResponse:  # noqa: N802, ARG002
        """See the contract."""
        call = identity.current()
        transfer = await self._transfers.authorizations.void(call, _id(request.name))
        return pb.VoidTransferResponse(transfer=messages.transfer(transfer, call.who))


def _id(name: str) -> str:
    return name.removeprefix("transfers/")


_ITEM_TIMEOUT_SECONDS = 5.0
"""Of an item of a stream that names none: as long as a single call."""


def _asked(message: pb.StreamTransfersRequest | Malformed, principal: Principal) -> Asked:
    """What a message of a stream asks for; what is wrong with it is said of it alone."""
    if isinstance(message, Malformed):
        return Asked("", RequestInvalid([("", message.why)]))
    request = message.transfer
    try:
        interceptors.validate(message)
    except RequestInvalid as refusal:
        return Asked(request.request_id, refusal)
    seconds = message.timeout.ToTimedelta().total_seconds() if message.HasField("timeout") else _ITEM_TIMEOUT_SECONDS
    return Asked(request.request_id, _item(request, principal), seconds)


def _item(request: pb.CreateTransferRequest, principal: Principal) -> Transfer | DomainError:
    """One item of a batch or stream as an order, or its refusal."""
    if not request.request_id:
        return RequestInvalid([("request_id", "an item of many needs a request_id of its own")])
    if request.validate_only:
        return RequestInvalid([("validate_only", "an item of many cannot be validated alone; use CreateTransfer")])
    order = messages.order(request, principal, interceptors.fingerprint(request), request.request_id)
    try:
        check(order)
    except DomainError as refusal:
        return refusal
    return order


def _result(result: Transfer | DomainError, principal: Principal) -> pb.BatchCreateTransfersResponse.Result:
    transfer, status = _told(result, principal)
    return pb.BatchCreateTransfersResponse.Result(transfer=transfer, status=status)


def _told(
    result: Transfer | DomainError, principal: Principal
) -> tuple[transfer_pb2.Transfer | None, status_pb2.Status | None]:
    """What is told of one of many: its transfer where one was recorded, its refusal where it was refused."""
    if isinstance(result, Transfer):
        return messages.transfer(result, principal), None
    declined = messages.transfer(result.transfer, principal) if isinstance(result, Declined) else None
    return declined, result.to_status()
