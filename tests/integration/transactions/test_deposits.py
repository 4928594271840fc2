"""Deposits on a real database and a real folder: credited once, or suspended for people to decide, whatever dies."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from meshkit.errors import EtagMismatch, FourEyes
from meshkit.identity import Call, Principal
from tests.integration.transactions.conftest import Replica, call_of
from tests.integration.transactions.deaths import Killed, dying
from tests.integration.transactions.railing import OUTSIDE, RailOf, nothing_is_let_go, prepared
from tests.unit.transactions.making import TELLER
from transactions import rail_deposits, rail_resolutions, rail_worker
from transactions.errors import AccountNotFound, AccountTypeWrong, CurrencyMismatch
from transactions.model import AccountType, State, Verdict
from transactions.rail_errors import (
    DepositNotFound,
    RailExceptionNotFound,
    RailExceptionStateWrong,
    RailResolutionWrong,
)
from transactions.rail_model import Deposit, DepositState, ExceptionKind, ExceptionState, RailException
from transactions.rails.folder import FolderRail

EVA = Principal("demo", "eva", "customers/eva", frozenset({"transfers:read"}))
OFFICER = Principal("demo", "officer", None, frozenset({"rails:resolve"}))


@pytest.fixture
def rail(replica: Replica, tmp_path: Path) -> RailOf:
    """A rail with its accounts; accounts/eva has the IBAN that deposits are for."""
    return prepared(replica, tmp_path)


async def came_to(rail: RailOf, *states: DepositState) -> list[Deposit]:
    """All deposits once they are in these states, the oldest first."""

    async def look() -> list[Deposit] | None:
        found = await rail.deposits()
        return found if [one.state for one in found] == list(states) else None

    found: list[Deposit] = await rail.turns(look)
    return found


async def test_a_credit_reaches_the_account_of_its_iban(rail: RailOf) -> None:
    """From the settlement account, by a transfer that bears the payer's name; its owner sees it, and nobody else."""
    rail.credit()
    (deposit,) = await came_to(rail, DepositState.CREDITED)
    assert (rail.balance("eva"), rail.balance("rail-eur")) == (1250, -1250)
    transfer = await rail.replica.transfers.get(EVA, deposit.credit_transfer)
    assert (transfer.state, transfer.creditor_name, transfer.remittance) == (State.COMPLETED, "Otto Example", "Salary")
    assert (await rail.rails.get_deposit(EVA, deposit.id)).credit_account == "accounts/eva"
    anna = Principal("demo", "anna", "customers/anna", frozenset())
    with pytest.raises(DepositNotFound):
        await rail.rails.get_deposit(anna, deposit.id)
    assert await rail.told(deposit.name) == 2
    assert (len(rail.names("processed")), rail.names("claimed")) == (1, [])


async def test_the_same_entry_has_one_effect_in_whatever_file_it_comes(rail: RailOf) -> None:
    """The same bytes again, the same message in other bytes, and twice at once: one credit."""
    first = rail.credit().read_bytes()
    await came_to(rail, DepositState.CREDITED)
    rail.put("again.xml", first)
    rail.put("other bytes.xml", first + b"\n")
    await asyncio.gather(rail.turn(), rail.restarted().turn())
    await rail.turn()
    await came_to(rail, DepositState.CREDITED)
    assert rail.balance("eva") == 1250
    assert await rail.exceptions() == []
    assert len(rail.names("processed")) == 3


async def test_an_entry_that_says_something_else_later_is_for_a_person(rail: RailOf) -> None:
    """Nothing is booked for it, however often it comes; the exception is one."""
    rail.credit()
    await came_to(rail, DepositState.CREDITED)
    for name in ("changed.xml", "changed again.xml"):
        rail.credit(amount="99.00", name=name)
        await rail.turn()
    await came_to(rail, DepositState.CREDITED)
    (exception,) = await rail.exceptions()
    assert (exception.kind, exception.reference) == (ExceptionKind.DEPOSIT_CHANGED, "R-1")
    assert rail.balance("eva") == 1250


