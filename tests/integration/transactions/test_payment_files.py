"""Files of payments over gRPC with real identities: taken whole or not, found again, made once, cancelled, reported."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from lxml import etree
from pydantic import ValidationError

from florin.transactions.v1 import payment_file_pb2 as files_pb
from florin.transactions.v1 import payment_file_service_pb2 as pb
from florin.transactions.v1.payment_file_service_pb2_grpc import PaymentFileServiceStub
from local import issuer
from meshkit import clock, uploads
from meshkit.errors import DeadlineExceeded, Overloaded, error_info
from tests.integration.transactions.conftest import Replica, Service, call_of, served
from tests.support import payment_files
from tests.support.csv_payments import PAIN_001, document, row, upload
from tests.support.parts import Parts, eventually, settings_for
from tests.unit.transactions.making import TELLER
from transactions import file_store, file_worker, store
from transactions.file_model import ItemState
from transactions.file_operations import PaymentFiles
from transactions.file_worker import FileWorker
from transactions.model import Verdict
from transactions.settings import Settings

FINISHED = files_pb.PAYMENT_FILE_STATE_FINISHED
REPORTS = {
    "pain.002": files_pb.PAYMENT_REPORT_FORMAT_PAIN_002,
    "csv": files_pb.PAYMENT_REPORT_FORMAT_CSV,
}


class Files:
    """Calls about files, of a role."""

    def __init__(self, service: Service, role: str = "teller", **who: Any) -> None:
        self._stub = PaymentFileServiceStub(service.channel)
        token = issuer.mint(service.state, role, **{"tenant": "service", **who})
        self._options: dict[str, Any] = {"metadata": (("authorization", f"Bearer {token}"),), "timeout": 30}

    async def upload(self, data: bytes, message_id: str = "", **more: Any) -> files_pb.PaymentFile:
        answer: Any = await self._stub.UploadPaymentFile(upload(data, message_id, **more), **self._options)
        return answer.payment_file

    async def call(self, method: str, request: Any) -> Any:
        return await getattr(self._stub, method)(request, **self._options)

    async def finished(self, name: str) -> files_pb.PaymentFile:
        """The file when it is finished."""
        answer = await self.call("WaitPaymentFile", pb.WaitPaymentFileRequest(name=name))
        assert answer.payment_file.done
        return answer.payment_file

    async def items(self, name: str, **more: Any) -> list[files_pb.PaymentFileItem]:
        """All items, in pages of seven."""
        found: list[files_pb.PaymentFileItem] = []
        token = ""
        while True:
            request = pb.ListPaymentFileItemsRequest(parent=name, page_size=7, page_token=token, **more)
            page = await self.call("ListPaymentFileItems", request)
            found += page.items
            token = page.next_page_token
            if not token:
                return found

    async def report(self, name: str, kind: str = "pain.002") -> bytes:
        request = pb.GetPaymentFileReportRequest(name=name, format=REPORTS[kind])
        parts: Any = self._stub.GetPaymentFileReport(request, **self._options)
        return b"".join([part.data async for part in parts])


async def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """Code and reason of a refused call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call()
    status = rpc_status.from_call(caught.value)
    info = error_info(status) if status is not None else None
    return caught.value.code().name, info.reason if info is not None else ""


def message_id() -> str:
    return f"M-{uuid.uuid4().hex[:12]}"


def item_name(item: files_pb.PaymentFileItem) -> str:
    state = files_pb.PaymentFileItemState.Name(item.state).removeprefix("PAYMENT_FILE_ITEM_STATE_")
    info = error_info(item.status) if item.HasField("status") else None
    return f"{state} {info.reason}" if info is not None else state


