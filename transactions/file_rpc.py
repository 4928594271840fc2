"""PaymentFileService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from google.api import httpbody_pb2

from florin.transactions.v1 import payment_file_pb2
from florin.transactions.v1 import payment_file_service_pb2 as pb
from florin.transactions.v1 import payment_file_service_pb2_grpc as pb_grpc
from meshkit import clock, identity
from meshkit.errors import DeadlineExceeded, Overloaded
from meshkit.identity import Call
from transactions import file_reports
from transactions.file_model import FileFormat, FileState, Item, ItemState, PaymentFile
from transactions.file_operations import PaymentFiles

_LOT_ITEMS = 500
"""Items of a report that are read and written at once."""
_REPORTS_MAX = 4
"""Reports that a process writes at once, one for each subject."""
_ITEM_STATES = {payment_file_pb2.PaymentFileItemState.Value(f"PAYMENT_FILE_ITEM_STATE_{s.value}"): s for s in ItemState}
_ITEM_NUMBERS = {state: number for number, state in _ITEM_STATES.items()}
_FILE_STATES = {s: payment_file_pb2.PaymentFileState.Value(f"PAYMENT_FILE_STATE_{s.value}") for s in FileState}
_FORMATS = {f: payment_file_pb2.PaymentFileFormat.Value(f"PAYMENT_FILE_FORMAT_{f.value}") for f in FileFormat}


class PaymentFileServicer(pb_grpc.PaymentFileServiceServicer):
    """florin.transactions.v1.PaymentFileService."""

    def __init__(self, files: PaymentFiles) -> None:
        self._files = files
        self._turn = asyncio.Lock()
        self._writing: set[tuple[str, str]] = set()

    async def UploadPaymentFile(
        self, requests: AsyncIterator[pb.UploadPaymentFileRequest], context: Any
    ) -> pb.UploadPaymentFileResponse:
        """See the contract."""
        file = await self._files.upload(identity.current(), requests)
        return pb.UploadPaymentFileResponse(payment_file=_file(file))

    async def GetPaymentFile(self, request: pb.GetPaymentFileRequest, context: Any) -> pb.GetPaymentFileResponse:
        """See the contract."""
        file = await self._files.get(identity.current().who, _id(request.name))
        return pb.GetPaymentFileResponse(payment_file=_file(file))

    async def ListPaymentFiles(self, request: pb.ListPaymentFilesRequest, context: Any) -> pb.ListPaymentFilesResponse:
        """See the contract."""
        who = identity.current().who
        page, token = await self._files.list_page(who, request.page_size, request.page_token)
        return pb.ListPaymentFilesResponse(payment_files=[_file(file) for file in page], next_page_token=token)

    async def WaitPaymentFile(self, request: pb.WaitPaymentFileRequest, context: Any) -> pb.WaitPaymentFileResponse:
        """See the contract."""
        call = identity.current()
        # A quarter of a second is kept for the last look and for the answer to travel.
        seconds = max(call.remaining_s() - 0.25, 0.0)
        if request.HasField("timeout"):
            seconds = min(seconds, request.timeout.ToTimedelta().total_seconds())
        file = await self._files.wait(call.who, _id(request.name), seconds)
        return pb.WaitPaymentFileResponse(payment_file=_file(file))

    async def CancelPaymentFile(
        self, request: pb.CancelPaymentFileRequest, context: Any
    ) -> pb.CancelPaymentFileResponse:
        """See the contract."""
        file = await self._files.cancel(identity.current(), _id(request.name))
        return pb.CancelPaymentFileResponse(payment_file=_file(file))

    async def ListPaymentFileItems(
        self, request: pb.ListPaymentFileItemsRequest, context: Any
    ) -> pb.ListPaymentFileItemsResponse:
        """See the contract."""
        page, token = await self._files.items(
            identity.current().who,
            _id(request.parent),
            state=_ITEM_STATES.get(request.state),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListPaymentFileItemsResponse(items=[_item(item) for item in page], next_page_token=token)

    async def GetPaymentFileReport(
        self, request: pb.GetPaymentFileReportRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        """See the contract. Nothing is held while the caller takes a part."""
        call = identity.current()
        who = (call.tenant, call.who.subject)
        if len(self._writing) >= _REPORTS_MAX or who in self._writing:
            raise Overloaded
        self._writing.add(who)
        try:
            async for part in self._report(call, request):
                yield part
        finally:
            self._writing.discard(who)

    async def _report(
        self, call: Call, request: pb.GetPaymentFileReportRequest
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        file = await self._files.get(call.who, _id(request.name))
        pain_002 = request.format == payment_file_pb2.PAYMENT_REPORT_FORMAT_PAIN_002
        report: file_reports.Report = file_reports.Pain002(file) if pain_002 else file_reports.Csv()
        yield httpbody_pb2.HttpBody(content_type=report.content_type, data=report.head())
        after = 0
        while after < file.items:
            if call.remaining_s() <= 0:
                raise DeadlineExceeded
            # One lot of all reports at a time, and a pause as long as it took: half of the process is left to payments.
            async with self._turn:
                started = time.perf_counter()
                lot = await self._files.lot(file, after=after, limit=_LOT_ITEMS)
                if not lot or lot[0].number != after + 1:
                    raise RuntimeError(f"{file.name} lacks its item {after + 1}")
                data = report.rows(lot)
                await asyncio.sleep(time.perf_counter() - started)
            after = lot[-1].number
            yield httpbody_pb2.HttpBody(data=data)
        yield httpbody_pb2.HttpBody(data=report.tail())


def _id(name: str) -> str:
    return name.removeprefix("paymentFiles/")


def _file(file: PaymentFile) -> payment_file_pb2.PaymentFile:
    counts = {state.value.lower(): count for state, count in file.counts.items()}
    return payment_file_pb2.PaymentFile(
        name=file.name,
        state=_FILE_STATES[file.state],
        done=file.is_done,
        format=_FORMATS[file.format],
        message_id=file.message_id,
        initiating_party=file.initiating_party,
        customer=file.principal.customer or "",
        subject=file.principal.subject,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        payment_count=file.items,
        counts=payment_file_pb2.PaymentFile.Counts(**counts),
        create_time=clock.timestamp(file.create_time),
        update_time=clock.timestamp(file.update_time),
        finish_time=clock.timestamp(file.finish_time) if file.finish_time is not None else None,
        version=file.version,
    )


def _item(item: Item) -> payment_file_pb2.PaymentFileItem:
    return payment_file_pb2.PaymentFileItem(
        number=item.number,
        line=item.line,
        payment_information_id=item.information_id,
        end_to_end_id=item.end_to_end_id,
        amount=item.amount,
        currency_code=item.currency,
        state=_ITEM_NUMBERS[item.state],
        transfer=f"transfers/{item.transfer}" if item.transfer else "",
        status=item.status,
    )
