"""Writes examples/payroll.xml, the same bytes every time; every company, person and account in it is invented.

Run it from the repository's root: `.venv/bin/python examples/make_payroll.py`. Two companies pay salaries and expenses,
one in EUR, one in JPY (which has no cents); a third has too little money. What goes wrong on purpose is said by the
EndToEndId: NO-FUNDS, WATCHED, OVER-LIMIT, TWICE (twice the same), CHANGED (twice, with two amounts), NO-SUCH-CURRENCY.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from xml.sax.saxutils import escape

from meshkit import iban

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:pain.001.001.09"
WATCHED_NAME = "Viktor Marchenkow"
"""A letter away from an entry of examples/watchlist."""

_GIVEN_EUR = [
    "Agnes",
    "Bruno",
    "Clara",
    "Emil",
    "Frieda",
    "Gregor",
    "Hedwig",
    "Ignaz",
    "Johanna",
    "Konrad",
    "Lieselotte",
    "Moritz",
]
_FAMILY_EUR = ["Ahorner", "Birkental", "Distelfink", "Eschbacher", "Fliederhof"]
_GIVEN_JPY = ["Aoi", "Daichi", "Emi", "Haruto", "Kaede", "Makoto"]
_FAMILY_JPY = ["Hinokawa", "Kazemori", "Mizusawa", "Shirahoshi", "Tsukinoe", "Yamabuki"]


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody with an account."""

    name: str
    iban: str


@dataclass(frozen=True, slots=True)
class Line:
    """One payment."""

    end_to_end_id: str
    amount: Decimal
    currency: str
    creditor: Party
    remittance: str


def party(name: str, country: str) -> Party:
    """A party with an account number made of its name; the check digits are right, the bank does not exist."""
    number = str(int(hashlib.sha256(name.encode()).hexdigest(), 16))
    # National account numbers: Austria 16 digits, Germany 18, the Netherlands a bank code and 10.
    account = {"AT": "99999" + number[:11], "DE": "99999999" + number[:10], "NL": "FLRN" + number[:10]}[country]
    return Party(name, iban.with_check_digits(country, account))


def staff(given: list[str], family: list[str], country: str) -> list[Party]:
    """Every given name with every family name."""
    return [party(f"{first} {last}", country) for last in family for first in given]


def salaries(people: list[Party], currency: str, base: int, step: int, places: int) -> Iterator[Line]:
    """A salary and expenses for each."""
    for index, person in enumerate(people, start=1):
        cents = Decimal(1).scaleb(-places)
        salary = (Decimal(base + step * ((index * 7) % 11)) + Decimal(index % 100).scaleb(-2)).quantize(cents)
        spent = (Decimal(step) / 4 + Decimal(index * 37 % 1000).scaleb(-1)).quantize(cents)
        yield Line(f"SALARY-{currency}-{index:03d}", salary, currency, person, "Salary January 2025")
        yield Line(f"EXPENSES-{currency}-{index:03d}", spent, currency, person, "Travel expenses December 2024")


def lindwurm() -> tuple[Party, list[Line]]:
    """The company that pays in EUR, and most of what goes wrong."""
    people = staff(_GIVEN_EUR, _FAMILY_EUR, "AT")
    lines = list(salaries(people, "EUR", 2400, 180, 2))
    twice = Line("TWICE-0001", Decimal("310.00"), "EUR", people[4], "Bonus")
    changed = Line("CHANGED-0001", Decimal("125.50"), "EUR", people[9], "Reimbursement")
    lines[40:40] = [twice]
    lines[60:60] = [changed]
    lines[80:80] = [Line("WATCHED-0001", Decimal("1875.00"), "EUR", party(WATCHED_NAME, "AT"), "Consulting")]
    lines[100:100] = [Line("OVER-LIMIT-0001", Decimal("75000.00"), "EUR", people[20], "Severance")]
    lines += [
        Line("NO-SUCH-CURRENCY-0001", Decimal("99.00"), "XQQ", people[3], "Paid in a currency that does not exist"),
        twice,
        Line(changed.end_to_end_id, Decimal("1255.00"), "EUR", changed.creditor, changed.remittance),
    ]
    return party("Lindwurm Optik GmbH", "AT"), lines