async def test_every_payment_of_a_file_is_made_or_refused_for_its_own_reason(service: Service) -> None:
    """Sound ones move money under transfers that name the file; the others say what is wrong with them."""
    data = document(
        row("accounts/a", "accounts/b", "10.00", end_to_end_id="E-1"),
        row("accounts/a", "accounts/b", "10.00", end_to_end_id="E-1"),
        row("accounts/a", "accounts/b", "0.00"),
        row("accounts/a", "accounts/b", "1.001"),
        row("accounts/a", "accounts/b", "1.00", currency="QQQ"),
        row("accounts/a", "nowhere", "1.00"),
        row("iban:DE89370400440532013001", "accounts/b", "1.00"),
        row("accounts/a", "accounts/nobody", "1.00"),
        row("accounts/b", "accounts/a", "999.00"),
        row("accounts/a", "accounts/b", "20000.00"),
        row("accounts/a", "accounts/b", "10.00"),
        row("accounts/a", "accounts/b", "10.00"),
    )
    files = Files(service)
    made = await files.upload(data, message_id())
    assert (made.payment_count, made.counts.refused, made.state) == (12, 4, files_pb.PAYMENT_FILE_STATE_PROCESSING)
    done = await files.finished(made.name)
    items = await files.items(made.name)
    assert [item_name(item) for item in items] == [
        "COMPLETED",
        "REFUSED PAYMENT_REPEATED",
        "REFUSED REQUEST_INVALID",
        "REFUSED REQUEST_INVALID",
        "REFUSED CURRENCY_UNKNOWN",
        "REFUSED REQUEST_INVALID",
        "REFUSED IDENTIFIER_INVALID",
        "DECLINED ACCOUNT_NOT_FOUND",
        "DECLINED INSUFFICIENT_FUNDS",
        "DECLINED PAYMENT_DECLINED",
        "COMPLETED",
        "COMPLETED",
    ]
    assert (done.counts.completed, done.counts.declined, done.counts.refused) == (3, 3, 6)
    assert service.ledger.journals.total() == 3
    assert [item.line for item in items] == list(range(2, 14))
    transfer = (await service.call("GetTransfer", _transfer(items[0].transfer))).transfer
    assert transfer.request_id == f"{made.name}/1"
    completed = await files.items(made.name, state=files_pb.PAYMENT_FILE_ITEM_STATE_COMPLETED)
    assert [item.number for item in completed] == [1, 11, 12]


def _transfer(name: str) -> Any:
    from florin.transactions.v1 import transfer_service_pb2

    return transfer_service_pb2.GetTransferRequest(name=name)


async def test_a_pain_001_file_is_paid_and_reported_in_its_own_terms(service: Service) -> None:
    """Its MsgId is its identification; the report names it, each payment information and each payment."""
    data = payment_files.document(
        payment_files.payment("E-1", "10.50", "EUR"), payment_files.payment("E-2", "0", "EUR")
    ).replace(b"MSG-1", message_id().encode())
    service.ledger.accounts["iban:AT611904300234573201"] = service.ledger.accounts["a"]
    service.ledger.accounts["iban:NL91ABNA0417164300"] = service.ledger.accounts["b"]
    files = Files(service)
    made = await files.upload(data, kind=PAIN_001, chunk_bytes=37)
    assert made.initiating_party == "Bureau"
    await files.finished(made.name)
    report = etree.fromstring(await files.report(made.name))
    n = "{urn:iso:std:iso:20022:tech:xsd:pain.002.001.10}"
    assert report.findtext(f".//{n}OrgnlMsgId") == made.message_id
    assert report.findtext(f".//{n}GrpSts") == "PART"
    assert report.findtext(f".//{n}OrgnlPmtInfId") == "BLOCK-1"
    told = [
        (one.findtext(f"{n}OrgnlEndToEndId"), one.findtext(f"{n}TxSts"))
        for one in report.iterfind(f".//{n}TxInfAndSts")
    ]
    assert told == [("E-1", "ACSC"), ("E-2", "RJCT")]


async def test_the_same_file_is_found_and_another_under_its_message_id_is_refused(service: Service) -> None:
    """Twice at once, later, by another member of staff: one file, paid once. A customer's file is another one."""
    data, name = document(row("accounts/a", "accounts/b")), message_id()
    one, other = Files(service), Files(service, subject="another-teller")
    first, second = await asyncio.gather(one.upload(data, name), other.upload(data, name))
    assert first.name == second.name
    done = await one.finished(first.name)
    assert await other.upload(data, name, chunk_bytes=11) == done
    assert service.ledger.journals.total() == 1
    changed = document(row("accounts/a", "accounts/b", "2.00"))
    assert await refused(lambda: one.upload(changed, name)) == ("ALREADY_EXISTS", "PAYMENT_FILE_EXISTS")
    anna = Files(service, "customer", customer="customers/anna")
    own = await anna.upload(document(row("accounts/anna", "accounts/b")), name)
    assert own.name != first.name
    await anna.finished(own.name)


