"""Messages of the rail both ways: what is written is valid by its standard, what is read is taken whole or refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from local import counterparty
from local.counterparty import Credit
from meshkit import iban, money
from meshkit.safe_xml import FileForbidden, FileMalformed, FileRefused
from transactions.payments.errors import SchemaWrong
from transactions.rails import pacs008, reading
from transactions.rails.port import Answer, OutgoingPayment, Verdict
from transactions.rails.reading import ContentRefused

SCHEMA = etree.XMLSchema(etree.parse(str(Path(__file__).with_name("pacs008.xsd"))))
MOMENT, DAY = datetime(2026, 3, 2, 9, 30, 15, 250_000, tzinfo=UTC), date(2026, 3, 2)
INSIDE, OUTSIDE = "AT611904300234573201", "DE89370400440532013000"
IBANS = st.builds(
    iban.with_check_digits, st.sampled_from(["DE", "AT", "FR"]), st.from_regex(r"[0-9A-Z]{16,20}", fullmatch=True)
)
TEXTS = st.text(max_size=300)
PAYMENTS = st.builds(
    OutgoingPayment,
    id=st.uuids().map(lambda one: one.hex),
    end_to_end_id=st.from_regex(r"([!-~]([ -~]{0,33}[!-~])?)?", fullmatch=True),
    currency=st.just("EUR"),
    amount=st.integers(1, 999_999_999_999_999_999),
    debtor_name=TEXTS,
    debtor_iban=st.one_of(st.just(""), IBANS),
    debtor_account=st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    creditor_name=TEXTS,
    creditor_iban=IBANS,
    remittance=TEXTS,
)


def composed(payments: list[OutgoingPayment]) -> bytes:
    return pacs008.compose("M" * 32, MOMENT, DAY, "FLORATWWXXX", payments)


def texts(data: bytes, name: str) -> list[str]:
    return [element.text or "" for element in etree.fromstring(data).iterfind(f".//{{{pacs008.NAMESPACE}}}{name}")]


@given(st.lists(PAYMENTS, min_size=1, max_size=4))
def test_whatever_is_paid_the_message_is_valid_and_says_it(payments: list[OutgoingPayment]) -> None:
    """By the schema, with each payment's own amount, accounts and identification; the same bytes each time."""
    data = composed(payments)
    SCHEMA.assertValid(etree.fromstring(data))
    assert composed(payments) == data
    assert texts(data, "TxId") == [payment.id for payment in payments]
    assert texts(data, "EndToEndId") == [payment.end_to_end_id or "NOTPROVIDED" for payment in payments]
    assert texts(data, "IntrBkSttlmAmt") == [money.format_minor(payment.amount, "EUR") for payment in payments]
    wanted = [one for payment in payments for one in (payment.debtor_iban, payment.creditor_iban) if one]
    assert texts(data, "IBAN") == wanted
    total = texts(data, "CtrlSum")
    assert all(Decimal(one) == Decimal(sum(payment.amount for payment in payments)).scaleb(-2) for one in total)


def test_a_total_that_the_standard_has_no_room_for_is_left_out() -> None:
    """The day then stands with each payment."""
    payment = OutgoingPayment("a", "", "EUR", 999_999_999_999_999_999, "A", INSIDE, "a", "B", OUTSIDE, "")
    data = composed([payment, payment])
    SCHEMA.assertValid(etree.fromstring(data))
    assert texts(data, "CtrlSum") == texts(data, "TtlIntrBkSttlmAmt") == []
    assert texts(data, "IntrBkSttlmDt") == ["2026-03-02"] * 2


@given(
    st.integers(1, 10**15),
    IBANS,
    st.text("abc <&>\"'ü€", max_size=140),
    st.text("abc <&>\"'ü€", max_size=140),
)
def test_a_credit_is_read_as_it_was_sent(amount: int, creditor: str, name: str, remittance: str) -> None:
    """Whatever letters it has; blanks around a text are none."""
    given_ = Credit(creditor, money.format_minor(amount, "EUR"), "EUR", name, OUTSIDE, remittance, "E-1")
    content = reading.read(counterparty.notification(given_, message_id="M", reference="R", moment=MOMENT))
    ((credit,),) = [entry.credits for entry in content.entries]
    assert (content.kind, content.message_id, content.entries[0].reference) == (reading.CAMT_054, "M", "R")
    assert (credit.amount, credit.currency, credit.creditor_iban) == (amount, "EUR", creditor)
    assert (credit.debtor_name, credit.remittance) == (name.strip(), remittance.strip())
    assert (credit.end_to_end_id, bool(credit.concern)) == ("E-1", not name.strip())


