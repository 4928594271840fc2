"""The story's end: every balance, the month's statement as documents, the invariants, and an auditor's export."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from datetime import timedelta

from florin.accounts.v1 import statement_pb2
from florin.accounts.v1 import statement_service_pb2 as pb
from local import demo_bank, demo_mesh, export, verify_export
from local.treasury.story import IMPORTER, Story, next_month, text
from meshkit import money

_CAMT = "{urn:iso:std:iso:20022:tech:xsd:camt.053.001.08}"


async def judge_balances(story: Story) -> None:
    """Every account has what the story makes of it, and nothing is held."""
    accounts = await demo_bank.list_accounts(story.bank.teller)
    found = {name: account.balance.posted.minor_units for name, account in accounts.items()}
    wanted = {name: story.books[name] for name in accounts}
    story.expect(f"each of {len(accounts)} accounts has what it has to have", found, wanted)
    held = {name: account.balance.held.minor_units for name, account in accounts.items()}
    story.expect("nothing is held any more", sum(held.values()), 0)
    totals = dict.fromkeys(("EUR", "USD"), 0)
    for account in accounts.values():
        totals[account.currency_code] += account.balance.posted.minor_units
    story.expect("and in each currency all accounts sum to zero", totals, dict.fromkeys(totals, 0))


async def issue_statement(story: Story) -> None:
    """The first month's statement of the importer, as a person reads it and as a bank does."""
    teller = story.bank.teller
    first = story.begins.date().replace(day=1)
    last = next_month(first) - timedelta(days=1)
    request = pb.CreateStatementRequest(
        account=IMPORTER.account,
        period_start=first.isoformat(),
        period_end=last.isoformat(),
        request_id=story.request_id("statement"),
    )
    made = (await teller.call(teller.statements.CreateStatement, request)).statement
    story.expect(
        f"statement number {made.number} of {first:%B %Y}, without the rent that was paid later: {made.entry_count} "
        f"entries, and {text(made.closing_balance)} in the end",
        (made.number, made.opening_balance.minor_units, made.closing_balance.minor_units),
        (1, 0, story.at_months_end[IMPORTER.account]),
    )
    pdf = await _document(story, made, statement_pb2.STATEMENT_FORMAT_PDF, "pdf")
    story.expect("the PDF is whole", (pdf[:5], pdf.rstrip()[-5:]), (b"%PDF-", b"%%EOF"))
    camt = ET.fromstring(await _document(story, made, statement_pb2.STATEMENT_FORMAT_CAMT_053, "camt.053.xml"))  # noqa: S314 - our own
    closing = next(one for one in camt.iter(f"{_CAMT}Bal") if one.findtext(f".//{_CAMT}Cd") == "CLBD")
    told = closing.findtext(f"{_CAMT}Amt"), len(list(camt.iter(f"{_CAMT}Ntry")))
    closes = money.format_minor(made.closing_balance.minor_units, made.closing_balance.currency_code)
    story.expect(f"the camt.053 closes with {told[0]} after {told[1]} entries", told, (closes, made.entry_count))
    story.screen.step(f"both are in {story.documents}")


async def _document(
    story: Story, statement: statement_pb2.Statement, form: statement_pb2.StatementFormat.ValueType, ending: str
) -> bytes:
    teller = story.bank.teller
    request = pb.GetStatementDocumentRequest(name=statement.name, format=form)
    parts = teller.statements.GetStatementDocument(request, timeout=30, metadata=teller.metadata())
    data = b"".join([part.data async for part in parts])
    (story.documents / f"{IMPORTER.id}-{statement.period_start[:7]}.{ending}").write_bytes(data)
    return data


async def verify_books(story: Story) -> None:
    """The invariants on the running mesh."""
    for violation in await demo_mesh.verify(story.screen, story.state):
        story.wrong(violation)


async def export_history(story: Story) -> None:
    """The sealed history in a file, verified by the public key alone."""
    file = story.documents / "journals.jsonl"
    done = await asyncio.to_thread(export.journals, story.state, file, story.bank.tenant)
    finding = await asyncio.to_thread(verify_export.verify, file, story.state.sealing_keys)
    for violation in finding.violations:
        story.wrong(violation)
    story.expect(
        f"{done.added} sealed journals are exported to {file}, and verified without a server",
        (finding.violations, finding.checked >= done.added, done.added > 0),
        ([], True, True),
    )
