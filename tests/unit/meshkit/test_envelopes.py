"""Events packed into messages and taken out again: the same ones, as few messages as may be, an id by which a message
that is sent twice is known."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.envelopes import AGAIN_FOR, MESSAGE_ID, Envelope, Incoming, Undecodable, pack, unpack
from meshkit.outbox import OutboxRow

_SUBJECTS = ("florin.accounts.customer_created.v1", "florin.accounts.journal_posted.v1")


def _row(number: int, subject: str = _SUBJECTS[0], data: bytes = b"data", **changes: object) -> OutboxRow:
    row = OutboxRow(
        tenant="demo",
        id=number,
        event_id=uuid.uuid5(uuid.NAMESPACE_URL, str(number)),
        subject=subject,
        aggregate=f"customers/{number}",
        version=number + 1,
        time=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=number),
        traceparent=f"00-{number:032x}-00f067aa0ba902b7-01" if number % 2 else "",
        data=data,
    )
    return replace(row, **changes)


def _opened(envelope: Envelope, consumer: str = "compliance") -> list[Incoming]:
    return unpack(envelope.subject, envelope.headers, envelope.data, consumer=consumer)


def _as_row(event: Incoming, number: int) -> OutboxRow:
    return OutboxRow(
        event.tenant,
        number,
        event.id,
        event.type,
        event.aggregate,
        event.version,
        event.time,
        event.traceparent,
        event.data,
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(_SUBJECTS),
            st.binary(max_size=40),
            st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1)),  # noqa: DTZ001
        ),
        max_size=250,
    )
)
def test_every_event_arrives_as_it_was_in_its_place(drawn: list[tuple[str, bytes, datetime]]) -> None:
    """Whatever is packed together comes out unchanged, once, with the others of its type."""
    rows = [_row(number, subject, data, time=time) for number, (subject, data, time) in enumerate(drawn)]
    arrived: dict[int, OutboxRow] = {}
    for envelope in pack(rows):
        for place, event in zip(envelope.rows, _opened(envelope), strict=True):
            assert event.source == "//florin/accounts"
            arrived[place] = _as_row(event, place)
    assert [arrived[place] for place in range(len(rows))] == rows


def test_events_of_a_type_share_messages_of_a_hundred() -> None:
    """A round with 150 events of one type and 100 of another takes three messages."""
    rows = [_row(number, _SUBJECTS[number % 5 > 2]) for number in range(250)]
    sizes = sorted((envelope.subject, len(envelope.rows)) for envelope in pack(rows))
    assert sizes == [(_SUBJECTS[0], 50), (_SUBJECTS[0], 100), (_SUBJECTS[1], 100)]


def test_large_events_do_not_share_a_message() -> None:
    """A message stays far below what the broker takes; what is too large in itself keeps nobody else from going."""
    rows = [_row(number, data=b"x" * size) for number, size in enumerate((100_000, 100_000, 100_000, 2_000_000, 10))]
    assert [envelope.rows for envelope in pack(rows)] == [[0, 1], [2], [3], [4]]


def test_one_event_alone_is_a_cloud_event_in_binary_mode() -> None:
    """As any CloudEvents client reads it."""
    (envelope,) = pack([_row(1)])
    assert envelope.data == b"data"
    assert envelope.headers == {
        "ce-specversion": "1.0",
        "ce-id": str(_row(1).event_id),
        "ce-source": "//florin/accounts",
        "ce-type": _SUBJECTS[0],
        "ce-subject": "customers/1",
        "ce-time": "2026-01-01T00:00:00.000001+00:00",
        "ce-datacontenttype": "application/protobuf",
        "ce-tenant": "demo",
        "ce-sequence": "2",
        "traceparent": f"00-{1:032x}-00f067aa0ba902b7-01",
        MESSAGE_ID: str(_row(1).event_id),
    }
    assert _opened(envelope)[0].headers() == {key: v for key, v in envelope.headers.items() if key != MESSAGE_ID}


def test_the_same_events_together_have_the_same_message_id_and_no_others() -> None:
    """The broker drops a message that it has, and never one with an event that it has not."""
    ids = [pack([_row(number) for number in numbers])[0].headers[MESSAGE_ID] for numbers in ((1, 2), (1, 2), (1, 3))]
    assert ids[0] == ids[1] != ids[2]


def test_a_replay_is_kept_and_meant_for_who_is_named() -> None:
    """It has no id that the broker would know it by; only the consumer that it names handles it again."""
    envelopes = pack([_row(1), _row(2)], replay=True, again_for="compliance")
    assert [envelope.rows for envelope in envelopes] == [[0], [1]]  # each alone: no inbox would skip the other
    for envelope in envelopes:
        assert MESSAGE_ID not in envelope.headers
        assert envelope.headers[AGAIN_FOR] == "compliance"
        assert [event.again for event in _opened(envelope)] == [True]
        assert [event.again for event in _opened(envelope, "notifications")] == [False]
    assert [len(envelope.rows) for envelope in pack([_row(1), _row(2)], replay=True)] == [2]


@pytest.mark.parametrize(
    "harm", [b"\xff", b"\x0a\x03\x0a\x01x", b"\x0a\x00"], ids=["no protobuf", "an id of one byte", "an empty event"]
)
def test_a_damaged_batch_is_undecodable(harm: bytes) -> None:
    """It is buried, not handled in part."""
    (envelope,) = pack([_row(1), _row(2)])
    with pytest.raises(Undecodable):
        unpack(envelope.subject, envelope.headers, envelope.data + harm, consumer="compliance")
    with pytest.raises(Undecodable):
        unpack(envelope.subject, envelope.headers, b"", consumer="compliance")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ce-type", "florin.accounts.journal_posted.v1"),
        ("ce-source", "//florin/transactions"),
        ("ce-id", "1"),
        ("ce-sequence", "one"),
        ("ce-time", "today"),
    ],
)
def test_a_message_whose_attributes_are_wrong_is_undecodable(header: str, value: str) -> None:
    """Neither what is no CloudEvent nor what tells of another publisher's type is taken."""
    (envelope,) = pack([_row(1)])
    with pytest.raises(Undecodable):
        unpack(envelope.subject, {**envelope.headers, header: value}, b"", consumer="compliance")
