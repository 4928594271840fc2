"""The bank's side for tests: camt.053 of what the ledger has or of what a test says, and its upload."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from accounts.camt053 import Camt053
from accounts.model import Entry as LedgerEntry
from accounts.statements import LAYOUT, Statement, Totals, period
from florin.accounts.v1 import account_pb2, account_service_pb2, reconciliation_pb2
from florin.accounts.v1 import reconciliation_service_pb2 as pb
from florin.accounts.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub
from florin.common.v1 import money_pb2
from meshkit import iban
from tests.support.parts import wait_until

if TYPE_CHECKING:
    from tests.support.mesh import Mesh

IBAN = "AT483200000012345864"
"""Our account at the bank."""
NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"


@dataclass(frozen=True, slots=True)
class Booked:
    """An entry of the bank's; `amount` in cents, positive for a credit."""

    amount: int
    end_to_end_id: str = ""
    servicer_reference: str = ""
    entry_reference: str = ""
    value_date: str = ""
    status: str = "<Cd>BOOK</Cd>"
    batch: tuple[str, ...] = ()
    """The end-to-end identifications of its transactions."""
    says_batch: bool = False
    remittance: str = ""

    def written(self, day: date, currency: str = "EUR") -> str:
        """The Ntry."""
        details = "".join(
            f"<TxDtls><Refs><EndToEndId>{one}</EndToEndId></Refs>"
            f"{f'<RmtInf><Ustrd>{self.remittance}</Ustrd></RmtInf>' if self.remittance else ''}</TxDtls>"
            for one in (self.batch or ((self.end_to_end_id or "NOTPROVIDED",)))
        )
        size = f"<NbOfTxs>{len(self.batch)}</NbOfTxs>" if self.batch else ""
        if self.says_batch:
            details = f"<Btch>{size}</Btch>{details if self.batch else ''}"
        return (
            f"<Ntry>{f'<NtryRef>{self.entry_reference}</NtryRef>' if self.entry_reference else ''}"
            f"{amount(self.amount, currency)}<Sts>{self.status}</Sts><BookgDt><Dt>{day}</Dt></BookgDt>"
            f"<ValDt><Dt>{self.value_date or day}</Dt></ValDt>"
            f"{f'<AcctSvcrRef>{self.servicer_reference}</AcctSvcrRef>' if self.servicer_reference else ''}"
            f"<NtryDtls>{details}</NtryDtls></Ntry>\n"
        )


def amount(cents: int, currency: str = "EUR") -> str:
    """An amount and its side."""
    side = "DBIT" if cents < 0 else "CRDT"
    return f'<Amt Ccy="{currency}">{abs(cents) // 100}.{abs(cents) % 100:02d}</Amt><CdtDbtInd>{side}</CdtDbtInd>'


def document(
    entries: Sequence[Booked],
    *,
    day: date,
    opening: int = 0,
    closing: int | None = None,
    id_: str = "",
    number: int = 0,
    account: str = IBAN,
    currency: str = "EUR",
    last_day: date | None = None,
    version: str = "camt.053.001.08",
) -> bytes:
    """A statement; it closes with what its booked entries come to unless it is told otherwise."""
    booked = sum(one.amount for one in entries if "BOOK" in one.status)
    until = last_day or day
    balances = "".join(
        f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>{amount(cents, currency)}<Dt><Dt>{of}</Dt></Dt></Bal>\n"
        for code, cents, of in (
            ("OPBD", opening, day),
            ("CLBD", opening + booked if closing is None else closing, until),
        )
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Document xmlns="urn:iso:std:iso:20022:tech:xsd:{version}"><BkToCstmrStmt>\n'
        f"<GrpHdr><MsgId>M-{id_ or day}</MsgId><CreDtTm>{until}T20:00:00Z</CreDtTm></GrpHdr>\n"
        f"<Stmt><Id>{id_ or f'S-{day}'}</Id>{f'<ElctrncSeqNb>{number}</ElctrncSeqNb>' if number else ''}"
        f"<CreDtTm>{until}T20:00:00Z</CreDtTm>\n<Acct><Id><IBAN>{account}</IBAN></Id><Ccy>{currency}</Ccy></Acct>\n"
        f"{balances}{''.join(one.written(day, currency) for one in entries)}"
        "</Stmt></BkToCstmrStmt></Document>\n"
    ).encode()


def mirrored(entries: Sequence[LedgerEntry], *, day: date, opening: int = 0, number: int = 1) -> bytes:
    """What a bank that runs this very software states of our entries: the other sign, the journal as AcctSvcrRef."""
    theirs = [replace(one, amount=-one.amount) for one in entries]
    gained, spent = [one.amount for one in theirs if one.amount > 0], [-one.amount for one in theirs if one.amount < 0]
    statement = Statement(
        tenant="bank",
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{day} {number}")),
        account="nostro",
        number=number,
        period=period(day, day, "UTC"),
        currency="EUR",
        opening=opening,
        closing=opening + sum(gained) - sum(spent),
        opening_sequence=0,
        closing_sequence=len(theirs),
        identifier=f"iban:{IBAN}",
        issuer="The other bank",
        layout=LAYOUT,
        create_time=datetime.now(UTC),
    )
    written = Camt053(statement, Totals(len(gained), sum(gained), len(spent), sum(spent)))
    return written.head() + written.rows(theirs) + written.tail()


