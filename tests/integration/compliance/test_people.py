"""What officers, tellers, operators and customers do: KYC, cases, limits, rules and lists, each with its refusals."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from florin.compliance.v1 import compliance_service_pb2 as pb
from florin.compliance.v1 import decision_pb2, kyc_pb2, policy_pb2
from tests.integration.compliance.conftest import REVIEW, Service, refused

NULLS = ",-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- "
SDN = f'1,"MARCHENKOV, Viktor","individual","T"{NULLS}\n2,"BRINEWARDEN","vessel","T"{NULLS}\n'
APPROVE, REJECT = pb.ResolveCaseRequest.RESOLUTION_APPROVE, pb.ResolveCaseRequest.RESOLUTION_REJECT


def submission(customer: str = "anna", name: str = "Anna Example", **values: str) -> pb.SubmitKycRequest:
    """An identity that is handed in."""
    return pb.SubmitKycRequest(customer=f"customers/{customer}", legal_name=name, country_code="AT", **values)


async def open_case(service: Service, subject: str = "payer") -> str:
    """A case about a payment that somebody made."""
    await service.verified("anna")
    await service.rule("true", policy_pb2.RULE_OUTCOME_REVIEW)
    (outcome,) = await service.screen(service.step(subject=subject))
    assert outcome.outcome == REVIEW
    return str(outcome.case)


async def test_an_identity_is_submitted_rejected_submitted_again_and_verified(service: Service) -> None:
    """Each step is told and audited, by ids alone; the name is sealed in its row."""
    await service.know("anna")
    await service.call("SubmitKyc", submission(), "teller")
    rejected = pb.RejectCustomerRequest(name="kycProfiles/anna", reason="blurred copy")
    await service.call("RejectCustomer", rejected, "compliance")
    await service.call("SubmitKyc", submission(birth_date="1990-02-28"), "teller")
    verify = pb.VerifyCustomerRequest(name="kycProfiles/anna")
    profile = (await service.call("VerifyCustomer", verify, "compliance")).profile
    assert profile.state == kyc_pb2.KycProfile.KYC_STATE_VERIFIED and profile.birth_date == "1990-02-28"
    told = await service.events("kycProfiles/anna")
    assert told == ["kyc_submitted", "customer_rejected", "kyc_submitted", "customer_verified"]
    audited = await service.rows("SELECT action, subject, why, after::text FROM audit ORDER BY id")
    assert [row[:3] for row in audited] == [
        ("kyc.submit", "teller", ""),
        ("kyc.rejected", "compliance", "blurred copy"),
        ("kyc.submit", "teller", ""),
        ("kyc.verified", "compliance", ""),
    ]
    assert "Example" not in str(audited)
    assert b"Anna" not in bytes((await service.rows("SELECT legal_name FROM kyc_profiles"))[0][0])
    async with refused("KYC_DECIDED"):
        await service.call("SubmitKyc", submission(), "teller")
    async with refused("KYC_DECIDED"):
        await service.call("VerifyCustomer", verify, "compliance")


async def test_nobody_verifies_what_they_submitted(service: Service) -> None:
    """Four eyes, whatever the scopes."""
    await service.know("anna")
    await service.call("SubmitKyc", submission(), "teller", subject="one-person")
    async with refused("FOUR_EYES"):
        request = pb.VerifyCustomerRequest(name="kycProfiles/anna")
        await service.call("VerifyCustomer", request, "compliance", subject="one-person")


async def test_a_submission_waits_for_the_customers_event(service: Service) -> None:
    """A customer made a moment ago can be handed in at once; one that never was is refused."""
    waiting = asyncio.create_task(service.call("SubmitKyc", submission(), "teller"))
    await service.know("anna")
    assert (await waiting).profile.customer == "customers/anna"
    async with refused("CUSTOMER_NOT_FOUND"):
        await service.call("SubmitKyc", submission("nobody"), "teller")


async def test_a_customer_sees_their_own_profile_without_what_compliance_saw(service: Service) -> None:
    """No tipping off; another's profile is not there at all."""
    await service.know("anna", "bob")
    await service.watchlist(SDN)
    await service.call("SubmitKyc", submission(name="Viktor Marchenkov"), "customer", customer="anna")
    get = pb.GetKycProfileRequest(name="kycProfiles/anna")
    own = (await service.call("GetKycProfile", get, "customer", customer="anna")).profile
    assert own.legal_name == "Viktor Marchenkov" and list(own.watchlist_matches) == []
    teller = (await service.call("GetKycProfile", get, "teller")).profile
    officer = (await service.call("GetKycProfile", get, "compliance")).profile
    assert list(teller.watchlist_matches) == []
    assert list(officer.watchlist_matches) == ["watchlists/sdn/1 1.0000 MARCHENKOV, Viktor"]
    async with refused("KYC_PROFILE_NOT_FOUND"):
        await service.call("GetKycProfile", get, "customer", customer="bob")
    async with refused("CUSTOMER_NOT_FOUND"):
        await service.call("SubmitKyc", submission("bob"), "customer", customer="anna")


