"""Reconciliation on a real service: imports, the rules, what two people do, what is open and what explains it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from accounts import entry_store, reconciliation_matching, store
from accounts.model import AccountType, Identifier
from accounts.reconciliation_worker import Reconciler
from florin.accounts.v1 import reconciliation_pb2 as model
from florin.accounts.v1 import reconciliation_service_pb2 as pb
from florin.accounts.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub
from local import issuer
from local.reconciliation_invariants import EVENTS, RECONCILIATION
from meshkit import lifecycle
from meshkit.database import Database
from tests.integration.accounts.conftest import FUNDER, Ledger, channel, refusal
from tests.support import parts as real
from tests.support.bank_statements import IBAN, Booked, document, mirrored, upload

TODAY = datetime.now(UTC).date()
WORK_ONCE = Reconciler.work_once


class Desk:
    """A settlement account of a tenant of its own, its bank, and the people at it."""

    def __init__(self, parts: real.Parts, stub: ReconciliationServiceStub, ledger: Ledger) -> None:
        self.parts, self.stub, self.ledger = parts, stub, ledger
        self.reconciler = Reconciler(ledger.db, days=5, every_seconds=3600)
        self.closing = 0
        self.statements = 0

    async def call(self, method: str, request: Any, subject: str = "one", role: str = "operator") -> Any:
        """A call as a member of staff."""
        token = issuer.mint(self.parts.state, role, tenant=self.ledger.tenant, subject=subject)
        metadata = (("authorization", f"Bearer {token}"),)
        return await getattr(self.stub, method)(request, metadata=metadata, timeout=30)

    async def send(self, data: bytes, request_id: str = "", account: str = "accounts/nostro", **who: str) -> Any:
        """An import of these bytes."""
        return await self.call("ImportBankStatement", upload(data, account, request_id), **who)

    async def state(self, *entries: Booked, day: date = TODAY, **options: Any) -> Any:
        """Imports the next statement of the account, and has the rules go over it."""
        self.statements += 1
        id_ = options.pop("id_", f"S-{self.statements}")
        data = document(entries, day=day, opening=self.closing, id_=id_, **options)
        answer = await self.send(data)
        self.closing = answer.bank_statement.closing_balance.minor_units
        await self.match()
        return answer.bank_statement

    async def match(self) -> None:
        """One pass of the rules."""
        await self.reconciler.reconcile(self.ledger.tenant, "nostro")

    async def post(self, amount: int, origin: str = "transfers/t", day: date = TODAY) -> str:
        """Posts a journal that moves `amount` on the account; gives its id."""
        step = self.ledger.post(("nostro", amount), ("inside", -amount), actor=FUNDER)
        moment = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        changed = type(step)(**{name: getattr(step, name) for name in step.__slots__} | {"origin": origin})
        if day != TODAY:
            changed = type(step)(
                **{name: getattr(changed, name) for name in step.__slots__} | {"effective_time": moment}
            )
        (outcome,) = await self.ledger.apply(changed)
        assert outcome.WhichOneof("result") == "journal", outcome
        return str(outcome.journal.journal.removeprefix("journals/"))

    async def open(self, **asked: Any) -> list[Any]:
        """What is open."""
        request = pb.ListOpenItemsRequest(account="accounts/nostro", **asked)
        return list((await self.call("ListOpenItems", request)).items)

    async def open_amounts(self) -> list[tuple[int, int]]:
        """(side, amount) of what is open."""
        return [(one.side, one.amount.minor_units) for one in await self.open()]

    async def rules(self) -> list[int]:
        """The rules of the matches that hold, in the order in which they were made."""
        rows = await self.ledger.rows("SELECT rule FROM item_matches WHERE state IN (2, 4) ORDER BY match")
        return [row[0] for row in rows]

    async def books(self) -> Any:
        """The summary, whose equation holds at any time."""
        request = pb.GetReconciliationRequest(name="accounts/nostro/reconciliation")
        found = (await self.call("GetReconciliation", request)).reconciliation
        assert found.unexplained.minor_units == 0
        explained = (found.opening_difference, found.open_bank.amount, found.open_ledger.amount, found.resolved.amount)
        assert found.difference.minor_units == sum(one.minor_units for one in explained)
        assert found.difference.minor_units == found.bank_balance.minor_units + found.ledger_balance.minor_units
        return found


@pytest.fixture
async def desk(
    parts: real.Parts, running: lifecycle.Running, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    """A desk whose account "nostro" has an IBAN at the bank. The service's own worker does nothing: the tests go over
    what they imported themselves."""

    async def idle(_: Reconciler) -> bool:
        return True

    monkeypatch.setattr(Reconciler, "work_once", idle)
    await ledger.open("inside")
    await ledger.open("nostro", type=AccountType.SETTLEMENT)
    await identify(ledger, "nostro", IBAN)
    async with channel(parts, "edge", running.grpc_port) as edge:
        yield Desk(parts, ReconciliationServiceStub(edge), ledger)


async def identify(ledger: Ledger, account: str, iban: str) -> None:
    """Gives an account its IBAN."""

    async def work(conn: Any) -> None:
        (found,) = await store.accounts(conn, ledger.tenant, [account])
        named = type(found)(
            **{name: getattr(found, name) for name in found.__slots__} | {"identifiers": (Identifier("iban", iban),)}
        )
        assert await store.add_identifiers(conn, named) == []

    await ledger.db.run(ledger.tenant, work)


async def test_our_own_camt053_of_the_other_side_leaves_nothing_open(desk: Desk) -> None:
    """What the bank states is the ledger with the other sign, each entry by its journal: all pairs, no difference."""
    for amount in (-100_00, 30_00, -30_00, -100_00, 5):
        await desk.post(amount)
    entries = await desk.ledger.db.run(
        desk.ledger.tenant,
        lambda conn: entry_store.entries_between(conn, desk.ledger.tenant, "nostro", after=0, up_to=9, limit=9),
    )
    answer = await desk.send(mirrored(entries, day=TODAY))
    assert (answer.already_imported, answer.bank_statement.entry_count) == (False, 5)
    await desk.match()
    assert await desk.open() == []
    assert await desk.rules() == [model.MATCH_RULE_REFERENCE] * 5
    books = await desk.books()
    assert (books.difference.minor_units, books.bank_balance.minor_units, books.matching) == (0, 199_95, False)
    shown = await desk.call("GetBankStatement", pb.GetBankStatementRequest(name=answer.bank_statement.name))
    assert shown.bank_statement.state == model.BANK_STATEMENT_STATE_MATCHED
    await desk.ledger.check_books()


async def test_what_is_certain_is_matched_and_the_rest_is_open(desk: Desk) -> None:
    """A reference goes before an amount; two of one amount, a wrong amount under a right reference, and what lies too
    far apart are left to people."""
    transfer = str(uuid.uuid4())
    await desk.post(-10_00, f"transfers/{transfer}")
    await desk.post(-20_00, "transfers/by-amount")
    for name in ("twin-a", "twin-b"):
        await desk.post(-30_00, f"transfers/{name}")
    await desk.post(-40_00, "transfers/short")
    await desk.post(-50_00, "transfers/old", TODAY - timedelta(days=6))
    await desk.post(-60_00, "transfers/tomorrow", TODAY + timedelta(days=1))
    await desk.state(
        Booked(10_00, end_to_end_id=transfer.replace("-", "").upper()),
        Booked(20_00),
        Booked(30_00),
        Booked(39_00, end_to_end_id="short"),
        Booked(50_00),
        Booked(60_00),
    )
    assert await desk.rules() == [model.MATCH_RULE_REFERENCE, model.MATCH_RULE_AMOUNT_AND_DATE]
    assert await desk.open_amounts() == [
        *((1, -30_00), (1, -30_00), (1, -40_00), (1, -50_00), (1, -60_00)),
        *((2, 30_00), (2, 39_00), (2, 50_00), (2, 60_00)),
    ]
    books = await desk.books()
    assert (books.open_bank.count, books.open_ledger.count, books.difference.minor_units) == (4, 5, -31_00)
    # The day after tells of what was valued then, and what the bank said a day early is within the days.
    await desk.state(day=TODAY + timedelta(days=1))
    assert (1, -60_00) not in await desk.open_amounts()
    await consistent(desk)


async def test_a_batch_is_matched_by_its_references_or_as_the_one_sum_of_its_day(desk: Desk) -> None:
    """All that an entry refers to, or the one part of it; without references, of a batch alone, and only if one sum of
    the day's entries is possible."""
    for name, cents in (("a", 1_00), ("b", 2_00), ("c", 4_00), ("d", 7_00), ("e", 11_00), ("f", 13_00)):
        await desk.post(-cents, f"transfers/batch-{name}")
    await desk.state(
        Booked(3_00, batch=("batch-a", "batch-b"), says_batch=True),
        Booked(7_01, batch=("batch-c", "batch-d")),
        Booked(24_00, says_batch=True),
        Booked(11_50),
    )
    assert await desk.rules() == [model.MATCH_RULE_BATCH_BY_REFERENCE, model.MATCH_RULE_BATCH_BY_DATE]
    assert await desk.open_amounts() == [(1, -4_00), (1, -7_00), (2, 7_01), (2, 11_50)]
    # 5 + 6 and 4.50 + 6.50 are both 11: nobody knows which.
    for cents in (5_00, 6_00, 4_50, 6_50):
        await desk.post(-cents, "transfers/more")
    await desk.state(Booked(11_00, says_batch=True), day=TODAY)
    assert (2, 11_00) in await desk.open_amounts()
    await consistent(desk)


