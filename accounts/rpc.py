"""AccountService over gRPC: message → operation → message; no SQL, no decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

import zoneinfo
from datetime import timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy.ext.asyncio import AsyncConnection

from accounts import errors, messages, moments, operations, orders, posting, store
from accounts.account_changes import last_part
from accounts.model import (
    MINIMUM_BALANCE_MAX,
    OVERDRAFT_LIMIT_MAX,
    AccountType,
    Balance,
    PostingSide,
    identifier_is_valid,
)
from accounts.moments import AsOf, Axis, PastBalance
from accounts.moments_store import PastKey
from accounts.orders import Item
from accounts.overdraft_operations import Wish
from florin.accounts.v1 import account_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1 import account_service_pb2_grpc as pb_grpc
from meshkit import clock, idempotency, identity, money, pages
from meshkit.batching import Batcher
from meshkit.database import Database
from meshkit.errors import RequestInvalid, TenantNotFound, UpdateMaskInvalid

BalanceKey = tuple[str, str, str | None]
"""Tenant, account, and the customer that asks; None for staff."""

_SEQUENCE_MAX = 2**63 - 1


class AccountService(pb_grpc.AccountServiceServicer):
    """The public methods of the service."""

    def __init__(
        self,
        db: Database,
        ledger: Batcher[Item, Any],
        balances: Batcher[BalanceKey, Balance | None],
        past_balances: Batcher[PastKey, PastBalance | None],
        *,
        approval_time: timedelta,
    ) -> None:
        self._db = db
        self._ledger = ledger
        self._balances = balances
        self._past_balances = past_balances
        self._approval_time = approval_time
        self._tenants: set[str] = set()

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.CreateTenantResponse:
        """Makes a tenant."""
        call = identity.current()
        time_zone = _time_zone(request.time_zone)

        async def work(conn: AsyncConnection) -> pb.CreateTenantResponse:
            tenant = await operations.create_tenant(
                conn, call, tenant_id=request.tenant_id, display_name=request.display_name, time_zone=time_zone
            )
            return pb.CreateTenantResponse(tenant=messages.tenant(tenant))

        return await idempotency.answer(self._db, call, pb.CreateTenantResponse, work)

    async def CreateCustomer(self, request: pb.CreateCustomerRequest, context: Any) -> pb.CreateCustomerResponse:
        """Records a customer."""
        call = identity.current()
        await self._require_tenant(call.tenant)

        async def work(conn: AsyncConnection) -> pb.CreateCustomerResponse:
            customer = await operations.create_customer(
                conn, self._db.cipher, call, customer_id=request.customer_id, display_name=request.display_name
            )
            return pb.CreateCustomerResponse(customer=messages.customer(customer))

        return await idempotency.answer(self._db, call, pb.CreateCustomerResponse, work)

    async def GetCustomer(self, request: pb.GetCustomerRequest, context: Any) -> pb.GetCustomerResponse:
        """Shows a customer."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetCustomerResponse:
            customer = await operations.get_customer(conn, self._db.cipher, call, request.name)
            return pb.GetCustomerResponse(customer=messages.customer(customer))

        return await self._db.run(call.tenant, work, read_only=True)

    async def ListCustomers(self, request: pb.ListCustomersRequest, context: Any) -> pb.ListCustomersResponse:
        """Lists customers by name."""
        call = identity.current()
        size = pages.size(request.page_size)
        key = pages.decode("customers", call.tenant, request.page_token, [str])

        async def work(conn: AsyncConnection) -> pb.ListCustomersResponse:
            found = await store.list_customers(
                conn, self._db.cipher, call.tenant, after=str(key[0]) if key else "", limit=size + 1
            )
            token = pages.encode("customers", call.tenant, [found[size - 1].id]) if len(found) > size else ""
            return pb.ListCustomersResponse(
                customers=[messages.customer(one) for one in found[:size]], next_page_token=token
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def UpdateCustomer(self, request: pb.UpdateCustomerRequest, context: Any) -> pb.UpdateCustomerResponse:
        """Changes a customer's display name."""
        call = identity.current()
        customer = request.customer
        if not 1 <= len(customer.display_name) <= 140 and "display_name" in request.update_mask.paths:
            raise RequestInvalid([("customer.display_name", "must have 1 to 140 characters")])
        _check_mask(request.update_mask, ["display_name"])

        async def work(conn: AsyncConnection) -> pb.UpdateCustomerResponse:
            changed = await operations.update_customer(
                conn,
                self._db.cipher,
                call,
                name=customer.name,
                etag=customer.etag,
                display_name=customer.display_name,
            )
            return pb.UpdateCustomerResponse(customer=messages.customer(changed))

        return await idempotency.answer(self._db, call, pb.UpdateCustomerResponse, work)

    async def CreateAccount(self, request: pb.CreateAccountRequest, context: Any) -> pb.CreateAccountResponse:
        """Opens an account."""
        call = identity.current()
        await self._require_tenant(call.tenant)
        money.exponent(request.currency_code)
        identifiers = [messages.identifier(one) for one in request.identifiers]
        for position, identifier in enumerate(identifiers):
            if not identifier_is_valid(identifier):
                raise errors.IdentifierInvalid(identifier, f"identifiers[{position}]")

        async def work(conn: AsyncConnection) -> pb.CreateAccountResponse:
            account, waiting = await operations.create_account(
                conn,
                self._db.cipher,
                call,
                account_id=request.account_id,
                owners=[last_part(name) for name in request.customers],
                type_=AccountType(request.type),
                currency=request.currency_code,
                identifiers=identifiers,
                overdraft_limit=request.overdraft_limit_minor_units,
                display_name=request.display_name,
                approval_time=self._approval_time,
            )
            return pb.CreateAccountResponse(
                account=messages.account(account, call.who),
                overdraft_change=None if waiting is None else messages.overdraft_change(waiting),
            )

        return await idempotency.answer(self._db, call, pb.CreateAccountResponse, work)

    async def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.GetAccountResponse:
        """Shows an account with its balance."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetAccountResponse:
            account = await operations.get_account(conn, call, request.name)
            return pb.GetAccountResponse(account=messages.account(account, call.who))

        return await self._db.run(call.tenant, work, read_only=True)

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Any) -> pb.GetBalanceResponse:
        """Shows what stands or stood on an account; reads that come together are one query."""
        call = identity.current()
        key = (call.tenant, last_part(request.name), operations.customer_of(call))
        as_of = _as_of(request)
        if as_of is not None:
            past = await self._past_balances.submit((*key, as_of), deadline=call.deadline)
            if past is None:
                raise errors.AccountNotFound(request.name)
            moments.check(as_of, key[1], last_sequence=past.last_sequence, now=clock.now())
            moments.check_range(key[1], past.posted)
            return pb.GetBalanceResponse(balance=messages.past_balance(past))
        balance = await self._balances.submit(key, deadline=call.deadline)
        if balance is None:
            raise errors.AccountNotFound(request.name)
        return pb.GetBalanceResponse(balance=messages.balance(balance))

    async def ListAccounts(self, request: pb.ListAccountsRequest, context: Any) -> pb.ListAccountsResponse:
        """Lists accounts by name; a customer sees own ones, and none of others."""
        call = identity.current()
        size = pages.size(request.page_size)
        filter_text = f"{call.tenant}\0{request.customer}\0{call.who.customer or ''}"
        key = pages.decode("accounts", filter_text, request.page_token, [str])
        if not call.who.is_staff and request.customer not in ("", call.who.customer):
            return pb.ListAccountsResponse()
        customer = operations.customer_of(call) or last_part(request.customer) or None

        async def work(conn: AsyncConnection) -> pb.ListAccountsResponse:
            found = await store.list_accounts(
                conn, call.tenant, customer=customer, after=str(key[0]) if key else "", limit=size + 1
            )
            token = pages.encode("accounts", filter_text, [found[size - 1].id]) if len(found) > size else ""
            return pb.ListAccountsResponse(
                accounts=[messages.account(one, call.who) for one in found[:size]], next_page_token=token
            )

        return await self._db.run(call.tenant, work, read_only=True)

    async def UpdateAccount(self, request: pb.UpdateAccountRequest, context: Any) -> pb.UpdateAccountResponse:
        """Changes an account's display name and limits."""
        call = identity.current()
        account = request.account
        _check_account(account)
        _check_mask(request.update_mask, ["display_name", "overdraft_limit_minor_units", "minimum_balance"])
        paths = set(request.update_mask.paths)
        wish = Wish(
            overdraft_limit=account.overdraft_limit_minor_units if "overdraft_limit_minor_units" in paths else None,
            minimum=account.minimum_balance.minor_units if "minimum_balance" in paths else None,
            minimum_currency=account.minimum_balance.currency_code if "minimum_balance" in paths else "",
        )

        async def work(conn: AsyncConnection) -> pb.UpdateAccountResponse:
            changed, waiting = await operations.update_account(
                conn,
                call,
                name=account.name,
                etag=account.etag,
                display_name=account.display_name if "display_name" in paths else None,
                wish=wish,
                approval_time=self._approval_time,
            )
            return pb.UpdateAccountResponse(
                account=messages.account(changed, call.who),
                overdraft_change=None if waiting is None else messages.overdraft_change(waiting),
            )

        return await idempotency.answer(self._db, call, pb.UpdateAccountResponse, work)

    async def FreezeAccount(self, request: pb.FreezeAccountRequest, context: Any) -> pb.FreezeAccountResponse:
        """Stops an account's debits and credits."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.FreezeAccountResponse:
            account = await operations.freeze_account(conn, call, name=request.name, why=request.reason)
            return pb.FreezeAccountResponse(account=messages.account(account, call.who))

        return await idempotency.answer(self._db, call, pb.FreezeAccountResponse, work)

    async def UnfreezeAccount(self, request: pb.UnfreezeAccountRequest, context: Any) -> pb.UnfreezeAccountResponse:
        """Lets an account's debits and credits go on."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.UnfreezeAccountResponse:
            account = await operations.unfreeze_account(conn, call, name=request.name, why=request.reason)
            return pb.UnfreezeAccountResponse(account=messages.account(account, call.who))

        return await idempotency.answer(self._db, call, pb.UnfreezeAccountResponse, work)

    async def BlockAccount(self, request: pb.BlockAccountRequest, context: Any) -> pb.BlockAccountResponse:
        """Stops an account's debits or its credits."""
        call, side = identity.current(), PostingSide(request.side)

        async def work(conn: AsyncConnection) -> pb.BlockAccountResponse:
            account = await operations.block_account(conn, call, name=request.name, side=side, why=request.reason)
            return pb.BlockAccountResponse(account=messages.account(account, call.who))

        return await idempotency.answer(self._db, call, pb.BlockAccountResponse, work)

    async def UnblockAccount(self, request: pb.UnblockAccountRequest, context: Any) -> pb.UnblockAccountResponse:
        """Lets an account's debits or its credits go on."""
        call, side = identity.current(), PostingSide(request.side)

        async def work(conn: AsyncConnection) -> pb.UnblockAccountResponse:
            account = await operations.unblock_account(conn, call, name=request.name, side=side, why=request.reason)
            return pb.UnblockAccountResponse(account=messages.account(account, call.who))

        return await idempotency.answer(self._db, call, pb.UnblockAccountResponse, work)

    async def CloseAccount(self, request: pb.CloseAccountRequest, context: Any) -> pb.CloseAccountResponse:
        """Closes an account for good."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.CloseAccountResponse:
            account = await operations.close_account(conn, call, name=request.name)
            return pb.CloseAccountResponse(account=messages.account(account, call.who))

        return await idempotency.answer(self._db, call, pb.CloseAccountResponse, work)

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Any) -> pb.ListEntriesResponse:
        """Lists an account's entries, the newest first."""
        call = identity.current()
        size = pages.size(request.page_size)
        as_of = _as_of(request)
        filter_text = f"{call.tenant}\0{request.account}" + ("" if as_of is None else f"\0{as_of}")

        async def work(conn: AsyncConnection) -> pb.ListEntriesResponse:
            recorded = await operations.recorded_by(conn, call, request.account, as_of)
            key = pages.decode("entries", filter_text, request.page_token, [int])
            before = int(key[0]) if key else _SEQUENCE_MAX
            found = await operations.list_entries(
                conn, call, request.account, as_of, recorded=recorded, before=before, limit=size + 1
            )
            shown = found[:size]
            # But by effective time, entries have no gap: before any but the first there are more, though not at hand.
            is_gapless = as_of is None or as_of.axis is not Axis.EFFECTIVE
            is_more = len(found) > size or (is_gapless and bool(shown) and shown[-1].sequence > 1)
            token = pages.encode("entries", filter_text, [shown[-1].sequence]) if is_more else ""
            return pb.ListEntriesResponse(entries=[messages.entry(one) for one in shown], next_page_token=token)

        return await self._db.run(call.tenant, work, read_only=True)

    async def GetJournal(self, request: pb.GetJournalRequest, context: Any) -> pb.GetJournalResponse:
        """Shows a journal."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetJournalResponse:
            journal = await operations.get_journal(conn, call, request.name)
            return pb.GetJournalResponse(journal=messages.journal(journal))

        return await self._db.run(call.tenant, work, read_only=True)

    async def FundAccount(self, request: pb.FundAccountRequest, context: Any) -> pb.FundAccountResponse:
        """Moves money in from a settlement account, as a step of the ledger like any other."""
        call = identity.current()
        money.exponent(request.amount.currency_code)
        step = orders.funding_step(
            call,
            account=request.account,
            settlement_account=request.settlement_account,
            currency=request.amount.currency_code,
            amount=request.amount.minor_units,
            reference=request.reference,
        )
        outcome = await self._ledger.submit(Item(step, asked=call), deadline=call.deadline)
        name = posting.journal_in(outcome)

        async def work(conn: AsyncConnection) -> pb.FundAccountResponse:
            return pb.FundAccountResponse(journal=messages.journal(await operations.get_journal(conn, call, name)))

        return await self._db.run(call.tenant, work, read_only=True)

    async def _require_tenant(self, tenant: str) -> None:
        """Raises TenantNotFound. Tenants never go, so one that was seen is there."""
        if tenant in self._tenants:
            return
        if not await self._db.run(tenant, lambda conn: store.tenant_exists(conn, tenant), read_only=True):
            raise TenantNotFound(tenant)
        self._tenants.add(tenant)


def _as_of(request: pb.GetBalanceRequest | pb.ListEntriesRequest) -> AsOf | None:
    """The moment that a request asks for; the contract lets it name one at most. Raises RequestInvalid."""
    if request.HasField("as_of_recorded_time"):
        return AsOf(Axis.RECORDED, moments.moment(request.as_of_recorded_time, "as_of_recorded_time"))
    if request.HasField("as_of_effective_time"):
        return AsOf(Axis.EFFECTIVE, moments.moment(request.as_of_effective_time, "as_of_effective_time"))
    return AsOf(Axis.SEQUENCE, sequence=request.as_of_sequence) if request.HasField("as_of_sequence") else None


def _time_zone(name: str) -> str:
    if not name:
        return "UTC"
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise RequestInvalid([("time_zone", f'"{name}" is not a time zone of the IANA database')]) from None
    return name


def _check_account(account: account_pb2.Account) -> None:
    """The rules of CreateAccount for what UpdateAccount may change, and those of a minimum balance."""
    violations = []
    if len(account.display_name) > 120:
        violations.append(("account.display_name", "must have at most 120 characters"))
    if not 0 <= account.overdraft_limit_minor_units <= OVERDRAFT_LIMIT_MAX:
        violations.append(("account.overdraft_limit_minor_units", f"must be between 0 and {OVERDRAFT_LIMIT_MAX}"))
    if not 0 <= account.minimum_balance.minor_units <= MINIMUM_BALANCE_MAX:
        violations.append(("account.minimum_balance", f"must be between 0 and {MINIMUM_BALANCE_MAX}"))
    if violations:
        raise RequestInvalid(violations)


def _check_mask(mask: FieldMask, allowed: list[str]) -> None:
    if not mask.paths:
        raise UpdateMaskInvalid("", allowed)
    for path in mask.paths:
        if path not in allowed:
            raise UpdateMaskInvalid(path, allowed)
