"""Small pain.001.001.09 documents for tests; one element a line, so that lines can be counted."""

from __future__ import annotations

from decimal import Decimal


def payment(end_to_end_id: str, amount: str, currency: str, *, iban: str = "NL91ABNA0417164300") -> str:
    """One CdtTrfTxInf."""
    return f"""<CdtTrfTxInf>
<PmtId><EndToEndId>{end_to_end_id}</EndToEndId></PmtId>
<Amt><InstdAmt Ccy="{currency}">{amount}</InstdAmt></Amt>
<Cdtr><Nm>Agnes Ahorner</Nm></Cdtr>
<CdtrAcct><Id><IBAN>{iban}</IBAN></Id></CdtrAcct>
<RmtInf><Ustrd>Salary</Ustrd></RmtInf>
</CdtTrfTxInf>
"""


def document(*payments: str, group_sum: str | None = None, block_sum: str | None = None) -> bytes:
    """A whole file with one PmtInf; the sums are right unless they are given."""
    amounts = [text.split("</InstdAmt>")[0].rsplit(">", 1)[1] for text in payments]
    try:
        total = sum((Decimal(amount) for amount in amounts), Decimal(0))
    except ArithmeticError:
        total = Decimal(0)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.09">
<CstmrCdtTrfInitn>
<GrpHdr>
<MsgId>MSG-1</MsgId>
<CreDtTm>2025-01-15T08:00:00</CreDtTm>
<NbOfTxs>{len(payments)}</NbOfTxs>
<CtrlSum>{group_sum or f"{total.normalize():f}"}</CtrlSum>
<InitgPty><Nm>Bureau</Nm></InitgPty>
</GrpHdr>
<PmtInf>
<PmtInfId>BLOCK-1</PmtInfId>
<PmtMtd>TRF</PmtMtd>
<NbOfTxs>{len(payments)}</NbOfTxs>
<CtrlSum>{block_sum or total}</CtrlSum>
<ReqdExctnDt><Dt>2025-01-15</Dt></ReqdExctnDt>
<Dbtr><Nm>Lindwurm Optik GmbH</Nm></Dbtr>
<DbtrAcct><Id><IBAN>AT611904300234573201</IBAN></Id></DbtrAcct>
<DbtrAgt><FinInstnId><Othr><Id>NOTPROVIDED</Id></Othr></FinInstnId></DbtrAgt>
{"".join(payments)}</PmtInf>
</CstmrCdtTrfInitn>
</Document>
""".encode()