async def test_a_customers_file_debits_own_accounts_alone_and_is_seen_by_no_other(service: Service) -> None:
    """The uploader's authority is recorded with the file, and holds when its payments are made."""
    anna, bert = (Files(service, "customer", customer=f"customers/{name}") for name in ("anna", "bert"))
    data = document(row("accounts/anna", "accounts/b"), row("accounts/a", "accounts/b"))
    made = await anna.upload(data, message_id())
    await anna.finished(made.name)
    assert [item_name(item) for item in await anna.items(made.name)] == ["COMPLETED", "DECLINED ACCOUNT_NOT_FOUND"]
    for call in (
        lambda: bert.call("GetPaymentFile", pb.GetPaymentFileRequest(name=made.name)),
        lambda: bert.call("CancelPaymentFile", pb.CancelPaymentFileRequest(name=made.name)),
        lambda: bert.items(made.name),
        lambda: bert.report(made.name),
    ):
        assert await refused(call) == ("NOT_FOUND", "PAYMENT_FILE_NOT_FOUND")
    listed = [file.name for file in (await anna.call("ListPaymentFiles", pb.ListPaymentFilesRequest())).payment_files]
    assert listed[0] == made.name
    assert (await bert.call("ListPaymentFiles", pb.ListPaymentFilesRequest())).payment_files == []
    seen = await Files(service).call("ListPaymentFiles", pb.ListPaymentFilesRequest(page_size=1))
    assert [file.name for file in seen.payment_files] == [made.name]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "PAYMENT_FILE_INVALID"),
        (document(), "PAYMENT_FILE_INVALID"),
        (b"debit_account;credit_account\r\n", "PAYMENT_FILE_INVALID"),
        (document("accounts/a,accounts/b,1.00"), "PAYMENT_FILE_INVALID"),
        (document(row("accounts/a", "accounts/b", "1,00")), "PAYMENT_FILE_INVALID"),
        (document(row("accounts/a", "accounts/b", "-1.00")), "PAYMENT_FILE_INVALID"),
        (document(row("accounts/a", "accounts/b", name='"open')), "PAYMENT_FILE_INVALID"),
        (
            document(row("accounts/a", "accounts/b", name="M\u00fcller")).decode().encode("latin-1"),
            "PAYMENT_FILE_INVALID",
        ),
        (document(row("accounts/a", "accounts/b")).decode().encode("utf-16"), "PAYMENT_FILE_INVALID"),
        (document(row("accounts/a", "accounts/b", name="a\0b")), "PAYMENT_FILE_INVALID"),
        (document(*[row("accounts/a", "accounts/b")] * 21), "PAYMENT_FILE_TOO_LARGE"),
        (document(row("accounts/a", "accounts/b", name="x" * 5000)), "PAYMENT_FILE_TOO_LARGE"),
    ],
)
async def test_a_file_that_cannot_be_read_moves_nothing(parts: Parts, database: str, data: bytes, reason: str) -> None:
    """It is refused whole, and its message_id can be used for a sound one."""
    async with served(parts, database, payment_file_bytes_max=4096, payment_file_items_max=20) as service:
        files, name = Files(service), message_id()
        assert await refused(lambda: files.upload(data, name)) == ("INVALID_ARGUMENT", reason)
        made = await files.upload(document(row("accounts/a", "accounts/b")), name)
        await files.finished(made.name)
        assert service.ledger.journals.total() == 1


async def test_an_upload_in_the_wrong_order_is_refused(service: Service) -> None:
    """The header comes first and once; a CSV file has a message_id, and that of a pain.001 file is its own."""
    files = Files(service)
    header, chunk = list(upload(document(row("accounts/a", "accounts/b")), message_id()))
    empty = pb.UploadPaymentFileRequest(chunk=b"")
    for messages in ([], [chunk], [header], [header, header, chunk], [chunk, header], [header, empty, chunk]):
        call: Any = files._stub.UploadPaymentFile
        expected = "PAYMENT_FILE_INVALID" if messages == [header] else "REQUEST_INVALID"
        assert (await refused(lambda m=messages, c=call: c(iter(m), **files._options)))[1] == expected
    assert (await refused(lambda: files.upload(document(), "")))[1] == "REQUEST_INVALID"
    sepa = payment_files.document(payment_files.payment("E-1", "1.00", "EUR"))
    assert (await refused(lambda: files.upload(sepa, "another", kind=PAIN_001)))[1] == "PAYMENT_FILE_INVALID"