async def test_a_statement_is_found_again_and_another_of_its_name_is_refused(desk: Desk) -> None:
    """The same from other bytes too, with whoever asks; a request_id is bound to its bytes."""
    data = document([Booked(5_00, end_to_end_id="x")], day=TODAY, id_="S-1")
    first = await desk.send(data, "r-1")
    again = await desk.send(data, "r-1")
    fetched = await desk.send(data.replace(b"\n", b"\n\n").replace(b"<MsgId>M-", b"<MsgId>N-"), subject="two")
    assert [one.already_imported for one in (first, again, fetched)] == [False, True, True]
    assert {one.bank_statement.name for one in (first, again, fetched)} == {first.bank_statement.name}
    other = document([Booked(6_00, end_to_end_id="x")], day=TODAY, id_="S-1")
    assert await refusal(desk.send(other)) == "BANK_STATEMENT_EXISTS"
    assert await refusal(desk.send(other, "r-1")) == "REQUEST_ID_REUSED"
    assert await desk.ledger.rows("SELECT count(*) FROM bank_statements") == [(1,)]
    assert await desk.ledger.rows("SELECT count(*) FROM audit WHERE action = 'import_bank_statement'") == [(1,)]


async def test_two_imports_at_once_are_one(desk: Desk) -> None:
    """Of the first statement of an account, and of any: one records it, the other finds it."""
    for number, opening in ((1, 0), (2, 5_00)):
        data = document([Booked(5_00)], day=TODAY, opening=opening, id_=f"S-{number}")
        answers = await asyncio.gather(*(desk.send(data, subject=f"s{one}") for one in range(4)))
        assert sorted(one.already_imported for one in answers) == [False, True, True, True]
        assert {one.bank_statement.number for one in answers} == {number}
    await consistent(desk)


