"""Opens a bank for a payment file: customers, accounts, money, limits, a watchlist; it must not make payments."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, policy_pb2
from local.client import Edge, Patience, Session
from meshkit import money
from transactions.payments.plan import PlannedPayment

_AT_ONCE = 24
_CHUNK_BYTES = 60_000
_PAGE = 1000
LIMITS = {"EUR": (50_000_00, 1_000_000_00), "JPY": (1_000_000, 100_000_000)}
"""Currency → the most of one payment and of one customer's day, in minor units."""
SHORT = {"KRUMM-EUR": 1_000_00}
"""What a debtor has who has too little, by payment information; others have what their payments come to."""


@dataclass(frozen=True, slots=True)
class Party:
    """A customer to be, with one account."""

    id: str
    name: str
    iban: str
    currency_code: str
    funds_minor: int = 0

    @property
    def customer(self) -> str:
        """Its resource name."""
        return f"customers/{self.id}"

    @property
    def account(self) -> str:
        """Its account's resource name."""
        return f"accounts/{self.id}"


@dataclass(frozen=True, slots=True)
class Bank:
    """Who speaks for whom in the demo's tenant."""

    tenant: str
    teller: Session
    compliance: Session
    operator: Session


def staff(edge: Edge, tenant: str) -> Bank:
    """The members of staff of a tenant."""
    return Bank(tenant, *(edge.session(role, tenant=tenant) for role in ("teller", "compliance", "operator")))


def parties(planned: Sequence[PlannedPayment]) -> tuple[Party, ...]:
    """Everybody that a file names by IBAN, debtors first; a debtor gets what its payments come to, unless short."""
    debtors: dict[str, Party] = {}
    payees: dict[str, Party] = {}
    for index, instruction in enumerate({item.instruction.id: item.instruction for item in planned}.values(), start=1):
        own = [item for item in planned if item.instruction.id == instruction.id and not item.repeats]
        currency = instruction.debtor_currency_code or next(_known(own), "EUR")
        needed = sum(
            item.request.amount.minor_units
            for item in own
            if item.request is not None and item.request.amount.currency_code == currency
        )
        iban = instruction.debtor_account.removeprefix("iban:")
        funds = SHORT.get(instruction.id, needed)
        debtors[iban] = Party(f"payer-{index}", instruction.debtor_name, iban, currency, funds)
    for item in planned:
        iban = item.payment.creditor_account.removeprefix("iban:")
        if item.payment.currency_code in money.EXPONENTS and iban not in debtors and iban not in payees:
            name = item.payment.creditor_name or iban
            payees[iban] = Party(f"payee-{len(payees) + 1:03d}", name, iban, item.payment.currency_code)
    return (*debtors.values(), *payees.values())


def _known(items: Iterable[PlannedPayment]) -> Iterator[str]:
    return (item.payment.currency_code for item in items if item.payment.currency_code in money.EXPONENTS)


async def open_customers(bank: Bank, wanted: Sequence[Party]) -> None:
    """Records the customers, opens their accounts, has them verified by a second person. Raises Refused."""
    limit = asyncio.Semaphore(_AT_ONCE)
    teller, officer = bank.teller, bank.compliance

    async def record(party: Party) -> None:
        async with limit:
            customer = account_service_pb2.CreateCustomerRequest(
                customer_id=party.id, display_name=party.name, request_id=f"customer-{party.id}"
            )
            await teller.call(teller.accounts.CreateCustomer, customer)
            account = account_service_pb2.CreateAccountRequest(
                account_id=party.id,
                customers=[party.customer],
                type=account_pb2.ACCOUNT_TYPE_CUSTOMER,
                currency_code=party.currency_code,
                identifiers=[account_pb2.AccountIdentifier(iban=party.iban)],
                request_id=f"account-{party.id}",
            )
            await teller.call(teller.accounts.CreateAccount, account)

    async def identify(party: Party) -> None:
        async with limit:
            submission = compliance_service_pb2.SubmitKycRequest(
                customer=party.customer,
                legal_name=party.name,
                country_code=party.iban[:2],
                request_id=f"kyc-{party.id}",
            )
            # Compliance learns of a customer by an event, which may be a moment behind.
            submitted = await teller.call(teller.compliance.SubmitKyc, submission, until={"CUSTOMER_NOT_FOUND"})
            # What is verified is what was looked at: it could be submitted anew in between.
            verification = compliance_service_pb2.VerifyCustomerRequest(
                name=submitted.profile.name, etag=submitted.profile.etag, request_id=f"verify-{party.id}"
            )
            await officer.call(officer.compliance.VerifyCustomer, verification)

    await asyncio.gather(*map(record, wanted))
    await asyncio.gather(*map(identify, wanted))