@given(st.lists(PAYMENTS, min_size=1, max_size=4))
def test_the_counterparty_answers_every_payment_by_its_amount(payments: list[OutgoingPayment]) -> None:
    """What it says of a message is read as it is meant, and is the same for a copy of the message."""
    message, answer = counterparty.answer_to(composed(payments))
    assert counterparty.answer_to(composed(payments)) == (message, answer)
    told = reading.read(answer).answers if answer else ()
    expected = []
    for payment in payments:
        ending = f"{payment.amount:03}"[-2:]
        if ending == counterparty.REJECTED:
            expected.append(Answer(message, payment.id, Verdict.REJECTED, "RJCT", "AC04"))
        elif ending != counterparty.UNANSWERED:
            expected.append(Answer(message, payment.id, Verdict.SETTLED, "ACSC", ""))
    assert list(told) == expected


def report(inner: str) -> bytes:
    head = f'<Document xmlns="{counterparty.PACS_002}"><FIToFIPmtStsRpt><GrpHdr><MsgId>A-1</MsgId></GrpHdr>'
    return f"{head}{inner}</FIToFIPmtStsRpt></Document>".encode()


def group(status: str, reason: str = "") -> str:
    why = f"<StsRsnInf><Rsn><Cd>{reason}</Cd></Rsn></StsRsnInf>" if reason else ""
    return f"<OrgnlGrpInfAndSts><OrgnlMsgId>M-1</OrgnlMsgId><GrpSts>{status}</GrpSts>{why}</OrgnlGrpInfAndSts>"


@pytest.mark.parametrize(
    ("status", "reason", "verdict"),
    [
        ("ACSC", "", Verdict.SETTLED),
        ("ACCC", "", Verdict.SETTLED),
        ("ACCP", "", Verdict.PENDING),
        ("RJCT", "AC04", Verdict.REJECTED),
        ("RJCT", "", Verdict.REJECTED),
        ("RJCT", "AM05", Verdict.DUPLICATE),
        ("RJCT", "DU01", Verdict.DUPLICATE),
        ("ACSP", "", Verdict.PENDING),
        ("PDNG", "", Verdict.PENDING),
        ("CANC", "", Verdict.PENDING),
        ("XXXX", "", Verdict.PENDING),
    ],
)
def test_a_status_means_what_the_standard_says_and_nothing_is_guessed(
    status: str, reason: str, verdict: Verdict
) -> None:
    """Of a message as a whole, and of a payment; what is not final, or not known, is pending."""
    (whole,) = reading.read(report(group(status, reason))).answers
    assert (whole.message_id, whole.payment_id, whole.verdict) == ("M-1", "", verdict)
    why = f"<StsRsnInf><Rsn><Prtry>{reason}</Prtry></Rsn></StsRsnInf>" if reason else ""
    own = f"<TxInfAndSts><OrgnlInstrId>P</OrgnlInstrId><TxSts>{status}</TxSts>{why}</TxInfAndSts>"
    (one,) = reading.read(report(own)).answers
    assert (one.message_id, one.payment_id, one.verdict, one.reason) == ("", "P", verdict, reason)


def test_a_duplicate_is_one_wherever_the_report_says_so() -> None:
    """As any of several reasons, or beside the message alone, whose payments need not repeat it; not of another one."""
    why = "<StsRsnInf><Rsn><Prtry>X</Prtry></Rsn></StsRsnInf><StsRsnInf><Rsn><Cd>AM05</Cd></Rsn></StsRsnInf>"
    of = "<OrgnlGrpInf><OrgnlMsgId>M-2</OrgnlMsgId></OrgnlGrpInf>"
    own = "<TxInfAndSts>{}<OrgnlTxId>P</OrgnlTxId><TxSts>RJCT</TxSts>{}</TxInfAndSts>"
    (several,) = reading.read(report(own.format("", why))).answers
    (_, beside) = reading.read(report(group("RJCT", "AM05") + own.format("", ""))).answers
    (_, other) = reading.read(report(group("RJCT", "AM05") + own.format(of, ""))).answers
    (_, paid) = reading.read(report(group("RJCT", "AM05") + own.format("", "").replace("RJCT", "ACSC"))).answers
    assert [(one.verdict, one.reason) for one in (several, beside, other, paid)] == [
        (Verdict.DUPLICATE, "AM05"),
        (Verdict.DUPLICATE, "AM05"),
        (Verdict.REJECTED, ""),
        (Verdict.SETTLED, ""),
    ]


