"""A statement as ISO 20022 camt.053.001.08, written part by part; no I/O."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from xml.sax.saxutils import escape

from accounts import statement_errors
from accounts.model import Entry, JournalKind
from accounts.statements import Statement, Totals, booking_day, local_day
from meshkit.money import format_minor

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
DIGITS_MAX = 18
"""Of an amount in the schema; one fewer than a 64-bit number of minor units may have."""

_ID_MAX = 34  # GenericAccountIdentification1/Id
_INFORMATION_MAX = 500  # AdditionalEntryInformation
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check(statement: Statement, totals: Totals) -> None:
    """Raises StatementFormatUnsuitable when a figure has more digits than the schema's amounts."""
    for figure in (statement.opening, statement.closing, totals.credit_sum, totals.debit_sum):
        if abs(figure) >= 10**DIGITS_MAX:
            raise statement_errors.StatementFormatUnsuitable(
                statement.name, format_minor(figure, statement.currency), DIGITS_MAX
            )


class Camt053:
    """The document on its way: `head`, then `rows` for all entries in their order, then `tail`."""

    def __init__(self, statement: Statement, totals: Totals) -> None:
        self._statement = statement
        self._totals = totals
        self._zone = statement.period.time_zone

    def head(self) -> bytes:
        """Everything before the entries."""
        statement, period, key = self._statement, self._statement.period, uuid.UUID(self._statement.id).hex
        created = _moment(statement.create_time)
        # The schema's period includes its end.
        until = _moment(period.end_time - timedelta(microseconds=1))
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{NAMESPACE}"><BkToCstmrStmt>\n'
            f"<GrpHdr><MsgId>{key}</MsgId><CreDtTm>{created}</CreDtTm></GrpHdr>\n"
            f"<Stmt><Id>{key}</Id><ElctrncSeqNb>{statement.number}</ElctrncSeqNb><CreDtTm>{created}</CreDtTm>"
            f"<FrToDt><FrDtTm>{_moment(period.start_time)}</FrDtTm><ToDtTm>{until}</ToDtTm></FrToDt>\n"
            f"{self._account()}\n"
            f"{self._balance('OPBD', statement.opening, period.first)}\n"
            f"{self._balance('CLBD', statement.closing, period.last)}\n"
            f"{self._summary()}\n"
        ).encode()

    def rows(self, entries: Sequence[Entry]) -> bytes:
        """Entries, each on a line."""
        return "".join(self._entry(entry) for entry in entries).encode()

    def tail(self) -> bytes:
        """The end."""
        return b"</Stmt></BkToCstmrStmt></Document>\n"

    def _account(self) -> str:
        statement = self._statement
        kind, _, value = statement.identifier.partition(":")
        if kind == "iban":
            identification = f"<IBAN>{value}</IBAN>"
        else:
            identification = f"<Othr><Id>{_text(value or _short(statement.account))}</Id></Othr>"
        servicer = ""
        if statement.issuer:
            servicer = f"<Svcr><FinInstnId><Nm>{_text(statement.issuer)}</Nm></FinInstnId></Svcr>"
        return (
            f"<Acct><Id>{identification}</Id><Ccy>{statement.currency}</Ccy>"
            f"<Nm>{_text(statement.account)}</Nm>{servicer}</Acct>"
        )

    def _balance(self, code: str, minor_units: int, of: date) -> str:
        return (
            f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>{self._amount(minor_units)}"
            f"<Dt><Dt>{of.isoformat()}</Dt></Dt></Bal>"
        )

    def _summary(self) -> str:
        totals, currency = self._totals, self._statement.currency
        return (
            f"<TxsSummry><TtlNtries><NbOfNtries>{totals.credit_count + totals.debit_count}</NbOfNtries></TtlNtries>"
            f"<TtlCdtNtries><NbOfNtries>{totals.credit_count}</NbOfNtries>"
            f"<Sum>{format_minor(totals.credit_sum, currency)}</Sum></TtlCdtNtries>"
            f"<TtlDbtNtries><NbOfNtries>{totals.debit_count}</NbOfNtries>"
            f"<Sum>{format_minor(totals.debit_sum, currency)}</Sum></TtlDbtNtries></TxsSummry>"
        )

    def _entry(self, entry: Entry) -> str:
        booked, counts = (
            booking_day(entry.create_time, self._statement.period),
            local_day(entry.effective_time, self._zone),
        )
        reversal = "<RvslInd>true</RvslInd>" if entry.kind is JournalKind.REVERSAL else ""
        told = _text(entry.origin[:_INFORMATION_MAX])
        return (
            f"<Ntry><NtryRef>{entry.sequence}</NtryRef>{self._amount(entry.amount)}{reversal}"
            f"<Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>{booked.isoformat()}</Dt></BookgDt>"
            f"<ValDt><Dt>{counts.isoformat()}</Dt></ValDt><AcctSvcrRef>{uuid.UUID(entry.journal).hex}</AcctSvcrRef>"
            f"<BkTxCd><Prtry><Cd>{entry.kind.name}</Cd><Issr>Florin</Issr></Prtry></BkTxCd>"
            f"{f'<AddtlNtryInf>{told}</AddtlNtryInf>' if told else ''}</Ntry>\n"
        )

    def _amount(self, minor_units: int) -> str:
        """An amount without a sign, and on which side it stands; zero is a credit."""
        currency = self._statement.currency
        return (
            f'<Amt Ccy="{currency}">{format_minor(abs(minor_units), currency)}</Amt>'
            f"<CdtDbtInd>{'DBIT' if minor_units < 0 else 'CRDT'}</CdtDbtInd>"
        )


def _short(account: str) -> str:
    """An account's id in the schema's 34 characters: a UUID without its dashes, any other long one by its hash; the
    whole id is the account's name in the document."""
    if len(account) <= _ID_MAX:
        return account
    try:
        return uuid.UUID(account).hex
    except ValueError:
        return hashlib.sha256(account.encode()).hexdigest()[:32]


def _text(text: str) -> str:
    """A text as XML 1.0 can hold it."""
    return escape(_NOT_IN_XML.sub("\ufffd", text), {"\r": "&#13;"})


def _moment(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
