"""The reader of payment files: what it reads, and what it refuses whole."""

from __future__ import annotations

import time
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from meshkit import safe_xml
from meshkit.safe_xml import FileForbidden, FileMalformed, FileRefused, FileTooLarge, SchemaBroken
from tests.support.payment_files import document, payment
from transactions.payments import pain001
from transactions.payments.errors import ControlSumWrong, MessageIdMissing, SchemaWrong

PAYROLL = Path(__file__).resolve().parents[3] / "examples" / "payroll.xml"


def test_a_file_is_read_with_every_payment_in_its_order() -> None:
    """Ids, accounts, names, exact amounts and remittance come out as the file has them."""
    file = pain001.parse(document(payment("E-1", "10.50", "EUR"), payment("E-2", "7", "JPY")))
    assert (file.message_id, file.initiating_party) == ("MSG-1", "Bureau")
    (instruction,) = file.instructions
    assert instruction.debtor_account == "iban:AT611904300234573201"
    assert instruction.execution_date == date(2025, 1, 15)
    first, second = instruction.payments
    assert (first.end_to_end_id, first.amount, first.currency_code) == ("E-1", Decimal("10.50"), "EUR")
    assert (first.creditor_name, first.creditor_account) == ("Agnes Ahorner", "iban:NL91ABNA0417164300")
    assert first.remittance == "Salary"
    assert second.line > first.line > 0


def test_the_example_payroll_is_read_whole() -> None:
    """The file of the demo is a valid pain.001.001.09 with sums that are right."""
    file = pain001.read(PAYROLL)
    assert len(file.payments) == 202
    assert [instruction.id for instruction in file.instructions] == ["LINDWURM-EUR", "HOSHIZORA-JPY", "KRUMM-EUR"]


def test_an_external_entity_is_refused_and_never_read(tmp_path: Path) -> None:
    """XXE: the file is refused for its DTD, with its line; what it points at does not come out."""
    secret = tmp_path / "secret"
    secret.write_text("the-secret")
    attack = document(payment("&xxe;", "1.00", "EUR")).replace(
        b"?>\n", f'?>\n<!DOCTYPE Document [<!ENTITY xxe SYSTEM "file://{secret}">]>\n'.encode(), 1
    )
    with pytest.raises(FileForbidden, match=r"line 2: .*DTD") as refused:
        pain001.parse(attack)
    assert "the-secret" not in str(refused.value)


def test_billion_laughs_is_refused_at_once() -> None:
    """Nested entities are refused before anything is expanded."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    attack = f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY l0 "ha">{laughs}]><d>&l9;</d>'.encode()
    started = time.monotonic()
    with pytest.raises(FileForbidden):
        pain001.parse(attack)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp037"])
def test_a_dtd_cannot_hide_in_another_encoding(encoding: str) -> None:
    """Only UTF-8 is read, so that a declaration written in another encoding is not overlooked."""
    attack = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "b">]><d>&a;</d>'.encode(encoding)
    with pytest.raises((FileMalformed, FileForbidden)):
        pain001.parse(attack)


def test_a_declared_foreign_encoding_is_refused() -> None:
    """A file that says UTF-7 is not read as anything else."""
    with pytest.raises(FileForbidden, match="UTF-7"):
        pain001.parse(b'<?xml version="1.0" encoding="UTF-7"?><d/>')


@pytest.mark.parametrize("depth", [safe_xml.DEPTH_MAX + 1, 200, 100_000])
def test_a_tower_of_elements_is_refused(depth: int) -> None:
    """Nesting beyond the cap ends in a refusal, whatever the height, and not in a crash."""
    with pytest.raises((FileForbidden, FileMalformed)):
        pain001.parse(b"<a>" * depth + b"</a>" * depth)


def test_too_many_elements_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of small elements is cut off before a tree is built of it."""
    monkeypatch.setattr(safe_xml, "ELEMENTS_MAX", 1000)
    with pytest.raises(FileForbidden, match="more than 1,000 elements"):
        pain001.parse(b"<a>" + b"<b/>" * 1000 + b"</a>")


