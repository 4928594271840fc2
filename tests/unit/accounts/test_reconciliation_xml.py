"""The reader of banks' statements: what it reads, what it refuses whole, and what hostile files do to it."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from accounts import reconciliation_xml
from accounts.reconciliation_model import BankEntry, Head
from meshkit import safe_xml
from meshkit.safe_xml import FileForbidden, FileMalformed, FileRefused
from tests.support.bank_statements import IBAN, Booked, document

DAY = date(2026, 3, 2)
TWO = document(
    [
        Booked(10_50, end_to_end_id="E-1", servicer_reference="B-1", entry_reference="1", remittance="Rent"),
        Booked(-3_00, value_date="2026-03-01"),
    ],
    day=DAY,
    opening=-1_00,
    id_="S-1",
    number=4,
)


def streamed(data: bytes, elements_max: int = 10_000) -> list[BankEntry | Head]:
    """All that the reader gives."""
    return list(reconciliation_xml.stream(io.BytesIO(data), elements_max=elements_max))


def test_a_statement_is_read_with_its_entries_and_its_head() -> None:
    """Signs, days, references as they are compared, and what the bank says."""
    first, second, head = streamed(TWO)
    assert head == Head("M-S-1", "S-1", 4, f"iban:{IBAN}", "EUR", DAY, DAY, -1_00, 6_50)
    assert isinstance(first, BankEntry)
    assert isinstance(second, BankEntry)
    assert (first.amount, first.value_day, first.references, first.batch_size) == (10_50, DAY, ("b1", "e1"), None)
    assert (first.entry_reference, first.servicer_reference, first.description) == ("1", "B-1", "Rent")
    assert (second.amount, second.value_day, second.references) == (-3_00, date(2026, 3, 1), ())


def test_the_older_version_is_read_alike() -> None:
    """It writes the status without an element of its own."""
    old = document([Booked(1_00, status="BOOK")], day=DAY, version="camt.053.001.02")
    new = document([Booked(1_00)], day=DAY)
    assert streamed(old) == streamed(new)


def test_what_is_not_booked_is_no_part_of_the_balance() -> None:
    """Nor is it an item; what has another status is refused."""
    pending = document([Booked(1_00), Booked(9_99, status="<Cd>PDNG</Cd>")], day=DAY)
    assert [one.amount for one in streamed(pending) if isinstance(one, BankEntry)] == [1_00]
    with pytest.raises(FileRefused, match="status 'WHAT'"):
        streamed(document([Booked(1_00, status="<Cd>WHAT</Cd>")], day=DAY))


def test_a_batch_says_its_size_and_what_it_is_made_of() -> None:
    """By its own number, or by its details."""
    entries = streamed(
        document(
            [
                Booked(1_00, batch=("a", "b"), says_batch=True),
                Booked(1_00, batch=("a", "b", "c")),
                Booked(1_00, says_batch=True),
            ],
            day=DAY,
        )
    )
    assert [(one.batch_size, one.references) for one in entries if isinstance(one, BankEntry)] == [
        (2, ("a", "b")),
        (3, ("a", "b", "c")),
        (0, ()),
    ]


def test_a_previous_closing_balance_opens_the_day_after() -> None:
    """Where a bank states no opening balance."""
    data = document([], day=date(2026, 3, 1), last_day=DAY).replace(b"<Cd>OPBD</Cd>", b"<Cd>PRCD</Cd>")
    (head,) = streamed(data)
    assert isinstance(head, Head)
    assert (head.first, head.last) == (DAY, DAY)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b">6.50<", b">6.51<", "do not come to the third"),
        (b'Ccy="EUR">3.00', b'Ccy="USD">3.00', "EUR and USD"),
        (b">10.50<", b">10.505<", "more decimal places"),
        (b">10.50<", b">1e3<", "not an amount"),
        (b">10.50<", b">-10.50<", "not an amount"),
        (b'"EUR">10.50', b'"EUX">10.50', "currency 'EUX'"),
        (b"<Cd>OPBD</Cd>", b"<Cd>ITBD</Cd>", "balances"),
        (b"<Cd>CLBD</Cd>", b"<Cd>OPBD</Cd>", "2 balances OPBD"),
        (b"<Id>S-1</Id>", b"", "Id is missing"),
        (b"<Id>S-1</Id>", b"<Id>" + b"x" * 36 + b"</Id>", "more than 35"),
        (b"<CdtDbtInd>DBIT</CdtDbtInd><Sts>", b"<Sts>", "no side"),
        (b"<ValDt><Dt>2026-03-01<", b"<ValDt><Dt>2026-13-01<", "is no day"),
        (b"<ValDt><Dt>2026-03-01<", b"<ValDt><Dt>2026-W01-1<", "is no day"),
        (b"<ValDt><Dt>2026-03-01<", b"<ValDt><Dt>9999-12-31<", "is no day"),
        (b"<ElctrncSeqNb>4<", b"<ElctrncSeqNb>four<", "'four' is none"),
        (b"<Acct>", b"<StmtPgntn><PgNb>1</PgNb><LastPgInd>false</LastPgInd></StmtPgntn><Acct>", "a page"),
        (b"</Stmt>", b"</Stmt><Stmt/>", "more than one statement"),
        (b"camt.053.001.08", b"camt.053.001.99", "camt.053.001.99"),
        (b"camt.053.001.08", b"camt.054.001.08", "camt.054.001.08"),
        (b"<GrpHdr>", b"<GrpHdr/><GrpHdr>", "more than one group header"),
        (b"<AcctSvcrRef>B-1<", b"<AcctSvcrRef>" + b"x" * 141 + b"<", "more than 140"),
    ],
)
def test_a_statement_that_is_wrong_is_refused_with_its_line(old: bytes, new: bytes, words: str) -> None:
    """Whole, in a sentence that says what and where."""
    assert old in TWO
    with pytest.raises(FileRefused, match=words) as refused:
        streamed(TWO.replace(old, new, 1))
    assert refused.value.line is not None or "camt" in words


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (b"</Document>", b"", FileMalformed),
        (b"E-1", b"\xff", FileMalformed),
        (b"E-1", b"a\x00b", FileMalformed),
        (b"E-1", b"&x;", FileMalformed),
        (b"?>\n", b'?>\n<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>\n', FileForbidden),
        (b"?>\n", b'?>\n<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;&b;">]>\n', FileForbidden),
        (b'"UTF-8"', b'"UTF-7"', FileForbidden),
        (b"<NtryDtls>", b"<NtryDtls>" + b"<a>" * 60, FileForbidden),
    ],
)
def test_a_hostile_file_is_refused(old: bytes, new: bytes, kind: type[FileRefused]) -> None:
    """Entities, other encodings, towers, broken bytes."""
    assert old in TWO
    with pytest.raises(kind):
        streamed(TWO.replace(old, new, 1))


@pytest.mark.parametrize("data", [b"", b"  ", b"no xml", b"<a/>", b"<Document/>", b"\x1f\x8b\x08"])
def test_what_is_no_statement_is_refused(data: bytes) -> None:
    """Empty files, other files, packed files."""
    with pytest.raises(FileRefused):
        streamed(data)


def test_a_flood_of_elements_is_refused() -> None:
    """More of them than the entries that a statement may have can need."""
    with pytest.raises(FileForbidden, match="more than 30 elements"):
        streamed(TWO, elements_max=30)


@pytest.mark.parametrize("hidden", ["Ntry", "Stmt", "GrpHdr"])
@pytest.mark.parametrize("place", [b"</NtryDtls>", b"</Stmt>", b"</BkToCstmrStmt>"])
def test_what_stands_in_supplementary_data_is_no_part_of_the_statement(hidden: str, place: bytes) -> None:
    """Anything may stand there, also what looks like an entry."""
    extra = f"<SplmtryData><Envlp><{hidden}><Amt>x</Amt></{hidden}></Envlp></SplmtryData>".encode()
    assert streamed(TWO.replace(place, extra + place, 1)) == streamed(TWO)


@pytest.mark.parametrize("at", range(5))
def test_nothing_is_lost_between_two_chunks(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is cut by the end of a chunk is whole; entries of one chunk are each taken."""
    whole = streamed(TWO)
    monkeypatch.setattr(safe_xml, "_CHUNK_BYTES", 100 + at)
    assert streamed(TWO) == whole


