"""gRPC out: accounts' ledger and compliance's screening as the operations need them; no decisions."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC

import grpc
from google.rpc import status_pb2

from florin.accounts.v1 import journal_pb2, ledger_service_pb2, ledger_service_pb2_grpc
from florin.common.v1 import errors_pb2, money_pb2
from florin.compliance.v1 import decision_pb2, screening_service_pb2, screening_service_pb2_grpc
from meshkit import channels, clock
from meshkit.errors import reason_of
from transactions import errors, legs
from transactions.model import AccountType, Expected, State, Transfer
from transactions.ports import Account, Decision, Outcome

_CACHE_MAX = 100_000
_CACHE_SECONDS = 60.0  # owners change rarely, and accounts decides with the present ones when it posts
_REFERENCES_MAX = 2000  # of one call, by contract

_OUTCOMES = {
    decision_pb2.DECISION_OUTCOME_ALLOW: Decision.ALLOW,
    decision_pb2.DECISION_OUTCOME_DECLINE: Decision.DECLINE,
    decision_pb2.DECISION_OUTCOME_REVIEW: Decision.REVIEW,
}


class LedgerClient:
    """accounts.LedgerService."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float) -> None:
        self._stub: ledger_service_pb2_grpc.LedgerServiceAsyncStub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        self._timeout_s = timeout_s
        self._known: OrderedDict[tuple[str, str], tuple[float, Account]] = OrderedDict()

    async def resolve(self, references: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Account]:
        """The accounts behind (tenant, reference); those that do not exist are missing. Known ones are cached."""
        now = time.monotonic()
        found: dict[tuple[str, str], Account] = {}
        unknown: list[tuple[str, str]] = []
        for key in dict.fromkeys(references):
            known = self._known.get(key)
            if known is not None and known[0] > now:
                found[key] = known[1]
            else:
                unknown.append(key)
        for start in range(0, len(unknown), _REFERENCES_MAX):
            found.update(await self._ask(unknown[start : start + _REFERENCES_MAX], now))
        return found

    async def _ask(self, keys: Sequence[tuple[str, str]], now: float) -> dict[tuple[str, str], Account]:
        reference = ledger_service_pb2.ResolveAccountsRequest.AccountReference
        request = ledger_service_pb2.ResolveAccountsRequest(
            references=[reference(tenant=tenant, reference=text) for tenant, text in keys]
        )
        response = await channels.call(
            self._stub.ResolveAccounts, request, service="accounts", timeout_s=self._timeout_s
        )
        found: dict[tuple[str, str], Account] = {}
        for key, facts in zip(keys, response.accounts, strict=True):
            if facts.account:
                found[key] = Account(
                    facts.account, facts.currency_code, tuple(facts.customers), AccountType(facts.type)
                )
                self._known[key] = (now + _CACHE_SECONDS, found[key])
        while len(self._known) > _CACHE_MAX:
            self._known.popitem(last=False)
        return found

    async def describe(self, tenant: str, account: str) -> tuple[str, Sequence[str]]:
        """An account's IBAN, empty where it has none, and its owners' names; never kept here."""
        request = ledger_service_pb2.DescribeAccountRequest(tenant=tenant, account=account)
        response = await channels.call(
            self._stub.DescribeAccount, request, service="accounts", timeout_s=self._timeout_s
        )
        return response.iban, tuple(response.owner_names)

    async def post(self, transfers: Sequence[Transfer], *, validate_only: bool = False) -> list[Outcome]:
        """Posts each transfer's journal; consumes its hold where it was in review."""
        request = ledger_service_pb2.PostJournalsRequest(
            steps=[_journal_step(transfer) for transfer in transfers], validate_only=validate_only
        )
        response = await channels.call(self._stub.PostJournals, request, service="accounts", timeout_s=self._timeout_s)
        read = _previewed if validate_only else _outcome
        return [read(outcome) for outcome in response.outcomes]

    async def hold(self, transfers: Sequence[Transfer]) -> list[Outcome]:
        """Holds each transfer's amount and fee on its debit account."""
        request = ledger_service_pb2.PlaceHoldsRequest(steps=[_hold_step(transfer) for transfer in transfers])
        response = await channels.call(self._stub.PlaceHolds, request, service="accounts", timeout_s=self._timeout_s)
        return [_hold_outcome(*pair) for pair in zip(response.outcomes, transfers, strict=True)]

    async def release(self, transfers: Sequence[Transfer]) -> list[Outcome]:
        """Gives each transfer's hold back, or makes sure that it is never placed."""
        step = ledger_service_pb2.ReleaseStep
        request = ledger_service_pb2.ReleaseHoldsRequest(
            steps=[step(tenant=transfer.tenant, hold_key=transfer.step_key("hold")) for transfer in transfers]
        )
        response = await channels.call(self._stub.ReleaseHolds, request, service="accounts", timeout_s=self._timeout_s)
        return [_outcome(outcome) for outcome in response.outcomes]

    async def cancel(self, transfers: Sequence[Transfer]) -> list[Outcome]:
        """Makes sure that transfers that were not posted yet never will be; tells of those that were."""
        step = ledger_service_pb2.CancelStepsRequest.StepKey
        request = ledger_service_pb2.CancelStepsRequest(
            steps=[step(tenant=transfer.tenant, key=transfer.step_key("post")) for transfer in transfers]
        )
        response = await channels.call(self._stub.CancelSteps, request, service="accounts", timeout_s=self._timeout_s)
        return [_outcome(outcome) for outcome in response.outcomes]


