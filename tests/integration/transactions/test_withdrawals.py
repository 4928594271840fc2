"""Withdrawals on a real database and a real folder: booked, sent once, settled or given back, whatever dies between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from florin.transactions.v1 import transfer_service_pb2
from local import counterparty
from meshkit.errors import RecordedRefusal, RequestIdReused
from meshkit.identity import Call
from tests.integration.transactions.conftest import Replica, call_of
from tests.integration.transactions.deaths import Killed, dying
from tests.integration.transactions.railing import INSIDE, RailOf, nothing_is_let_go, prepared
from tests.unit.transactions.making import ANNA, NOW, TELLER, transfer
from transactions import fee_store, messages, rail_answers, rail_messages, rail_model, rail_worker
from transactions.errors import IdentifierInvalid
from transactions.fees import FeeSchedule, Kind, Rounding
from transactions.model import AccountType, Transfer, Verdict
from transactions.rail_errors import (
    CreditorInside,
    RailAccountMissing,
    RailNotConfigured,
    TransferOfARail,
    WithdrawalNotFound,
)
from transactions.rail_model import ExceptionKind, Withdrawal, WithdrawalState, payment_id
from transactions.rails.folder import FolderRail


@pytest.fixture
def rail(replica: Replica, tmp_path: Path) -> RailOf:
    """A rail with its accounts; accounts/a has 10,000.00 EUR."""
    return prepared(replica, tmp_path)


async def in_state(rail: RailOf, withdrawal: Withdrawal, state: WithdrawalState) -> Withdrawal:
    """The withdrawal once it is in a state."""

    async def look() -> Withdrawal | None:
        found = await rail.row(withdrawal)
        return found if found.state is state else None

    found: Withdrawal = await rail.turns(look)
    return found


def answer(rail: RailOf, withdrawal: Withdrawal, status: str, reason: str = "", *, name: str = "answer.xml") -> None:
    """Puts an answer to one withdrawal into the inbox."""
    why = f"<StsRsnInf><Rsn><Cd>{reason}</Cd></Rsn></StsRsnInf>" if reason else ""
    rail.put(
        name,
        (
            f'<Document xmlns="{counterparty.PACS_002}"><FIToFIPmtStsRpt><GrpHdr><MsgId>{name}</MsgId></GrpHdr>'
            f"<TxInfAndSts><OrgnlTxId>{payment_id(withdrawal.id)}</OrgnlTxId><TxSts>{status}</TxSts>{why}</TxInfAndSts>"
            "</FIToFIPmtStsRpt></Document>"
        ).encode(),
    )


async def test_a_withdrawal_is_booked_sent_and_settled(rail: RailOf) -> None:
    """The payer is debited, one file goes out, the answer settles it, and each state is told of once."""
    made = await rail.withdraw(1000)
    assert (made.state, made.version) == (WithdrawalState.BOOKED, 2)
    assert (rail.balance("a"), rail.balance("rail-eur")) == (999_000, 1000)
    sent = await in_state(rail, made, WithdrawalState.SENT)
    assert rail.names("out") == [f"{sent.message}.xml"]
    assert rail.answered() == 1
    settled = await in_state(rail, made, WithdrawalState.SETTLED)
    assert (settled.rail_status, settled.version) == ("ACSC", 4)
    assert settled.send_time is not None
    assert await rail.told(made.name) == 4
    assert (rail.balance("a"), rail.balance("rail-eur")) == (999_000, 1000)
    assert (rail.names("in"), rail.names("claimed"), len(rail.names("processed"))) == ([], [], 1)


async def test_withdrawals_that_wait_go_out_in_one_message_of_their_currency(rail: RailOf) -> None:
    """Two of one currency are two payments of one file, with the names and accounts of both sides."""
    first, second = await rail.withdraw(1000), await rail.withdraw(2000, remittance="<&>")
    one, two = await in_state(rail, first, WithdrawalState.SENT), await in_state(rail, second, WithdrawalState.SENT)
    assert one.message == two.message
    text = (rail.folder / "out" / f"{one.message}.xml").read_text()
    assert text.count("<CdtTrfTxInf>") == 2
    assert "<CtrlSum>30.00</CtrlSum>" in text
    assert "<Nm>Anna Example</Nm>" in text
    assert "&lt;&amp;&gt;" in text


async def test_a_rejected_withdrawal_is_given_back_once_with_its_fee(rail: RailOf) -> None:
    """The reversal moves amount and fee; the same answer again, under another name too, changes nothing."""
    await _fee(rail.replica, 100)
    made = await rail.withdraw(1013)
    assert rail.balance("a") == 1_000_000 - 1013 - 100
    await in_state(rail, made, WithdrawalState.SENT)
    rail.answered()
    (again,) = [path.read_bytes() for path in (rail.folder / "in").iterdir()]
    returned = await in_state(rail, made, WithdrawalState.RETURNED)
    assert (returned.rail_status, returned.rail_reason) == ("RJCT", "AC04")
    assert rail.balance("a") == 1_000_000
    assert rail.balance("rail-eur") == rail.balance("fees") == 0
    rail.put("again.xml", again)
    rail.put("once more.xml", again.replace(b"</Document>", b"</Document> "))
    await rail.turn()
    assert (await rail.row(made)) == returned
    assert rail.balance("a") == 1_000_000
    assert await rail.exceptions() == []
    assert rail.names("claimed") == []


async def test_money_that_cannot_be_given_back_is_suspended_and_told_of(rail: RailOf) -> None:
    """The payer's account is frozen by then: the money is on the suspense account, under an exception."""
    made = await rail.withdraw(1013)
    await in_state(rail, made, WithdrawalState.SENT)
    rail.replica.ledger.frozen.add("accounts/a")
    rail.answered()
    suspended = await in_state(rail, made, WithdrawalState.SUSPENDED)

    async def opened() -> Any:
        return await rail.exceptions()

    (exception,) = await rail.turns(opened)
    assert exception.resource == f"deposits/{suspended.deposit}" == rail_messages.withdrawal(suspended, TELLER).deposit
    assert rail_messages.withdrawal(suspended, ANNA).deposit == ""
    assert (rail.balance("rail-eur"), rail.balance("rail-suspense-eur")) == (0, 1013)