def test_a_status_for_a_part_leaves_it_to_the_payments() -> None:
    """PART names no payment, and a payment of a report about one message is of that message."""
    own = "<TxInfAndSts><OrgnlTxId>P</OrgnlTxId><TxSts>ACSC</TxSts></TxInfAndSts>"
    silent = "<TxInfAndSts><OrgnlTxId>Q</OrgnlTxId></TxInfAndSts>"
    assert list(reading.read(report(group("PART") + own + silent)).answers) == [
        Answer("M-1", "P", Verdict.SETTLED, "ACSC", "")
    ]


BOOKED = '<NtryRef>R-1</NtryRef><Amt Ccy="EUR">1</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>'
NAMED = "<RltdPties><Dbtr><Pty><Nm>Otto</Nm></Pty></Dbtr></RltdPties>"


def entry(changes: dict[str, str] | None = None, details: str = "", **more: str) -> bytes:
    """A notification of one entry, with parts of it replaced."""
    amount = '<Amt Ccy="EUR">12.50</Amt>'
    parts = {
        "reference": "<NtryRef>R-1</NtryRef>",
        "amount": amount,
        "side": "<CdtDbtInd>CRDT</CdtDbtInd>",
        "reversal": "",
        "status": "<Sts><Cd>BOOK</Cd></Sts>",
        "details": details and f"<NtryDtls>{details}</NtryDtls>",
        **(changes or {}),
        **more,
    }
    return (
        f'<Document xmlns="{counterparty.CAMT_054}"><BkToCstmrDbtCdtNtfctn><GrpHdr><MsgId>N-1</MsgId></GrpHdr>'
        f"<Ntfctn><Ntry>{''.join(parts.values())}</Ntry></Ntfctn></BkToCstmrDbtCdtNtfctn></Document>"
    ).encode()


def test_what_is_no_booked_credit_is_no_deposit() -> None:
    """Announced entries and debits are left; a credit that was taken back is for a person, a debit taken back too."""
    assert reading.read(entry(status="<Sts><Cd>PDNG</Cd></Sts>")).entries == ()
    assert reading.read(entry(side="<CdtDbtInd>DBIT</CdtDbtInd>")).entries == ()
    taken_back = reading.read(entry(side="<CdtDbtInd>DBIT</CdtDbtInd>", reversal="<RvslInd>true</RvslInd>"))
    assert (taken_back.entries, taken_back.notices[0].reference) == ((), "R-1")
    ((credit,),) = [one.credits for one in reading.read(entry(reversal="<RvslInd>true</RvslInd>")).entries]
    assert credit.concern


def test_entries_of_several_notifications_are_different_ones() -> None:
    """A reference is one of its notification: the same in another one is another entry."""
    one, other = (f"<Ntfctn><Id>{id_}</Id><Ntry>{BOOKED}</Ntry></Ntfctn>" for id_ in "AB")
    head = entry().partition(b"<Ntfctn>")[0]
    data = head + (one + other).encode() + b"</BkToCstmrDbtCdtNtfctn></Document>"
    assert [found.reference for found in reading.read(data).entries] == ["A/R-1", "B/R-1"]


@pytest.mark.parametrize(
    ("details", "concern"),
    [
        (NAMED, ""),
        (NAMED + '<Amt Ccy="EUR">12.50</Amt>', ""),
        (NAMED + '<Amt Ccy="USD">14.00</Amt>', ""),
        (NAMED + '<Amt Ccy="EUR">12.49</Amt>', "is not all of its entry"),
        (NAMED + "<CdtDbtInd>DBIT</CdtDbtInd>", "is not all of its entry"),
        ("", "does not say who paid"),
        (NAMED.replace("Otto", " "), "does not say who paid"),
    ],
)
def test_what_is_not_plainly_somebodys_payment_is_for_a_person(details: str, concern: str) -> None:
    """A detail that is a part of its entry, or of a payer without a name, by which it would be screened."""
    ((credit,),) = [one.credits for one in reading.read(entry(details=f"<TxDtls>{details}</TxDtls>")).entries]
    assert (credit.amount, credit.currency) == (1250, "EUR")
    assert concern in credit.concern
    assert bool(concern) == bool(credit.concern)