async def test_what_cannot_be_credited_is_suspended(rail: RailOf) -> None:
    """No account has the IBAN, the account is frozen, compliance says no: each is on the suspense account, and open."""
    rail.credit("R-unknown", iban=OUTSIDE)
    rail.credit("R-declined", amount="10000.00")
    await came_to(rail, DepositState.SUSPENDED, DepositState.SUSPENDED)
    rail.replica.ledger.frozen.add("accounts/eva")
    rail.credit("R-frozen", amount="1.00")
    await came_to(rail, *[DepositState.SUSPENDED] * 3)
    assert rail.balance("eva") == 0
    assert rail.balance("rail-suspense-eur") == -rail.balance("rail-eur") == 1250 + 1_000_000 + 100
    exceptions = await rail.exceptions()
    assert {one.kind for one in exceptions} == {ExceptionKind.DEPOSIT_SUSPENDED}
    assert {one.reference for one in exceptions} == {"R-unknown", "R-declined", "R-frozen"}


async def test_a_deposit_in_review_waits_and_is_credited_when_a_person_allows_it(rail: RailOf) -> None:
    """Until then it is RECEIVED; approved, it is on the account."""
    rail.credit(amount="1000.00")
    await rail.turn()
    (deposit,) = await rail.deposits()
    assert deposit.state is DepositState.RECEIVED
    transfer = await rail.replica.transfers.get(TELLER, deposit.transfer)
    assert transfer.state is State.IN_REVIEW
    await rail.replica.verdict(transfer, Verdict.APPROVED)
    await rail.replica.passes.advance([await rail.replica.row(transfer)])
    await came_to(rail, DepositState.CREDITED)
    assert rail.balance("eva") == 100_000


async def test_a_deposit_in_review_stays_one_transfer_when_the_settlement_account_is_another(rail: RailOf) -> None:
    """What a step asked for stands: it is looked for by what is recorded, not by what would be asked for now."""
    rail.credit(amount="1000.00")
    await rail.turn()
    (deposit,) = await rail.deposits()
    transfer = await rail.replica.transfers.get(TELLER, deposit.transfer)
    assert transfer.state is State.IN_REVIEW
    rail.replica.ledger.open("new-eur", type_=AccountType.SETTLEMENT)
    changed = {"rail_settlement_account": "accounts/new-{currency}"}
    rail.replica.settings = rail.replica.settings.model_copy(update=changed)
    rail = rail.restarted()
    await rail.replica.query("UPDATE deposits SET due_time = now() RETURNING 1")
    await rail.turn()
    await rail.replica.verdict(transfer, Verdict.APPROVED)
    await rail.replica.passes.advance([await rail.replica.row(transfer)])
    await came_to(rail, DepositState.CREDITED)
    balances = {name: rail.balance(name) for name in ("eva", "rail-eur", "new-eur", "rail-suspense-eur")}
    assert balances == {"eva": 100_000, "rail-eur": -100_000, "new-eur": 0, "rail-suspense-eur": 0}


async def test_a_deposit_is_not_dropped_while_the_banks_accounts_are_missing(rail: RailOf) -> None:
    """It waits, with the refusal that names the account; once that is there it is credited."""
    del rail.replica.ledger.accounts["rail-suspense-eur"]
    rail.credit()
    await rail.turn()
    (deposit,) = await rail.deposits()
    assert deposit.refusal is not None
    assert "accounts/rail-suspense-eur" in deposit.refusal.message
    prepared(rail.replica, rail.root)
    await came_to(rail, DepositState.CREDITED)


