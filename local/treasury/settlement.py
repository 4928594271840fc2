"""The story's settlement bank: money that came in there, its statement, and what only two people can put right."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from zoneinfo import ZoneInfo

from florin.accounts.v1 import account_pb2, account_service_pb2, reconciliation_pb2
from florin.accounts.v1 import reconciliation_service_pb2 as pb
from local.treasury.story import IMPORTER, TIME_ZONE, Story, euros, text
from meshkit import money

NOSTRO = "accounts/nostro-eur"
OUTSIDE = "AT483200000012345864"
"""The account at the other bank that `NOSTRO` stands for."""
CREDITS = {"INVOICE-4711": 750_25, "INVOICE-4712": 249_75}
"""What customers of the importer paid at the other bank, by their reference, in cents."""
CHARGE = 2_50
"""What that bank took for it, in cents, of which nobody told us."""


async def reconcile(story: Story) -> None:
    """What stands at the settlement bank is compared with the ledger; what rules cannot explain, two people do."""
    operator, officer = story.bank.operator, story.bank.compliance
    await _fund(story)
    day = story.now().astimezone(ZoneInfo(TIME_ZONE)).date()
    data = statement(day)
    (story.documents / f"settlement-bank-{day}.camt.053.xml").write_bytes(data)

    def chunks() -> Iterator[pb.ImportBankStatementRequest]:
        yield pb.ImportBankStatementRequest(header=pb.ImportBankStatementRequest.Header(account=NOSTRO))
        yield pb.ImportBankStatementRequest(chunk=data)

    taken = await operator.send_stream(operator.reconciliation.ImportBankStatement, chunks)
    story.screen.step(f"the bank states {taken.bank_statement.entry_count} entries of {day:%d %B %Y}")
    await story.until(lambda: _is_matched(story), "the statement is not matched")
    found = await _reconciliation(story)
    story.expect(
        f"{len(CREDITS)} are found by their references; the bank has {text(found.bank_balance)}, the ledger "
        f"{text(found.ledger_balance)}: {text(found.difference)} in one entry of the bank that is open",
        (found.difference.minor_units, found.open_bank.count, found.open_ledger.count, found.unexplained.minor_units),
        (-CHARGE, 1, 0, 0),
    )
    listed = await operator.call(operator.reconciliation.ListOpenItems, pb.ListOpenItemsRequest(account=NOSTRO))
    resolve = pb.ResolveItemRequest(
        name=listed.items[0].name, note="charge of the bank", request_id=story.request_id("resolve")
    )
    proposed = (await operator.call(operator.reconciliation.ResolveItem, resolve)).item_match
    approve = pb.ApproveItemMatchRequest(name=proposed.name, request_id=story.request_id("approve"))
    with story.expect_refusal("who proposed it does not approve it", "FOUR_EYES"):
        await operator.call(operator.reconciliation.ApproveItemMatch, approve)
    await officer.call(officer.reconciliation.ApproveItemMatch, approve)
    found = await _reconciliation(story)
    story.expect(
        "a second person does; nothing is open, and the difference is explained to the cent",
        (found.open_bank.count, found.open_ledger.count, found.resolved.count, found.unexplained.minor_units),
        (0, 0, 1, 0),
    )


async def _fund(story: Story) -> None:
    """Books what came in at the other bank."""
    operator = story.bank.operator
    opened = account_service_pb2.CreateAccountRequest(
        account_id=NOSTRO.removeprefix("accounts/"),
        type=account_pb2.ACCOUNT_TYPE_SETTLEMENT,
        currency_code="EUR",
        identifiers=[account_pb2.AccountIdentifier(iban=OUTSIDE)],
        request_id="account-nostro-eur",
    )
    await operator.call(operator.accounts.CreateAccount, opened)
    for reference, cents in CREDITS.items():
        funding = account_service_pb2.FundAccountRequest(
            account=IMPORTER.account,
            settlement_account=NOSTRO,
            amount=euros(cents),
            reference=reference,
            request_id=story.request_id("fund"),
        )
        await operator.call(operator.accounts.FundAccount, funding)
        story.moved(NOSTRO, IMPORTER.account, cents)
    story.screen.step(f"{text(euros(sum(CREDITS.values())))} came in for {IMPORTER.name} in {len(CREDITS)} payments")


async def _reconciliation(story: Story) -> reconciliation_pb2.Reconciliation:
    operator = story.bank.operator
    request = pb.GetReconciliationRequest(name=f"{NOSTRO}/reconciliation")
    return (await operator.call(operator.reconciliation.GetReconciliation, request)).reconciliation


async def _is_matched(story: Story) -> bool:
    return not (await _reconciliation(story)).matching


def statement(day: date) -> bytes:
    """The other bank's statement of a day, camt.053.001.08: the credits, each with its reference, and the charge."""
    booked = [*CREDITS.items(), ("NOTPROVIDED", -CHARGE)]
    balances = "".join(
        f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>{_amount(cents)}<Dt><Dt>{day}</Dt></Dt></Bal>\n"
        for code, cents in (("OPBD", 0), ("CLBD", sum(cents for _, cents in booked)))
    )
    entries = "".join(
        f"<Ntry>{_amount(cents)}<Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>{day}</Dt></BookgDt><ValDt><Dt>{day}</Dt></ValDt>"
        f"<NtryDtls><TxDtls><Refs><EndToEndId>{reference}</EndToEndId></Refs></TxDtls></NtryDtls></Ntry>\n"
        for reference, cents in booked
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt>\n'
        f"<GrpHdr><MsgId>M-{day}</MsgId><CreDtTm>{day}T20:00:00Z</CreDtTm></GrpHdr>\n"
        f"<Stmt><Id>S-{day}</Id><CreDtTm>{day}T20:00:00Z</CreDtTm>"
        f"<Acct><Id><IBAN>{OUTSIDE}</IBAN></Id><Ccy>EUR</Ccy></Acct>\n{balances}{entries}"
        "</Stmt></BkToCstmrStmt></Document>\n"
    ).encode()


def _amount(cents: int) -> str:
    side = "DBIT" if cents < 0 else "CRDT"
    return f'<Amt Ccy="EUR">{money.format_minor(abs(cents), "EUR")}</Amt><CdtDbtInd>{side}</CdtDbtInd>'