def test_an_entry_without_details_is_for_nobody_that_is_known() -> None:
    """It is taken all the same, and has no IBAN; so does the older form of a status."""
    ((credit,),) = [one.credits for one in reading.read(entry(status="<Sts>BOOK</Sts>")).entries]
    assert (credit.creditor_iban, credit.amount) == ("", 1250)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (entry(reference=""), "NtryRef and AcctSvcrRef are missing"),
        (entry(reference="<NtryRef>" + "R" * 36 + "</NtryRef>"), "longer than 35"),
        (entry(amount=""), "Amt is missing"),
        (entry(amount='<Amt Ccy="EUR">0</Amt>'), "not greater than zero"),
        (entry(amount='<Amt Ccy="EUR">-1</Amt>'), "no amount"),
        (entry(amount='<Amt Ccy="EUR">1E3</Amt>'), "no amount"),
        (entry(amount='<Amt Ccy="EUR">1.001</Amt>'), "more decimal places"),
        (entry(amount='<Amt Ccy="QQQ">1</Amt>'), "currency that is not known"),
        (entry(amount="<Amt>1</Amt>"), "currency that is not known"),
        (entry(side=""), "neither CRDT nor DBIT"),
        (entry().replace(b"<Ntry>", b"<CpyDplctInd>DUPL</CpyDplctInd><Ntry>"), "a copy of another"),
        (entry(twice="</Ntry><Ntry>" + BOOKED), "the reference R-1 stands at two entries"),
        (entry(details='<TxDtls><Amt Ccy="EUR">12.49</Amt></TxDtls>' * 2), "do not come to its amount"),
        (entry(details='<TxDtls><Amt Ccy="USD">6.25</Amt></TxDtls>' * 2), "in another currency"),
        (entry(details="<TxDtls/><TxDtls/>"), "Amt is missing"),
        (report("<TxInfAndSts><TxSts>ACSC</TxSts></TxInfAndSts>"), "OrgnlTxId and OrgnlInstrId are missing"),
        (report("<OrgnlGrpInfAndSts><GrpSts>ACSC</GrpSts></OrgnlGrpInfAndSts>"), "OrgnlMsgId is missing"),
        (report("").replace(b"<MsgId>A-1</MsgId>", b""), "MsgId is missing"),
        (f'<Document xmlns="{counterparty.CAMT_054}"/>'.encode(), "BkToCstmrDbtCdtNtfctn is missing"),
    ],
)
def test_a_file_that_says_too_little_is_refused_whole(data: bytes, why: str) -> None:
    """Nothing of it is taken, and the sentence says what is missing."""
    with pytest.raises(ContentRefused, match=why):
        reading.read(data)


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"", FileMalformed),
        (b"no XML", FileMalformed),
        (entry()[:-20], FileMalformed),
        (entry().decode().encode("utf-16"), FileMalformed),
        (b'<!DOCTYPE D [<!ENTITY x SYSTEM "file:///etc/passwd">]><D>&x;</D>', FileForbidden),
        (b"<a>" * 41 + b"</a>" * 41, FileForbidden),
        (b"<Document/>", SchemaWrong),
        (entry().replace(b"camt.054.001.08", b"camt.054.001.02"), SchemaWrong),
        (entry().replace(b"<Document", b"<Dokument").replace(b"/Document", b"/Dokument"), SchemaWrong),
    ],
)
def test_hostile_and_foreign_files_are_refused(data: bytes, refusal: type[FileRefused]) -> None:
    """By the guards of payment files, and by the name of the document and its version."""
    with pytest.raises(refusal):
        reading.read(data)


@given(st.data())
def test_a_file_with_holes_and_doubles_is_read_or_refused_and_never_fails(data: Any) -> None:
    """Any part left out, doubled or exchanged: a content, or a refusal with a sentence."""
    whole = counterparty.notification(
        Credit(INSIDE, "12.50", "EUR", "Otto Example", OUTSIDE, "x"), message_id="M", reference="R", moment=MOMENT
    )
    root = etree.fromstring(whole)
    elements = [element for element in root.iter() if element.getparent() is not None]
    for element in data.draw(st.lists(st.sampled_from(elements), min_size=1, max_size=3)):
        parent = element.getparent()
        if parent is None:
            continue
        match data.draw(st.integers(0, 2)):
            case 0:
                parent.remove(element)
            case 1:
                element.text = data.draw(st.text("0159.-EURBOKCDT ", max_size=40))
            case _:
                parent.append(etree.fromstring(etree.tostring(element)))
    try:
        content = reading.read(etree.tostring(root))
    except FileRefused as refused:
        assert refused.reason
    else:
        assert content.kind == reading.CAMT_054
