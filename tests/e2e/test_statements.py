"""Statements through the edge: a customer has one issued and takes it in every format, over gRPC and REST."""

from __future__ import annotations

import csv
import io
import json
import secrets

import grpc
import pypdf
from lxml import etree

from florin.accounts.v1 import statement_pb2
from florin.accounts.v1 import statement_service_pb2 as pb
from florin.accounts.v1.statement_service_pb2_grpc import StatementServiceStub
from florin.notifications.v1 import notification_service_pb2
from tests.support.mesh import Mesh
from tests.support.protocols import PROTOCOLS, of, refused

CREATE, GET, LIST = (f"StatementService.{verb}" for verb in ("CreateStatement", "GetStatement", "ListStatements"))
JANUARY = {"period_start": "2026-01-01", "period_end": "2026-01-31"}
TYPES = {
    "STATEMENT_FORMAT_JSON": "application/json",
    "STATEMENT_FORMAT_CSV": "text/csv; charset=utf-8",
    "STATEMENT_FORMAT_CAMT_053": "application/xml",
    "STATEMENT_FORMAT_PDF": "application/pdf",
}


def document(mesh: Mesh, name: str, form: str, role: str, **options: str) -> bytes:
    """A document over gRPC, its parts put together."""
    request = pb.GetStatementDocumentRequest(name=name, format=statement_pb2.StatementFormat.Value(form))
    stub = StatementServiceStub(mesh.channel)
    metadata = mesh.metadata(role, **options)
    return b"".join(part.data for part in stub.GetStatementDocument(request, metadata=metadata, timeout=20))


def test_a_customer_takes_a_statement_in_every_format(mesh: Mesh) -> None:
    """The same over every protocol, the same bytes over gRPC and REST, with the type of the format; readers of each
    format can read it."""
    me = mesh.customer()
    account = mesh.account(me, funds=10_00)
    as_me = {"role": "customer", "customer": me}
    request = pb.CreateStatementRequest(account=account, request_id=secrets.token_hex(8), **JANUARY)
    made = {protocol: mesh.call(CREATE, request, **as_me, protocol=protocol).statement for protocol in PROTOCOLS}
    statement = made["gRPC"]
    assert all(one == statement for one in made.values())
    assert (statement.number, statement.account, statement.entry_count) == (1, account, 0)
    for protocol in PROTOCOLS:
        shown = mesh.call(GET, pb.GetStatementRequest(name=statement.name), **as_me, protocol=protocol).statement
        listed = mesh.call(LIST, pb.ListStatementsRequest(account=account), **as_me, protocol=protocol).statements
        assert [shown] == list(listed) == [statement]
    found = {}
    for form, content_type in TYPES.items():
        answer = mesh.http(
            "GET", f"/v1/{statement.name}/document?format={form}", token=mesh.token("customer", customer=me)
        )
        assert (answer.status, answer.headers["content-type"]) == (200, content_type), answer
        assert answer.body == document(mesh, statement.name, form, "customer", customer=me)
        found[form] = answer.body
    assert json.loads(found["STATEMENT_FORMAT_JSON"])["statement"]["name"] == statement.name
    rows = list(csv.DictReader(io.StringIO(found["STATEMENT_FORMAT_CSV"].decode())))
    assert [row["record"] for row in rows] == ["OPENING", "CLOSING"]
    assert etree.fromstring(found["STATEMENT_FORMAT_CAMT_053"]).tag.endswith("Document")
    text = pypdf.PdfReader(io.BytesIO(found["STATEMENT_FORMAT_PDF"]), strict=True).pages[0].extract_text()
    assert "Account statement 1" in text
    assert account in text


def test_a_foreign_statement_does_not_exist(mesh: Mesh) -> None:
    """Neither its account nor itself nor its documents; auditors read it and issue none."""
    me, stranger = mesh.customer(), mesh.customer()
    account = mesh.account(me)
    request = pb.CreateStatementRequest(account=account, **JANUARY)
    statement = mesh.call(CREATE, request).statement
    as_stranger = {"role": "customer", "customer": stranger}
    assert refused(lambda: mesh.call(CREATE, request, **as_stranger)).is_for("NOT_FOUND", "ACCOUNT_NOT_FOUND")
    get = pb.GetStatementRequest(name=statement.name)
    assert refused(lambda: mesh.call(GET, get, **as_stranger)).is_for("NOT_FOUND", "STATEMENT_NOT_FOUND")
    form = "STATEMENT_FORMAT_PDF"
    foreign = mesh.http(
        "GET", f"/v1/{statement.name}/document?format={form}", token=mesh.token("customer", customer=stranger)
    )
    assert (foreign.status, foreign.json["reason"]) == (404, "STATEMENT_NOT_FOUND")
    assert foreign.headers["content-type"] == "application/problem+json"
    try:
        document(mesh, statement.name, form, "customer", customer=stranger)
    except grpc.RpcError as error:
        assert of(error).is_for("NOT_FOUND", "STATEMENT_NOT_FOUND")
    else:
        raise AssertionError("a stranger got a document")
    assert document(mesh, statement.name, form, "auditor").startswith(b"%PDF-")
    assert refused(lambda: mesh.call(CREATE, request, "auditor")).reason == "SCOPE_MISSING"


def test_a_statement_of_days_to_come_is_refused(mesh: Mesh) -> None:
    """What has not passed cannot be stated, over every protocol; nor can what is no day."""
    account = mesh.account()
    for protocol in PROTOCOLS:
        later = pb.CreateStatementRequest(account=account, period_start="2026-01-01", period_end="9000-01-01")
        refusal = refused(lambda later=later, protocol=protocol: mesh.call(CREATE, later, protocol=protocol))
        assert refusal.is_for("FAILED_PRECONDITION", "STATEMENT_PERIOD_OPEN")
        wrong = pb.CreateStatementRequest(account=account, period_start="2026-02-30", period_end="2026-03-01")
        refusal = refused(lambda wrong=wrong, protocol=protocol: mesh.call(CREATE, wrong, protocol=protocol))
        assert refusal.is_for("INVALID_ARGUMENT", "REQUEST_INVALID")


def test_owners_are_told_of_a_statement(mesh: Mesh) -> None:
    """An event for the account's owner, on the stream of events, once it is issued."""
    me = mesh.customer()
    account = mesh.account(me)
    wanted = notification_service_pb2.StreamEventsRequest(event_types=["florin.accounts.statement_issued.v1"])
    stream = mesh.stubs().notifications.StreamEvents(
        wanted, metadata=mesh.metadata("customer", customer=me), timeout=60
    )
    stream.initial_metadata()  # the stream's beginning is fixed from here on
    statement = mesh.call(CREATE, pb.CreateStatementRequest(account=account, **JANUARY)).statement
    event = next(iter(stream)).event
    stream.cancel()
    assert (event.subject, event.type) == (statement.name, "florin.accounts.statement_issued.v1")