def blocks() -> list[tuple[str, Party, str, list[Line]]]:
    """Identification, debtor, currency of its account, payments."""
    eur_people = staff(_GIVEN_EUR, _FAMILY_EUR, "AT")
    debtor, lines = lindwurm()
    stars = party("Hoshizora Seimitsu KK", "NL")
    jpy = list(salaries(staff(_GIVEN_JPY, _FAMILY_JPY, "NL"), "JPY", 312_000, 9_500, 0))
    bakery = party("Dorfbäckerei Krumm & Töchter", "DE")
    poor = [
        Line("BREAD-0001", Decimal("640.00"), "EUR", eur_people[30], "Help at the stall"),
        Line("BREAD-0002", Decimal("220.40"), "EUR", eur_people[31], "Help at the stall"),
        Line("NO-FUNDS-0001", Decimal("4100.00"), "EUR", eur_people[32], "New oven, first part"),
    ]
    return [
        ("LINDWURM-EUR", debtor, "EUR", lines),
        ("HOSHIZORA-JPY", stars, "JPY", jpy),
        ("KRUMM-EUR", bakery, "EUR", poor),
    ]


def document() -> str:
    """The whole file."""
    parts = blocks()
    every = [line for _, _, _, lines in parts for line in lines]
    total = sum((line.amount for line in every), Decimal(0))
    head = f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- Made by examples/make_payroll.py. Every company, person and account in it is invented. -->
<Document xmlns="{NAMESPACE}">
  <CstmrCdtTrfInitn>
    <GrpHdr>
      <MsgId>PAYROLL-2025-01</MsgId>
      <CreDtTm>2025-01-15T08:00:00Z</CreDtTm>
      <NbOfTxs>{len(every)}</NbOfTxs>
      <CtrlSum>{total}</CtrlSum>
      <InitgPty><Nm>Zahltag Lohnbüro eG</Nm></InitgPty>
    </GrpHdr>
"""
    return head + "".join(block(*part) for part in parts) + "  </CstmrCdtTrfInitn>\n</Document>\n"


def block(name: str, debtor: Party, currency: str, lines: list[Line]) -> str:
    """One debtor's payments."""
    total = sum((line.amount for line in lines), Decimal(0))
    head = f"""    <PmtInf>
      <PmtInfId>{name}</PmtInfId>
      <PmtMtd>TRF</PmtMtd>
      <BtchBookg>false</BtchBookg>
      <NbOfTxs>{len(lines)}</NbOfTxs>
      <CtrlSum>{total}</CtrlSum>
      <ReqdExctnDt><Dt>2025-01-15</Dt></ReqdExctnDt>
      <Dbtr><Nm>{escape(debtor.name)}</Nm></Dbtr>
      <DbtrAcct><Id><IBAN>{debtor.iban}</IBAN></Id><Ccy>{currency}</Ccy></DbtrAcct>
      <DbtrAgt><FinInstnId><Othr><Id>NOTPROVIDED</Id></Othr></FinInstnId></DbtrAgt>
"""
    return head + "".join(transaction(line) for line in lines) + "    </PmtInf>\n"


def transaction(line: Line) -> str:
    """One payment."""
    return f"""      <CdtTrfTxInf>
        <PmtId><EndToEndId>{line.end_to_end_id}</EndToEndId></PmtId>
        <Amt><InstdAmt Ccy="{line.currency}">{line.amount}</InstdAmt></Amt>
        <Cdtr><Nm>{escape(line.creditor.name)}</Nm></Cdtr>
        <CdtrAcct><Id><IBAN>{line.creditor.iban}</IBAN></Id></CdtrAcct>
        <RmtInf><Ustrd>{escape(line.remittance)}</Ustrd></RmtInf>
      </CdtTrfTxInf>
"""


if __name__ == "__main__":
    Path(__file__).with_name("payroll.xml").write_text(document(), encoding="utf-8")
