"""Writes the report about a file, part by part, from its rows alone: of a finished file the same bytes always."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from meshkit.errors import error_info
from transactions.file_model import FileFormat, Item, ItemState, PaymentFile
from transactions.payments.xml_text import limited as _limited
from transactions.payments.xml_text import moment as _moment
from transactions.payments.xml_text import text as _xml

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:pain.002.001.10"
_MESSAGE_NAMES = {FileFormat.PAIN_001: "pain.001.001.09", FileFormat.CSV: "florin.csv.1"}
_STATUS = {
    ItemState.WAITING: "RCVD",
    ItemState.UNDER_WAY: "PDNG",
    ItemState.COMPLETED: "ACSC",
    ItemState.DECLINED: "RJCT",
    ItemState.REFUSED: "RJCT",
    ItemState.CANCELLED: "CANC",
}
"""ExternalPaymentTransactionStatus1Code."""
_REASONS = {
    "INSUFFICIENT_FUNDS": "AM04",
    "ACCOUNT_NOT_FOUND": "AC01",
    "IDENTIFIER_INVALID": "AC01",
    "ACCOUNT_CLOSED": "AC04",
    "ACCOUNT_FROZEN": "AC06",
    "ACCOUNT_PENDING": "AC06",
    "CURRENCY_UNKNOWN": "AM03",
    "CURRENCY_MISMATCH": "AM03",
    "LIMIT_EXCEEDED": "AM14",
    "PAYMENT_REPEATED": "AM05",
    "TRANSFER_CANCELLED": "DS02",
}
"""Reason → ExternalStatusReason1Code; what has none is given by its own name."""
_TEXT_MAX, _ID_MAX, _TEXTS_MAX = 105, 35, 2
_FORMULA = re.compile(r'(^|[;\t\n\v\f\r\x85\u2028\u2029])(["\s]*)(?=[=+\-@])')
_COLUMNS = (
    *("number", "line", "payment_information_id", "end_to_end_id", "amount", "currency", "state", "transfer"),
    *("reason", "message"),
)


class Report(Protocol):
    """A report in the making."""

    content_type: str

    def head(self) -> bytes:
        """What stands before the items."""

    def rows(self, items: Sequence[Item]) -> bytes:
        """The next items."""

    def tail(self) -> bytes:
        """What stands after them."""


class Pain002:
    """ISO 20022 pain.002.001.10."""

    content_type = "application/xml"

    def __init__(self, file: PaymentFile) -> None:
        self._file = file
        self._information: str | None = None

    def head(self) -> bytes:
        """The headers, with what became of the whole."""
        file = self._file
        counts = {_STATUS[state]: 0 for state in ItemState}
        for state in ItemState:
            counts[_STATUS[state]] += file.counts[state]
        per_status = "".join(
            f"<NbOfTxsPerSts><DtldNbOfTxs>{count}</DtldNbOfTxs><DtldSts>{status}</DtldSts></NbOfTxsPerSts>"
            for status, count in counts.items()
            if count
        )
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{NAMESPACE}"><CstmrPmtStsRpt>'
            f"<GrpHdr><MsgId>{_id(file.id)}</MsgId><CreDtTm>{_moment(file.update_time)}</CreDtTm></GrpHdr>"
            f"<OrgnlGrpInfAndSts><OrgnlMsgId>{_limited(file.message_id, _ID_MAX)}</OrgnlMsgId>"
            f"<OrgnlMsgNmId>{_MESSAGE_NAMES[file.format]}</OrgnlMsgNmId><OrgnlNbOfTxs>{file.items}</OrgnlNbOfTxs>"
            f"<GrpSts>{_group_status(file)}</GrpSts>{per_status}</OrgnlGrpInfAndSts>\n"
        ).encode()

    def rows(self, items: Sequence[Item]) -> bytes:
        """Items, within their payment information."""
        parts = []
        for item in items:
            if item.information_id != self._information:
                parts.append("" if self._information is None else "</OrgnlPmtInfAndSts>\n")
                self._information = item.information_id
                parts.append(
                    f"<OrgnlPmtInfAndSts><OrgnlPmtInfId>{_limited(item.information_id or 'NOTPROVIDED', _ID_MAX)}"
                    "</OrgnlPmtInfId>\n"
                )
            parts.append(_transaction(item))
        return "".join(parts).encode()

    def tail(self) -> bytes:
        """The end."""
        return b"</OrgnlPmtInfAndSts>\n</CstmrPmtStsRpt></Document>\n"


class Csv:
    """CSV of RFC 4180: a header and the items. Texts from elsewhere are in quotation marks, and have an apostrophe
    before what could be taken for the beginning of a formula."""

    content_type = "text/csv; charset=utf-8"

    def head(self) -> bytes:
        """The header."""
        return (",".join(_COLUMNS) + "\r\n").encode()

    def rows(self, items: Sequence[Item]) -> bytes:
        """Items."""
        return "".join(self._row(item) for item in items).encode()

    def tail(self) -> bytes:
        """Nothing."""
        return b""

    @staticmethod
    def _row(item: Item) -> str:
        reason, message = _why(item)
        cells = (
            *(str(item.number), str(item.line), _cell(item.information_id), _cell(item.end_to_end_id), item.amount),
            *(_cell(item.currency), item.state.value, f"transfers/{item.transfer}" if item.transfer else ""),
            *(reason, _cell(message)),
        )
        return ",".join(cells) + "\r\n"


def _transaction(item: Item) -> str:
    reason, message = _why(item)
    instruction = (
        f"<OrgnlInstrId>{_limited(item.instruction_id, _ID_MAX)}</OrgnlInstrId>" if item.instruction_id else ""
    )
    end_to_end_id = _limited(item.end_to_end_id or "NOTPROVIDED", _ID_MAX)
    why = ""
    if reason:
        code = _REASONS.get(reason)
        texts = [message[at : at + _TEXT_MAX] for at in range(0, len(message), _TEXT_MAX)][:_TEXTS_MAX]
        why = (
            f"<StsRsnInf><Rsn>{f'<Cd>{code}</Cd>' if code else f'<Prtry>{_limited(reason, _ID_MAX)}</Prtry>'}</Rsn>"
            + "".join(f"<AddtlInf>{_xml(text)}</AddtlInf>" for text in texts if text.strip())
            + "</StsRsnInf>"
        )
    reference = f"<AcctSvcrRef>{_id(item.transfer)}</AcctSvcrRef>" if item.transfer else ""
    return (
        f"<TxInfAndSts>{instruction}<OrgnlEndToEndId>{end_to_end_id}</OrgnlEndToEndId>"
        f"<TxSts>{_STATUS[item.state]}</TxSts>{why}{reference}</TxInfAndSts>\n"
    )


def _group_status(file: PaymentFile) -> str:
    """ExternalPaymentGroupStatus1Code."""
    if not file.is_done:
        return "PDNG"
    completed = file.counts[ItemState.COMPLETED]
    if completed == file.items:
        return "ACSC"
    return "PART" if completed else "RJCT"


def _why(item: Item) -> tuple[str, str]:
    """Reason and sentence; empty where it was not refused."""
    if item.status is None:
        return "", ""
    info = error_info(item.status)
    return (info.reason if info is not None else "INTERNAL"), item.status.message


def _id(uuid: str) -> str:
    """An id in the 35 letters that the standard has room for."""
    return uuid.replace("-", "")


def _cell(text: str) -> str:
    """A text from elsewhere, always in quotation marks, whatever a program takes for a separator."""
    safe = _FORMULA.sub(r"\1\2'", text)
    if safe.startswith(("\t", "\r")):
        safe = f"'{safe}"
    return f'"{safe.replace(chr(34), chr(34) * 2)}"'
