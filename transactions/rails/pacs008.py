"""Writes ISO 20022 pacs.008.001.08: payments of one currency to accounts at other banks; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from meshkit import money
from transactions.payments.xml_text import limited, moment, text
from transactions.rails.port import OutgoingPayment

VERSION = "pacs.008.001.08"
NAMESPACE = f"urn:iso:std:iso:20022:tech:xsd:{VERSION}"
_ID_MAX, _ACCOUNT_MAX, _TEXT_MAX = 35, 34, 140
_DIGITS_MAX = 18
"""Of an amount, by the standard; a total that has more is left out, which the standard lets it be."""


def compose(
    message_id: str, created: datetime, settlement_day: date, bic: str, payments: Sequence[OutgoingPayment]
) -> bytes:
    """A message of `bic`, whose payments are all of one currency."""
    currency = payments[0].currency
    total = sum(payment.amount for payment in payments)
    sums = ""
    if len(str(total)) <= _DIGITS_MAX:
        written = money.format_minor(total, currency)
        sums = (
            f"<CtrlSum>{written}</CtrlSum>"
            f'<TtlIntrBkSttlmAmt Ccy="{currency}">{written}</TtlIntrBkSttlmAmt>'
            f"<IntrBkSttlmDt>{settlement_day.isoformat()}</IntrBkSttlmDt>"
        )
    head = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{NAMESPACE}"><FIToFICstmrCdtTrf>'
        f"<GrpHdr><MsgId>{limited(message_id, _ID_MAX)}</MsgId><CreDtTm>{moment(created)}</CreDtTm>"
        f"<NbOfTxs>{len(payments)}</NbOfTxs>{sums}<SttlmInf><SttlmMtd>CLRG</SttlmMtd></SttlmInf>"
        f"<InstgAgt>{_agent(bic)}</InstgAgt></GrpHdr>\n"
    )
    day = "" if sums else f"<IntrBkSttlmDt>{settlement_day.isoformat()}</IntrBkSttlmDt>"
    return (head + "".join(_payment(payment, bic, day) for payment in payments) + _TAIL).encode()


_TAIL = "</FIToFICstmrCdtTrf></Document>\n"


def _payment(payment: OutgoingPayment, bic: str, day: str) -> str:
    amount = money.format_minor(payment.amount, payment.currency)
    account = f"<IBAN>{payment.debtor_iban}</IBAN>"
    if not payment.debtor_iban:
        account = f"<Othr><Id>{limited(payment.debtor_account, _ACCOUNT_MAX)}</Id></Othr>"
    remittance = ""
    if payment.remittance.strip():
        remittance = f"<RmtInf><Ustrd>{text(payment.remittance[:_TEXT_MAX])}</Ustrd></RmtInf>"
    return (
        f"<CdtTrfTxInf><PmtId><InstrId>{limited(payment.id, _ID_MAX)}</InstrId>"
        f"<EndToEndId>{limited(payment.end_to_end_id, _ID_MAX)}</EndToEndId>"
        f"<TxId>{limited(payment.id, _ID_MAX)}</TxId></PmtId>"
        f'<IntrBkSttlmAmt Ccy="{payment.currency}">{amount}</IntrBkSttlmAmt>{day}<ChrgBr>SLEV</ChrgBr>'
        f"<Dbtr><Nm>{limited(payment.debtor_name, _TEXT_MAX)}</Nm></Dbtr><DbtrAcct><Id>{account}</Id></DbtrAcct>"
        f"<DbtrAgt>{_agent(bic)}</DbtrAgt><CdtrAgt><FinInstnId><Othr><Id>NOTPROVIDED</Id></Othr></FinInstnId></CdtrAgt>"
        f"<Cdtr><Nm>{limited(payment.creditor_name, _TEXT_MAX)}</Nm></Cdtr>"
        f"<CdtrAcct><Id><IBAN>{payment.creditor_iban}</IBAN></Id></CdtrAcct>{remittance}</CdtTrfTxInf>\n"
    )


def _agent(bic: str) -> str:
    return f"<FinInstnId><BICFI>{bic}</BICFI></FinInstnId>"