async def test_what_is_declined_never_goes_out(rail: RailOf) -> None:
    """Compliance's no and missing funds are the answer; a copy of the request gets the same one."""
    for amount, request_id in ((rail.replica.screening.DECLINE_FROM, "declined"), (1000, "poor")):
        changes = {"debit_account": "accounts/poor"} if request_id == "poor" else {}
        for _ in range(2):
            with pytest.raises(RecordedRefusal):
                await rail.withdraw(amount, request_id=request_id, **changes)
    await rail.turn()
    rows = await rail.replica.query("SELECT state FROM withdrawals")
    assert [row[0] for row in rows] == ["DECLINED", "DECLINED"]
    await rail.turn()
    assert rail.names("out") == []


async def test_a_withdrawal_in_review_waits_for_the_person(rail: RailOf) -> None:
    """Nothing goes out before the case is approved; cancelled instead, it is declined."""
    amount = rail.replica.screening.REVIEW_FROM
    approved, cancelled = await rail.withdraw(amount), await rail.withdraw(amount)
    assert approved.state is cancelled.state is WithdrawalState.ACCEPTED
    await rail.turn()
    assert rail.names("out") == []
    transfers = rail.replica.transfers
    await transfers.cancel(call_of(TELLER), cancelled.id)
    await rail.replica.verdict(await transfers.get(TELLER, approved.id), Verdict.APPROVED)
    await rail.replica.passes.advance([await transfers.get(TELLER, approved.id)])
    await in_state(rail, approved, WithdrawalState.SENT)
    assert (await in_state(rail, cancelled, WithdrawalState.DECLINED)).refusal is not None


async def test_one_request_is_one_withdrawal(rail: RailOf) -> None:
    """The same request_id gives the same withdrawal, also later; another payload under it is refused."""
    made = await rail.withdraw(1000, request_id="same")
    assert await rail.withdraw(1000, request_id="same") == made
    sent = await in_state(rail, made, WithdrawalState.SENT)
    assert await rail.withdraw(1000, request_id="same") == sent
    other = call_of(TELLER, "same", "/florin.transactions.v1.RailService/CreateWithdrawal")
    other_payload = mock.patch("tests.integration.transactions.railing.call_of", return_value=_with_fingerprint(other))
    with other_payload, pytest.raises(RequestIdReused):
        await rail.withdraw(1001, request_id="same")
    assert rail.balance("a") == 999_000


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"creditor_iban": "DE89370400440532013001"}, IdentifierInvalid),
        ({"creditor_iban": INSIDE}, CreditorInside),
    ],
)
async def test_what_cannot_be_paid_outside_is_refused_before_anything(
    rail: RailOf, changes: dict[str, str], refusal: type[Exception]
) -> None:
    """Wrong check digits, and an account of this bank."""
    with pytest.raises(refusal):
        await rail.withdraw(1000, **changes)
    assert await rail.replica.query("SELECT 1 FROM withdrawals") == []