def test_one_entry_cannot_fill_the_memory() -> None:
    """What stands between the ends of two is bounded."""
    filler = b"<NtryDtls>" + b"<a>x</a>" * 150_000
    with pytest.raises(FileForbidden, match="has more than 1,048,576 bytes"):
        streamed(TWO.replace(b"<NtryDtls>", filler, 1), elements_max=10**6)


READER = """
import resource, sys
from accounts import reconciliation_xml
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "rb") as small, open(sys.argv[2], "rb") as large:
    list(reconciliation_xml.stream(small, elements_max=10**6))
    before = peak()
    print(sum(1 for _ in reconciliation_xml.stream(large, elements_max=10**6)), peak() - before)
"""


def test_a_long_statement_is_read_in_little_memory(tmp_path: Path) -> None:
    """Ten thousand entries with junk between them are never whole in memory, neither as text nor as a tree."""
    small, large = tmp_path / "small.xml", tmp_path / "large.xml"
    small.write_bytes(TWO)
    many = document([Booked(1_00, end_to_end_id=f"E-{number}") for number in range(10_000)], day=DAY)
    large.write_bytes(many.replace(b"</Ntry>", b"</Ntry><Junk>" + b"<a>x</a>" * 20 + b"</Junk>"))
    done = subprocess.run(
        [sys.executable, "-c", READER, str(small), str(large)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    count, grown_kb = map(int, done.stdout.split())
    assert count == 10_001
    assert grown_kb < 8_000
