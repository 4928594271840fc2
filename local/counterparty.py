"""A bank to try the rail with: it answers what is put out by rules that the amount gives, and sends money.

It is for a laptop and for tests. What it was sent it answers once for each MsgId, in the same bytes however often the
message comes, as a real one has to.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import escape

from lxml import etree

from meshkit import iban, money
from meshkit.errors import CurrencyUnknown

PACS_008 = "urn:iso:std:iso:20022:tech:xsd:pacs.008.001.08"
PACS_002 = "urn:iso:std:iso:20022:tech:xsd:pacs.002.001.10"
CAMT_054 = "urn:iso:std:iso:20022:tech:xsd:camt.054.001.08"
_N = f"{{{PACS_008}}}"
REJECTED, UNANSWERED = "13", "17"
"""The last two digits of amounts that are rejected as a closed account (AC04), and that are never answered."""


class BadCredit(Exception):
    """What cannot be sent; its text is one clear sentence."""


@dataclass(frozen=True, slots=True)
class Credit:
    """Money to be sent to an account of the mesh's bank."""

    iban: str
    amount: str
    """In units of the currency, for example "12.50"."""
    currency: str
    debtor_name: str
    debtor_iban: str
    remittance: str = ""
    end_to_end_id: str = ""


def answers(folder: Path) -> int:
    """Answers every message of a tenant's folder; gives how many messages there were."""
    done = 0
    taken = folder / "counterparty"
    taken.mkdir(parents=True, exist_ok=True)
    for path in sorted((folder / "out").glob("*.xml")):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # another counterparty took it
        message, answer = answer_to(data)
        if answer:
            _put(folder / "in", f"pacs.002-{message}.xml", answer)
        path.replace(taken / path.name)
        done += 1
    return done


def answer_to(data: bytes) -> tuple[str, bytes]:
    """The MsgId of a pacs.008.001.08 and the pacs.002.001.10 that answers it; empty where nothing of it is answered."""
    root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    message = root.findtext(f"{_N}FIToFICstmrCdtTrf/{_N}GrpHdr/{_N}MsgId") or ""
    created = root.findtext(f"{_N}FIToFICstmrCdtTrf/{_N}GrpHdr/{_N}CreDtTm") or ""
    told = list(_told(root))
    if not told:
        return message, b""
    return message, (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{PACS_002}"><FIToFIPmtStsRpt>'
        f"<GrpHdr><MsgId>A{escape(message)}</MsgId><CreDtTm>{escape(created)}</CreDtTm></GrpHdr>"
        f"<OrgnlGrpInfAndSts><OrgnlMsgId>{escape(message)}</OrgnlMsgId>"
        f"<OrgnlMsgNmId>pacs.008.001.08</OrgnlMsgNmId></OrgnlGrpInfAndSts>\n"
        f"{''.join(told)}</FIToFIPmtStsRpt></Document>\n"
    ).encode()


def _told(root: etree._Element) -> Iterator[str]:
    for payment in root.iterfind(f"{_N}FIToFICstmrCdtTrf/{_N}CdtTrfTxInf"):
        amount = (payment.findtext(f"{_N}IntrBkSttlmAmt") or "").replace(".", "")
        if amount.endswith(UNANSWERED):
            continue
        transaction = escape(payment.findtext(f"{_N}PmtId/{_N}TxId") or "")
        end_to_end_id = escape(payment.findtext(f"{_N}PmtId/{_N}EndToEndId") or "")
        status = "<TxSts>ACSC</TxSts>"
        if amount.endswith(REJECTED):
            status = "<TxSts>RJCT</TxSts><StsRsnInf><Rsn><Cd>AC04</Cd></Rsn></StsRsnInf>"
        yield (
            f"<TxInfAndSts><OrgnlEndToEndId>{end_to_end_id}</OrgnlEndToEndId>"
            f"<OrgnlTxId>{transaction}</OrgnlTxId>{status}</TxInfAndSts>\n"
        )


def pay(folder: Path, credit: Credit, reference: str | None = None) -> str:
    """Sends money into a tenant's folder; gives the reference. Raises BadCredit."""
    reference = reference or secrets.token_hex(8).upper()
    data = notification(credit, message_id=f"N{reference}", reference=reference, moment=datetime.now(UTC))
    _put(folder / "in", f"camt.054-{reference}.xml", data)
    return reference


def notification(credit: Credit, *, message_id: str, reference: str, moment: datetime) -> bytes:
    """A camt.054.001.08 that tells of one credit. Raises BadCredit."""
    try:
        minor = money.parse(credit.amount, credit.currency)
    except (CurrencyUnknown, ValueError) as error:
        raise BadCredit(f"{credit.amount} {credit.currency}: {error}") from None
    if minor <= 0 or not iban.is_valid(credit.iban):
        raise BadCredit(f"{credit.amount} to {credit.iban}: the amount has to be positive, the IBAN valid.")
    amount = f'<Amt Ccy="{credit.currency}">{money.format_minor(minor, credit.currency)}</Amt>'
    remittance = f"<RmtInf><Ustrd>{escape(credit.remittance)}</Ustrd></RmtInf>" if credit.remittance else ""
    stamp, day = moment.isoformat(), moment.date().isoformat()
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{CAMT_054}"><BkToCstmrDbtCdtNtfctn>'
        f"<GrpHdr><MsgId>{escape(message_id)}</MsgId><CreDtTm>{stamp}</CreDtTm></GrpHdr>"
        f"<Ntfctn><Id>{escape(message_id)}</Id><CreDtTm>{stamp}</CreDtTm>"
        f"<Acct><Id><Othr><Id>SETTLEMENT</Id></Othr></Id></Acct>"
        f"<Ntry><NtryRef>{escape(reference)}</NtryRef>{amount}<CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>"
        f"<BookgDt><Dt>{day}</Dt></BookgDt><BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>RCDT</Cd><SubFmlyCd>ESCT</SubFmlyCd>"
        f"</Fmly></Domn></BkTxCd><NtryDtls><TxDtls>"
        f"<Refs><EndToEndId>{escape(credit.end_to_end_id or 'NOTPROVIDED')}</EndToEndId></Refs>{amount}"
        f"<CdtDbtInd>CRDT</CdtDbtInd><RltdPties><Dbtr><Pty><Nm>{escape(credit.debtor_name)}</Nm></Pty></Dbtr>"
        f"<DbtrAcct><Id><IBAN>{escape(credit.debtor_iban)}</IBAN></Id></DbtrAcct>"
        f"<CdtrAcct><Id><IBAN>{credit.iban}</IBAN></Id></CdtrAcct></RltdPties>{remittance}"
        f"</TxDtls></NtryDtls></Ntry></Ntfctn></BkToCstmrDbtCdtNtfctn></Document>\n"
    ).encode()


def _put(folder: Path, name: str, data: bytes) -> None:
    """Puts a file into a folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.{secrets.token_hex(4)}.part"
    with part.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / name)
