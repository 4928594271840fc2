"""A file's changes of state as event messages for the outbox; ids and counts only, no names."""

from __future__ import annotations

from google.protobuf.message import Message

from florin.transactions.v1 import events_pb2
from meshkit import clock
from meshkit.outbox import Event
from transactions.file_model import FileState, ItemState, PaymentFile


def of(file: PaymentFile) -> Event:
    """The event of the change that brought a file into its present version."""
    return Event(
        tenant=file.tenant,
        aggregate=file.name,
        version=file.version,
        message=_message(file),
        time=file.update_time,
        traceparent=file.traceparent,
    )


def _message(file: PaymentFile) -> Message:
    customers = [file.principal.customer] if file.principal.customer is not None else []
    match file.state:
        case FileState.PROCESSING:
            return events_pb2.PaymentFileAccepted(
                payment_file=file.name,
                customers=customers,
                message_id=file.message_id,
                payment_count=file.items,
                create_time=clock.timestamp(file.create_time),
            )
        case FileState.CANCELLING:
            return events_pb2.PaymentFileCancelled(
                payment_file=file.name,
                customers=customers,
                message_id=file.message_id,
                update_time=clock.timestamp(file.update_time),
            )
        case FileState.FINISHED:
            return events_pb2.PaymentFileFinished(
                payment_file=file.name,
                customers=customers,
                message_id=file.message_id,
                payment_count=file.items,
                completed_count=file.counts[ItemState.COMPLETED],
                declined_count=file.counts[ItemState.DECLINED],
                refused_count=file.counts[ItemState.REFUSED],
                cancelled_count=file.counts[ItemState.CANCELLED],
                update_time=clock.timestamp(file.update_time),
            )
