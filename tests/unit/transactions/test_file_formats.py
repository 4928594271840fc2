"""Files read as streams: the same as when they are read whole, with bounded memory, and CSV."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from meshkit import safe_xml
from meshkit.safe_xml import FileForbidden, FileMalformed, FileRefused, SchemaBroken
from tests.support import csv_payments, payment_files
from transactions.payments import csv_file, pain001
from transactions.payments.errors import ControlSumWrong, MessageIdMissing, SchemaWrong
from transactions.payments.pain001 import Header, Instruction, Payment

TODAY = date(2026, 1, 15)
TWO = payment_files.document(payment_files.payment("E-1", "10.50", "EUR"), payment_files.payment("E-2", "7", "JPY"))


def streamed(data: bytes, elements_max: int = 1000) -> list[object]:
    """All that the reader gives."""
    return list(pain001.stream(io.BytesIO(data), elements_max=elements_max))


def test_a_stream_gives_what_the_whole_file_has() -> None:
    """Header, instruction and payments in their order, with their lines, amounts and accounts."""
    header, instruction, *payments = streamed(TWO)
    whole = pain001.parse(TWO)
    assert header == Header(whole.message_id, whole.initiating_party)
    assert isinstance(instruction, Instruction)
    assert instruction.debtor_account == whole.instructions[0].debtor_account
    assert tuple(payments) == whole.payments


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (b"</Document>", b"", FileMalformed),
        (b"Agnes", b"\xff", FileMalformed),
        (b"Agnes", b"\xc3", FileMalformed),
        (b"Agnes", b"a\x00b", FileMalformed),
        (b"?>\n", b'?>\n<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>\n', FileForbidden),
        (b'"UTF-8"', b'"UTF-7"', FileForbidden),
        (b"<Ustrd>Salary", b"<Ustrd>" + b"<a>" * 60, FileForbidden),
        (b"pain.001.001.09", b"pain.001.001.03", SchemaWrong),
        (b"<PmtMtd>TRF", b"<PmtMtd>XXX", SchemaBroken),
        (b">10.50<", b">one<", SchemaBroken),
        (b"<MsgId>MSG-1</MsgId>", b"", SchemaBroken),
        (b"<NbOfTxs>2</NbOfTxs>\n<CtrlSum>17.5</", b"<NbOfTxs>3</NbOfTxs>\n<CtrlSum>17.5</", ControlSumWrong),
        (b"<CtrlSum>17.50</", b"<CtrlSum>17.51</", ControlSumWrong),
        (b">E-1<", b"> <", MessageIdMissing),
    ],
)
def test_a_stream_refuses_what_the_whole_file_is_refused_for(old: bytes, new: bytes, kind: type[FileRefused]) -> None:
    """In the same words for whoever made it."""
    assert old in TWO
    broken = TWO.replace(old, new, 1)
    with pytest.raises(kind):
        pain001.parse(broken)
    with pytest.raises(kind):
        streamed(broken)


def test_a_stream_names_the_line_at_which_the_schema_is_broken() -> None:
    """However far down, and however many lines a chunk has."""
    text = TWO.replace(b"<PmtInf>", b"\n" * 70_000 + b"<PmtInf>").replace(b"TRF", b"CASH")
    with pytest.raises(SchemaBroken) as refused:
        streamed(text)
    assert refused.value.line == text[: text.index(b"CASH")].count(b"\n") + 1


@pytest.mark.parametrize("at", range(5))
def test_nothing_hides_between_two_chunks(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A declaration that is cut by the end of a chunk is found, and a letter that is cut is whole."""
    monkeypatch.setattr(safe_xml, "_CHUNK_BYTES", 100 + at)
    assert len(streamed(TWO.replace(b"Agnes", "Ägnés 𝄞".encode()))) == 4
    with pytest.raises(FileForbidden, match="DTD"):
        streamed(TWO.replace(b"<CstmrCdtTrfInitn>", b"<!DOCTYPE x><CstmrCdtTrfInitn>"))


READER = """
import resource, sys
from transactions.payments import pain001
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "rb") as small, open(sys.argv[2], "rb") as large:
    list(pain001.stream(small, elements_max=1000))
    before = peak()
    count = sum(isinstance(part, pain001.Payment) for part in pain001.stream(large, elements_max=1_000_000))
print(count, peak() - before)
"""