async def test_the_report_of_a_finished_file_is_the_same_bytes_always(service: Service) -> None:
    """Whatever happens to its transfers later; and no cell of the CSV is a formula."""
    data = document(
        row("accounts/a", "accounts/b", end_to_end_id="=HYPERLINK(1)"), row("accounts/a", "accounts/nobody", name="+1")
    )
    files = Files(service)
    made = await files.upload(data, message_id())
    await files.finished(made.name)
    before = [await files.report(made.name, kind) for kind in REPORTS]
    (paid, _) = await files.items(made.name)
    reverse = _reversal(paid.transfer)
    await service.call("ReverseTransfer", reverse, role="operator")
    assert [await files.report(made.name, kind) for kind in REPORTS] == before
    lines = before[1].decode().split("\r\n")
    assert lines[1].startswith('1,2,"","\'=HYPERLINK(1)",1.00,"EUR",COMPLETED,transfers/')
    assert ",ACCOUNT_NOT_FOUND," in lines[2]


def _reversal(name: str) -> Any:
    from florin.transactions.v1 import transfer_service_pb2

    return transfer_service_pb2.ReverseTransferRequest(name=name, reason="for the test", request_id=uuid.uuid4().hex)


async def test_a_cancelled_file_begins_nothing_more(parts: Parts, database: str) -> None:
    """While accounts is down a lot of three is under way: that is brought to its end, the rest never begins.
    Asked again, the cancel has the same answer; of a file that was finished otherwise it is refused."""
    async with served(parts, database, payment_file_lot=3) as service:
        service.ledger.faults.down = True
        files = Files(service)
        made = await files.upload(document(*[row("accounts/a", "accounts/b")] * 30), message_id())

        async def has_begun() -> bool:
            request = pb.GetPaymentFileRequest(name=made.name)
            return bool((await files.call("GetPaymentFile", request)).payment_file.counts.under_way)

        await eventually(has_begun, 10)
        cancel = pb.CancelPaymentFileRequest(name=made.name, request_id=uuid.uuid4().hex)
        await files.call("CancelPaymentFile", cancel)
        service.ledger.faults.down = False
        done = await files.finished(made.name)
        assert done.counts.cancelled + done.counts.completed == 30
        assert 0 < done.counts.completed < 30
        assert service.ledger.journals.total() == done.counts.completed
        assert (await files.call("CancelPaymentFile", cancel)).payment_file == done
        other = await files.upload(document(row("accounts/a", "accounts/b")), message_id())
        await files.finished(other.name)
        late = pb.CancelPaymentFileRequest(name=other.name)
        assert await refused(lambda: files.call("CancelPaymentFile", late)) == (
            "FAILED_PRECONDITION",
            "PAYMENT_FILE_FINISHED",
        )


async def _uploaded(replica: Replica, count: int, amount: str = "1.00") -> str:
    files = PaymentFiles(replica.db, replica.waiters, replica.settings)

    async def messages() -> Any:
        for message in upload(document(*[row("accounts/a", "accounts/b", amount)] * count), message_id()):
            yield message

    return (await files.upload(call_of(), messages())).id


async def _file(replica: Replica, id_: str) -> Any:
    return await PaymentFiles(replica.db, replica.waiters, replica.settings).get(TELLER, id_)


async def _approved(replica: Replica) -> None:
    """Approves the one payment of files that is in review, and brings it to its end."""
    ((tenant, id_),) = await replica.query("SELECT tenant, transfer FROM payment_file_items WHERE transfer <> ''")
    await replica.db.run(tenant, lambda conn: store.record_verdict(conn, [(tenant, id_, Verdict.APPROVED)]))
    due = await replica.recovery._take()
    assert [transfer.id for transfer in due] == [id_]
    await replica.passes.advance(due)


async def _until_finished(replica: Replica, worker: FileWorker, id_: str) -> Any:
    for _ in range(200):
        if not await worker.work_once():
            await asyncio.sleep(0.05)
        file = await _file(replica, id_)
        if file.is_done:
            return file
    raise AssertionError(f"{file} is not finished")