async def test_statements_follow_each_other(desk: Desk) -> None:
    """What opens with something else is refused until what lies between is there; what is only odd is told."""
    await desk.state(Booked(5_00), number=7)
    late = document([Booked(1_00)], day=TODAY + timedelta(days=2), opening=8_00, id_="late", number=9)
    assert await refusal(desk.send(late, "late")) == "BANK_STATEMENT_NOT_CONTINUOUS"
    between = document([Booked(3_00)], day=TODAY + timedelta(days=1), opening=5_00, id_="between", number=8)
    assert list((await desk.send(between)).bank_statement.notices) == []
    assert list((await desk.send(late, "late")).bank_statement.notices) == []
    odd = document([], day=TODAY + timedelta(days=9), opening=9_00, id_="odd", number=12)
    assert list((await desk.send(odd)).bank_statement.notices) == [
        model.BANK_STATEMENT_NOTICE_NUMBER_GAP,
        model.BANK_STATEMENT_NOTICE_DAYS_GAP,
    ]
    twice = document([], day=TODAY + timedelta(days=9), opening=9_00, id_="twice", number=13)
    assert list((await desk.send(twice)).bank_statement.notices) == [model.BANK_STATEMENT_NOTICE_DAYS_OVERLAP]
    listed = await desk.call("ListBankStatements", pb.ListBankStatementsRequest(account="accounts/nostro", page_size=3))
    assert [one.number for one in listed.bank_statements] == [5, 4, 3]
    rest = pb.ListBankStatementsRequest(account="accounts/nostro", page_size=3, page_token=listed.next_page_token)
    listed = await desk.call("ListBankStatements", rest)
    assert ([one.number for one in listed.bank_statements], listed.next_page_token) == ([2, 1], "")
    await consistent(desk)


