"""A statement's documents: what is in them, that they are the same bytes always, and what hostile texts do to them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from accounts import camt053, documents, statement_errors, statements
from accounts.model import Entry, JournalKind
from accounts.statements import Statement, Totals
from florin.accounts.v1 import statement_pb2
from meshkit.errors import RequestInvalid

JSON, CSV = statement_pb2.STATEMENT_FORMAT_JSON, statement_pb2.STATEMENT_FORMAT_CSV
CAMT, PDF = statement_pb2.STATEMENT_FORMAT_CAMT_053, statement_pb2.STATEMENT_FORMAT_PDF
PERIOD = statements.period(date(2026, 3, 1), date(2026, 3, 31), "Europe/Vienna")
SCHEMA = Path(__file__).with_name("camt053.xsd")
NS = {"c": camt053.NAMESPACE}


def statement(**changes: object) -> Statement:
    """A statement of "main", in EUR."""
    made = Statement(
        tenant="t",
        id=str(uuid.UUID(int=5)),
        account="main",
        number=3,
        period=PERIOD,
        currency="EUR",
        opening=-500,
        closing=0,
        opening_sequence=7,
        closing_sequence=7,
        identifier="iban:DE89370400440532013000",
        issuer="Bank & Söhne <AG>",
        layout=1,
        create_time=datetime(2026, 4, 1, 8, tzinfo=UTC),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def entry(number: int, amount: int, balance_after: int, origin: str = "transfers/t", **changes: object) -> Entry:
    """An entry of the period."""
    made = Entry(
        account="main",
        journal=str(uuid.UUID(int=number)),
        currency="EUR",
        amount=amount,
        balance_after=balance_after,
        sequence=number,
        kind=JournalKind.TRANSFER,
        origin=origin,
        create_time=PERIOD.start_time + timedelta(hours=number),
        effective_time=PERIOD.start_time - timedelta(days=2),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def issue(entries: list[Entry], **changes: object) -> tuple[Statement, Totals]:
    """The statement of entries that follow each other, and its totals."""
    gained, spent = [e.amount for e in entries if e.amount > 0], [-e.amount for e in entries if e.amount < 0]
    made = statement(closing=-500 + sum(gained) - sum(spent), closing_sequence=7 + len(entries), **changes)
    return made, Totals(len(gained), sum(gained), len(spent), sum(spent))


def render(form: int, made: Statement, totals: Totals, entries: list[Entry], lot: int = 1000) -> bytes:
    """A document whole, its entries handed over in lots."""
    document = documents.make(form, made, totals)
    parts = [document.head()]  # before the entries, as the service asks: each part goes on from the one before
    parts += [document.rows(entries[at : at + lot]) for at in range(0, len(entries), lot)]
    return b"".join([*parts, document.tail()])


HOSTILE = st.text(max_size=150) | st.text(st.sampled_from("=+-@;\t\r\n\"', a"), max_size=9)
ENTRIES = st.lists(st.tuples(st.integers(-999, 999).filter(bool), HOSTILE), max_size=90)


@settings(max_examples=60, deadline=None)
@given(ENTRIES, st.integers(1, 50), st.text(max_size=120))
def test_documents_hold_every_entry_whatever_texts_there_are(
    drawn: list[tuple[int, str]], lot: int, issuer: str
) -> None:
    """In each format, with texts of any characters: as many entries as there are, sums that fit the balances, no cell
    that is a formula, and the same bytes in any lots."""
    balance, entries = -500, []
    for number, (amount, origin) in enumerate(drawn, 8):
        balance += amount
        entries.append(entry(number, amount, balance, origin))
    made, totals = issue(entries, issuer=issuer)
    whole = {form: render(form, made, totals, entries) for form in documents.CONTENT_TYPES}
    assert whole == {form: render(form, made, totals, entries, lot) for form in documents.CONTENT_TYPES}

    parsed = json.loads(whole[JSON])
    assert [one["origin"] for one in parsed["entries"]] == [origin for _, origin in drawn]
    assert sum(int(one["amount"]["minorUnits"]) for one in parsed["entries"]) == made.closing - made.opening

    rows = list(csv.DictReader(io.StringIO(whole[CSV].decode(), newline="")))
    assert [row["record"] for row in rows] == ["OPENING", *["ENTRY"] * len(entries), "CLOSING"]
    assert not any(row["origin"].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows)
    assert not any(row["amount"].startswith("-") for row in rows)
    assert [row["origin"].replace("'", "") for row in rows[1:-1]] == [origin.replace("'", "") for _, origin in drawn]
    for cell in re.split(r"[;\t\r\n]", whole[CSV].decode()):
        assert not cell.strip('" ').startswith(("=", "+", "-", "@")), cell

    document = etree.fromstring(whole[CAMT])
    assert len(document.findall(".//c:Ntry", NS)) == len(entries)
    etree.XMLSchema(etree.parse(SCHEMA)).assertValid(document)

    pages = pypdf.PdfReader(io.BytesIO(whole[PDF]), strict=True).pages
    text = "\n".join(page.extract_text() for page in pages)
    assert f"page {len(pages)}" in text
    assert text.count("Closing balance") == 2
    assert len(re.findall(r"^ *\d+ 2026-03-\d\d 2026-02-27 transfer ", text, re.M)) == len(entries)


# What was issued with layout 1 has to be these bytes for as long as there is a copy of it anywhere.
BYTES = {
    JSON: "2aae78d5dde648e0a77e8b9a4d04b93e0774c213a2a3e4fa274db7b6d949292c",
    CSV: "504a101098faadc8d0d1606c153a762832c6b3f6d2b8091818a73bfdbc059b6f",
    CAMT: "b7e7d7bf78ba36d4718da97b0695e2a4b11fe1ed31c0bb2e53711e9a7e3e4f3d",
    PDF: "8d645d794288f1cb26d4a94db4745a86b0d0598ac7f2f553dc7d7a1bf078b0db",
}


@pytest.mark.parametrize("form", BYTES)
def test_what_was_issued_once_is_the_same_bytes_for_good(form: int) -> None:
    """A change of a renderer that changes documents of the present layout fails here: it needs a layout of its own."""
    entries = [
        entry(8, 1050, 550, "funding/line 7"),
        entry(9, -50, 500, kind=JournalKind.REVERSAL),
        entry(10, 99, 599, "funding/=cmd|' /C calc'!A0", kind=JournalKind.FUNDING),
    ]
    made, totals = issue(entries)
    assert hashlib.sha256(render(form, made, totals, entries)).hexdigest() == BYTES[form]


def test_camt_tells_balances_sides_days_and_references() -> None:
    """Opening and closing balance with their days and sides, booking and value date in the tenant's time zone, a mark
    on reversals, the journal as the bank's reference."""
    late = PERIOD.end_time - timedelta(minutes=1)
    entries = [entry(8, 700, 200, create_time=late, effective_time=late), entry(9, -1, 199, kind=JournalKind.REVERSAL)]
    made, totals = issue(entries)
    document = etree.fromstring(render(CAMT, made, totals, entries))

    def texts(path: str) -> list[str]:
        return [found.text or "" for found in document.findall(f".//c:{path.replace('/', '/c:')}", NS)]

    assert texts("Bal/Tp/CdOrPrtry/Cd") == ["OPBD", "CLBD"]
    assert texts("Bal/Amt") == ["5.00", "1.99"]
    assert texts("Bal/CdtDbtInd") == ["DBIT", "CRDT"]
    assert texts("Bal/Dt/Dt") == ["2026-03-01", "2026-03-31"]
    assert texts("Ntry/Amt") == ["7.00", "0.01"]
    assert texts("Ntry/CdtDbtInd") == ["CRDT", "DBIT"]
    assert texts("Ntry/BookgDt/Dt") == ["2026-03-31", "2026-03-01"]
    assert texts("Ntry/ValDt/Dt") == ["2026-03-31", "2026-02-27"]
    assert texts("Ntry/RvslInd") == ["true"]
    assert texts("Ntry/AcctSvcrRef") == [uuid.UUID(int=8).hex, uuid.UUID(int=9).hex]
    assert texts("Acct/Id/IBAN") == ["DE89370400440532013000"]
    assert texts("TtlCdtNtries/Sum") == ["7.00"]


