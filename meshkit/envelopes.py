"""Events as messages of the broker: one alone as a CloudEvent 1.0 in binary mode, many of a type as an EventBatch.

A message costs publisher, broker and consumer nearly the same for one event as for a hundred. It decides nothing about
events.
"""

from __future__ import annotations

import hashlib
import importlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from florin.common.v1 import events_pb2, policy_pb2
from meshkit import clock
from meshkit.outbox import OutboxRow

AGAIN_FOR = "florin-again-for"
"""Header that names the one consumer whose inbox lets an event pass that it has seen, or went on without."""
MESSAGE_ID = "Nats-Msg-Id"
"""Header by which the broker drops what it was sent a moment ago."""
_CONTENT_TYPE = "content-type"
_BATCH_TYPE = "application/vnd.florin.event-batch+protobuf"
_BATCH_EVENTS_MAX = 100
"""From here on a message hardly gets cheaper, and a consumer has to finish or leave it whole."""
_BATCH_BYTES_MAX = 256 * 1024
"""Of data; with the attributes still far below what the broker takes. A larger event goes alone."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """An event as it arrived."""

    id: uuid.UUID
    type: str
    source: str
    tenant: str
    aggregate: str
    version: int
    time: datetime
    traceparent: str
    data: bytes
    again: bool
    """Sent again on purpose, for this consumer: it is handled whatever the inbox says."""
    find_sequence: Callable[[], int] = int
    """Gives `stream_sequence`; most events are handled without anybody asking."""

    @property
    def stream_sequence(self) -> int:
        """Where its message stands in the stream."""
        return self.find_sequence()

    def message(self) -> Message:
        """The event's message, by its type. Raises Undecodable."""
        try:
            return _message_class(self.type).FromString(self.data)
        except DecodeError as error:
            raise Undecodable(f"the data is no {self.type}") from error

    def headers(self) -> dict[str, str]:
        """Those of a message with this event alone."""
        return _headers(
            OutboxRow(
                self.tenant, 0, self.id, self.type, self.aggregate, self.version, self.time, self.traceparent, self.data
            )
        )


class Undecodable(Exception):
    """A message on the bus that is no event of the contracts."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message to publish."""

    subject: str
    data: bytes
    headers: dict[str, str]
    rows: Sequence[int]
    """Which events it carries: their places among those that were packed."""


def pack(rows: Sequence[OutboxRow], *, replay: bool = False, again_for: str = "") -> list[Envelope]:
    """Puts events into as few messages as may be; those of one aggregate must not be among the same `rows`.

    Events of a `replay` are kept even if the stream had them a moment ago. Those that one consumer is to handle
    `again_for` go alone: its inbox would not skip them when others make their message come again.
    """
    envelopes: list[Envelope] = []
    for places in [[place] for place in range(len(rows))] if again_for else _by_subject(rows):
        first = rows[places[0]]
        if len(places) == 1:
            data, message_id, headers = first.data, str(first.event_id), _headers(first)
        else:
            data, message_id = _batch(rows, places)
            headers = {_CONTENT_TYPE: _BATCH_TYPE}
        if again_for:
            headers[AGAIN_FOR] = again_for
        if not replay:
            headers[MESSAGE_ID] = message_id
        envelopes.append(Envelope(first.subject, data, headers, places))
    return envelopes


def _by_subject(rows: Sequence[OutboxRow]) -> list[list[int]]:
    """The places of the rows that go together."""
    found: list[list[int]] = []
    open_: dict[str, tuple[list[int], int]] = {}
    for place, row in enumerate(rows):
        places, size = open_.get(row.subject, ([], 0))
        size += len(row.data)
        if not places or len(places) == _BATCH_EVENTS_MAX or size > _BATCH_BYTES_MAX:
            places, size = [], len(row.data)
            found.append(places)
        places.append(place)
        open_[row.subject] = places, size
    return found


def _batch(rows: Sequence[OutboxRow], places: Sequence[int]) -> tuple[bytes, str]:
    """A message's data, and its id: the same events together have the same one."""
    events = [
        events_pb2.EventRecord(
            id=row.event_id.bytes,
            tenant=row.tenant,
            aggregate=row.aggregate,
            version=row.version,
            time_us=clock.microseconds(row.time),
            traceparent=row.traceparent,
            data=row.data,
        )
        for row in map(rows.__getitem__, places)
    ]
    ids = b"".join(event.id for event in events)
    return events_pb2.EventBatch(events=events).SerializeToString(), hashlib.sha256(ids).hexdigest()