class ScreeningClient:
    """compliance.ScreeningService."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float) -> None:
        self._stub: screening_service_pb2_grpc.ScreeningServiceAsyncStub = (
            screening_service_pb2_grpc.ScreeningServiceStub(channel)
        )
        self._timeout_s = timeout_s

    async def screen(
        self, transfers: Sequence[tuple[Transfer, Account, Account]], *, validate_only: bool = False
    ) -> list[Outcome]:
        """Decides about each transfer, given its debit and credit account."""
        request = screening_service_pb2.ScreenTransfersRequest(
            steps=[_screening_step(*item) for item in transfers], validate_only=validate_only
        )
        response = await channels.call(
            self._stub.ScreenTransfers, request, service="compliance", timeout_s=self._timeout_s
        )
        return [_decision(outcome) for outcome in response.outcomes]


def _money(transfer: Transfer, more: int = 0) -> money_pb2.Money:
    return money_pb2.Money(currency_code=transfer.currency, minor_units=transfer.amount + more)


def _journal_step(transfer: Transfer) -> ledger_service_pb2.JournalStep:
    kind = journal_pb2.JOURNAL_KIND_REVERSAL if transfer.reversal_of else journal_pb2.JOURNAL_KIND_TRANSFER
    step = ledger_service_pb2.JournalStep(
        key=transfer.step_key("post"),
        principal=transfer.principal.to_proto(),
        kind=kind,
        origin=transfer.name,
        legs=[
            ledger_service_pb2.JournalLeg(
                account=leg.account,
                amount=money_pb2.Money(currency_code=leg.currency, minor_units=leg.amount),
                position=leg.position,
            )
            for leg in legs.of(transfer)
        ],
        hold_key=transfer.hold_key,
        keep_hold=bool(transfer.capture_of) and not transfer.final_capture,
        effective_time=clock.timestamp(transfer.effective_time) if transfer.effective_time is not None else None,
    )
    if transfer.expected is not None and not transfer.hold_key:  # what is held was looked at when it was
        step.expected_version = transfer.expected.version
        step.expected_available_minor_units = transfer.expected.available
    return step


def _hold_step(transfer: Transfer) -> ledger_service_pb2.HoldStep:
    expected = transfer.expected
    return ledger_service_pb2.HoldStep(
        key=transfer.step_key("hold"),
        principal=transfer.principal.to_proto(),
        origin=transfer.name,
        account=transfer.debit_account,
        amount=_money(transfer, more=transfer.fee_amount),
        expire_time=clock.timestamp(transfer.expire_time) if transfer.expire_time is not None else None,
        expected_version=expected.version if expected is not None else None,
        expected_available_minor_units=expected.available if expected is not None else None,
    )


def _screening_step(transfer: Transfer, debit: Account, credit: Account) -> screening_service_pb2.ScreeningStep:
    return screening_service_pb2.ScreeningStep(
        key=transfer.step_key("screen"),
        principal=transfer.principal.to_proto(),
        transfer=transfer.name,
        debit_account=debit.name,
        credit_account=credit.name,
        debit_customers=debit.customers,
        credit_customers=credit.customers,
        amount=_money(transfer),
        creditor_name=transfer.creditor_name,
        end_to_end_id=transfer.end_to_end_id,
        remittance=transfer.remittance,
    )


def _outcome(outcome: ledger_service_pb2.StepOutcome) -> Outcome:
    if outcome.HasField("refusal"):
        is_frozen = reason_of(outcome.refusal) == errors_pb2.REASON_LEDGER_FROZEN
        return Outcome(refusal=outcome.refusal, is_frozen=is_frozen)
    if outcome.HasField("hold"):
        return Outcome(hold=outcome.hold.hold, customers=tuple(outcome.hold.debit_customers))
    journal = outcome.journal
    return Outcome(
        journal=journal.journal,
        accounts=tuple(journal.accounts),
        customers=tuple(journal.debit_customers),
        create_time=journal.create_time.ToDatetime(tzinfo=UTC),
        effective_time=journal.effective_time.ToDatetime(tzinfo=UTC),
        balances_after=tuple(balance.minor_units for balance in journal.balances_after),
    )


def _previewed(outcome: ledger_service_pb2.StepOutcome) -> Outcome:
    """What a step would come to, and what the account that it debits is like."""
    if not outcome.journal.HasField("debit_state"):  # refused, or by accounts of a version that does not tell
        return _outcome(outcome)
    state = outcome.journal.debit_state
    return replace(_outcome(outcome), expected=Expected(state.version, state.available_minor_units))


def _hold_outcome(outcome: ledger_service_pb2.StepOutcome, transfer: Transfer) -> Outcome:
    """A hold that was released already cannot be placed again: somebody cancelled the transfer, or its time is over."""
    if outcome.HasField("hold") and outcome.hold.state == journal_pb2.HOLD_STATE_RELEASED:
        return Outcome(refusal=errors.TransferCancelled().to_status())
    if outcome.HasField("hold") and outcome.hold.state == journal_pb2.HOLD_STATE_EXPIRED:
        return Outcome(refusal=errors.AuthorizationEnded(transfer.name, State.EXPIRED).to_status())
    return _outcome(outcome)


def _decision(outcome: screening_service_pb2.ScreenTransfersResponse.ScreeningOutcome) -> Outcome:
    decision = _OUTCOMES[outcome.outcome]
    refusal = None
    if decision is Decision.DECLINE:
        if outcome.refusal.reason == errors.LimitExceeded.reason:
            refusal = _limit_exceeded(outcome.refusal)
        else:
            refusal = errors.PaymentDeclined().to_status()
    return Outcome(
        decision=decision,
        trace=outcome.trace if outcome.HasField("trace") else None,
        decision_name=outcome.decision,
        case=outcome.case,
        refusal=refusal,
        limit_refusal=_limit_exceeded(outcome.limit_refusal) if outcome.HasField("limit_refusal") else None,
    )


def _limit_exceeded(refusal: errors_pb2.Refusal) -> status_pb2.Status:
    return errors.LimitExceeded(refusal.message, dict(refusal.metadata)).to_status()