@pytest.mark.parametrize(
    ("origin", "cell"),
    [
        ("transfers/a-b", '"transfers/a-b"'),
        ("=1", '"\'=1"'),
        ("\t=1", "\"'\t'=1\""),
        ("a;=1", '"a;\'=1"'),
        ("a\n@b", '"a\n\'@b"'),
        (';"=1"', '";""\'=1"""'),
        ("a - b, -c", '"a - b, -c"'),
    ],
)
def test_no_cell_is_a_formula_by_whatever_separator(origin: str, cell: str) -> None:
    """Texts stand in quotation marks; an apostrophe stands before each sign that could begin a cell."""
    entries = [entry(8, 700, 200, origin)]
    assert render(CSV, *issue(entries), entries).decode().partition(f"{uuid.UUID(int=8)},")[2].startswith(f"{cell}\r\n")


@pytest.mark.parametrize(("currency", "text"), [("JPY", "12345"), ("KWD", "12.345"), ("CLF", "1.2345")])
def test_amounts_have_the_places_of_their_currency(currency: str, text: str) -> None:
    """No place for yen, three for dinars: in each format."""
    entries = [entry(8, 12345, 12345, currency=currency)]
    made, totals = issue(entries, currency=currency)
    row = list(csv.DictReader(io.StringIO(render(CSV, made, totals, entries).decode())))[1]
    assert (row["amount"], row["currency"]) == (text, currency)
    document = etree.fromstring(render(CAMT, made, totals, entries))
    assert [found.text for found in document.findall(".//c:Ntry/c:Amt", NS)] == [text]
    reader = pypdf.PdfReader(io.BytesIO(render(PDF, made, totals, entries)))
    assert f" {text} " in reader.pages[0].extract_text()


