"""Every method × every role × {own, another customer's, another tenant's resource}, through the edge and past it.

What has to come out is worked out from the contracts' policies alone, as the golden file of tests/contract is; so a
service that forgets an owner, a scope or a tenant fails here, whichever method it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from florin.accounts.v1 import journal_service_pb2
from florin.transactions.v1 import transfer_service_pb2
from local.roles import ROLES
from meshkit.errors import error_info
from tests.support import hostile
from tests.support import world as bank
from tests.support.mesh import Mesh
from tests.support.protocols import Refused, of, raw
from tests.support.world import PUBLIC, SERVICES, World, policy

SITUATIONS = ("own", "another customer's", "another tenant's")
NAMES_NOTHING = {
    *("ListCustomers", "ListAccounts", "ListTransfers", "ListLimits", "ListRules", "ListWatchlists", "ListCases"),
    *("ListSchedules", "SetHolidayCalendar", "GetHolidayCalendar", "ListHolidayCalendars"),
    *("ListWebhookEndpoints", "ListFeeSchedules", "SetLimit", "SetRule", "ImportWatchlist", "StreamEvents"),
    *("GetTreeHead", "GetConsistencyProof", "ListSigningKeys", "ExportJournals"),
    *("CreateTenant", "CreateCustomer", "CreateWebhookEndpoint", "ImportExchangeRates", "CreateQuote"),
    *("ListExchangeRates", "ListPositionAccounts", "ListLedgerFreezes", "GetLedgerState"),
    *("RollUpBalances", "ListOverdraftChanges", "ListOverdraftThresholds", "SetOverdraftThreshold"),
    *("ListPaymentFiles", "UploadPaymentFile", "ListJournals", "ImportBankStatement"),
    *("ListWithdrawals", "ListDeposits", "ListRailExceptions"),
}
"""Methods that may be answered to a stranger, since they do not ask for one resource: the answer must hold none."""
PERMISSIONS = {"SCOPE_MISSING", "STAFF_ONLY", "TOKEN_INVALID", "AUDIENCE_WRONG", "CALLER_NOT_ALLOWED", "METHOD_UNKNOWN"}
FAILURES = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: bytes, or a refusal."""

    data: bytes
    refusal: Refused | None

    def __str__(self) -> str:
        return str(self.refusal) if self.refusal is not None else f"answered with {len(self.data)} bytes"


def ask(
    world: World, channel: grpc.Channel, method: MethodDescriptor, role: str, situation: str
) -> tuple[Message, Answer]:
    """One cell of the matrix."""
    target = world.others if situation == "another customer's" else world.mine
    names = dict(target.names)
    if method.name == "DeleteWebhookEndpoint":
        names["webhookEndpoints"] = world.new_endpoint(target.customer)
    request = hostile.sound_request(method, names)
    tenant = world.elsewhere if situation == "another tenant's" else world.tenant
    # A subject for each method and role: the edge counts calls by subject, four eyes are told apart by it.
    metadata = world.metadata(role, tenant=tenant, subject=f"{role}-{method.name}")
    try:
        return request, Answer(raw(channel, method)(request.SerializeToString(), metadata), None)
    except grpc.RpcError as error:
        return request, Answer(b"", of(error))


