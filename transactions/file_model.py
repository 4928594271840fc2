"""A file of payments and its items as this service knows them; pure, no I/O."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from google.rpc import status_pb2

from meshkit.idempotency import NAMESPACE
from meshkit.identity import Principal

ITEM_METHOD = "/florin.transactions.v1.PaymentFileService/UploadPaymentFile"
"""The scope of the items' request_ids: no call of a client has it, so none can take an item's place."""


class FileFormat(StrEnum):
    """How a file is written."""

    PAIN_001 = "PAIN_001"
    CSV = "CSV"


class FileState(StrEnum):
    """Where a file is in its life."""

    PROCESSING = "PROCESSING"
    CANCELLING = "CANCELLING"
    FINISHED = "FINISHED"


class ItemState(StrEnum):
    """What became of one payment."""

    WAITING = "WAITING"
    UNDER_WAY = "UNDER_WAY"
    COMPLETED = "COMPLETED"
    DECLINED = "DECLINED"
    REFUSED = "REFUSED"
    CANCELLED = "CANCELLED"


_VERSION_OF_AN_END = 2
"""Accepted, finished; a file that was cancelled has one version more."""


@dataclass(frozen=True, slots=True)
class PaymentFile:
    """A file that was accepted, and how far its payments are."""

    id: str
    principal: Principal
    """Who uploaded it; its payments are made on their authority, whoever of this service makes them."""
    format: FileFormat
    message_id: str
    message_key: uuid.UUID
    initiating_party: str
    sha256: str
    size_bytes: int
    items: int
    counts: Mapping[ItemState, int]
    create_time: datetime
    update_time: datetime
    state: FileState = FileState.PROCESSING
    version: int = 1
    finish_time: datetime | None = None
    attempts: int = 0
    """How often it was looked at since something of it ended last."""
    traceparent: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The resource name."""
        return f"paymentFiles/{self.id}"

    @property
    def tenant(self) -> str:
        """The tenant it belongs to."""
        return self.principal.tenant

    @property
    def is_done(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.state is FileState.FINISHED

    @property
    def was_cancelled(self) -> bool:
        """Whether somebody cancelled it before it was finished."""
        return self.state is FileState.CANCELLING or (self.is_done and self.version > _VERSION_OF_AN_END)

    def visible_to(self, principal: Principal) -> bool:
        """Whether a caller may see it: staff all of their tenant, a customer its own."""
        return principal.tenant == self.tenant and (principal.is_staff or principal.customer == self.principal.customer)

    def item_request_id(self, number: int) -> str:
        """The request_id of an item: of this file and its place in it, so that it is one transfer however often it is
        asked for."""
        return f"{self.name}/{number}"


@dataclass(frozen=True, slots=True)
class Item:
    """One payment of a file."""

    number: int
    line: int
    information_id: str
    instruction_id: str
    end_to_end_id: str
    amount: str
    currency: str
    state: ItemState = ItemState.WAITING
    request: bytes = b""
    """A CreateTransferRequest, as long as there may be need to send it; sealed in the table."""
    transfer: str = ""
    """The id of its transfer."""
    status: status_pb2.Status | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """What was received: where from and how it is called."""

    format: FileFormat
    message_id: str
    """As the caller gave it; empty for none."""
    sha256: str
    size_bytes: int


def file_id(principal: Principal, upload: Upload) -> str:
    """The id of a file: the same bytes from the same customer, or from staff of the same tenant, are one file, whoever
    of them uploads it."""
    given = upload.message_id if upload.format is FileFormat.CSV else ""  # pain.001 has its own among its bytes
    return str(_key(principal, "file", upload.format, given, upload.sha256))


def message_key(principal: Principal, initiating_party: str, message_id: str) -> uuid.UUID:
    """What a file's identification is unique within: a customer's files, or staff's, by who made them."""
    return _key(principal, "message", initiating_party, message_id)


def _key(principal: Principal, *parts: str) -> uuid.UUID:
    return uuid.uuid5(NAMESPACE, "\0".join([principal.tenant, principal.customer or "", *parts]))