async def test_a_statement_of_another_account_or_currency_is_refused(desk: Desk) -> None:
    """By the identifiers that the settlement account was opened with; one without any stands for no account."""
    for data in (
        document([], day=TODAY, account="DE89370400440532013000"),
        document([], day=TODAY, currency="USD"),
    ):
        assert await refusal(desk.send(data)) == "BANK_STATEMENT_ACCOUNT_WRONG"
    data = document([], day=TODAY)
    assert await refusal(desk.send(data, account="accounts/bank")) == "BANK_STATEMENT_ACCOUNT_WRONG"
    assert await refusal(desk.send(data, account="accounts/inside")) == "ACCOUNT_TYPE_WRONG"
    assert await refusal(desk.send(data, account="accounts/nobody")) == "ACCOUNT_NOT_FOUND"
    assert await refusal(desk.send(data.replace(b"CLBD", b"CLAV"))) == "BANK_STATEMENT_INVALID"
    assert await desk.ledger.rows("SELECT 1 FROM reconciliations") == []


async def test_what_was_stated_before_is_told_and_left_to_people(desk: Desk) -> None:
    """By the bank's own reference of an entry over statements, by the entry's within one. The balance counts it, so it
    is an item like others; the rules take the first alone."""
    await desk.post(-9_00, "transfers/nine")
    first = await desk.state(
        Booked(9_00, end_to_end_id="nine", servicer_reference="B-1", entry_reference="1"),
        Booked(9_00, end_to_end_id="nine", servicer_reference="B-2", entry_reference="1"),
        Booked(9_00, end_to_end_id="other", servicer_reference="B-1", entry_reference="2"),
    )
    assert (first.duplicate_count, list(first.notices)) == (1, [model.BANK_STATEMENT_NOTICE_DUPLICATES])
    second = await desk.state(Booked(9_00, end_to_end_id="nine", servicer_reference="B-1", entry_reference="1"))
    assert second.duplicate_count == 1
    assert await desk.rules() == [model.MATCH_RULE_REFERENCE]
    assert [(one.duplicate, one.manual) for one in await desk.open()] == [(True, True), (False, False), (True, True)]
    await consistent(desk)


async def test_what_stood_before_the_first_statement_is_its_opening(desk: Desk) -> None:
    """Entries recorded before its first day are no items; a difference from then on is told as such, for ever."""
    await desk.post(-70_00)
    await desk.state(Booked(2_00), day=TODAY + timedelta(days=1))
    books = await desk.books()
    assert (books.ledger_opening_balance.minor_units, books.opening_difference.minor_units) == (-70_00, -70_00)
    assert await desk.open_amounts() == [(2, 2_00)]
    await consistent(desk)