async def test_a_lot_whose_answers_were_lost_is_asked_for_again_and_paid_once(replica: Replica) -> None:
    """A worker dies after its lot was paid and before that is recorded: another one asks for the same transfers."""
    id_ = await _uploaded(replica, 10)
    settings = replica.settings.model_copy(update={"payment_file_lot": 4})
    dying = FileWorker(replica.db, replica.transfers.orders, settings)

    async def dies(*_: Any, **__: Any) -> None:
        raise RuntimeError("died")

    dying._record = dies  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="died"):
        await dying.work_once()
    assert replica.ledger.journals.total() == 4
    file = await _file(replica, id_)
    assert (file.counts[ItemState.UNDER_WAY], file.counts[ItemState.WAITING]) == (4, 6)
    worker = FileWorker(replica.db, replica.transfers.orders, settings)
    assert not await worker.work_once()  # the lease of the dead one
    await replica.query("UPDATE payment_files SET due_time = now() RETURNING 1")
    done = await _until_finished(replica, worker, id_)
    assert done.counts[ItemState.COMPLETED] == 10
    assert replica.ledger.journals.total() == 10
    assert set(replica.ledger.journals.values()) == {1}


async def test_two_workers_at_one_file_do_the_same_once(replica: Replica) -> None:
    """Leases that ran out too early cost work and double nothing; each item is counted once."""
    id_ = await _uploaded(replica, 40)
    settings = replica.settings.model_copy(update={"payment_file_lot": 7})
    workers = [FileWorker(replica.db, replica.transfers.orders, settings) for _ in range(3)]
    while not (await _file(replica, id_)).is_done:
        await replica.query("UPDATE payment_files SET due_time = now() WHERE due_time IS NOT NULL RETURNING 1")
        await asyncio.gather(*[worker.work_once() for worker in workers])
    assert (await _file(replica, id_)).counts[ItemState.COMPLETED] == 40
    assert replica.ledger.journals.total() == 40
    assert set(replica.ledger.journals.values()) == {1}


@pytest.mark.parametrize(("zone", "state"), [("Europe/Vienna", ItemState.WAITING), ("UTC", ItemState.REFUSED)])
async def test_a_day_begins_where_the_bank_is(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, zone: str, state: ItemState
) -> None:
    """A payroll of the local day is taken also while it is the day before in UTC."""
    monkeypatch.setattr(clock, "now", lambda: datetime(2025, 1, 14, 23, 30, tzinfo=UTC))
    settings = replica.settings.model_copy(update={"business_time_zone": zone})
    data = payment_files.document(payment_files.payment("E-1", "10.50", "EUR"))
    assert b"<Dt>2025-01-15<" in data

    async def messages() -> Any:
        for message in upload(data.replace(b"MSG-1", message_id().encode()), kind=PAIN_001):
            yield message

    made = await PaymentFiles(replica.db, replica.waiters, settings).upload(call_of(), messages())
    assert made.counts[state] == 1


async def test_a_time_zone_that_does_not_exist_is_refused_at_the_start(parts: Parts, database: str) -> None:
    """And not at the first upload."""
    for name in ("Europe/Wien", "", "../UTC", "Vienna"):
        with pytest.raises(ValidationError, match="no IANA time zone"):
            settings_for(parts, Settings, database, business_time_zone=name)


@pytest.mark.parametrize(("full", "rows"), [(1, 1), (1, 1000), (2, 1), (2, 1000)])
async def test_a_full_disk_is_told_as_overload_and_records_nothing(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, full: int, rows: int
) -> None:
    """Whether it is the upload or its items that find no room, at once or when buffers are written out."""
    made: list[Any] = []
    temporary = tempfile.TemporaryFile

    def file() -> Any:
        made.append(Path("/dev/full").open("w+b") if len(made) + 1 == full else temporary())  # noqa: SIM115
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", file)
    with pytest.raises(Overloaded):
        await _uploaded(replica, rows)
    assert all(one.closed for one in made)
    assert await replica.query("SELECT 1 FROM payment_files") == []