async def until_active(bank: Bank, wanted: Sequence[Party], seconds: float = 60.0) -> int:
    """Waits until compliance's events have made the accounts active; how many were still pending at first."""
    patience = Patience(seconds)
    first: int | None = None
    while True:
        accounts = await list_accounts(bank.teller)
        pending = [
            party.account for party in wanted if accounts[party.account].state != account_pb2.ACCOUNT_STATE_ACTIVE
        ]
        first = len(pending) if first is None else first
        if not pending:
            return first
        if not await patience.wait():
            raise TimeoutError(f"{len(pending)} accounts are not active after {seconds:.0f} s, {pending[0]} among them")


async def list_accounts(session: Session) -> dict[str, account_pb2.Account]:
    """All accounts of the tenant by name. Raises Refused."""
    found: dict[str, account_pb2.Account] = {}
    token = ""
    while True:
        request = account_service_pb2.ListAccountsRequest(page_size=_PAGE, page_token=token)
        page = await session.call(session.accounts.ListAccounts, request)
        found.update({account.name: account for account in page.accounts})
        token = page.next_page_token
        if not token:
            return found


async def fund(bank: Bank, wanted: Sequence[Party]) -> Mapping[str, int]:
    """Brings the debtors' money in from a settlement account of each currency; the sums by currency. Raises Refused."""
    operator = bank.operator
    funded = [party for party in wanted if party.funds_minor > 0]
    sums: dict[str, int] = {}
    for currency in sorted({party.currency_code for party in funded}):
        settlement = account_service_pb2.CreateAccountRequest(
            account_id=settlement_id(currency),
            type=account_pb2.ACCOUNT_TYPE_SETTLEMENT,
            currency_code=currency,
            display_name=f"Settlement {currency}",
            request_id=f"settlement-{currency}",
        )
        await operator.call(operator.accounts.CreateAccount, settlement)
    for party in funded:
        amount = money_pb2.Money(currency_code=party.currency_code, minor_units=party.funds_minor)
        funding = account_service_pb2.FundAccountRequest(
            account=party.account,
            settlement_account=f"accounts/{settlement_id(party.currency_code)}",
            amount=amount,
            reference="DEMO",
            request_id=f"fund-{party.id}",
        )
        await operator.call(operator.accounts.FundAccount, funding)
        sums[party.currency_code] = sums.get(party.currency_code, 0) + party.funds_minor
    return sums


def settlement_id(currency: str) -> str:
    """The settlement account of a currency."""
    return f"settlement-{currency.lower()}"


async def set_limits(bank: Bank) -> int:
    """Sets the limits; how many. Raises Refused."""
    operator = bank.operator
    kinds = (policy_pb2.LIMIT_KIND_PER_PAYMENT, policy_pb2.LIMIT_KIND_PER_DAY)
    count = 0
    for currency, maxima in LIMITS.items():
        for kind, maximum in zip(kinds, maxima, strict=True):
            limit = policy_pb2.Limit(kind=kind, maximum=money_pb2.Money(currency_code=currency, minor_units=maximum))
            request = compliance_service_pb2.SetLimitRequest(limit=limit, request_id=f"limit-{kind}-{currency}")
            await operator.call(operator.compliance.SetLimit, request)
            count += 1
    return count


async def import_watchlist(session: Session, folder: Path, watchlist_id: str = "sdn") -> policy_pb2.Watchlist:
    """Imports the SDN, ALT and ADD files of a folder. Raises Refused and OSError."""
    kinds = compliance_service_pb2.ImportWatchlistRequest
    files = {"SDN.CSV": kinds.FILE_SDN, "ALT.CSV": kinds.FILE_ALT, "ADD.CSV": kinds.FILE_ADD}

    def parts() -> Iterator[compliance_service_pb2.ImportWatchlistRequest]:
        yield compliance_service_pb2.ImportWatchlistRequest(watchlist_id=watchlist_id)
        for name, kind in files.items():
            path = folder / name
            if name != "SDN.CSV" and not path.exists():
                continue
            with path.open("rb") as handle:
                while data := handle.read(_CHUNK_BYTES):
                    chunk = compliance_service_pb2.ImportWatchlistRequest.Chunk(file=kind, data=data)
                    yield compliance_service_pb2.ImportWatchlistRequest(chunk=chunk)

    answer = await session.send_stream(session.compliance.ImportWatchlist, parts)
    return answer.watchlist