async def test_two_people_match_and_undo_what_the_rules_do_not(desk: Desk) -> None:
    """Who proposes cannot approve; items of a proposal can be in no other; what is undone is open again, and the rules
    pass it over; every step is audited and told."""
    for cents in (3_00, 4_00):
        await desk.post(-cents, "transfers/parts")
    await desk.state(Booked(7_00), Booked(1_00))
    names = {one.amount.minor_units: one.name for one in await desk.open()}
    wish = pb.MatchItemsRequest(
        account="accounts/nostro", ledger_items=[names[-3_00], names[-4_00]], bank_items=[names[7_00]], note="cash"
    )
    short = pb.MatchItemsRequest(
        account="accounts/nostro", ledger_items=[names[-3_00]], bank_items=[names[7_00]], note="cash"
    )
    assert await refusal(desk.call("MatchItems", short)) == "ITEM_MATCH_UNBALANCED"
    made = (await desk.call("MatchItems", wish)).item_match
    assert (made.state, made.proposed_by, len(made.items)) == (model.ITEM_MATCH_STATE_PROPOSED, "one", 3)
    assert await refusal(desk.call("MatchItems", wish)) == "RECONCILIATION_ITEM_NOT_OPEN"
    await desk.match()
    assert len(await desk.open()) == 4
    approve = pb.ApproveItemMatchRequest(name=made.name)
    assert await refusal(desk.call("ApproveItemMatch", approve)) == "FOUR_EYES"
    approved = (await desk.call("ApproveItemMatch", approve, "two")).item_match
    assert (approved.state, approved.decided_by) == (model.ITEM_MATCH_STATE_ACTIVE, "two")
    assert await refusal(desk.call("ApproveItemMatch", approve, "two")) == "ITEM_MATCH_STATE_WRONG"
    assert await desk.open_amounts() == [(2, 1_00)]
    undo = pb.UndoItemMatchRequest(name=made.name, note="it was another")
    assert (await desk.call("UndoItemMatch", undo, "two")).item_match.state == model.ITEM_MATCH_STATE_UNDO_PROPOSED
    assert await refusal(desk.call("ApproveItemMatch", approve, "two")) == "FOUR_EYES"
    kept = pb.RejectItemMatchRequest(name=made.name, reason="it was not")
    assert (await desk.call("RejectItemMatch", kept)).item_match.state == model.ITEM_MATCH_STATE_ACTIVE
    await desk.call("UndoItemMatch", undo, "two")
    assert (await desk.call("ApproveItemMatch", approve)).item_match.state == model.ITEM_MATCH_STATE_UNDONE
    await desk.match()
    assert [one.manual for one in await desk.open()] == [True, True, True, False]
    shown = (await desk.call("GetItemMatch", pb.GetItemMatchRequest(name=made.name))).item_match
    assert (shown.undo_proposed_by, shown.undo_decided_by, len(shown.items)) == ("two", "one", 3)
    told = await desk.ledger.rows(f"SELECT version FROM outbox WHERE aggregate = '{made.name}' ORDER BY version")
    audited = await desk.ledger.rows(f"SELECT action FROM audit WHERE resource = '{made.name}'")
    assert (len(told), len(audited)) == (6, 6)
    await consistent(desk)


async def test_a_resolved_item_goes_on_explaining_the_difference(desk: Desk) -> None:
    """It is open no more and books nothing; the same request is the same proposal; when it is booked after all, undoing
    makes the two a match."""
    await desk.state(Booked(-2_50))
    (item,) = await desk.open()
    wish = pb.ResolveItemRequest(name=item.name, note="fee of the bank", request_id="r")
    first, again = [(await desk.call("ResolveItem", wish)).item_match for _ in range(2)]
    assert first == again
    await desk.call("ApproveItemMatch", pb.ApproveItemMatchRequest(name=first.name), "two")
    books = await desk.books()
    assert (books.resolved.amount.minor_units, books.open_bank.count, books.difference.minor_units) == (-2_50, 0, -2_50)
    assert await desk.open() == []
    await consistent(desk)
    await desk.call("UndoItemMatch", pb.UndoItemMatchRequest(name=first.name, note="booked"))
    await desk.call("ApproveItemMatch", pb.ApproveItemMatchRequest(name=first.name), "two")
    await desk.post(2_50, "journals/fee")
    await desk.match()
    ours, theirs = await desk.open()
    pair = pb.MatchItemsRequest(
        account="accounts/nostro", ledger_items=[ours.name], bank_items=[theirs.name], note="fee"
    )
    made = (await desk.call("MatchItems", pair)).item_match
    await desk.call("ApproveItemMatch", pb.ApproveItemMatchRequest(name=made.name), "two")
    assert (await desk.books()).difference.minor_units == 0
    await consistent(desk)


