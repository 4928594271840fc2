"""Logs: one JSON object a line whatever is logged, with the call's ids, and nobody's personal data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import structlog

from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_service_pb2
from meshkit import identity, logs
from meshkit.identity import Call, Principal

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """Leaves the process's logging as it was."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers = handlers


def begin(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Sets logging up; what it gives reads what was logged since the last time, each line as JSON."""
    logs.configure("teller", "info")
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def call() -> Iterator[None]:
    """A call that is being answered."""
    token = identity._current.set(
        Call(
            method="/florin.accounts.v1.AccountService/GetAccount",
            caller="edge",
            principal=Principal("demo", "ada", None, frozenset()),
            request_id="r-1",
            fingerprint=b"",
            deadline=0.0,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
    )
    yield
    identity._current.reset(token)


@pytest.mark.usefixtures("call")
def test_a_line_names_the_call_and_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """Who, in which tenant, by which method, under which request and trace."""
    lines = begin(capsys)
    logs.get("here").info("something happened", number=5)
    (line,) = lines()
    assert {name: line[name] for name in ("event", "number", "service", "tenant", "subject", "request_id")} == {
        "event": "something happened",
        "number": 5,
        "service": "teller",
        "tenant": "demo",
        "subject": "ada",
        "request_id": "r-1",
    }
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_a_call_without_a_trace_is_logged_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """No id is made up, and nothing fails."""
    lines = begin(capsys)
    token = identity._current.set(Call("m", "edge", None, "", b"", 0.0))
    logs.get("here").info("plain")
    identity._current.reset(token)
    assert "trace_id" not in lines()[0]


def test_what_libraries_log_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Quotes and line breaks in a library's text stay within its own object."""
    lines = begin(capsys)
    logging.getLogger("nats").warning('broken "pipe"\n{"event": "payment accepted"}')
    (line,) = lines()
    assert line["event"] == 'broken "pipe"\n{"event": "payment accepted"}'
    assert (line["library"], line["service"], line["level"]) == ("nats", "teller", "warning")


def test_a_librarys_failure_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback has many lines; in the log it is a value."""
    lines = begin(capsys)
    try:
        raise ValueError("lost")
    except ValueError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved")
    (line,) = lines()
    assert line["exception"].endswith("ValueError: lost")


@pytest.mark.parametrize("wrapped", [lambda one: one, lambda one: [one], lambda one: {"request": [one]}])
def test_personal_data_of_a_message_is_redacted_wherever_it_stands(
    capsys: pytest.CaptureFixture[str], wrapped: Callable[[Any], Any]
) -> None:
    """As the contract marks it, at the top or within a list or a dict."""
    lines = begin(capsys)
    request = transfer_service_pb2.CreateTransferRequest(
        debit_account="accounts/a",
        creditor_name="Ada Beispiel",
        remittance="for the flat",
        amount=money_pb2.Money(currency_code="EUR", minor_units=5),
    )
    logs.get("here").info("received", what=wrapped(request))
    text = json.dumps(lines())
    assert "accounts/a" in text
    assert "Ada Beispiel" not in text
    assert "for the flat" not in text


def test_the_row_that_an_error_of_the_database_quotes_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in a traceback nor as the cause of a warning: it may be an IBAN."""
    lines = begin(capsys)
    error = psycopg.errors.UniqueViolation(
        'duplicate key value violates unique constraint "account_identifiers_pk"\n'
        "DETAIL:  Key (kind, value)=(iban, AT611904300234573201) already exists."
    )
    try:
        raise error
    except psycopg.Error:
        logs.get("here").exception("a call failed")
    logs.get("here").warning("tried again", cause=repr(error))
    failed, warned = lines()
    for text in (failed["exception"], warned["cause"]):
        assert "account_identifiers_pk" in text
        assert "DETAIL:  [redacted]" in text
        assert "AT611904300234573201" not in text


def test_a_failed_statements_parameters_are_not_in_its_error() -> None:
    """SQLAlchemy would put them into the text of every error."""
    from sqlalchemy.engine import make_url

    from accounts.settings import Settings
    from meshkit.database import create_engine

    settings = Settings.model_construct(database_statement_timeout_ms=1000, database_pool_size=2)
    engine = create_engine(make_url("postgresql+psycopg://nobody@localhost/none"), settings)
    assert engine.sync_engine.hide_parameters
