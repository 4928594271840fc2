"""Reads ISO 20022 pacs.002.001.10 and camt.054.001.08, whole or not at all; it judges no payment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lxml import etree

from meshkit import money, safe_xml
from meshkit.errors import CurrencyUnknown
from meshkit.safe_xml import FileRefused
from transactions.payments.errors import SchemaWrong
from transactions.rails.port import Answer, Content, Credit, Entry, Notice, Verdict

_FAMILY = "urn:iso:std:iso:20022:tech:xsd:"
PACS_002, CAMT_054 = "pacs.002.001.10", "camt.054.001.08"
_ID_MAX, _IBAN_MAX, _NAME_MAX, _REMITTANCE_MAX = 35, 34, 140, 140
_AMOUNT = re.compile(r"\d{1,18}(\.\d{1,17})?")
_NOT_PROVIDED = "NOTPROVIDED"

_SETTLED = frozenset({"ACSC", "ACCC"})
"""AcceptedSettlementCompleted, on the debtor's account and on the creditor's. ACCP, AcceptedCustomerProfile, is a check
that went well: it is final in instant schemes alone, in which no payment of ours is sent."""
_REJECTED = "RJCT"
_AMOUNT_SENT = ("OrgnlTxRef", "IntrBkSttlmAmt")
_DUPLICATES = frozenset({"AM05", "DUPL", "DU01", "DU02", "DU03", "DU04", "DU05"})
"""ExternalStatusReason1Code: the payment, or the message, was received before."""


class ContentRefused(FileRefused):
    """What is well-formed and says too little, or what cannot be."""


def read(data: bytes) -> Content:
    """What stands in a file. Raises FileRefused."""
    root = safe_xml.parse(data)
    name = etree.QName(root)
    version = (name.namespace or "").removeprefix(_FAMILY)
    if name.localname == "Document" and version == PACS_002:
        return _report(_Element(root, name.namespace or "").child("FIToFIPmtStsRpt"))
    if name.localname == "Document" and version == CAMT_054:
        return _notification(_Element(root, name.namespace or "").child("BkToCstmrDbtCdtNtfctn"))
    raise SchemaWrong(
        f"it is {name.localname[:40]} of {version[:60] or 'no namespace'}; {PACS_002} and {CAMT_054} are read"
    )


class _Element:
    """An element with the paths below it written without their namespace."""

    def __init__(self, element: etree._Element, namespace: str) -> None:
        self._element = element
        self._namespace = namespace

    def _path(self, path: Sequence[str]) -> str:
        return "/".join(f"{{{self._namespace}}}{name}" for name in path)

    def all(self, *path: str) -> Iterator[_Element]:
        """Those at a path."""
        for found in self._element.iterfind(self._path(path)):
            yield _Element(found, self._namespace)

    def find(self, *path: str) -> _Element | None:
        """The first at a path."""
        return next(self.all(*path), None)

    def child(self, *path: str) -> _Element:
        """One that has to be there."""
        found = self.find(*path)
        if found is None:
            raise self.refused(f"{'/'.join(path)} is missing")
        return found

    def text(self, *path: str) -> str:
        """The text at a path, its own for none, without blanks around it; empty where there is none."""
        found = self._element.findtext(self._path(path)) if path else self._element.text
        return (found or "").strip()

    def id(self, *path: str) -> str:
        """An identification at a path; empty where there is none. Raises ContentRefused for one that is too long."""
        found = self.text(*path)
        if len(found) > _ID_MAX:
            raise self.refused(f"{'/'.join(path)} is longer than {_ID_MAX} letters")
        return found

    def needed_id(self, *path: str) -> str:
        """An identification that has to be there."""
        found = self.id(*path)
        if not found:
            raise self.refused(f"{'/'.join(path)} is missing")
        return found

    def amount(self, *path: str) -> tuple[str, int]:
        """Currency and minor units of a positive amount that has to be there."""
        element = self.child(*path)
        currency, written = element._element.get("Ccy", ""), element.text()
        where = "/".join(path)
        if not _AMOUNT.fullmatch(written):
            raise self.refused(f"{where} is no amount")
        try:
            minor = money.parse(written, currency)
        except CurrencyUnknown:
            raise self.refused(f"{where} is in a currency that is not known") from None
        except ValueError as error:
            raise self.refused(f"{where}: {error}") from None
        if minor <= 0:
            raise self.refused(f"{where} is not greater than zero")
        return currency, minor

    def refused(self, sentence: str) -> ContentRefused:
        """A refusal that names the line."""
        line: int | None = self._element.sourceline  # type: ignore[assignment]  # the stubs leave its type out
        return ContentRefused(sentence, line=line or None)


def _report(report: _Element) -> Content:
    answers: list[Answer] = []
    groups = list(report.all("OrgnlGrpInfAndSts"))
    whys: dict[str, list[str]] = {}
    for group in groups:
        status = group.id("GrpSts")
        whys.setdefault(group.id("OrgnlMsgId"), []).extend(_reasons(group))
        # PART says that the payments say it themselves; without a status they do as well.
        if status not in ("", "PART"):
            answers.append(_answer(status, _reasons(group), group.needed_id("OrgnlMsgId"), ""))
    only = groups[0].id("OrgnlMsgId") if len(groups) == 1 else ""
    for transaction in report.all("TxInfAndSts"):
        status = transaction.id("TxSts")
        if not status:
            continue
        payment = transaction.id("OrgnlTxId") or transaction.id("OrgnlInstrId")
        if not payment:
            raise transaction.refused(
                "OrgnlTxId and OrgnlInstrId are missing, so that nobody knows which payment it is of"
            )
        message = transaction.id("OrgnlGrpInf", "OrgnlMsgId") or only
        # Where a message is rejected as a copy, its payments need not repeat why.
        reasons = _reasons(transaction) + (whys.get(message, []) if status == _REJECTED else [])
        amount = transaction.amount(*_AMOUNT_SENT) if transaction.find(*_AMOUNT_SENT) is not None else None
        answers.append(_answer(status, reasons, message, payment, amount))
    return Content(PACS_002, report.needed_id("GrpHdr", "MsgId"), answers=tuple(answers))


def _reasons(element: _Element) -> list[str]:
    found = (why.id("Rsn", "Cd") or why.id("Rsn", "Prtry") for why in element.all("StsRsnInf"))
    return [reason for reason in found if reason]


def _answer(
    status: str, reasons: Sequence[str], message: str, payment: str, amount: tuple[str, int] | None = None
) -> Answer:
    duplicate = next((reason for reason in reasons if reason in _DUPLICATES), "")
    verdict = Verdict.PENDING
    if status in _SETTLED:
        verdict = Verdict.SETTLED
    elif status == _REJECTED:
        verdict = Verdict.DUPLICATE if duplicate else Verdict.REJECTED
    return Answer(message, payment, verdict, status, duplicate or next(iter(reasons), ""), amount)


def _notification(notification: _Element) -> Content:
    entries: dict[str, Entry] = {}
    notices: list[Notice] = []
    parts = list(notification.all("Ntfctn"))
    for part in parts:
        if part.find("CpyDplctInd") is not None:
            raise part.refused("CpyDplctInd says that it is a copy of another, whose entries could be booked twice")
        for entry in part.all("Ntry"):
            # What is not booked is announced, and is told of again when it is.
            if (entry.id("Sts", "Cd") or entry.id("Sts")) != "BOOK":
                continue
            side, is_reversal = entry.id("CdtDbtInd"), entry.text("RvslInd") in ("true", "1")
            # A reference is one of its notification alone.
            where = f"{part.needed_id('Id')}/" if len(parts) > 1 else ""
            if side == "CRDT":
                reference = where + _reference(entry)
                if reference in entries:
                    raise entry.refused(f"the reference {reference} stands at two entries")
                entries[reference] = Entry(reference, tuple(_credits(entry, is_reversal=is_reversal)))
            elif side == "DBIT" and is_reversal:
                notices.append(Notice(where + _reference(entry), "an earlier credit was taken back"))
            elif side != "DBIT":
                raise entry.refused("CdtDbtInd is neither CRDT nor DBIT")
    message = notification.needed_id("GrpHdr", "MsgId")
    return Content(CAMT_054, message, entries=tuple(entries.values()), notices=tuple(notices))


def _reference(entry: _Element) -> str:
    found = entry.id("NtryRef") or entry.id("AcctSvcrRef")
    if not found:
        raise entry.refused("NtryRef and AcctSvcrRef are missing, so that the entry could be booked twice")
    return found


def _credits(entry: _Element, *, is_reversal: bool) -> list[Credit]:
    """The credits of an entry: one for each of its details, which have to come to its amount."""
    currency, total = entry.amount("Amt")
    details = list(entry.all("NtryDtls", "TxDtls"))
    concern = "the entry takes a debit back" if is_reversal else ""
    if len(details) <= 1:
        detail = details[0] if details else None
        if detail is not None and not _is_all_of(detail, currency, total):
            concern = concern or "the detail is not all of its entry"
        return [_credit(detail or entry, currency, total, concern)]
    found = []
    for detail in details:
        own_currency, amount = detail.amount("Amt")
        if own_currency != currency or detail.id("CdtDbtInd") == "DBIT":
            raise detail.refused("a detail is in another currency than its entry, or a debit")
        found.append(_credit(detail, currency, amount, concern))
    if sum(credit.amount for credit in found) != total:
        raise entry.refused("the details of the entry do not come to its amount")
    return found


def _is_all_of(detail: _Element, currency: str, total: int) -> bool:
    """Whether an entry's only detail is of all of it; an amount in another currency is what was ordered elsewhere."""
    if detail.id("CdtDbtInd") == "DBIT":
        return False
    if detail.find("Amt") is None:
        return True
    own_currency, amount = detail.amount("Amt")
    return own_currency != currency or amount == total


def _credit(where: _Element, currency: str, amount: int, concern: str) -> Credit:
    remittance = " ".join(line for element in where.all("RmtInf", "Ustrd") if (line := element.text())) or where.text(
        "RmtInf", "Strd", "CdtrRefInf", "Ref"
    )
    end_to_end_id = where.text("Refs", "EndToEndId")[:_ID_MAX]
    debtor_name = where.text("RltdPties", "Dbtr", "Pty", "Nm") or where.text("RltdPties", "Dbtr", "Nm")
    if not debtor_name:
        concern = concern or "the message does not say who paid"  # by whose name it would be screened
    return Credit(
        currency=currency,
        amount=amount,
        creditor_iban=where.text("RltdPties", "CdtrAcct", "Id", "IBAN").replace(" ", "").upper()[:_IBAN_MAX],
        debtor_name=debtor_name[:_NAME_MAX],
        debtor_iban=where.text("RltdPties", "DbtrAcct", "Id", "IBAN")[:_IBAN_MAX],
        end_to_end_id="" if end_to_end_id == _NOT_PROVIDED else end_to_end_id,
        remittance=remittance[:_REMITTANCE_MAX],
        concern=concern,
    )