async def test_a_rejected_proposal_leaves_its_items_to_the_rules(desk: Desk) -> None:
    """They are found by their references again, as if nobody had proposed anything."""
    await desk.post(-8_00, "transfers/eight")
    await desk.state(Booked(-1_00), day=TODAY)
    theirs = next(one for one in await desk.open() if one.side == model.RECONCILIATION_SIDE_LEDGER)
    made = (await desk.call("ResolveItem", pb.ResolveItemRequest(name=theirs.name, note="lost"))).item_match
    await desk.state(Booked(8_00, end_to_end_id="EIGHT"))
    assert await desk.rules() == []
    await desk.call("RejectItemMatch", pb.RejectItemMatchRequest(name=made.name, reason="wait"))
    await desk.match()
    assert await desk.rules() == [model.MATCH_RULE_REFERENCE]
    await consistent(desk)


async def test_open_items_are_listed_in_pages_by_side_age_and_reference(desk: Desk) -> None:
    """Each page goes on after the last; a token is bound to its filter."""
    days = [(cents, TODAY - timedelta(days=cents)) for cents in (1, 2, 3)]
    await desk.state(*(Booked(cents, value_date=str(day), end_to_end_id=f"Ref {cents}") for cents, day in days))
    await desk.post(-77, "transfers/ours")
    await desk.match()
    assert [(one.side, one.age_days) for one in await desk.open()] == [(1, 0), (2, 1), (2, 2), (2, 3)]
    assert [one.amount.minor_units for one in await desk.open(side=2, age_days_min=2)] == [2, 3]
    assert [one.amount.minor_units for one in await desk.open(reference="REF-3")] == [3]
    request, seen = pb.ListOpenItemsRequest(account="accounts/nostro", page_size=1), []
    while True:
        page = await desk.call("ListOpenItems", request)
        seen += [one.amount.minor_units for one in page.items]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [-77, 1, 2, 3]
    request.side = model.RECONCILIATION_SIDE_BANK
    assert await refusal(desk.call("ListOpenItems", request)) == "PAGE_TOKEN_INVALID"


