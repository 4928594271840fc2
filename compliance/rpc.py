"""ComplianceService in: message to operation to message; it must not hold SQL or decisions."""

# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and their context

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from compliance import case_store, imports, kyc_store, messages, operations, policy_store, rules
from compliance.model import Case, KycProfile, Limit, LimitKind, Rule, Watchlist
from compliance.operations import Submission
from compliance.settings import Settings
from compliance.watchlists import Watchlists
from florin.compliance.v1 import compliance_service_pb2 as pb
from florin.compliance.v1 import compliance_service_pb2_grpc as pb_grpc
from meshkit import clock, idempotency, identity, money, pages
from meshkit.database import Database
from meshkit.errors import PageTokenInvalid
from meshkit.identity import Call

_FIRST_CASE = (datetime(1, 1, 1, tzinfo=UTC), uuid.UUID(int=0))
_CUSTOMER_POLL_SECONDS = 0.02


class ComplianceService(pb_grpc.ComplianceServiceServicer):
    """florin.compliance.v1.ComplianceService."""

    def __init__(self, db: Database, watchlists: Watchlists, settings: Settings) -> None:
        self._db = db
        self._watchlists = watchlists
        self._settings = settings

    async def SubmitKyc(self, request: pb.SubmitKycRequest, context: object) -> pb.SubmitKycResponse:
        """See the contract."""
        call = identity.current()
        submission = Submission(
            request.customer.removeprefix("customers/"), request.legal_name, request.country_code, request.birth_date
        )
        operations.check_submission(submission)
        await self._await_customer(call, submission.customer)
        matches = await self._matches(call.tenant, request.legal_name)

        async def work(conn: AsyncConnection) -> pb.SubmitKycResponse:
            profile = await operations.submit_kyc(conn, call, self._db.cipher, submission, matches)
            return pb.SubmitKycResponse(profile=messages.kyc_profile(profile, call.who))

        return await idempotency.answer(self._db, call, pb.SubmitKycResponse, work)

    async def GetKycProfile(self, request: pb.GetKycProfileRequest, context: object) -> pb.GetKycProfileResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> KycProfile:
            customer = request.name.removeprefix("kycProfiles/")
            return await operations.get_kyc_profile(conn, call, self._db.cipher, customer)

        profile = await self._db.run(call.tenant, work, read_only=True)
        return pb.GetKycProfileResponse(profile=messages.kyc_profile(profile, call.who))

    async def VerifyCustomer(self, request: pb.VerifyCustomerRequest, context: object) -> pb.VerifyCustomerResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.VerifyCustomerResponse:
            customer = request.name.removeprefix("kycProfiles/")
            profile = await operations.verify_customer(conn, call, self._db.cipher, customer, etag=request.etag)
            return pb.VerifyCustomerResponse(profile=messages.kyc_profile(profile, call.who))

        return await idempotency.answer(self._db, call, pb.VerifyCustomerResponse, work)

    async def RejectCustomer(self, request: pb.RejectCustomerRequest, context: object) -> pb.RejectCustomerResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.RejectCustomerResponse:
            customer = request.name.removeprefix("kycProfiles/")
            cipher, why = self._db.cipher, request.reason
            profile = await operations.reject_customer(conn, call, cipher, customer, why, etag=request.etag)
            return pb.RejectCustomerResponse(profile=messages.kyc_profile(profile, call.who))

        return await idempotency.answer(self._db, call, pb.RejectCustomerResponse, work)

    async def SetLimit(self, request: pb.SetLimitRequest, context: object) -> pb.SetLimitResponse:
        """See the contract."""
        call, limit = identity.current(), request.limit
        money.exponent(limit.maximum.currency_code)

        async def work(conn: AsyncConnection) -> pb.SetLimitResponse:
            customer = limit.customer.removeprefix("customers/")
            currency, maximum = limit.maximum.currency_code, limit.maximum.minor_units
            stored = await operations.set_limit(conn, call, LimitKind(limit.kind), currency, customer, maximum)
            return pb.SetLimitResponse(limit=messages.limit(stored))

        return await idempotency.answer(self._db, call, pb.SetLimitResponse, work)

    async def GetLimit(self, request: pb.GetLimitRequest, context: object) -> pb.GetLimitResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> Limit:
            return await operations.get_limit(conn, call, request.name)

        limit = await self._db.run(call.tenant, work, read_only=True)
        return pb.GetLimitResponse(limit=messages.limit(limit))

    async def ListLimits(self, request: pb.ListLimitsRequest, context: object) -> pb.ListLimitsResponse:
        """See the contract."""
        call, size, after = identity.current(), pages.size(request.page_size), _after("limits", request.page_token)

        async def work(conn: AsyncConnection) -> list[Limit]:
            return await policy_store.list_limits(conn, call.tenant, after=after, limit=size + 1)

        found = await self._db.run(call.tenant, work, read_only=True)
        token = _next("limits", found, size, lambda one: one.name)
        return pb.ListLimitsResponse(limits=map(messages.limit, found[:size]), next_page_token=token)

    async def SetRule(self, request: pb.SetRuleRequest, context: object) -> pb.SetRuleResponse:
        """See the contract."""
        call, rule = identity.current(), request.rule
        await asyncio.to_thread(rules.validate, rule.expression)

        async def work(conn: AsyncConnection) -> pb.SetRuleResponse:
            stored = await operations.set_rule(
                conn,
                call,
                request.rule_id,
                expression=rule.expression,
                outcome=messages.RULE_OUTCOMES[rule.outcome],
                enabled=rule.enabled,
                description=rule.description,
            )
            return pb.SetRuleResponse(rule=messages.rule(stored))

        return await idempotency.answer(self._db, call, pb.SetRuleResponse, work)

    async def GetRule(self, request: pb.GetRuleRequest, context: object) -> pb.GetRuleResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> Rule:
            return await operations.get_rule(conn, call, request.name)

        return pb.GetRuleResponse(rule=messages.rule(await self._db.run(call.tenant, work, read_only=True)))

    async def ListRules(self, request: pb.ListRulesRequest, context: object) -> pb.ListRulesResponse:
        """See the contract."""
        call, size, after = identity.current(), pages.size(request.page_size), _after("rules", request.page_token)

        async def work(conn: AsyncConnection) -> list[Rule]:
            return await policy_store.list_rules(conn, call.tenant, after=after, limit=size + 1)

        found = await self._db.run(call.tenant, work, read_only=True)
        token = _next("rules", found, size, lambda one: one.name)
        return pb.ListRulesResponse(rules=map(messages.rule, found[:size]), next_page_token=token)

    async def ImportWatchlist(
        self, requests: AsyncIterator[pb.ImportWatchlistRequest], context: object
    ) -> pb.ImportWatchlistResponse:
        """See the contract."""
        call = identity.current()
        received = await imports.receive(requests, bytes_max=self._settings.watchlist_bytes_max)

        async def work(conn: AsyncConnection) -> Watchlist:
            return await operations.import_watchlist(
                conn,
                call,
                received.watchlist_id,
                entry_count=received.entry_count,
                names=received.names,
                sha256=received.sha256,
            )

        imported = await self._db.run(call.tenant, work, long=True)
        # So that the next payment need not wait for it.
        await self._watchlists.load(imported)
        return pb.ImportWatchlistResponse(watchlist=messages.watchlist(imported))

    async def ListWatchlists(self, request: pb.ListWatchlistsRequest, context: object) -> pb.ListWatchlistsResponse:
        """See the contract."""
        call, size = identity.current(), pages.size(request.page_size)
        after = _after("watchlists", request.page_token)

        async def work(conn: AsyncConnection) -> list[Watchlist]:
            return await policy_store.list_watchlists(conn, call.tenant, after=after, limit=size + 1)

        found = await self._db.run(call.tenant, work, read_only=True)
        token = _next("watchlists", found, size, lambda one: one.name)
        return pb.ListWatchlistsResponse(watchlists=map(messages.watchlist, found[:size]), next_page_token=token)

    async def GetDecision(self, request: pb.GetDecisionRequest, context: object) -> pb.GetDecisionResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.GetDecisionResponse:
            decision = await operations.get_decision(conn, call, request.name)
            return pb.GetDecisionResponse(decision=messages.decision(decision))

        return await self._db.run(call.tenant, work, read_only=True)

    async def GetCase(self, request: pb.GetCaseRequest, context: object) -> pb.GetCaseResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> Case:
            return await operations.get_case(conn, call, self._db.cipher, request.name)

        return pb.GetCaseResponse(case=messages.case(await self._db.run(call.tenant, work, read_only=True)))

    async def ListCases(self, request: pb.ListCasesRequest, context: object) -> pb.ListCasesResponse:
        """See the contract."""
        call, size = identity.current(), pages.size(request.page_size)
        filter_text = f"{int(request.state)} {request.transfer}"
        after = _after_case(filter_text, request.page_token)

        async def work(conn: AsyncConnection) -> list[Case]:
            return await case_store.list_after(
                conn,
                self._db.cipher,
                call.tenant,
                state=int(request.state),
                transfer=request.transfer,
                after=after,
                limit=size + 1,
            )

        found = await self._db.run(call.tenant, work, read_only=True)
        answer = pb.ListCasesResponse(cases=map(messages.case, found[:size]))
        if len(found) > size:
            last = found[size - 1]
            answer.next_page_token = pages.encode(
                "cases", filter_text, [clock.microseconds(last.create_time), str(last.id)]
            )
        return answer

    async def ResolveCase(self, request: pb.ResolveCaseRequest, context: object) -> pb.ResolveCaseResponse:
        """See the contract."""
        call = identity.current()

        async def work(conn: AsyncConnection) -> pb.ResolveCaseResponse:
            case = await operations.resolve_case(
                conn,
                call,
                self._db.cipher,
                request.name,
                approve=request.resolution == pb.ResolveCaseRequest.RESOLUTION_APPROVE,
                why=request.reason,
                freeze_account=request.freeze_account,
            )
            return pb.ResolveCaseResponse(case=messages.case(case))

        return await idempotency.answer(self._db, call, pb.ResolveCaseResponse, work)

    async def _await_customer(self, call: Call, customer: str) -> None:
        """Waits a moment for the event of a customer that was just made; whether it came is decided afterwards."""
        if not operations.may_see_customer(call, customer):
            return

        async def knows(conn: AsyncConnection) -> bool:
            return await kyc_store.knows_customer(conn, call.tenant, customer)

        # Half a second is left for the rest of the call.
        patience = min(self._settings.customer_wait_seconds, call.remaining_s() - 0.5)
        end = asyncio.get_running_loop().time() + patience
        delay = _CUSTOMER_POLL_SECONDS
        while not await self._db.run(call.tenant, knows, read_only=True):
            if asyncio.get_running_loop().time() + delay > end:
                return
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 0.2)

    async def _matches(self, tenant: str, legal_name: str) -> list[str]:
        """What the officer is shown: entries of the present lists that resemble a name."""
        lists = await self._watchlists.present(tenant)
        found = await self._watchlists.match({tenant: [legal_name]}, {tenant: lists})
        return [
            f"watchlists/{list_id}/{match.listed.entry} {match.score:.4f} {match.listed.name}"
            for (_, list_id, _, _), matches in found.items()
            for match in matches
        ]


def _after(kind: str, token: str) -> str:
    key = pages.decode(kind, "", token, [str])
    return "" if key is None else str(key[0])


def _next[T](kind: str, found: Sequence[T], size: int, name: Callable[[T], str]) -> str:
    if len(found) <= size:
        return ""
    return pages.encode(kind, "", [name(found[size - 1]).partition("/")[2]])


def _after_case(filter_text: str, token: str) -> tuple[datetime, uuid.UUID]:
    key = pages.decode("cases", filter_text, token, [int, str])
    if key is None:
        return _FIRST_CASE
    try:
        return clock.from_microseconds(int(key[0])), uuid.UUID(str(key[1]))
    except (ValueError, OverflowError):
        raise PageTokenInvalid from None  # made up: it names no time or no case
