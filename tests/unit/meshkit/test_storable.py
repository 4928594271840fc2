"""Requests hold nothing that a database cannot keep."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from florin.accounts.v1 import journal_service_pb2
from florin.transactions.v1 import schedule_pb2, transfer_service_pb2
from meshkit import interceptors, storable
from meshkit.errors import RequestInvalid


def test_a_nul_character_is_found_wherever_it_stands() -> None:
    """PostgreSQL would refuse the row, and the caller would be told of an internal error."""
    request = transfer_service_pb2.BatchCreateTransfersRequest()
    request.requests.add(request_id="fine")
    request.requests.add(request_id="a\0b", end_to_end_id="\0")
    assert storable.violations(request) == [
        ("requests[1].end_to_end_id", "holds a NUL character"),
        ("requests[1].request_id", "holds a NUL character"),
    ]


def test_a_nul_character_is_found_in_a_map() -> None:
    """In a key as in a value."""
    request = journal_service_pb2.PostJournalRequest(metadata={"a\0": "fine", "b": "x\0"})
    found = storable.violations(request)
    assert sorted(where.partition("]")[2] for where, _ in found) == [".key", ".value"]
    assert storable.violations(journal_service_pb2.PostJournalRequest(metadata={"a": "b"})) == []


def test_a_number_with_zero_bytes_is_no_nul_character() -> None:
    """Only texts are looked at: an empty message inside another one has a zero byte on the wire."""
    request = transfer_service_pb2.BatchCreateTransfersRequest()
    request.requests.add()
    assert b"\0" in request.SerializeToString()
    assert storable.violations(request) == []


@pytest.mark.parametrize(
    ("seconds", "nanos", "sound"),
    [
        (0, 0, True),
        (-62_135_596_800, 0, True),
        (253_402_300_799, 999_999_999, True),
        (-62_135_596_801, 0, False),
        (253_402_300_800, 0, False),
        (2**62, 0, False),
        (0, -1, False),
        (0, 1_000_000_000, False),
    ],
)
def test_a_time_outside_of_the_calendar_is_found(seconds: int, nanos: int, sound: bool) -> None:
    """protobuf carries any number; a Timestamp is within the years 1 to 9999."""
    request = transfer_service_pb2.ReverseTransferRequest(effective_time=Timestamp(seconds=seconds, nanos=nanos))
    assert [field for field, _ in storable.violations(request)] == ([] if sound else ["effective_time"])


def test_what_cannot_be_kept_is_refused_together_with_the_contracts_violations() -> None:
    """One answer lists both kinds."""
    request = transfer_service_pb2.ReverseTransferRequest(name="nothing", reason="\0", request_id="r")
    with pytest.raises(RequestInvalid) as refusal:
        interceptors.validate(request)
    fields = [violation.field for violation in refusal.value.details[0].field_violations]  # type: ignore[attr-defined]
    assert fields == ["name", "reason"]


def test_what_was_left_out_is_called_required() -> None:
    """The rules of an enum's zero and of a text's least length would speak of a list and of a number of characters."""
    recurrence = schedule_pb2.Recurrence()
    recurrence.weekly.days.append(schedule_pb2.WEEKDAY_UNSPECIFIED)
    reversal = transfer_service_pb2.ReverseTransferRequest(name="transfers/a", request_id="r")
    for message, field in ((recurrence, "weekly.days[0]"), (reversal, "reason")):
        with pytest.raises(RequestInvalid) as refusal:
            interceptors.validate(message)
        assert refusal.value.message == f"The request is invalid: {field}: value is required."