async def test_a_pass_that_dies_anywhere_is_gone_on_with(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the import alone, after each step of a pass: the next one comes to the same end, each pair once."""
    for number in range(6):
        await desk.post(-100 - number, f"transfers/n-{number}")
    data = document([Booked(100 + number, end_to_end_id=f"n-{number}") for number in range(6)], day=TODAY)
    name = (await desk.send(data)).bank_statement.name
    monkeypatch.setattr(reconciliation_matching, "LOT", 2)
    monkeypatch.setattr(reconciliation_matching, "ENTRIES_LOT", 4)
    steps = 0
    while True:
        left = steps

        async def dies(_seconds: float) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise ConnectionError("died here")

        monkeypatch.setattr("accounts.reconciliation_worker._rest", dies)
        try:
            await desk.match()
            break
        except ConnectionError:
            steps += 1
    assert steps > 4
    assert await desk.rules() == [model.MATCH_RULE_REFERENCE] * 6
    assert (await desk.books()).matching is False
    told = await desk.ledger.rows(f"SELECT version FROM outbox WHERE aggregate = '{name}' ORDER BY version")
    assert told == [(1,), (2,)]
    await consistent(desk)


async def test_the_worker_matches_what_was_imported_and_what_came_since(desk: Desk) -> None:
    """Only what has something new is gone over; nothing else is touched."""
    await desk.post(-5_00, "transfers/five")
    await desk.send(document([Booked(5_00, end_to_end_id="five"), Booked(6_00, end_to_end_id="six")], day=TODAY))
    assert await WORK_ONCE(desk.reconciler)
    assert await desk.open_amounts() == [(2, 6_00)]
    await desk.post(-6_00, "transfers/six")
    assert (await desk.books()).waiting_entries == 1
    assert await WORK_ONCE(desk.reconciler)
    assert await desk.open() == []
    books = await desk.books()
    assert (books.waiting_entries, books.matching) == (0, False)


async def test_nobody_makes_a_match_certain_by_proposing_another(desk: Desk) -> None:
    """What waits for a second person, or was undone by two, is no less what an entry may belong to: else who proposes
    has the rules match the rest as they wish, alone."""
    for name in ("one", "other"):
        await desk.post(-30_00, f"transfers/{name}")
    await desk.state(Booked(30_00))
    ours = (await desk.open(side=model.RECONCILIATION_SIDE_LEDGER))[0]
    made = (await desk.call("ResolveItem", pb.ResolveItemRequest(name=ours.name, note="lost"))).item_match
    await desk.match()
    assert await desk.rules() == []
    approve = pb.ApproveItemMatchRequest(name=made.name)
    await desk.call("ApproveItemMatch", approve, "two")
    await desk.call("UndoItemMatch", pb.UndoItemMatchRequest(name=made.name, note="found"))
    await desk.call("ApproveItemMatch", approve, "two")
    await desk.match()
    assert await desk.rules() == []
    await consistent(desk)


async def test_what_the_bank_has_not_told_of_yet_makes_a_match_uncertain(desk: Desk) -> None:
    """It is not taken before the next statement, but it may be what an entry of this one is."""
    await desk.post(-30_00, "transfers/early", TODAY - timedelta(days=4))
    await desk.post(-30_00, "transfers/late", TODAY + timedelta(days=1))
    await desk.state(Booked(30_00))
    assert await desk.rules() == []
    await desk.state(Booked(30_00, end_to_end_id="late"), day=TODAY + timedelta(days=1))
    assert await desk.rules() == [model.MATCH_RULE_REFERENCE, model.MATCH_RULE_AMOUNT_AND_DATE]
    await consistent(desk)


async def test_a_batch_that_may_be_one_of_ours_is_not_taken_as_a_sum(desk: Desk) -> None:
    """Of two that come to it alone nobody knows which, so it is not certain that it is neither."""
    for cents in (24_00, 24_00, 11_00, 13_00):
        await desk.post(-cents, "transfers/booked")
    await desk.state(Booked(24_00, says_batch=True))
    assert await desk.rules() == []
    await consistent(desk)


async def test_batches_of_a_day_with_more_than_are_looked_at_are_left_to_people(desk: Desk) -> None:
    """13 is a part of 24 or of 500, which stands behind so many others that it is not seen."""
    for cents in (11, 13, 487):
        await desk.post(-cents, "transfers/part")
    await desk.post(-50_00, "transfers/named")
    others = [Booked(101 + number, batch=("named", "b")) for number in range(120)]
    await desk.state(Booked(24, says_batch=True), Booked(5_00, says_batch=True), *others)
    assert await desk.rules() == []
    await consistent(desk)


async def test_people_and_rules_at_once_take_an_item_once(desk: Desk) -> None:
    """Whoever comes first has it: the other is refused, or passes it over."""
    for number in range(20):
        await desk.post(-100 - number, f"transfers/r-{number}")
    await desk.state()
    data = document([Booked(100 + number, end_to_end_id=f"r-{number}") for number in range(20)], day=TODAY, id_="S-9")
    await desk.send(data)
    ours = [one.name for one in await desk.open(side=model.RECONCILIATION_SIDE_LEDGER)]
    wishes = [
        desk.call("ResolveItem", pb.ResolveItemRequest(name=name, note="lost"), f"person-{number}")
        for number, name in enumerate(ours)
    ]
    await asyncio.gather(desk.match(), *wishes, return_exceptions=True)
    await desk.match()
    await consistent(desk)


async def test_no_other_tenant_sees_or_touches_any_of_it(desk: Desk, second_ledger: Ledger) -> None:
    """Statements, items and matches of another tenant do not exist; the database says so too."""
    statement = await desk.state(Booked(1_00))
    (item,) = await desk.open()
    made = (await desk.call("ResolveItem", pb.ResolveItemRequest(name=item.name, note="x"))).item_match
    own = desk.ledger
    desk.ledger = second_ledger
    asked: Sequence[tuple[str, Any, str]] = (
        ("GetBankStatement", pb.GetBankStatementRequest(name=statement.name), "BANK_STATEMENT_NOT_FOUND"),
        ("ApproveItemMatch", pb.ApproveItemMatchRequest(name=made.name), "ITEM_MATCH_NOT_FOUND"),
        ("ResolveItem", pb.ResolveItemRequest(name=item.name, note="x"), "RECONCILIATION_ITEM_NOT_FOUND"),
        ("ListOpenItems", pb.ListOpenItemsRequest(account="accounts/nostro"), "ACCOUNT_NOT_FOUND"),
    )
    for method, request, why in asked:
        assert await refusal(desk.call(method, request)) == why
    for table in (
        "bank_statements",
        "reconciliation_items",
        "reconciliations",
        "item_matches",
        "reconciliation_keys",
        "unmatched_items",
    ):
        assert await second_ledger.rows(f"SELECT 1 FROM {table}") == []
    desk.ledger = own


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE reconciliation_items SET amount = 1",
        "DELETE FROM reconciliation_items",
        "UPDATE bank_statements SET closing = 1",
        "DELETE FROM item_matches",
        "UPDATE item_matches SET bank = '{}'",
        "UPDATE reconciliations SET bank_opening = 1",
    ],
)
async def test_the_service_cannot_change_what_was_stated(db: Database, change: str) -> None:
    """INV-4, for what stands beside columns that do change."""

    async def work(conn: Any) -> None:
        await conn.execute(text(change))

    with pytest.raises(Exception, match="permission denied"):
        await db.run("nobody", work)


TAMPERED = {
    "a balance of the bank": "UPDATE reconciliations SET bank_closing = bank_closing + 1",
    "an amount": "UPDATE reconciliation_items SET amount = amount + 1 WHERE side = 2",
    "a state": "UPDATE reconciliation_items SET state = 1, match = NULL WHERE state = 3 AND side = 1",
    "an entry left out": "DELETE FROM reconciliation_items WHERE side = 1",
    "a statement between": "UPDATE bank_statements SET opening = opening + 1, closing = closing + 1",
    "a match undone alone": "UPDATE item_matches SET state = 5, undo_decided_by = 'x'",
    "an open item that explains nothing": "DELETE FROM unmatched_items",
    "a key too many": "INSERT INTO reconciliation_keys SELECT tenant, account, 'x', side, amount, value_day, number"
    " FROM reconciliation_items",
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_verify_finds_what_does_not_add_up(desk: Desk, parts: real.Parts, database: str, what: str) -> None:
    """Whatever somebody with rights on the database changes, some check names it; untouched, none does."""
    await desk.post(-5_00, "transfers/five")
    await desk.state(Booked(5_00, end_to_end_id="five"), Booked(1_00))
    await consistent(desk)
    assert broken(parts, database, desk.ledger.tenant, "SELECT 1") == []
    assert broken(parts, database, desk.ledger.tenant, TAMPERED[what]) != []


def broken(parts: real.Parts, database: str, tenant: str, change: str) -> list[str]:
    """What `florin verify` says once the owner made a change to a tenant's rows, which is then taken back."""
    url = parts.url(database, f"{database}_owner")
    with psycopg.connect(
        **dict(url.query),
        user=url.username,
        password=url.password,
        dbname=url.database,
        options=f"-c florin.tenants={tenant}",
    ) as connection:
        connection.execute(change)
        found = [row[0] for _, _, statement in RECONCILIATION for row in connection.execute(statement)]
        connection.rollback()
    return found


async def consistent(desk: Desk) -> None:
    """All that `florin verify` asks of reconciliation holds, and every change has its event."""
    await desk.books()
    for _, _, statement in RECONCILIATION:
        assert await desk.ledger.rows(statement) == []
    assert await desk.ledger.rows(EVENTS.replace("%(ahead)s", "interval '0'")) == []