async def test_a_bank_without_a_rail_or_its_accounts_says_what_is_to_be_done(rail: RailOf) -> None:
    """The setting is named, and the account that is to be opened."""
    del rail.replica.ledger.accounts["rail-eur"]
    with pytest.raises(RailAccountMissing, match="accounts/rail-eur, which is to be opened as ACCOUNT_TYPE_SETTLEMENT"):
        await rail.withdraw(1000)
    bare = mock.Mock(wraps=rail.replica.settings, rail_folder=None)
    with mock.patch.object(rail.rails, "_settings", bare), pytest.raises(RailNotConfigured) as caught:
        await rail.withdraw(1000)
    assert caught.value.metadata == {"setting": "TRANSACTIONS_RAIL_FOLDER"}


async def test_a_customer_sees_own_withdrawals_alone(rail: RailOf) -> None:
    """Made by another, a withdrawal does not exist; made from an own account by staff, it does."""
    theirs = await rail.withdraw(1000)
    with pytest.raises(WithdrawalNotFound):
        await rail.rails.get_withdrawal(ANNA, theirs.id)
    own = await rail.withdraw(1000, debit_account="accounts/anna")
    assert (await rail.rails.get_withdrawal(ANNA, own.id)).id == own.id
    page, token = await rail.rails.list_withdrawals(ANNA, state=None, sent_before=None, page_size=0, page_token="")
    assert ([one.id for one in page], token) == ([own.id], "")


async def test_a_withdrawals_transfer_is_not_reversed_by_hand(rail: RailOf) -> None:
    """It may be on its way: giving it back would pay it twice."""
    made = await rail.withdraw(1000)
    with pytest.raises(TransferOfARail):
        await rail.replica.transfers.reverse(made.id, _reversal(made), call_of(TELLER, "hand"))
    assert rail.balance("a") == 999_000


async def test_a_rejection_as_a_duplicate_gives_nothing_back(rail: RailOf) -> None:
    """A file that was written twice is answered so, and its first copy may be paid: a person has to look."""
    made = await rail.withdraw(1000)
    sent = await in_state(rail, made, WithdrawalState.SENT)
    answer(rail, made, "RJCT", "AM05")
    await rail.turn()
    assert (await rail.row(made)).state is WithdrawalState.SENT
    (exception,) = await rail.exceptions()
    assert (exception.kind, exception.resource) == (ExceptionKind.ANSWER_AMBIGUOUS, sent.name)
    answer(rail, made, "ACSC", name="second.xml")
    assert (await in_state(rail, made, WithdrawalState.SETTLED)).rail_reason == ""


async def test_an_answer_after_the_end_is_for_a_person(rail: RailOf) -> None:
    """Settled stays settled, and nothing is given back; a payment that is not ours is told of too."""
    made = await rail.withdraw(1000)
    await in_state(rail, made, WithdrawalState.SENT)
    answer(rail, made, "ACSP", name="1.xml")
    await rail.turn()
    assert ((await rail.row(made)).state, (await rail.row(made)).rail_status) == (WithdrawalState.SENT, "ACSP")
    rail.answered()
    settled = await in_state(rail, made, WithdrawalState.SETTLED)
    answer(rail, made, "RJCT", "AC04", name="2.xml")
    rail.put("3.xml", _group("X" * 32, "ACSC"))
    await rail.turn()
    assert await rail.row(made) == settled
    assert [one.kind for one in await rail.exceptions()] == [
        ExceptionKind.ANSWER_CONTRADICTS,
        ExceptionKind.ANSWER_UNKNOWN,
    ]
    assert rail.balance("a") == 999_000