def test_a_long_file_is_read_in_little_memory(tmp_path: Path) -> None:
    """Thirty thousand payments, 8 MB, are never whole in memory, neither as text nor as a tree, which would be ten
    times as large: a process that has read a small file needs hardly more for this one."""
    text = TWO.decode()
    start, end = text.index("<CdtTrfTxInf>"), text.index("</PmtInf>")
    one = text[start : text.index("</CdtTrfTxInf>") + len("</CdtTrfTxInf>\n")]
    head = text[:start].replace("<NbOfTxs>2<", "<NbOfTxs>30000<").replace(">17.5<", ">315000.00<")
    small, large = tmp_path / "small.xml", tmp_path / "large.xml"
    small.write_bytes(TWO)
    large.write_text(head.replace(">17.50<", ">315000.00<") + one * 30_000 + text[end:])
    done = subprocess.run(
        [sys.executable, "-c", READER, str(small), str(large)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    count, grown_kb = map(int, done.stdout.split())
    assert count == 30_000
    assert grown_kb < 8_000


def test_a_flood_of_elements_is_refused() -> None:
    """More of them than the payments that a file may have can need."""
    with pytest.raises(FileForbidden, match="more than 30 elements"):
        streamed(TWO, elements_max=30)


HIDDEN = {
    "CdtTrfTxInf": "<CdtTrfTxInf><PmtId><EndToEndId>E-9</EndToEndId></PmtId>"
    '<Amt><InstdAmt Ccy="EUR">x</InstdAmt><EqvtAmt><Amt Ccy="EUR">x</Amt></EqvtAmt></Amt></CdtTrfTxInf>',
    "GrpHdr": "<GrpHdr><MsgId>OTHER</MsgId><NbOfTxs>9</NbOfTxs></GrpHdr>",
    "PmtInf": "<PmtInf><PmtInfId>OTHER</PmtInfId></PmtInf>",
    "CstmrCdtTrfInitn": "<CstmrCdtTrfInitn/>",
}


@pytest.mark.parametrize("place", ["</CdtTrfTxInf>", "</CstmrCdtTrfInitn>"])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_stands_in_supplementary_data_is_no_part_of_the_order(hidden: str, place: str) -> None:
    """The schema lets anything stand there, also what looks like a payment or a header: none is paid, none replaces
    the file's own, and the file's own sums are still held against its payments."""
    for document in (TWO, TWO.replace(b"<NbOfTxs>2<", b"<NbOfTxs>3<", 1)):
        data = document.replace(
            place.encode(), f"<SplmtryData><Envlp>{HIDDEN[hidden]}</Envlp></SplmtryData>{place}".encode(), 1
        )
        if document is TWO:
            assert [part for part in streamed(data) if isinstance(part, Header)] == [Header("MSG-1", "Bureau")]
            paid = [part.end_to_end_id for part in streamed(data) if isinstance(part, Payment)]
            assert paid == [payment.end_to_end_id for payment in pain001.parse(data).payments] == ["E-1", "E-2"]
        else:
            with pytest.raises(ControlSumWrong):
                streamed(data)


@pytest.mark.parametrize(
    ("place", "filler"),
    [
        ("</RmtInf>", "<Ustrd>{}</Ustrd></RmtInf>"),
        ("</CstmrCdtTrfInitn>", "<SplmtryData><Envlp><a>{}</a></Envlp></SplmtryData></CstmrCdtTrfInitn>"),
    ],
)
def test_one_payment_cannot_fill_the_memory(place: str, filler: str) -> None:
    """What is read at once is bounded, whatever one payment or the end of the file holds."""

    def filled(size: int) -> bytes:
        return TWO.replace(place.encode(), filler.format(f"a<!--{'x' * size}-->").encode(), 1)

    assert len(streamed(filled(500_000))) == 4
    with pytest.raises(FileForbidden, match="has more than 1,048,576 bytes"):
        streamed(filled(1_300_000))


def rows(data: bytes) -> list[object]:
    """All that the reader of CSV gives."""
    return list(csv_file.stream(io.BytesIO(data), today=TODAY))


def test_a_row_is_a_payment() -> None:
    """Quoted commas, an exact amount, a byte order mark, lines that end as on any system, blank lines."""
    data = csv_payments.document(
        csv_payments.row("accounts/a", "iban:X", "10.50", name='"Nord, ""Süd"""'), "", csv_payments.row("local:1", "b")
    )
    for variant in (data, b"\xef\xbb\xbf" + data, data.replace(b"\r\n", b"\n"), data.rstrip()):
        instruction, payment, second, _ = rows(variant)
        assert isinstance(payment, Payment)
        assert (payment.creditor_name, f"{payment.amount}", payment.line) == ('Nord, "Süd"', "10.50", 2)
        assert isinstance(instruction, Instruction)
        assert (instruction.debtor_account, instruction.execution_date) == ("accounts/a", TODAY)
        assert isinstance(second, Instruction)
        assert second.line == 4


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,b", "line 2: it has 2 fields, not 7"),
        ("a,b,1e3,EUR,n,e,r", "line 2: the amount is no number"),
        ("a,b,١,EUR,n,e,r", "line 2: the amount is no number"),
        ("a,b,=1,EUR,n,e,r", "line 2: the amount is no number"),
        ('a,b,1,EUR,"n,e,r', "line 2: a quotation mark is open"),
        ('a,b,1,EUR,n"x"y,e,r', None),
        ('a,b,1,EUR,"n"x,e"",r', "line 2: it is no CSV"),
        ("a,b,1,EURO,n,e,r", "line 2: the currency has more than 3 letters"),
        (f"a,b,1,EUR,n,{'e' * 36},r", "line 2: the end_to_end_id has more than 35 letters"),
        (f"a,b,1,EUR,n,{'é' * 35},r", None),
        ("a,b,1,EUR," + "n" * 9000 + ",e,r", "line 2: the line has more than"),
    ],
)
def test_a_row_that_is_none_refuses_the_file_with_its_line(row: str, words: str | None) -> None:
    """Nothing is guessed of what is broken."""
    data = csv_payments.document(row)
    if words is None:
        assert len(rows(data)) == 2
        return
    with pytest.raises(FileMalformed, match=words):
        rows(data)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252", "cp037"])
def test_csv_in_another_encoding_is_refused(encoding: str) -> None:
    """And not read as something else."""
    data = csv_payments.document(csv_payments.row("a", "b", name="Müller")).decode().encode(encoding)
    with pytest.raises((FileMalformed, FileForbidden)):
        rows(data)
