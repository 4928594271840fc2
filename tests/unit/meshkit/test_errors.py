"""Refusals cross RPC intact, and nothing internal does."""

from __future__ import annotations

from google.rpc import error_details_pb2

from meshkit import errors


def test_a_refusal_has_exactly_one_error_info() -> None:
    """Reason, domain and metadata stand in one ErrorInfo; every violation in one BadRequest."""
    status = errors.RequestInvalid([("amount", "value is required"), ("debit_account", "is malformed")]).to_status()
    infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = errors.error_info(status)
    assert info is not None
    assert (info.reason, info.domain) == ("REQUEST_INVALID", "florin")
    bad_request = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad_request)
    assert [violation.field for violation in bad_request.field_violations] == ["amount", "debit_account"]


def test_the_sum_of_violations_leaves_out_what_is_long() -> None:
    """A pattern stands in the list; the sentence names its field, and is not cut off within a word."""
    pattern = "does not match regex pattern `^(accounts/[a-z0-9][a-z0-9-]{0,62}|iban:[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30})$`"
    refusal = errors.RequestInvalid([("debit_account", pattern), ("amount", "must be positive"), ("", "b"), ("c", "d")])
    assert refusal.message == "The request is invalid: debit_account; amount: must be positive; b (and 1 more)."


def test_the_sum_of_violations_tells_sentences_to_their_end() -> None:
    """A sentence of a contract is longer than its field's name, and says nothing without its last word."""
    needed = "debit_account, credit_account, amount, start_date, local_time and time_zone are needed"
    percent = "the percentage must be between 0 and 100 with up to four decimal places, as in 0.25"
    refusal = errors.RequestInvalid([("", needed), ("fee_schedule.percent", percent)])
    assert refusal.message == f"The request is invalid: {needed}; fee_schedule.percent: {percent}."


def test_an_empty_update_mask_is_told_as_such() -> None:
    """Nothing was named that could not be changed."""
    assert errors.UpdateMaskInvalid("", ["amount"]).message == (
        "update_mask: name the fields that are to be changed; these can: amount."
    )
    assert '"state" cannot be changed here' in errors.UpdateMaskInvalid("state", ["amount"]).message


def test_a_recorded_refusal_is_the_same_refusal() -> None:
    """What was stored is raised again to the byte."""
    status = errors.CurrencyUnknown("XQQ").to_status()
    again = errors.RecordedRefusal(status)
    assert again.to_status() == status
    assert again.recorded_reason == errors.CurrencyUnknown.reason


def test_a_refusal_that_may_pass_says_when_to_try_again() -> None:
    """Shed load carries RetryInfo."""
    status = errors.Overloaded().to_status()
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)


def test_every_reason_of_the_kit_is_in_the_contract() -> None:
    """No class names a reason that callers could not look up."""
    for refusal in errors.DomainError.__subclasses__():
        assert errors.reason_name(refusal.reason)


def test_a_refusal_fits_into_the_trailers_of_a_call() -> None:
    """gRPC's clients drop a refusal above 8 KiB and tell their caller of a lack of resources instead."""
    violations = [(f"requests[{number}].debit_account", "does not match a long pattern") for number in range(3_000)]
    refusal = errors.RequestInvalid(violations)
    assert refusal.metadata["violations"] == "3000"
    assert 20 < len(refusal.details[0].field_violations) < 3_000  # type: ignore[attr-defined]
    assert refusal.to_status().ByteSize() < 4_000
    quoting = errors.UpdateMaskInvalid("x" * 100_000, ["display_name"])
    assert quoting.to_status().ByteSize() < 1_000
    assert quoting.message.endswith("…")
