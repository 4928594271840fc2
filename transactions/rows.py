"""How a transfer stands in its table: columns, sealed fields, and back; no statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshkit.cipher import Cipher
from meshkit.identity import Principal
from transactions import columns
from transactions.exchange import RATE_PLACES, rate_text
from transactions.model import Exchange, Expected, Fee, State, Transfer, Verdict

CREDITOR_NAME, REMITTANCE = "transfers.creditor_name", "transfers.remittance"

COLUMNS = (
    "tenant, id, version, state, subject, customer, scopes, request_key, request_id, fingerprint, debit_account,"
    " credit_account, currency, amount, creditor_name, end_to_end_id, remittance, verdict, refusal, journal, decision,"
    " case_name, stand_in, reversal_of, reversed_by, customers, create_time, update_time, effective_time,"
    " expire_time, captured, voided, capture_of, final_capture, reversed, fee, fee_schedule, fee_version, fee_account,"
    " quote, credit_currency, credit_amount, rate, debit_position, credit_position, expected_version,"
    " expected_available"
)


def transfer_from(row: Sequence[Any], cipher: Cipher) -> Transfer:
    """The transfer in a row of COLUMNS."""
    (
        tenant, id_, version, state, subject, customer, scopes, request_key, request_id, fingerprint, debit_account,
        credit_account, currency, amount, creditor_name, end_to_end_id, remittance, verdict, refusal, journal, decision,
        case_name, stand_in, reversal_of, reversed_by, customers, create_time, update_time, effective_time,
        expire_time, captured, voided, capture_of, final_capture, reversed_, fee, fee_schedule, fee_version,
        fee_account, quote, credit_currency, credit_amount, rate, debit_position, credit_position, expected_version,
        expected_available,
    ) = row  # fmt: skip
    return Transfer(
        id=id_,
        principal=Principal(tenant, subject, customer, frozenset(scopes.split())),
        request_key=request_key,
        request_id=request_id,
        fingerprint=bytes(fingerprint),
        debit_account=debit_account,
        credit_account=credit_account,
        currency=currency,
        amount=amount,
        creditor_name=cipher.decrypt(creditor_name, CREDITOR_NAME),
        end_to_end_id=end_to_end_id,
        remittance=cipher.decrypt(remittance, REMITTANCE),
        create_time=create_time,
        update_time=update_time,
        state=State(state),
        version=version,
        verdict=Verdict(verdict) if verdict else None,
        refusal=columns.status_from(refusal),
        journal=journal,
        decision=decision,
        case=case_name,
        stand_in=stand_in,
        reversal_of=reversal_of,
        reversed_by=reversed_by,
        customers=tuple(customers),
        effective_time=effective_time,
        expire_time=expire_time,
        captured=captured,
        voided=voided,
        capture_of=capture_of,
        final_capture=final_capture,
        reversed=reversed_,
        fee=Fee(fee, fee_schedule, fee_version, fee_account) if fee is not None else None,
        quote=quote or "",
        exchange=Exchange(
            credit_currency, credit_amount, int(rate.scaleb(RATE_PLACES)), debit_position, credit_position
        )
        if rate is not None
        else None,
        expected=Expected(expected_version, expected_available) if expected_version is not None else None,
    )


def intent_columns(transfers: Sequence[Transfer], cipher: Cipher) -> tuple[list[Any], ...]:
    """What a new transfer brings, a list a column, in the order of the insert statement."""
    return (
        [t.tenant for t in transfers],
        [t.id for t in transfers],
        [t.principal.subject for t in transfers],
        [t.principal.customer for t in transfers],
        [" ".join(sorted(t.principal.scopes)) for t in transfers],
        [t.request_key for t in transfers],
        [t.request_id for t in transfers],
        [t.fingerprint for t in transfers],
        [t.debit_account for t in transfers],
        [t.credit_account for t in transfers],
        [t.currency for t in transfers],
        [t.amount for t in transfers],
        [cipher.encrypt(t.creditor_name, CREDITOR_NAME) for t in transfers],
        [t.end_to_end_id for t in transfers],
        [cipher.encrypt(t.remittance, REMITTANCE) for t in transfers],
        [t.reversal_of for t in transfers],
        [",".join(t.customers) for t in transfers],
        [t.create_time for t in transfers],
        [t.effective_time for t in transfers],
        [t.expire_time for t in transfers],
        [t.capture_of for t in transfers],
        [t.final_capture for t in transfers],
    )


def priced_columns(transfers: Sequence[Transfer]) -> tuple[list[Any], ...]:
    """What new transfers of which some cost a fee or are exchanged bring more, in the order of the insert statement."""
    fees, exchanges = [t.fee for t in transfers], [t.exchange for t in transfers]
    return (
        [fee.amount if fee is not None else None for fee in fees],
        [fee.schedule if fee is not None else None for fee in fees],
        [fee.version if fee is not None else None for fee in fees],
        [fee.account if fee is not None else None for fee in fees],
        [t.quote or None for t in transfers],
        [one.currency if one is not None else None for one in exchanges],
        [one.amount if one is not None else None for one in exchanges],
        [rate_text(one.rate) if one is not None else None for one in exchanges],
        [one.debit_position if one is not None else None for one in exchanges],
        [one.credit_position if one is not None else None for one in exchanges],
    )


def expected_columns(transfers: Sequence[Transfer]) -> tuple[list[Any], ...]:
    """What new transfers of which some were previewed bring more, in the order of the insert statement."""
    expected = [t.expected for t in transfers]
    return (
        [one.version if one is not None else None for one in expected],
        [one.available if one is not None else None for one in expected],
    )


def outcome_columns(transfers: Sequence[Transfer]) -> tuple[list[Any], ...]:
    """What a change of state brings, a list a column; `version` is the one before the change."""
    return (
        [t.tenant for t in transfers],
        [t.id for t in transfers],
        [t.version - 1 for t in transfers],
        [t.state.value for t in transfers],
        [t.debit_account for t in transfers],
        [t.credit_account for t in transfers],
        [columns.status_bytes(t.refusal) for t in transfers],
        [t.journal for t in transfers],
        [t.decision for t in transfers],
        [t.case for t in transfers],
        [t.stand_in for t in transfers],
        [t.reversed_by for t in transfers],
        [",".join(t.customers) for t in transfers],
        [t.update_time for t in transfers],
        [t.effective_time for t in transfers],
        [t.captured for t in transfers],
        [t.reversed for t in transfers],
    )