def test_an_oversized_file_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    """A file beyond the cap is refused by its size alone."""
    path = tmp_path / "large.xml"
    with path.open("wb") as handle:
        handle.truncate(safe_xml.BYTES_MAX * 40)
    with pytest.raises(FileTooLarge, match="20,971,521 bytes"):
        pain001.read(path)


@pytest.mark.parametrize("data", [b"", b"  \n", b"no xml", b"<a><b></a>", b"<a>\xff</a>", b"\x00" * 50, b"<a>&x;</a>"])
def test_what_is_no_xml_is_refused(data: bytes) -> None:
    """Empty, broken and binary files are refused, each as malformed."""
    with pytest.raises(FileMalformed):
        pain001.parse(data)


def test_malformed_xml_names_its_line() -> None:
    """The line of the mistake is in the refusal."""
    with pytest.raises(FileMalformed, match=r"^line 3: "):
        pain001.parse(b"<a>\n<b>\n</a>")


def test_another_version_is_named() -> None:
    """A pain.001.001.03 is told apart from a broken 09."""
    other = document(payment("E-1", "1.00", "EUR")).replace(b"pain.001.001.09", b"pain.001.001.03")
    with pytest.raises(SchemaWrong, match=r"Document of pain\.001\.001\.03"):
        pain001.parse(other)


def test_another_document_is_named() -> None:
    """XML that is no ISO 20022 message is told so."""
    with pytest.raises(SchemaWrong, match="no ISO 20022 namespace"):
        pain001.parse(b"<invoice/>")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("<MsgId>MSG-1</MsgId>", "", "CreDtTm"),
        ("<PmtMtd>TRF</PmtMtd>", "<PmtMtd>CASH</PmtMtd>", "PmtMtd"),
        ("<Dt>2025-01-15</Dt>", "<Dt>2025-13-15</Dt>", "Dt"),
        ('Ccy="EUR"', 'Ccy="eur"', "Ccy"),
        ('"EUR">10.50<', '"EUR">-10.50<', "InstdAmt"),
        ('"EUR">10.50<', '"EUR">1e3<', "InstdAmt"),
        ('"EUR">10.50<', '"EUR">10.123456<', "InstdAmt"),
        ("<EndToEndId>E-1<", f"<EndToEndId>{'x' * 36}<", "EndToEndId"),
        ("AT611904300234573201", "not an iban", "IBAN"),
        ("</CdtTrfTxInf>", "<Foo/></CdtTrfTxInf>", "Foo"),
    ],
)
def test_a_file_that_breaks_the_schema_names_line_and_reason(old: str, new: str, what: str) -> None:
    """The whole file is refused, with the line of the first mistake and the element it is about."""
    text = document(payment("E-1", "10.50", "EUR")).decode()
    assert old in text
    broken = text.replace(old, new, 1)
    with pytest.raises(SchemaBroken) as refused:
        pain001.parse(broken.encode())
    assert what in refused.value.reason
    assert refused.value.line is not None
    assert abs(refused.value.line - (text[: text.index(old)].count("\n") + 1)) <= 2


def test_a_mistake_far_down_still_names_its_line() -> None:
    """Line numbers hold beyond 65,535, where 16 bits would end."""
    text = document(payment("E-1", "10.50", "EUR")).replace(b"<PmtInf>", b"\n" * 70_000 + b"<PmtInf>")
    with pytest.raises(SchemaBroken) as refused:
        pain001.parse(text.replace(b"TRF", b"CASH"))
    assert (refused.value.line or 0) > 70_000