async def test_who_tells_of_items_unseals_none_of_their_requests(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a page nor a part of a report needs what an open payment is asked for with; it names people."""
    id_ = await _uploaded(replica, 3)
    files = PaymentFiles(replica.db, replica.waiters, replica.settings)

    def unsealed(*_: Any) -> bytes:
        raise AssertionError("a request was unsealed")

    monkeypatch.setattr(file_store, "unsealed", unsealed)
    page, _ = await files.items(TELLER, id_, state=None, page_size=10, page_token="")
    assert page == await files.lot(await _file(replica, id_), after=0, limit=10)
    assert [(item.state, item.end_to_end_id, item.request) for item in page] == [(ItemState.WAITING, "", b"")] * 3


async def test_more_payments_than_an_upload_has_time_for_cannot_be_set(parts: Parts, database: str) -> None:
    """A limit that no upload could reach before its deadline would be a promise that is not kept."""
    targets = {"accounts_target": "unused", "compliance_target": "unused"}
    settings_for(parts, Settings, database, **targets, payment_file_items_max=200_000)
    with pytest.raises(ValidationError, match="payment_file_items_max"):
        settings_for(parts, Settings, database, **targets, payment_file_items_max=200_001)


async def test_senders_that_stand_still_hold_up_nobody_and_lose_their_place(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them wait for more of their own; another tenant's upload is read meanwhile. A third of theirs is told
    to come again, until a place is free."""
    monkeypatch.setattr(uploads, "_MESSAGE_SECONDS", 1.0)
    files = PaymentFiles(replica.db, replica.waiters, replica.settings)

    async def messages(*, stands_still: bool = False) -> Any:
        for message in upload(document(row("accounts/a", "accounts/b")), message_id()):
            yield message
        if stands_still:
            await asyncio.Event().wait()

    def caller(subject: str, tenant: str = TELLER.tenant) -> Any:
        return call_of(replace(TELLER, tenant=tenant, subject=subject))

    slow = [asyncio.create_task(files.upload(caller(name), messages(stands_still=True))) for name in ("one", "two")]
    await asyncio.sleep(0.1)
    assert (await files.upload(caller("one", "another"), messages())).items == 1
    with pytest.raises(Overloaded):
        await files.upload(caller("three"), messages())
    assert [type(ended) for ended in await asyncio.gather(*slow, return_exceptions=True)] == [DeadlineExceeded] * 2
    assert (await files.upload(caller("one"), messages())).items == 1


async def test_a_worker_that_comes_too_late_changes_nothing_of_a_finished_file(replica: Replica) -> None:
    """Its lease ran out, and another one finished the file: what it records then is no change, nor its time."""
    id_ = await _uploaded(replica, 3)
    late, other = (FileWorker(replica.db, replica.transfers.orders, replica.settings) for _ in range(2))
    record, held = late._record, []

    async def holds(*args: Any, **more: Any) -> None:
        held.append((args, more))

    late._record = holds  # type: ignore[method-assign]
    await late.work_once()
    await replica.query("UPDATE payment_files SET due_time = now() RETURNING 1")
    done = await _until_finished(replica, other, id_)
    ((args, more),) = held
    await record(*args, **more)
    assert await _file(replica, id_) == done


async def test_a_file_is_finished_when_the_last_of_it_is(replica: Replica) -> None:
    """A payment that waits for a person keeps it open; its events are those of its changes, each once, in order."""
    files = PaymentFiles(replica.db, replica.waiters, replica.settings)

    async def messages() -> Any:
        for message in upload(document(row("accounts/a", "accounts/b", "2000.00")), message_id()):
            yield message

    made = await files.upload(call_of(), messages())
    worker = FileWorker(replica.db, replica.transfers.orders, replica.settings)
    for _ in range(2):
        await worker.work_once()
    file = await files.get(TELLER, made.id)
    assert (file.counts[ItemState.UNDER_WAY], file.is_done) == (1, False)
    await _approved(replica)
    await replica.query("UPDATE payment_files SET due_time = now() RETURNING 1")
    done = await _until_finished(replica, worker, made.id)
    assert done.counts[ItemState.COMPLETED] == 1
    told = await replica.query("SELECT subject, version FROM outbox WHERE aggregate LIKE 'paymentFiles/%%' ORDER BY id")
    assert [tuple(event) for event in told] == [
        ("florin.transactions.payment_file_accepted.v1", 1),
        ("florin.transactions.payment_file_finished.v1", 2),
    ]
    audited = await replica.query("SELECT action, subject FROM audit")
    assert [tuple(one) for one in audited] == [("upload_payment_file", TELLER.subject)]


async def test_a_file_in_review_is_looked_at_ever_more_seldom(replica: Replica) -> None:
    """Up to once a minute, as a review may take days; one that still has something to ask for, every five seconds."""
    for amount, down, least, most in (("2000.00", False, 50, 60), ("1.00", True, 4, 5)):
        id_ = await _uploaded(replica, 2, amount)
        replica.ledger.faults.down = down
        worker = FileWorker(
            replica.db, replica.transfers.orders, replica.settings.model_copy(update={"payment_file_lot": 1})
        )
        for _ in range(2 if down else 4):
            await replica.query(
                f"UPDATE payment_files SET due_time = now(), attempts = 20 WHERE id = '{id_}' RETURNING 1"
            )
            await worker.work_once()
        ((seconds,),) = await replica.query(
            f"SELECT extract(epoch FROM due_time - now()) FROM payment_files WHERE id = '{id_}'"
        )
        assert least < seconds <= most
        await replica.query("UPDATE payment_files SET due_time = NULL RETURNING 1")


async def test_a_payment_that_can_never_be_made_hides_no_others_end(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is in review and is approved while our own code fails at another: the first one's end is told."""
    id_ = await _uploaded(replica, 2, "2000.00")
    recorded = replica.transfers.orders._record_intents

    async def breaks(transfers: Any) -> Any:
        if any(transfer.request_id.endswith("/2") for transfer in transfers):
            raise RuntimeError("a bug")
        return await recorded(transfers)

    monkeypatch.setattr(replica.transfers.orders, "_record_intents", breaks)
    worker = FileWorker(replica.db, replica.transfers.orders, replica.settings)
    await worker.work_once()
    await _approved(replica)
    await replica.query("UPDATE payment_files SET due_time = now() RETURNING 1")
    await worker.work_once()
    counts = (await _file(replica, id_)).counts
    assert (counts[ItemState.COMPLETED], counts[ItemState.UNDER_WAY]) == (1, 1)


@pytest.mark.parametrize("others_pay", [True, False])
async def test_a_file_rests_between_lots_while_others_pay(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, others_pay: bool
) -> None:
    """A worker that saw single payments come during a lot leaves them as long as it took; alone it goes on at once."""
    id_ = await _uploaded(replica, 6)
    settings = replica.settings.model_copy(update={"payment_file_lot": 2})
    worker = FileWorker(replica.db, replica.transfers.orders, settings)
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    def pays(_: str) -> None:
        replica.transfers.orders.singles += others_pay

    monkeypatch.setattr(file_worker, "_rest", rest)
    replica.ledger.faults.before = pays
    running = asyncio.create_task(worker.run())

    async def is_done() -> bool:
        return bool((await _file(replica, id_)).is_done)

    await eventually(is_done, 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(rests) == (3 if others_pay else 0)
    assert all(seconds > 0 for seconds in rests)


async def test_a_worker_that_is_stopped_finishes_its_lot_first(replica: Replica) -> None:
    """When `run` has ended the database may be closed: what was begun is recorded by then."""
    id_ = await _uploaded(replica, 3)
    worker = FileWorker(replica.db, replica.transfers.orders, replica.settings)
    asks, asked = worker._ask, asyncio.Event()

    async def slowly(*args: Any) -> Any:
        asked.set()
        await asyncio.sleep(0.3)
        return await asks(*args)

    worker._ask = slowly  # type: ignore[method-assign]
    running = asyncio.create_task(worker.run())
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await _file(replica, id_)).counts[ItemState.COMPLETED] == 3


async def test_a_payment_that_breaks_our_own_code_holds_up_no_others(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for again as long as it does; the others are made meanwhile, once."""
    id_ = await _uploaded(replica, 9)
    recorded, broken = replica.transfers.orders._record_intents, True

    async def breaks(transfers: Any) -> Any:
        if broken and any(transfer.request_id.endswith("/5") for transfer in transfers):
            raise RuntimeError("a bug")
        return await recorded(transfers)

    monkeypatch.setattr(replica.transfers.orders, "_record_intents", breaks)
    worker = FileWorker(replica.db, replica.transfers.orders, replica.settings)
    await worker.work_once()
    assert replica.ledger.journals.total() == 8
    broken = False
    await replica.query("UPDATE payment_files SET due_time = now() RETURNING 1")
    done = await _until_finished(replica, worker, id_)
    assert done.counts[ItemState.COMPLETED] == replica.ledger.journals.total() == 9