def wrong(world: World, method: MethodDescriptor, role: str, situation: str, request: Message, answer: Answer) -> str:
    """What is wrong with a cell; empty if nothing is."""
    declared, refusal = policy(method), answer.refusal
    if refusal is not None and refusal.code in FAILURES:
        return "failed"
    if not set(declared.scopes) & set(ROLES[role]):
        return "" if _is(refusal, "PERMISSION_DENIED", "SCOPE_MISSING") else "a scope is missing"
    if declared.staff_only and role == "customer":
        return "" if _is(refusal, "PERMISSION_DENIED", "STAFF_ONLY") else "it is for staff only"
    hidden = situation == "another tenant's" or (situation == "another customer's" and role == "customer")
    if not hidden:
        return "" if _is_served(refusal) else "it is allowed"
    names_nothing = method.name in NAMES_NOTHING
    if refusal is not None:
        if names_nothing and _is_served(refusal):
            return ""
        return "" if refusal.code == "NOT_FOUND" and refusal.reason.endswith("_NOT_FOUND") else "it has to be hidden"
    if method.name in ("BatchCreateTransfers", "StreamTransfers", "BatchPostJournals"):
        return "" if _all_hidden(method.name, answer.data) else "each item has to be hidden"
    if not names_nothing:
        return "it has to be hidden"
    stranger = world.mine if situation == "another tenant's" else world.others
    # What the caller says is no news to it: in its request, or in its token.
    told = request.SerializeToString() + (world.mine.customer.encode() if role == "customer" else b"")
    leaked = [mark for mark in stranger.marks() if mark.encode() in answer.data and mark.encode() not in told]
    return f"the answer holds {leaked}" if leaked else ""


def _is(refusal: Refused | None, code: str, reason: str) -> bool:
    return refusal is not None and refusal.is_for(code, reason)


def _is_served(refusal: Refused | None) -> bool:
    """Whether permissions let it through: answered, or refused by the state of things."""
    return refusal is None or not (refusal.reason in PERMISSIONS or refusal.reason.endswith("_NOT_FOUND"))


def _all_hidden(method: str, data: bytes) -> bool:
    results: Sequence[Any]
    if method == "StreamTransfers":
        results = [transfer_service_pb2.StreamTransfersResponse.FromString(data)]
    elif method == "BatchPostJournals":
        results = journal_service_pb2.BatchPostJournalsResponse.FromString(data).results
    else:
        results = transfer_service_pb2.BatchCreateTransfersResponse.FromString(data).results
    reasons = {info.reason if (info := error_info(result.status)) else "" for result in results}
    return reasons == {"ACCOUNT_NOT_FOUND"}


def judged(world: World, channel: grpc.Channel, method: MethodDescriptor) -> list[str]:
    """A sentence for every cell of a method that is not as it has to be."""
    found = []
    for role in ROLES:
        for situation in SITUATIONS:
            request, answer = ask(world, channel, method, role, situation)
            fault = wrong(world, method, role, situation, request, answer)
            if fault:
                found.append(f"{role}, {situation}: {fault}, but {answer}")
    return found


@pytest.fixture(scope="module", params=["through the edge", "past the edge"])
def way(request: pytest.FixtureRequest, mesh: Mesh) -> Iterator[tuple[World, str]]:
    """A world for each way to the services: what was done on the one must not show on the other."""
    with bank.made(mesh) as made:
        yield made, request.param


# Lists come first: afterwards they would show the callers' own attempts, which name what is not theirs.
ORDER = sorted(PUBLIC, key=lambda method: not method.name.startswith("List"))


@pytest.mark.parametrize("method", ORDER, ids=lambda method: method.name)
def test_a_method_is_open_to_whom_its_contract_says(way: tuple[World, str], method: MethodDescriptor) -> None:
    """Scope, staff, owner and tenant, for each role; the same past the edge, with the edge's certificate, since a
    service does not rely on what the edge has checked."""
    world, path = way
    service = SERVICES[method.containing_service.full_name]
    channel = world.mesh.channel if path == "through the edge" else world.direct(service, "edge")
    assert judged(world, channel, method) == []


def test_the_matrix_is_whole() -> None:
    """Every method of the contracts that has scopes is in it, and so is every role."""
    assert len(PUBLIC) == len({method.full_name for method in PUBLIC}) > 40
    assert {method.name for method in PUBLIC} > NAMES_NOTHING
    assert set(ROLES) == {"customer", "teller", "compliance", "auditor", "operator", "bookkeeper"}


def test_nothing_failed_inside(mesh: Mesh) -> None:
    """No cell of the matrix was answered by a failure that happened to look like a refusal."""
    assert mesh.failures() == []