@pytest.mark.parametrize(
    ("old", "new", "stated", "counted"),
    [
        ("<NbOfTxs>2</NbOfTxs>\n<CtrlSum>17.5", "<NbOfTxs>3</NbOfTxs>\n<CtrlSum>17.5", "3", "2"),
        ("<CtrlSum>17.5</CtrlSum>\n<InitgPty>", "<CtrlSum>17.51</CtrlSum>\n<InitgPty>", "17.51", "17.50"),
        ("<NbOfTxs>2</NbOfTxs>\n<CtrlSum>17.50", "<NbOfTxs>1</NbOfTxs>\n<CtrlSum>17.50", "1", "2"),
        ("<CtrlSum>17.50</CtrlSum>\n<ReqdExctnDt>", "<CtrlSum>0</CtrlSum>\n<ReqdExctnDt>", "0", "17.50"),
    ],
)
def test_a_wrong_count_or_sum_refuses_the_file_with_both_figures(old: str, new: str, stated: str, counted: str) -> None:
    """Group header and payment information are both held against their payments."""
    text = document(payment("E-1", "10.50", "EUR"), payment("E-2", "7", "JPY")).decode()
    assert old in text
    with pytest.raises(ControlSumWrong) as refused:
        pain001.parse(text.replace(old, new, 1).encode())
    assert (refused.value.stated, refused.value.counted) == (stated, counted)
    assert stated in str(refused.value)
    assert counted in str(refused.value)


def test_a_control_sum_is_compared_exactly() -> None:
    """17.5 and 17.50 are one figure, and 0.1 + 0.2 is 0.3."""
    file = pain001.parse(
        document(payment("E-1", "0.1", "EUR"), payment("E-2", "0.2", "EUR"), group_sum="0.30", block_sum="0.3")
    )
    assert sum(payment.amount or 0 for payment in file.payments) == Decimal("0.3")


def test_a_blank_identification_is_refused() -> None:
    """The schema allows an EndToEndId of one blank; two such payments could not be told apart."""
    with pytest.raises(MessageIdMissing, match="EndToEndId"):
        pain001.parse(document(payment(" ", "1.00", "EUR")))


def test_every_refusal_is_one_sentence() -> None:
    """What a person reads begins with the line and ends with a full stop."""
    with pytest.raises(FileRefused, match=r"^line \d+: .*[^.]\.$"):
        pain001.parse(document(payment("E-1", "x", "EUR")))


def test_an_account_without_an_iban_and_an_equivalent_amount_are_carried() -> None:
    """Local numbers, structured references and equivalent amounts are read; nothing is decided about them."""
    text = document(payment("E-1", "10.50", "EUR"), group_sum="10.50", block_sum="10.50").decode()
    text = text.replace("<IBAN>NL91ABNA0417164300</IBAN>", "<Othr><Id>4711-1</Id></Othr>")
    text = text.replace(
        '<InstdAmt Ccy="EUR">10.50</InstdAmt>',
        '<EqvtAmt><Amt Ccy="EUR">10.50</Amt><CcyOfTrf>USD</CcyOfTrf></EqvtAmt>',
    )
    text = text.replace("<Ustrd>Salary</Ustrd>", "<Strd><CdtrRefInf><Ref>RF18539007547034</Ref></CdtrRefInf></Strd>")
    (read,) = pain001.parse(text.encode()).payments
    assert (read.creditor_account, read.amount, read.remittance) == ("local:4711-1", None, "RF18539007547034")


@pytest.mark.parametrize("day", ["-0044-03-15", "12024-01-01"])
def test_a_day_that_no_calendar_of_ours_has_refuses_the_file(day: str) -> None:
    """The schema knows years before Christ and after 9999; the file is refused whole, with the line."""
    old = document(payment("E-1", "1.00", "EUR")).replace(b"<Dt>2025-01-15<", f"<Dt>{day}<".encode())
    with pytest.raises(SchemaBroken, match=rf"line \d+: ReqdExctnDt {day} is no date"):
        pain001.parse(old)