async def test_a_payer_who_takes_the_id_of_a_return_holds_up_nobodys(rail: RailOf) -> None:
    """A caller may choose a transfer's id, and knows the withdrawal's: what follows from that alone is not used."""
    first, second = await rail.withdraw(1000), await rail.withdraw(2000)
    guessed = str(rail_model.bank_key("demo", f"{first.name}/return"))
    await rail.replica.create(transfer(id=guessed))
    await in_state(rail, second, WithdrawalState.SENT)
    rail.put("group.xml", _group((await rail.row(first)).message, "RJCT"))
    await in_state(rail, first, WithdrawalState.RETURNED)
    await in_state(rail, second, WithdrawalState.RETURNED)


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        (("ACSC", "ACSP"), []),
        (("ACSP", "ACSC"), []),
        (("ACSC", "RJCT"), [ExceptionKind.ANSWER_CONTRADICTS]),
    ],
)
async def test_answers_of_one_file_count_as_if_they_came_one_after_the_other(
    rail: RailOf, said: tuple[str, str], kinds: list[ExceptionKind]
) -> None:
    """The first final one of a payment, whatever stands beside it; one that contradicts it is for a person."""
    made = await rail.withdraw(1000)
    await in_state(rail, made, WithdrawalState.SENT)
    rail.put("both.xml", _report("".join(_own(made, status) for status in said)))
    await in_state(rail, made, WithdrawalState.SETTLED)
    assert [one.kind for one in await rail.exceptions()] == kinds
    assert rail.balance("a") == 999_000


@pytest.mark.parametrize(
    "original",
    [
        '<OrgnlTxRef><IntrBkSttlmAmt Ccy="EUR">9.99</IntrBkSttlmAmt></OrgnlTxRef>',
        '<OrgnlTxRef><IntrBkSttlmAmt Ccy="USD">10.00</IntrBkSttlmAmt></OrgnlTxRef>',
    ],
)
async def test_an_answer_about_another_amount_is_for_a_person(rail: RailOf, original: str) -> None:
    """It is of no payment that was sent; one that repeats what was sent settles it."""
    made = await rail.withdraw(1000)
    await in_state(rail, made, WithdrawalState.SENT)
    rail.put("other.xml", _report(_own(made, "ACSC", original)))
    await rail.turn()
    assert (await rail.row(made)).state is WithdrawalState.SENT
    assert [one.kind for one in await rail.exceptions()] == [ExceptionKind.ANSWER_UNKNOWN]
    same = '<OrgnlTxRef><IntrBkSttlmAmt Ccy="EUR">10.00</IntrBkSttlmAmt></OrgnlTxRef>'
    rail.put("same.xml", _report(_own(made, "ACSC", same)))
    await in_state(rail, made, WithdrawalState.SETTLED)


async def test_an_answer_to_a_message_as_a_whole_counts_for_what_is_not_named(rail: RailOf) -> None:
    """The group is rejected but for one payment, which is settled."""
    first, second = await rail.withdraw(1000), await rail.withdraw(2000)
    await in_state(rail, first, WithdrawalState.SENT)
    message = (await rail.row(first)).message
    rail.put("group.xml", _group(message, "RJCT", paid=first))
    await in_state(rail, second, WithdrawalState.RETURNED)
    assert (await rail.row(first)).state is WithdrawalState.SETTLED
    assert rail.balance("a") == 999_000


async def test_a_message_that_may_lie_there_twice_is_not_given_back_as_a_whole(rail: RailOf) -> None:
    """Whatever the reason's code, it may be the copy that is rejected; a payment's own answer still counts."""
    made = await _booked_later(rail)
    with dying(rail_answers, "note_sent", "after-writing", after=False), pytest.raises(Killed):
        await rail.turn()
        await rail.turn()
    await _leases_end(rail)
    sent = await in_state(rail, made, WithdrawalState.SENT)
    rail.put("group.xml", _group(sent.message, "RJCT"))
    await rail.turn()
    assert (await rail.row(made)).state is WithdrawalState.SENT
    assert [one.kind for one in await rail.exceptions()] == [ExceptionKind.ANSWER_AMBIGUOUS]
    answer(rail, made, "RJCT", "AC04")
    await in_state(rail, made, WithdrawalState.RETURNED)


async def test_what_is_unanswered_is_found_by_its_age(rail: RailOf) -> None:
    """Nobody guesses: it stays SENT, and is listed as sent before a time."""
    made = await rail.withdraw(1017)
    sent = await in_state(rail, made, WithdrawalState.SENT)
    assert rail.answered() == 1
    await rail.turn()
    assert sent.send_time is not None
    page = {"state": WithdrawalState.SENT, "page_size": 1, "page_token": ""}
    before, _ = await rail.rails.list_withdrawals(TELLER, sent_before=sent.send_time, **page)  # type: ignore[arg-type]
    assert before == []
    await rail.replica.query("UPDATE withdrawals SET send_time = send_time - interval '1 hour' RETURNING 1")
    found, _ = await rail.rails.list_withdrawals(TELLER, sent_before=sent.send_time, **page)  # type: ignore[arg-type]
    assert [one.id for one in found] == [made.id]


