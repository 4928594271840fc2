"""Files of payments through the edge: uploaded in chunks, followed over REST, found again, reported."""

from __future__ import annotations

import secrets
import time
from typing import Any

from lxml import etree

from florin.transactions.v1 import payment_file_pb2 as files_pb
from florin.transactions.v1 import payment_file_service_pb2 as pb
from tests.support.csv_payments import document, row, uploaded
from tests.support.mesh import Mesh
from tests.support.protocols import refused

WAIT, REPORT = "PaymentFileService.WaitPaymentFile", "/v1/{}/report?format={}"


def finished(mesh: Mesh, name: str, **who: Any) -> files_pb.PaymentFile:
    """The file when it is finished."""
    request = pb.WaitPaymentFileRequest(name=name)
    request.timeout.FromSeconds(5)
    deadline = time.monotonic() + 60
    while not (file := mesh.call(WAIT, request, **who).payment_file).done:
        assert time.monotonic() < deadline, file
    made: files_pb.PaymentFile = file
    return made


def test_a_file_of_two_thousand_payments_is_paid_once(mesh: Mesh) -> None:
    """Accepted at once, made in the background, the same when it is uploaded again; every payment has its line in the
    report, which is the same bytes each time."""
    debit, credit = mesh.account(funds=2000), mesh.account()
    data, message_id = document(*[row(debit, credit, "0.01")] * 2000), secrets.token_hex(6)
    made = uploaded(mesh, data, message_id)
    assert made.payment_count == 2000
    done = finished(mesh, made.name, protocol="REST")
    assert (done.done, done.counts.completed) == (True, 2000)
    assert uploaded(mesh, data, message_id) == done
    assert mesh.balance(credit).posted.minor_units == 2000
    page = pb.ListPaymentFileItemsRequest(parent=made.name, page_size=1000)
    items = mesh.call("PaymentFileService.ListPaymentFileItems", page, protocol="REST").items
    assert {item.state for item in items} == {files_pb.PAYMENT_FILE_ITEM_STATE_COMPLETED}
    reports = [
        mesh.http("GET", REPORT.format(made.name, "PAYMENT_REPORT_FORMAT_PAIN_002"), token=mesh.token()) for _ in "12"
    ]
    assert reports[0].body == reports[1].body
    assert reports[0].headers["content-type"] == "application/xml"
    told = etree.fromstring(reports[0].body).iterfind(".//{*}TxSts")
    assert [one.text for one in told] == ["ACSC"] * 2000
    lines = mesh.http("GET", REPORT.format(made.name, "PAYMENT_REPORT_FORMAT_CSV"), token=mesh.token()).body
    assert lines.count(b",COMPLETED,transfers/") == 2000


def test_a_file_beyond_what_a_body_may_have_is_an_upload_all_the_same(mesh: Mesh) -> None:
    """Five megabytes in chunks go through the edge, and are refused for what they are, not for their size."""
    data = document(*["x" * 1000] * 5000)
    refusal = refused(lambda: uploaded(mesh, data, secrets.token_hex(6)))
    assert refusal.is_for("INVALID_ARGUMENT", "PAYMENT_FILE_INVALID")
    assert refusal.metadata["line"] == "2"


def test_a_customers_file_is_cancelled_by_the_customer_and_seen_by_no_other(mesh: Mesh) -> None:
    """What had begun is paid, what had not is not; another customer is told that there is no such file."""
    me, other = mesh.customer(), mesh.customer()
    debit, credit = mesh.account(me, funds=100_00), mesh.account()
    mine: dict[str, Any] = {"customer": me, "subject": secrets.token_hex(4)}
    data = document(*[row(debit, credit, "0.01")] * 3000)
    made = uploaded(mesh, data, secrets.token_hex(6), role="customer", **mine)
    cancel = pb.CancelPaymentFileRequest(name=made.name, request_id=secrets.token_hex(8))
    mesh.call("PaymentFileService.CancelPaymentFile", cancel, "customer", protocol="REST", **mine)
    done = finished(mesh, made.name, role="customer", **mine)
    assert done.counts.completed + done.counts.cancelled == 3000
    assert done.counts.cancelled > 0
    assert mesh.balance(credit).posted.minor_units == done.counts.completed
    theirs = {"customer": other, "subject": secrets.token_hex(4)}
    unseen = refused(lambda: mesh.call(WAIT, pb.WaitPaymentFileRequest(name=made.name), "customer", **theirs))
    assert unseen.is_for("NOT_FOUND", "PAYMENT_FILE_NOT_FOUND")