def _headers(row: OutboxRow) -> dict[str, str]:
    """Those of a CloudEvent in binary mode."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(row.event_id),
        "ce-source": _source(row.subject),
        "ce-type": row.subject,
        "ce-subject": row.aggregate,
        "ce-time": row.time.isoformat(),
        "ce-datacontenttype": "application/protobuf",
        "ce-tenant": row.tenant,
        "ce-sequence": str(row.version),
    }
    if row.traceparent:
        headers["traceparent"] = row.traceparent
    return headers


def unpack(
    subject: str,
    headers: Mapping[str, str] | None,
    data: bytes,
    *,
    consumer: str,
    find_sequence: Callable[[], int] = int,
) -> list[Incoming]:
    """Reads a message of the bus as `consumer`. Raises Undecodable when it holds no events of the contracts."""
    values = headers or {}
    again = values.get(AGAIN_FOR) == consumer
    # The broker lets a service publish its own subjects alone, so the subject is what can be trusted.
    source = _source(subject)
    try:
        if values.get(_CONTENT_TYPE) == _BATCH_TYPE:
            records = events_pb2.EventBatch.FromString(data).events
            if not records or not all(record.tenant and record.aggregate and record.version > 0 for record in records):
                raise Undecodable("the batch is empty, or one of its events has no tenant, aggregate or version")
            return [
                Incoming(
                    id=uuid.UUID(bytes=record.id),
                    type=subject,
                    source=source,
                    tenant=record.tenant,
                    aggregate=record.aggregate,
                    version=record.version,
                    time=clock.from_microseconds(record.time_us),
                    traceparent=record.traceparent,
                    data=record.data,
                    again=again,
                    find_sequence=find_sequence,
                )
                for record in records
            ]
        event_type, stated = values["ce-type"], values["ce-source"]
        event = Incoming(
            id=uuid.UUID(values["ce-id"]),
            type=event_type,
            source=stated,
            tenant=values["ce-tenant"],
            aggregate=values["ce-subject"],
            version=int(values["ce-sequence"]),
            time=datetime.fromisoformat(values["ce-time"]),
            traceparent=values.get("traceparent", ""),
            data=data,
            again=again,
            find_sequence=find_sequence,
        )
    except (DecodeError, OverflowError) as error:
        raise Undecodable(f"the data is no batch of events: {error!r}") from error
    except (KeyError, ValueError) as error:
        raise Undecodable(f"it has not the attributes of a CloudEvent: {error!r}") from error
    if event_type != subject:
        raise Undecodable(f"ce-type is {event_type}, the subject {subject}")
    if stated != source:
        raise Undecodable(f"ce-source is {stated}, the subject {subject}")
    return [event]


def _source(subject: str) -> str:
    """The source of the events with a subject: the service that owns it."""
    return "//florin/" + subject.split(".", 2)[1]


_classes: dict[str, type[Message]] = {}


def _message_class(event_type: str) -> type[Message]:
    found = _classes.get(event_type)
    if found is None:
        found = _classes[event_type] = _find_class(event_type)
    return found


def _find_class(event_type: str) -> type[Message]:
    """florin.accounts.customer_created.v1 → florin.accounts.v1.CustomerCreated, checked against its option."""
    parts = event_type.split(".")
    if len(parts) != 4 or parts[0] != "florin":
        raise Undecodable(f"{event_type} is no event of the contracts")
    name = "".join(word.capitalize() for word in parts[2].split("_"))
    try:
        importlib.import_module(f"florin.{parts[1]}.{parts[3]}.events_pb2")
        found = descriptor_pool.Default().FindMessageTypeByName(f"florin.{parts[1]}.{parts[3]}.{name}")
    except (KeyError, ModuleNotFoundError):
        raise Undecodable(f"{event_type} is no event of the contracts") from None
    if found.GetOptions().Extensions[policy_pb2.event].subject != event_type:
        raise Undecodable(f"{event_type} is no event of the contracts")
    message_class: type[Message] = message_factory.GetMessageClass(found)
    return message_class