POINTS: dict[str, tuple[Any, str, bool]] = {
    "before-following": (rail_answers, "follow", False),
    "after-following": (rail_answers, "follow", True),
    "after-forming": (rail_worker.RailWorker, "_form", True),
    "before-writing": (rail_worker.RailWorker, "_send", False),
    "after-writing": (rail_answers, "note_sent", False),
    "after-noting": (rail_answers, "note_sent", True),
}


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_on_the_way_out_pays_once(rail: RailOf, point: str) -> None:
    """Wherever the process dies, the next one goes on: one message, the same bytes under one MsgId, one debit."""
    owner, name, after = POINTS[point]
    with mock.patch.object(rail.rails, "_orders", rail.replica.transfers.orders):
        made = await _booked_later(rail)
    with dying(owner, name, point, after=after) as hit, pytest.raises(Killed):
        await rail.turn()
        await rail.turn()
    assert hit == [point]
    written = {path: path.read_bytes() for path in (rail.folder / "out").glob("*.xml")}
    after_it = rail.restarted()
    await _leases_end(rail)
    sent = await in_state(after_it, made, WithdrawalState.SENT)
    assert rail.names("out") == [f"{sent.message}.xml"]
    assert all(path.read_bytes() == data for path, data in written.items())
    assert rail.balance("a") == 999_000
    assert await rail.told(made.name) == 3


async def test_a_message_that_was_taken_before_it_was_noted_is_written_once_more_as_it_was(rail: RailOf) -> None:
    """The other bank knows its MsgId, and answers the copy as the first; the answer settles the payment once."""
    made = await rail.withdraw(1000)
    with dying(rail_answers, "note_sent", "after-writing", after=False), pytest.raises(Killed):
        await rail.turn()
    (first,) = [path.read_bytes() for path in (rail.folder / "out").iterdir()]
    assert rail.answered() == 1
    after_it = rail.restarted()
    await _leases_end(rail)
    with mock.patch.object(FolderRail, "incoming", return_value=iter(())):
        await after_it.turn()
    (second,) = [path.read_bytes() for path in (rail.folder / "out").iterdir()]
    assert second == first
    assert rail.answered() == 1
    settled = await in_state(after_it, made, WithdrawalState.SETTLED)
    assert settled.version == 4
    assert await rail.exceptions() == []


async def test_an_answer_that_comes_before_the_sending_was_noted_counts(rail: RailOf) -> None:
    """SENT is told first, then SETTLED; the message is not written again, and the others of it are SENT."""
    made, other = await rail.withdraw(1000), await rail.withdraw(1017)
    with dying(rail_answers, "note_sent", "after-writing", after=False), pytest.raises(Killed):
        await rail.turn()
    rail.answered()
    after_it = rail.restarted()
    settled = await in_state(after_it, made, WithdrawalState.SETTLED)
    assert (settled.version, await rail.told(made.name)) == (4, 4)
    assert (await rail.row(other)).state is WithdrawalState.SENT
    await _leases_end(rail)
    await after_it.turn()
    assert rail.names("out") == []


REJECTING: dict[str, tuple[Any, str, bool]] = {
    "before-the-answer": (rail_answers, "apply", False),
    "after-the-answer": (rail_answers, "apply", True),
    "after-all-effects": (rail_worker.RailWorker, "_record", True),
    "before-it-is-known": (rail_worker.RailWorker, "_record_content", True),
}


@pytest.mark.parametrize("point", REJECTING)
async def test_a_crash_while_an_answer_is_read_gives_back_once(rail: RailOf, point: str) -> None:
    """Whichever effect was recorded, the file is read to its end by the next process, and the money is back once."""
    made = await rail.withdraw(1013)
    await in_state(rail, made, WithdrawalState.SENT)
    rail.answered()
    owner, name, after = REJECTING[point]
    by_hand = mock.patch.object(rail.replica.transfers.orders, "hand_on")
    with by_hand, dying(owner, name, point, after=after) as hit, nothing_is_let_go(), pytest.raises(Killed):
        await rail.turn()
    assert hit == [point]
    after_it = rail.restarted()
    await _leases_end(rail)
    await rail.replica.hurry()
    recovery = rail.replica.recovery
    await recovery.before_ready()

    async def is_back() -> bool:
        await rail.replica.hurry()
        await recovery.before_ready()
        return (await rail.row(made)).state is WithdrawalState.RETURNED

    await after_it.turns(is_back)
    assert (rail.balance("a"), rail.balance("rail-eur")) == (1_000_000, 0)
    assert rail.names("claimed") == []
    assert await rail.told(made.name) == 5


