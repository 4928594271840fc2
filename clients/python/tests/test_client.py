"""The client against a mesh that loses its answers; `make clients` says where it is (EDGE, CA, TOKEN, CONTROL)."""

from __future__ import annotations

import asyncio
import os
import socket
from decimal import Decimal
from pathlib import Path

import grpc
import pytest
from florin_client import Client, NotFound, RequestInvalid, Unanswered, aio, format_money, items, money

from florin.accounts.v1.account_service_pb2 import GetAccountRequest, GetBalanceRequest, ListAccountsRequest
from florin.common.v1.money_pb2 import Money
from florin.transactions.v1.transfer_pb2 import TRANSFER_STATE_COMPLETED
from florin.transactions.v1.transfer_service_pb2 import CreateTransferRequest

EDGE, TOKEN, CA = os.environ["EDGE"], os.environ["TOKEN"], Path(os.environ["CA"])
"""The edge, behind a proxy that can lose answers."""


def tell(word: str) -> None:
    """Tells the proxy what to do from now on: cut (lose the next answer), or break (every connection, at once)."""
    host, port = os.environ["CONTROL"].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as control:
        control.sendall(f"{word}\n".encode())
        assert control.recv(16) == b"ok\n"


def payment(account: str) -> CreateTransferRequest:
    """A transfer without a request_id: the client gives it one."""
    return CreateTransferRequest(
        debit_account=account, credit_account="accounts/ada-savings", amount=money("10.00", "EUR")
    )


def test_an_answer_that_is_lost_is_asked_for_again_and_paid_once() -> None:
    """The connection breaks after the payment went in, and before its answer comes."""
    with Client(EDGE, token=TOKEN, ca=CA) as florin:
        balance = GetBalanceRequest(name="accounts/lost")
        before = florin.accounts.GetBalance(balance).balance.posted.minor_units
        tell("cut")
        paid = florin.transfers.CreateTransfer(payment("accounts/lost")).transfer
        assert paid.state == TRANSFER_STATE_COMPLETED
        assert florin.accounts.GetBalance(balance).balance.posted.minor_units == before - 1000


async def test_an_answer_that_is_lost_is_asked_for_again_and_paid_once_with_asyncio() -> None:
    """The same for the client of asyncio."""
    async with aio.Client(EDGE, token=TOKEN, ca=CA) as florin:
        balance = GetBalanceRequest(name="accounts/lost")
        before = (await florin.accounts.GetBalance(balance)).balance.posted.minor_units
        tell("cut")
        paid = (await florin.transfers.CreateTransfer(payment("accounts/lost"))).transfer
        assert paid.state == TRANSFER_STATE_COMPLETED
        assert (await florin.accounts.GetBalance(balance)).balance.posted.minor_units == before - 1000


def test_an_account_is_watched_across_a_break_without_a_gap() -> None:
    """Every connection breaks between two payments; both entries come, once."""
    with Client(EDGE, token=TOKEN, ca=CA) as florin:
        changes = florin.watch_account("accounts/watched")
        first = next(changes)
        tell("break")
        for _ in range(2):
            florin.transfers.CreateTransfer(payment("accounts/watched"))
        entries = []
        while len(entries) < 2:
            entries += next(changes).entries
        assert [entry.sequence for entry in entries] == [first.sequence + 1, first.sequence + 2]


async def test_an_account_is_watched_across_a_break_with_asyncio() -> None:
    """The same for the client of asyncio."""
    async with aio.Client(EDGE, token=TOKEN, ca=CA) as florin:
        changes = florin.watch_account("accounts/watched")
        first = await anext(changes)
        tell("break")
        await florin.transfers.CreateTransfer(payment("accounts/watched"))
        change = await asyncio.wait_for(anext(changes), 20)
        while not change.entries:
            change = await asyncio.wait_for(anext(changes), 20)
        assert [entry.sequence for entry in change.entries] == [first.sequence + 1]