async def test_a_refused_file_is_put_away_with_its_reason(rail: RailOf) -> None:
    """Hostile, huge, foreign and no files at all: none has an effect, each is told of once, others go on."""
    rail.put("entities.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    rail.put("deep.xml", b"<a>" * 60 + b"</a>" * 60)
    rail.put("other.xml", b"<Document xmlns='urn:iso:std:iso:20022:tech:xsd:pain.001.001.09'/>")
    with (rail.folder / "in" / "huge.xml").open("wb") as file:
        file.truncate(21 * 1024 * 1024)
    (rail.folder / "in" / "link.xml").symlink_to("/etc/hostname")
    (rail.folder / "in" / "folder.xml").mkdir()
    os.mkfifo(rail.folder / "in" / "pipe.xml")
    rail.credit("R-good")
    await came_to(rail, DepositState.CREDITED)
    reasons = {
        name.partition("-")[2]: (rail.folder / "rejected" / name).read_text()
        for name in rail.names("rejected")
        if name.endswith(".reason.txt")
    }
    assert {name.removesuffix(".reason.txt") for name in reasons} == {
        *("entities.xml", "deep.xml", "other.xml", "huge.xml", "link.xml", "folder.xml", "pipe.xml"),
    }
    assert "document type declaration" in reasons["entities.xml.reason.txt"]
    assert "at most 20,971,520 are read" in reasons["huge.xml.reason.txt"]
    exceptions = await rail.exceptions()
    assert [one.kind for one in exceptions] == [ExceptionKind.FILE_REJECTED] * 7
    assert (rail.names("in"), rail.names("claimed")) == ([], [])


async def test_a_file_that_is_still_written_waits_and_one_that_stays_broken_is_refused(rail: RailOf) -> None:
    """Half a file has no effect; whole, it has; under the name of an unfinished copy it is not looked at."""
    whole = rail.credit().read_bytes()
    (rail.folder / "in" / "N-R-1.xml").unlink()
    slow = FolderRail(rail.root, "FLORATWWXXX", "UTC", settle_seconds=60)
    worker = rail_worker.RailWorker(
        rail.replica.db, rail.replica.transfers.orders, rail.worker._deposits, slow, rail.replica.settings
    )
    rail.put("half.xml", whole[:200])
    rail.put("copying.xml.part", whole)
    rail.put(".hidden.xml", whole)
    await worker.work_once()
    assert rail.names("rejected") == []
    (claimed,) = rail.names("claimed")
    (rail.folder / "claimed" / claimed).write_bytes(whole)
    await worker.work_once()
    await came_to(rail, DepositState.CREDITED)
    rail.put("broken.xml", whole[:300])
    os.utime(rail.folder / "in" / "broken.xml", (0, 0))
    await worker.work_once()
    assert len(rail.names("rejected")) == 2
    assert rail.names("in") == [".hidden.xml", "copying.xml.part"]


POINTS: dict[str, tuple[Any, str, bool]] = {
    "before-taking": (rail_deposits, "take", False),
    "after-taking": (rail_deposits, "take", True),
    "before-it-is-known": (rail_worker.RailWorker, "_record_content", True),
    "after-it-is-known": (rail_worker.RailWorker, "_record", True),
    "before-asking": (rail_deposits.Deposits, "_ask", False),
    "after-asking": (rail_deposits.Deposits, "_record", False),
    "after-recording": (rail_deposits.Deposits, "_record", True),
}


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_on_the_way_in_credits_once(rail: RailOf, point: str) -> None:
    """Wherever the process dies: a good deposit is credited once, an unknown one suspended once, files are put away."""
    rail.credit("R-good")
    rail.credit("R-unknown", iban=OUTSIDE)
    owner, name, after = POINTS[point]
    with dying(owner, name, point, after=after) as hit, nothing_is_let_go(), pytest.raises(Killed):
        await rail.turn()
    assert hit == [point]
    after_it = rail.restarted()
    await rail.replica.query("UPDATE rail_files SET claim_time = '-infinity' RETURNING 1")

    async def ended() -> bool:
        found = await rail.deposits()
        return sorted(one.state for one in found) == [DepositState.CREDITED, DepositState.SUSPENDED]

    await after_it.turns(ended)
    assert (rail.balance("eva"), rail.balance("rail-suspense-eur"), rail.balance("rail-eur")) == (1250, 1250, -2500)
    assert rail.replica.ledger.journals.total() == 2
    assert (rail.names("in"), rail.names("claimed"), len(rail.names("processed"))) == ([], [], 2)


async def test_a_lost_answer_of_the_ledger_credits_once(rail: RailOf) -> None:
    """The journal was posted and nobody heard: asked again, it is the same one."""
    rail.replica.ledger.faults.lose.append("post")
    rail.credit()

    async def ended() -> bool:
        await rail.replica.hurry()
        await rail.replica.recovery.before_ready()
        return [one.state for one in await rail.deposits()] == [DepositState.CREDITED]

    await rail.turns(ended)
    assert rail.balance("eva") == 1250
    assert rail.replica.ledger.journals.total() == 1


async def test_a_deposit_that_our_own_code_fails_at_holds_up_no_other(rail: RailOf) -> None:
    """It is logged and asked for again; the others are credited meanwhile."""
    for reference in ("R-1", "R-bad", "R-2"):
        rail.credit(reference, remittance="bad" if reference == "R-bad" else "good")
    orders = rail.replica.transfers.orders
    create = orders.create_batch

    async def fails_at_one(transfers: Any, *arguments: Any, **options: Any) -> Any:
        if any(transfer.remittance == "bad" for transfer in transfers):
            raise RuntimeError("a fault")
        return await create(transfers, *arguments, **options)

    with mock.patch.object(orders, "create_batch", fails_at_one):
        await rail.turn()
    assert sorted(one.state for one in await rail.deposits()) == ["CREDITED", "CREDITED", "RECEIVED"]
    await came_to(rail, *[DepositState.CREDITED] * 3)


class Deciding:
    """The calls of people about exceptions."""

    def __init__(self, rail: RailOf) -> None:
        self._rail = rail
        self._db = rail.replica.db

    async def propose(self, name: str, account: str = "", who: Principal = TELLER, etag: str = "") -> RailException:
        place = ("demo", account)
        found = (await self._rail.replica.ledger.resolve([place])).get(place) if account else None
        call = call_of(who)

        async def work(conn: Any) -> RailException:
            return await rail_resolutions.propose(
                conn, self._db.cipher, call, name=name, wanted=account, account=found, reason="named it", etag=etag
            )

        return await self._db.run("demo", work)

    async def approve(self, name: str, who: Principal = OFFICER) -> RailException:
        call = call_of(who)
        return await self._db.run(
            "demo", lambda conn: rail_resolutions.approve(conn, self._db.cipher, call, name=name, etag="")
        )

    async def reject(self, name: str, who: Principal = OFFICER) -> RailException:
        call: Call = call_of(who)
        return await self._db.run(
            "demo", lambda conn: rail_resolutions.reject(conn, call, name=name, reason="not so", etag="")
        )


async def test_two_people_assign_a_suspended_deposit(rail: RailOf) -> None:
    """One proposes and does not approve; approved, the money is moved from the suspense account, and all is audited."""
    rail.credit(iban=OUTSIDE)
    (deposit,) = await came_to(rail, DepositState.SUSPENDED)
    (exception,) = await rail.exceptions()
    people = Deciding(rail)
    proposed = await people.propose(exception.name, "accounts/eva")
    assert (proposed.state, proposed.proposed_account) == (ExceptionState.PROPOSED, "accounts/eva")
    with pytest.raises(FourEyes):
        await people.approve(exception.name, TELLER)
    assert (await people.approve(exception.name)).state is ExceptionState.RESOLVING
    (credited,) = await came_to(rail, DepositState.CREDITED)
    assert (credited.credit_account, credited.suspense_transfer) == ("accounts/eva", deposit.suspense_transfer)
    (resolved,) = await rail.exceptions()
    assert (resolved.state, resolved.version) == (ExceptionState.RESOLVED, 4)
    assert (rail.balance("eva"), rail.balance("rail-suspense-eur")) == (1250, 0)
    audited = await rail.replica.query("SELECT action, subject FROM audit ORDER BY time, action")
    assert {tuple(row) for row in audited} == {
        ("propose_rail_resolution", "teller"),
        ("approve_rail_resolution", "officer"),
    }
    with pytest.raises(RailExceptionStateWrong):
        await people.propose(exception.name, "accounts/eva")
    assert await rail.told(deposit.name) == 5


async def test_an_assignment_that_is_declined_is_open_again(rail: RailOf) -> None:
    """The account is frozen: the money stays where it is, and another account gets it later."""
    rail.credit(iban=OUTSIDE)
    await came_to(rail, DepositState.SUSPENDED)
    (exception,) = await rail.exceptions()
    people = Deciding(rail)
    rail.replica.ledger.frozen.add("accounts/eva")
    await people.propose(exception.name, "accounts/eva")
    await people.approve(exception.name)
    (deposit,) = await came_to(rail, DepositState.SUSPENDED)
    assert (await rail.exceptions())[0].state is ExceptionState.OPEN
    assert (deposit.target, rail.balance("rail-suspense-eur")) == ("", 1250)
    await people.propose(exception.name, "accounts/anna")
    await people.approve(exception.name)
    await came_to(rail, DepositState.CREDITED)
    assert (rail.balance("anna"), rail.balance("rail-suspense-eur")) == (51_250, 0)


async def test_a_resolution_has_to_fit_its_exception(rail: RailOf) -> None:
    """An account for a deposit, none for anything else; a customer's, in the currency; the exception as it was seen."""
    rail.put("bad.xml", b"<a/>")
    rail.credit(iban=OUTSIDE)
    await came_to(rail, DepositState.SUSPENDED)
    by_kind = {one.kind: one for one in await rail.exceptions()}
    file, deposit = by_kind[ExceptionKind.FILE_REJECTED].name, by_kind[ExceptionKind.DEPOSIT_SUSPENDED].name
    people = Deciding(rail)
    for name, account, refusal in (
        (deposit, "", RailResolutionWrong),
        (file, "accounts/eva", RailResolutionWrong),
        (deposit, "accounts/nobody", AccountNotFound),
        (deposit, "accounts/rail-eur", AccountTypeWrong),
        (deposit, "accounts/yen", CurrencyMismatch),
        ("railExceptions/nothing", "", RailExceptionNotFound),
    ):
        with pytest.raises(refusal):
            await people.propose(name, account)
    with pytest.raises(EtagMismatch):
        await people.propose(file, etag="7")
    with pytest.raises(RailExceptionStateWrong):
        await people.approve(file)
    await people.propose(file)
    assert (await people.reject(file)).state is ExceptionState.OPEN
    await people.propose(file)
    assert (await people.approve(file)).state is ExceptionState.RESOLVED


async def test_an_entry_of_several_credits_is_taken_whole(rail: RailOf) -> None:
    """Each of its details is a deposit; two that are equal are two."""
    one = rail.credit().read_text()
    detail = one[one.index("<TxDtls>") : one.index("</NtryDtls>")]
    twice = one.replace(detail, detail * 2).replace('<Amt Ccy="EUR">12.50</Amt>', '<Amt Ccy="EUR">25.00</Amt>', 1)
    rail.put("N-R-1.xml", twice.encode())
    await came_to(rail, DepositState.CREDITED, DepositState.CREDITED)
    assert rail.balance("eva") == 2500


def test_a_deposits_transfer_follows_from_its_step(rail: RailOf) -> None:
    """The same step is the same transfer; the next one is another."""
    del rail
    deposit = Deposit(**{**_ANY, "step": 1})
    assert deposit.transfer == Deposit(**{**_ANY, "step": 1}).transfer
    assert deposit.transfer != replace(deposit, step=2).transfer


_ANY: dict[str, Any] = {
    "tenant": "demo",
    "id": "d",
    "message_id": "m",
    "entry": "e",
    "number": 1,
    "fingerprint": b"",
    "currency": "EUR",
    "amount": 1,
    "parties": None,
    "end_to_end_id": "",
    "create_time": None,
    "update_time": None,
}