@pytest.mark.parametrize("account", ["main", str(uuid.UUID(int=7)), "a" * 63])
def test_an_account_without_an_identifier_has_one_of_the_schemas_length(account: str) -> None:
    """A UUID loses its dashes, a longer id is hashed; the whole id is the name."""
    made, totals = issue([], account=account, identifier="")
    document = etree.fromstring(render(CAMT, made, totals, []))
    etree.XMLSchema(etree.parse(SCHEMA)).assertValid(document)
    assert document.findtext(".//c:Acct/c:Nm", namespaces=NS) == account


def test_a_figure_that_the_schema_has_no_digits_for_is_refused() -> None:
    """18 digits fit, 19 do not; the other formats have them."""
    made = statement(opening=10**18 - 1)
    camt053.check(made, Totals(0, 0, 0, 0))
    with pytest.raises(statement_errors.StatementFormatUnsuitable):
        camt053.check(replace(made, closing=-(10**18)), Totals(0, 0, 0, 0))
    with pytest.raises(statement_errors.StatementFormatUnsuitable):
        camt053.check(made, Totals(2, 10**18, 0, 0))


def test_a_layout_that_is_not_known_is_not_guessed() -> None:
    """A statement of a later version is no other statement."""
    with pytest.raises(RuntimeError, match="layout 2"):
        documents.make(PDF, statement(layout=2), Totals(0, 0, 0, 0))


def test_days_are_those_of_the_time_zone() -> None:
    """A month in which clocks are put forward is an hour short; a day without a midnight begins when clocks do."""
    assert PERIOD.start_time == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert PERIOD.end_time == datetime(2026, 3, 31, 22, tzinfo=UTC)
    day = statements.period(date(2018, 11, 4), date(2018, 11, 4), "America/Sao_Paulo")
    assert day.end_time - day.start_time == timedelta(hours=23)
    before = statements.period(date(2018, 11, 3), date(2018, 11, 3), "America/Sao_Paulo")
    assert before.end_time == day.start_time


def test_a_day_that_a_zone_left_out_is_empty_and_booking_days_are_of_the_period() -> None:
    """Samoa had no 30 December 2011. Clocks of St. John's were put back at a minute past midnight: the second half of
    the last hour of the day before is in the next day's period, and is booked on it."""
    left_out = statements.period(date(2011, 12, 30), date(2011, 12, 30), "Pacific/Apia")
    assert left_out.start_time == left_out.end_time
    day = statements.period(date(2010, 11, 7), date(2010, 11, 7), "America/St_Johns")
    again = day.start_time + timedelta(minutes=30)
    assert statements.local_day(again, day.time_zone) == date(2010, 11, 6)
    entries = [entry(8, 700, 200, create_time=again, effective_time=again)]
    made, totals = issue(entries, period=day)
    assert b'"bookingDate":"2010-11-07","valueDate":"2010-11-06"' in render(JSON, made, totals, entries)
    assert b",2010-11-07,2010-11-06," in render(CSV, made, totals, entries)
    document = etree.fromstring(render(CAMT, made, totals, entries))
    assert document.findtext(".//c:BookgDt/c:Dt", namespaces=NS) == "2010-11-07"
    text = pypdf.PdfReader(io.BytesIO(render(PDF, made, totals, entries))).pages[0].extract_text()
    assert (text.count("2010-11-07"), text.count("2010-11-06")) == (3, 1)  # the period's days; booking and value date


@pytest.mark.parametrize("text", ["2026-02-30", "0000-01-01", "2026-13-01", "0001-12-31", "9999-01-01"])
def test_days_that_cannot_be_reckoned_with_are_refused(text: str) -> None:
    """The thirtieth of February, the year zero, and years at whose ends no clock shows a time."""
    with pytest.raises(RequestInvalid):
        statements.day(text, "period_start")


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "UTC"])
def test_the_first_and_the_last_day_have_moments_in_every_time_zone(zone: str) -> None:
    """14 hours before UTC and 12 after it: nothing overflows, a microsecond before the beginning included."""
    made = statements.period(
        statements.day("0002-01-01", "period_start"), statements.day("9998-12-31", "period_end"), zone
    )
    assert made.start_time - timedelta(microseconds=1) < made.end_time
    assert statements.local_day(datetime.min.replace(tzinfo=UTC), zone).year == 1