async def test_events_come_with_where_to_go_on() -> None:
    """What was made known before the stream was opened again comes all the same."""
    async with aio.Client(EDGE, token=TOKEN, ca=CA) as florin:
        events = florin.events(["florin.transactions.transfer_completed.v1"])
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(1)  # a stream begins with what happens after it
        made = (await florin.transfers.CreateTransfer(payment("accounts/watched"))).transfer.name
        answer = await asyncio.wait_for(waiting, 20)
        assert answer.event.subject == made
        tell("break")
        later = (await florin.transfers.CreateTransfer(payment("accounts/watched"))).transfer.name
        assert (await asyncio.wait_for(anext(events), 20)).event.subject == later


def test_refusals_are_exceptions_with_reasons() -> None:
    """By reason and by kind, and gRPC's own error too; a wrong token is refused at once."""
    with Client(EDGE, token=TOKEN, ca=CA) as florin:
        with pytest.raises(NotFound) as missing:
            florin.accounts.GetAccount(GetAccountRequest(name="accounts/nobodys"))
        assert (missing.value.reason, missing.value.code()) == ("ACCOUNT_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
        assert missing.value.metadata == {"account": "accounts/nobodys"}
        with pytest.raises(RequestInvalid) as invalid:
            florin.accounts.GetAccount(GetAccountRequest(name="nobodys"))
        assert [field for field, _ in invalid.value.violations] == ["name"]
    with Client(EDGE, token="wrong", ca=CA) as stranger, pytest.raises(grpc.RpcError, match="TOKEN_INVALID"):
        stranger.accounts.GetAccount(GetAccountRequest(name="accounts/ada"))


async def test_refusals_are_exceptions_with_asyncio() -> None:
    """The same classes."""
    async with aio.Client(EDGE, token=TOKEN, ca=CA) as florin:
        with pytest.raises(NotFound, match="ACCOUNT_NOT_FOUND"):
            await florin.accounts.GetAccount(GetAccountRequest(name="accounts/nobodys"))
        with pytest.raises(NotFound, match="ACCOUNT_NOT_FOUND"):
            await anext(florin.watch_account("accounts/nobodys"))


def test_who_never_answers_is_given_up() -> None:
    """When patience is over the exception says that nothing is known."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(target, token=TOKEN, ca=CA, patience_seconds=0.5) as florin, pytest.raises(Unanswered):
            florin.accounts.GetAccount(GetAccountRequest(name="accounts/ada"))


async def test_a_list_is_all_its_pages() -> None:
    """Two a page or all at once: the same accounts."""
    with Client(EDGE, token=TOKEN, ca=CA) as florin:
        small = [account.name for account in items(florin.accounts.ListAccounts, ListAccountsRequest(page_size=2))]
        assert small == [account.name for account in florin.accounts.ListAccounts(ListAccountsRequest()).accounts]
        assert len(small) == len(set(small)) > 2
    async with aio.Client(EDGE, token=TOKEN, ca=CA) as florin:
        pages = aio.items(florin.accounts.ListAccounts, ListAccountsRequest(page_size=2))
        assert [account.name async for account in pages] == small


@pytest.mark.parametrize(
    ("text", "code", "minor_units"),
    [
        ("10.50", "EUR", 1050),
        ("-0.01", "EUR", -1),
        ("1050", "JPY", 1050),
        ("1.050", "KWD", 1050),
        ("1e3", "EUR", 100000),
    ],
)
def test_money_is_exact(text: str, code: str, minor_units: int) -> None:
    """By the decimal places of ISO 4217."""
    assert money(text, code) == Money(currency_code=code, minor_units=minor_units)


@pytest.mark.parametrize(
    "text", ["0.001", "1e30", "nothing", "", "NaN", "Infinity", "10.500000000000000000000000000000000001"]
)
def test_money_is_never_rounded(text: str) -> None:
    """What is no exact amount is refused."""
    with pytest.raises(ValueError, match=r"is too large|is not an amount|decimal places"):
        money(text, "EUR")


def test_money_knows_no_floats_and_no_unknown_currency() -> None:
    """Neither has an exact amount."""
    with pytest.raises(TypeError):
        money(0.1, "EUR")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ISO 4217"):
        money("1", "XYZ")
    assert format_money(money(Decimal("-0.05"), "EUR")) == "-0.05 EUR"
    assert format_money(money(7, "JPY")) == "7 JPY"