async def test_a_case_is_resolved_by_somebody_else_once(service: Service) -> None:
    """Not by who made the payment, not twice; the event can freeze the account."""
    name = await open_case(service, subject="compliance")
    approve = pb.ResolveCaseRequest(name=name, resolution=APPROVE, reason="known payee")
    async with refused("FOUR_EYES"):
        await service.call("ResolveCase", approve, "compliance")
    reject = pb.ResolveCaseRequest(name=name, resolution=REJECT, reason="fraud", freeze_account=True)
    case = (await service.call("ResolveCase", reject, "compliance", subject="officer-2")).case
    assert case.state == decision_pb2.CASE_STATE_REJECTED and case.resolved_by == "officer-2"
    async with refused("CASE_RESOLVED") as metadata:
        await service.call("ResolveCase", approve, "compliance", subject="officer-2")
    assert metadata["state"] == "REJECTED"
    assert await service.events(name) == ["case_opened", "case_resolved"]
    audited = await service.rows("SELECT subject, why FROM audit WHERE action = 'case.rejected'")
    assert audited == [("officer-2", "fraud")]


async def test_two_officers_at_once_resolve_a_case_once(service: Service) -> None:
    """The second one is told how it ended."""
    name = await open_case(service)
    request = pb.ResolveCaseRequest(name=name, resolution=APPROVE, reason="fine")
    calls = [service.call("ResolveCase", request, "compliance", subject=f"officer-{at}") for at in range(5)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert await service.events(name) == ["case_opened", "case_resolved"]


async def test_a_transfer_that_ends_without_its_case_makes_it_moot(service: Service) -> None:
    """A cancelled payment needs no decision any more."""
    name = await open_case(service)
    transfer = (await service.call("GetCase", pb.GetCaseRequest(name=name), "compliance")).case.transfer
    await service.end(transfer, completed=False)
    case = (await service.call("GetCase", pb.GetCaseRequest(name=name), "compliance")).case
    assert case.state == decision_pb2.CASE_STATE_MOOT
    assert await service.events(name) == ["case_opened", "case_resolved"]


async def test_cases_are_listed_oldest_first_by_state_and_transfer(service: Service) -> None:
    """In pages whose token belongs to the filter."""
    name = await open_case(service)
    await service.screen(*(service.step() for _ in range(4)))
    opened = decision_pb2.CASE_STATE_OPEN
    page = await service.call("ListCases", pb.ListCasesRequest(state=opened, page_size=2), "compliance")
    assert [one.name for one in page.cases][:1] == [name]
    found = list(page.cases)
    while page.next_page_token:
        request = pb.ListCasesRequest(state=opened, page_size=2, page_token=page.next_page_token)
        page = await service.call("ListCases", request, "compliance")
        found += page.cases
    assert len({one.name for one in found}) == 5
    one = await service.call("ListCases", pb.ListCasesRequest(transfer=found[3].transfer), "compliance")
    assert [case.name for case in one.cases] == [found[3].name]
    first = await service.call("ListCases", pb.ListCasesRequest(page_size=2), "compliance")
    async with refused("PAGE_TOKEN_INVALID"):
        request = pb.ListCasesRequest(state=opened, page_token=first.next_page_token)
        await service.call("ListCases", request, "compliance")


async def test_limits_have_one_name_each_and_are_listed(service: Service) -> None:
    """Setting one again changes it; a currency has to exist."""
    per_day, per_payment = policy_pb2.LIMIT_KIND_PER_DAY, policy_pb2.LIMIT_KIND_PER_PAYMENT
    assert (await service.limit(per_day, 100)).name == "limits/per-day-eur"
    assert (await service.limit(per_day, 200)).maximum.minor_units == 200
    assert (await service.limit(per_payment, 5, "anna")).name == "limits/per-payment-eur-anna"
    listed = await service.call("ListLimits", pb.ListLimitsRequest(page_size=1), "auditor")
    rest = await service.call("ListLimits", pb.ListLimitsRequest(page_token=listed.next_page_token), "auditor")
    names = [one.name for one in (*listed.limits, *rest.limits)]
    assert names == ["limits/per-day-eur", "limits/per-payment-eur-anna"] and not rest.next_page_token
    got = await service.call("GetLimit", pb.GetLimitRequest(name="limits/per-day-eur"))
    assert got.limit.maximum.minor_units == 200
    async with refused("CURRENCY_UNKNOWN"):
        await service.limit(per_day, 100, currency="XXX")
    async with refused("LIMIT_NOT_FOUND"):
        await service.call("GetLimit", pb.GetLimitRequest(name="limits/nope"))
    assert await service.events("limits/per-day-eur") == ["limit_changed", "limit_changed"]


async def test_a_rule_that_cannot_work_is_refused_and_sound_ones_keep_their_versions(service: Service) -> None:
    """The place of the mistake is in the metadata; versions are never changed."""
    async with refused("RULE_INVALID") as metadata:
        await service.rule("payment.hour >", policy_pb2.RULE_OUTCOME_REVIEW)
    assert (metadata["line"], metadata["column"]) == ("1", "15")
    for hour in range(3):
        await service.rule(f"payment.hour > {hour}", policy_pb2.RULE_OUTCOME_REVIEW)
    got = (await service.call("GetRule", pb.GetRuleRequest(name="rules/r"))).rule
    assert (got.version, got.expression) == (3, "payment.hour > 2")
    assert len(await service.rows("SELECT 1 FROM rule_versions")) == 3
    listed = (await service.call("ListRules", pb.ListRulesRequest())).rules
    assert [one.name for one in listed] == ["rules/r"]
    async with refused("RULE_NOT_FOUND"):
        await service.call("GetRule", pb.GetRuleRequest(name="rules/nope"))


async def test_the_same_files_are_the_same_version_of_a_watchlist(service: Service) -> None:
    """A broken file changes nothing; its line is named."""
    first = await service.watchlist(SDN, '1,1,"aka","VITYA",-0- \n')
    again = await service.watchlist(SDN, '1,1,"aka","VITYA",-0- \n')
    assert first == again and (first.version, first.entry_count, first.name_count) == (1, 2, 3)
    async with refused("WATCHLIST_INVALID") as metadata:
        await service.watchlist(SDN + "x,y\n")
    assert (metadata["file"], metadata["line"]) == ("SDN.CSV", "3")
    assert (await service.watchlist(SDN)).version == 2
    listed = (await service.call("ListWatchlists", pb.ListWatchlistsRequest())).watchlists
    assert [(one.name, one.version) for one in listed] == [("watchlists/sdn", 2)]
    assert await service.events("watchlists/sdn") == ["watchlist_imported", "watchlist_imported"]


async def test_an_import_begins_with_the_lists_id(service: Service) -> None:
    """Chunks before it belong to nothing."""
    file = pb.ImportWatchlistRequest.FILE_SDN
    chunk = pb.ImportWatchlistRequest(chunk=pb.ImportWatchlistRequest.Chunk(file=file, data=b"x"))
    async with refused("REQUEST_INVALID"):
        await service.call("ImportWatchlist", iter([chunk]))


@pytest.mark.parametrize("name", ["cases/nope", f"cases/{uuid.UUID(int=1)}"])
async def test_what_is_not_there_is_not_found(service: Service, name: str) -> None:
    """Whether the name could be one or not."""
    async with refused("CASE_NOT_FOUND"):
        await service.call("GetCase", pb.GetCaseRequest(name=name), "compliance")
    async with refused("DECISION_NOT_FOUND"):
        request = pb.GetDecisionRequest(name=name.replace("cases", "decisions"))
        await service.call("GetDecision", request, "compliance")


async def test_another_tenants_cases_are_not_there(service: Service, backend: Service) -> None:
    """Row-level security keeps tenants apart, whoever asks."""
    name = await open_case(service)
    other = Service(backend.parts, backend.db, backend.public, backend.internal)
    async with refused("CASE_NOT_FOUND"):
        await other.call("GetCase", pb.GetCaseRequest(name=name), "compliance")


@pytest.mark.parametrize(
    "table", ["customers", "kyc_profiles", "limits", "rules", "watchlists", "reservations", "limit_usage", "cases"]
)
async def test_what_ends_by_its_state_cannot_be_deleted(service: Service, table: str) -> None:
    """The runtime role has just the rights that it uses."""
    assert await service.rows("SELECT has_table_privilege(current_user, %s, 'DELETE')", (table,)) == [(False,)]


async def test_decisions_rules_and_audit_rows_cannot_be_changed(service: Service) -> None:
    """INV-4: the runtime role has no right to."""
    for table in ("decisions", "rule_versions", "watchlist_versions", "audit"):
        rights = await service.rows(
            "SELECT has_table_privilege(current_user, %s, 'UPDATE'), has_table_privilege(current_user, %s, 'DELETE')",
            (table, table),
        )
        assert rights == [(False, False)], table


async def test_a_repeated_request_gets_its_answer_and_another_payload_is_refused(service: Service) -> None:
    """INV-5 for what people do."""
    await service.know("anna")
    request = submission(request_id="once")
    first = await service.call("SubmitKyc", request, "teller")
    assert await service.call("SubmitKyc", request, "teller") == first
    async with refused("REQUEST_ID_REUSED"):
        await service.call("SubmitKyc", submission(name="Other", request_id="once"), "teller")
    assert await service.events("kycProfiles/anna") == ["kyc_submitted"]
