"""Reports about files: valid by their standard whatever stands in a file, and the same bytes for the same rows."""

from __future__ import annotations

import csv
import hashlib
import io
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from meshkit.errors import RequestInvalid, Unavailable
from tests.unit.transactions.making import TELLER
from transactions import errors
from transactions.file_errors import PaymentRepeated
from transactions.file_model import FileFormat, FileState, Item, ItemState, PaymentFile
from transactions.file_reports import Csv, Pain002, Report

SCHEMA = etree.XMLSchema(etree.parse(str(Path(__file__).with_name("pain002.xsd"))))
MOMENT = datetime(2026, 3, 2, 9, 30, 15, 250_000, tzinfo=UTC)


def item(number: int, state: ItemState = ItemState.COMPLETED, **changes: Any) -> Item:
    values: dict[str, Any] = {
        "number": number,
        "line": number + 1,
        "information_id": "BLOCK-1",
        "instruction_id": "",
        "end_to_end_id": f"E-{number}",
        "amount": "1.00",
        "currency": "EUR",
        "state": state,
        "transfer": str(uuid.UUID(int=number)) if state in (ItemState.COMPLETED, ItemState.DECLINED) else "",
        **changes,
    }
    return Item(**values)


def file(*items: Item, state: FileState = FileState.FINISHED, **changes: Any) -> PaymentFile:
    counted = Counter(one.state for one in items)
    values: dict[str, Any] = {
        "id": str(uuid.UUID(int=7)),
        "principal": TELLER,
        "format": FileFormat.PAIN_001,
        "message_id": "MSG-1",
        "message_key": uuid.UUID(int=8),
        "initiating_party": "Bureau",
        "sha256": "0" * 64,
        "size_bytes": 100,
        "items": len(items),
        "counts": {one: counted[one] for one in ItemState},
        "create_time": MOMENT,
        "update_time": MOMENT,
        "state": state,
        **changes,
    }
    return PaymentFile(**values)


def written(report: Report, items: list[Item], lot: int = 2) -> bytes:
    parts = [report.rows(items[at : at + lot]) for at in range(0, len(items), lot)]
    return b"".join([report.head(), *parts, report.tail()])


ITEMS = [
    item(1),
    item(2, ItemState.DECLINED, status=errors.AccountNotFound("accounts/x").to_status(), instruction_id="I-2"),
    item(
        3, ItemState.REFUSED, status=RequestInvalid([("", "it is wrong " * 30)]).to_status(), information_id="BLOCK-2"
    ),
    item(4, ItemState.REFUSED, status=PaymentRepeated("E-1", 1).to_status(), information_id="BLOCK-2"),
    item(5, ItemState.CANCELLED, information_id="BLOCK-2", end_to_end_id=""),
]


def test_a_report_says_of_each_payment_what_became_of_it() -> None:
    """By the codes of the standard, within its payment information, whatever lots it is written in."""
    whole = file(*ITEMS)
    data = written(Pain002(whole), ITEMS)
    assert data == written(Pain002(whole), ITEMS, lot=1) == written(Pain002(whole), ITEMS, lot=50)
    root = etree.fromstring(data)
    SCHEMA.assertValid(root)
    blocks = [
        (block.findtext("{*}OrgnlPmtInfId"), [one.text for one in block.iterfind(".//{*}TxSts")])
        for block in root.iterfind(".//{*}OrgnlPmtInfAndSts")
    ]
    assert blocks == [("BLOCK-1", ["ACSC", "RJCT"]), ("BLOCK-2", ["RJCT", "RJCT", "CANC"])]
    assert [one.text for one in root.iterfind(".//{*}Rsn/*")] == ["AC01", "REQUEST_INVALID", "AM05"]
    assert root.findtext(".//{*}GrpSts") == "PART"


def test_the_bytes_of_a_report_stay_what_they_are() -> None:
    """A change of these hashes is a change of reports that were handed out: it needs a format of its own."""
    hashes = [hashlib.sha256(written(report, ITEMS)).hexdigest()[:16] for report in (Pain002(file(*ITEMS)), Csv())]
    assert hashes == ["3eaed436445849e2", "7e123ec52bb6574c"]


@pytest.mark.parametrize(
    ("states", "state", "status"),
    [
        ([ItemState.COMPLETED], FileState.FINISHED, "ACSC"),
        ([ItemState.COMPLETED, ItemState.CANCELLED], FileState.FINISHED, "PART"),
        ([ItemState.CANCELLED], FileState.FINISHED, "RJCT"),
        ([ItemState.COMPLETED, ItemState.WAITING], FileState.PROCESSING, "PDNG"),
        ([ItemState.UNDER_WAY], FileState.CANCELLING, "PDNG"),
    ],
)
def test_the_whole_has_a_status_of_its_own(states: list[ItemState], state: FileState, status: str) -> None:
    """Settled only when all is, rejected only when nothing was paid, pending as long as it is not finished."""
    items = [item(number, one) for number, one in enumerate(states, 1)]
    root = etree.fromstring(written(Pain002(file(*items, state=state)), items))
    SCHEMA.assertValid(root)
    assert root.findtext(".//{*}GrpSts") == status


@given(text=st.text(max_size=120), message_id=st.text(min_size=1, max_size=35))
def test_whatever_a_file_says_its_reports_are_valid_and_no_cell_is_a_formula(text: str, message_id: str) -> None:
    """Control characters, markup, blanks, names of a thousand letters, formulas behind any separator."""
    refusal = Unavailable(text).to_status()
    one = item(1, ItemState.REFUSED, status=refusal, information_id=text, instruction_id=text, end_to_end_id=text)
    root = etree.fromstring(written(Pain002(file(one, message_id=message_id)), [one]))
    SCHEMA.assertValid(root)
    _, row = list(csv.reader(io.StringIO(written(Csv(), [one]).decode(errors="replace"), newline="")))
    assert not row[3].lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))