def upload(
    data: bytes, account: str, request_id: str = "", *, chunk_bytes: int = 100_000
) -> Iterator[pb.ImportBankStatementRequest]:
    """The messages that import a statement."""
    header = pb.ImportBankStatementRequest.Header(account=account, request_id=request_id)
    yield pb.ImportBankStatementRequest(header=header)
    for at in range(0, len(data), chunk_bytes):
        yield pb.ImportBankStatementRequest(chunk=data[at : at + chunk_bytes])


def imported(mesh: Mesh, data: bytes, account: str, *, tenant: str, role: str = "operator", **who: str) -> Any:
    """Imports a statement through the edge, and waits until the rules went over it; gives the answer."""
    stub = ReconciliationServiceStub(mesh.channel)
    metadata = mesh.metadata(role, tenant=tenant, **who)
    answer: Any = stub.ImportBankStatement(upload(data, account), metadata=metadata, timeout=60)
    shown = pb.GetBankStatementRequest(name=answer.bank_statement.name)

    def matched() -> bool:
        found = stub.GetBankStatement(shown, metadata=metadata, timeout=10).bank_statement
        return bool(found.state == reconciliation_pb2.BANK_STATEMENT_STATE_MATCHED)

    wait_until(matched, 30)
    return answer


def settlement_account(mesh: Mesh, *, tenant: str) -> tuple[str, str]:
    """A new settlement account in EUR and the IBAN of the account at a bank that it stands for."""
    outside = iban.with_check_digits("AT", f"{secrets.randbelow(10**16):016d}")
    new = account_service_pb2.CreateAccountRequest(
        account_id=f"nostro-{secrets.token_hex(6)}",
        type=account_pb2.ACCOUNT_TYPE_SETTLEMENT,
        currency_code="EUR",
        identifiers=[account_pb2.AccountIdentifier(iban=outside)],
    )
    return mesh.call("AccountService.CreateAccount", new, "operator", tenant=tenant).account.name, outside


def funded(mesh: Mesh, nostro: str, account: str, cents: int, *, tenant: str, reference: str = "") -> None:
    """Money that came in at the bank, as the ledger has it."""
    request = account_service_pb2.FundAccountRequest(
        account=account,
        settlement_account=nostro,
        amount=money_pb2.Money(currency_code="EUR", minor_units=cents),
        reference=reference,
        request_id=secrets.token_hex(8),
    )
    mesh.call("AccountService.FundAccount", request, "operator", tenant=tenant)


def reconciled(mesh: Mesh, *, tenant: str) -> dict[str, str]:
    """A reconciliation with something of each kind, by the names that requests ask for: a match that holds and two that
    wait, an item of each side that can be matched with each other, and one to resolve."""
    nostro, outside = settlement_account(mesh, tenant=tenant)
    account = mesh.account(tenant=tenant)
    for cents in (5_00, 7_00):
        funded(mesh, nostro, account, cents, tenant=tenant)
    entries = [Booked(cents) for cents in (5_00, 5_00, 7_00, 1_11, 2_22, 3_33)]
    answer = imported(mesh, document(entries, day=datetime.now(UTC).date(), account=outside), nostro, tenant=tenant)
    asked = pb.ListItemMatchesRequest(account=nostro)
    (match,) = mesh.call("ReconciliationService.ListItemMatches", asked, "operator", tenant=tenant).item_matches
    item = nostro + "/items/"

    def proposed(number: int) -> str:
        wish = pb.ResolveItemRequest(name=f"{item}bank-{number}", note="fee")
        name: str = mesh.call("ReconciliationService.ResolveItem", wish, "operator", tenant=tenant).item_match.name
        return name

    return {
        "nostro": nostro,
        "ledger_item": f"{item}ledger-1",
        "bank_item": f"{item}bank-1",
        "resolvable": f"{item}bank-4",
        "bankStatements": answer.bank_statement.name,
        "itemMatches": match.name,
        "approvable": proposed(5),
        "rejectable_match": proposed(6),
    }


NOBODYS = {
    "nostro": "accounts/no-nostro",
    "ledger_item": "accounts/no-nostro/items/ledger-1",
    "bank_item": "accounts/no-nostro/items/bank-1",
    "resolvable": "accounts/no-nostro/items/bank-2",
    "bankStatements": "bankStatements/nobodys",
    "itemMatches": "itemMatches/nobodys",
    "approvable": "itemMatches/nobodys",
    "rejectable_match": "itemMatches/nobodys",
}
"""The same of what there is not."""