async def test_two_workers_at_once_send_each_payment_in_one_message(rail: RailOf) -> None:
    """Replicas share what waits; no payment is in two messages, and none is left."""
    made = [await rail.withdraw(1000 + number) for number in range(10)]
    other = rail.restarted()
    await asyncio.gather(rail.turn(), other.turn(), rail.turn(), other.turn())
    text = "".join((rail.folder / "out" / name).read_text() for name in rail.names("out"))
    assert [text.count(f"<TxId>{payment_id(one.id)}</TxId>") for one in made] == [1] * 10


async def _leases_end(rail: RailOf) -> None:
    await rail.replica.query("UPDATE rail_messages SET due_time = now() WHERE due_time IS NOT NULL RETURNING 1")
    await rail.replica.query("UPDATE rail_files SET claim_time = '-infinity' RETURNING 1")


async def _booked_later(rail: RailOf) -> Withdrawal:
    """A withdrawal whose transfer is completed, and which nobody followed yet: its caller went away."""

    async def nothing(*_: Any, **__: Any) -> int:
        return 0

    with mock.patch.object(rail_answers, "follow", nothing):
        made = await rail.withdraw(1000)
    assert made.state is WithdrawalState.ACCEPTED
    return made


def _with_fingerprint(call: Call) -> Call:
    return replace(call, fingerprint=b"g" * 32)


def _reversal(withdrawal: Withdrawal) -> Transfer:
    request = transfer_service_pb2.ReverseTransferRequest(name=f"transfers/{withdrawal.id}", reason="by hand")
    return messages.reversal(request, call_of(TELLER, "hand"), withdrawal.id)


def _own(withdrawal: Withdrawal, status: str, more: str = "") -> str:
    return f"<TxInfAndSts><OrgnlTxId>{payment_id(withdrawal.id)}</OrgnlTxId><TxSts>{status}</TxSts>{more}</TxInfAndSts>"


def _report(inner: str) -> bytes:
    head = f'<Document xmlns="{counterparty.PACS_002}"><FIToFIPmtStsRpt><GrpHdr><MsgId>R</MsgId></GrpHdr>'
    return f"{head}{inner}</FIToFIPmtStsRpt></Document>".encode()


def _group(message: str, status: str, paid: Withdrawal | None = None) -> bytes:
    own = ""
    if paid is not None:
        own = f"<TxInfAndSts><OrgnlTxId>{payment_id(paid.id)}</OrgnlTxId><TxSts>ACSC</TxSts></TxInfAndSts>"
    return (
        f'<Document xmlns="{counterparty.PACS_002}"><FIToFIPmtStsRpt><GrpHdr><MsgId>G</MsgId></GrpHdr>'
        f"<OrgnlGrpInfAndSts><OrgnlMsgId>{message}</OrgnlMsgId><OrgnlMsgNmId>pacs.008.001.08</OrgnlMsgNmId>"
        f"<GrpSts>{status}</GrpSts></OrgnlGrpInfAndSts>{own}</FIToFIPmtStsRpt></Document>"
    ).encode()


async def _fee(replica: Replica, amount: int) -> None:
    """A fee on each payment, to accounts/fees."""
    replica.ledger.open("fees", type_=AccountType.FEE)
    schedule = FeeSchedule(
        tenant="demo",
        kind=Kind.PAYMENT,
        currency="EUR",
        version=1,
        fixed=amount,
        millionths=0,
        rounding=Rounding.DOWN,
        minimum=0,
        maximum=None,
        account="accounts/fees",
        enabled=True,
        start_time=NOW,
        create_time=NOW,
        created_by="ops",
    )
    await replica.db.run("demo", lambda conn: fee_store.next_version(conn, "demo", Kind.PAYMENT, "EUR"))
    await replica.db.run("demo", lambda conn: fee_store.add_version(conn, schedule))
    await replica.tariffs.refresh()
