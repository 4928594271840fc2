"""Which time is asked where: the bank's, which a sandbox moves, unless it is said here why it is the machine's."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.test_style import ROOT, tracked

IN_SQL = {
    # How often SQL asks the database's clock for the machine's time, and why.
    "accounts/ledger_store.py": (1, "goes through clock.of_machine"),
    "accounts/statement_store.py": (1, "goes through clock.of_machine"),
    "accounts/sums_store.py": (1, "goes through clock.of_machine"),
    "meshkit/inbox.py": (1, "says for how long the row is kept"),
    "meshkit/migrations.py": (4, "say for how long rows are kept; of an audit row it is never the default"),
    "meshkit/outbox.py": (1, "for how long events are kept"),
    "meshkit/retention.py": (1, "for how long rows are kept"),
    "notifications/delivery_store.py": (3, "leases"),
    "transactions/deposit_store.py": (4, "leases of deposits, and pauses between their steps"),
    "transactions/exchange_store.py": (1, "goes through clock.of_machine"),
    "transactions/file_store.py": (5, "leases, and pauses between looks at a file"),
    "transactions/rail_store.py": (4, "leases of files, and when they were dealt with"),
    "transactions/schedule_store.py": (1, "goes through clock.of_machine"),
    "transactions/store.py": (8, "leases, and pauses while a dependency is down or a ledger frozen"),
    "transactions/withdrawal_store.py": (3, "leases of messages, and pauses between tries"),
}
IN_PYTHON = {
    # Which modules ask for the machine's time themselves, how often, and why.
    "accounts/watches.py": (2, "when a token ends"),
    "meshkit/clock.py": (1, "the source"),
    "meshkit/idempotency.py": (1, "ids in the order in which they were made"),
    "meshkit/interceptors.py": (1, "when a token ends"),
    "meshkit/sandbox.py": (4, "moves the other one"),
    "meshkit/tokens.py": (1, "when a token ends"),
    "notifications/clients.py": (1, "a receiver's Retry-After is of its own machine"),
    "notifications/delivery.py": (1, "a receiver compares a signature's time with its machine's"),
    "notifications/streams.py": (2, "when a token ends"),
    "transactions/rails/folder.py": (2, "how long ago a file was written, and a name of its own for it"),
    "transactions/streams.py": (1, "when a token ends"),
}
_SQL_TIME = re.compile(
    r"\b(?:now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday)\(\)"
    r"|\b(?:current_date|current_time|current_timestamp|localtime|localtimestamp)\b",
    re.IGNORECASE,
)
_BANKS = re.compile(r" \+ (?:%s::interval|%\(ahead\)s::interval|CAST\(:ahead AS interval\))")
"""What makes the bank's time of the database's: `clock.ahead()` as a parameter."""
_ASKED = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "clock.machine_now"} | {
    f"time.{name}" for name in ("time", "time_ns", "gmtime", "localtime", "clock_gettime")
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """The services and what they have in common; migrations are what they were."""
    for path in tracked("accounts", "transactions", "compliance", "notifications", "meshkit"):
        if path.suffix == ".py" and "versions" not in path.parts:
            yield str(path.relative_to(ROOT)), ast.parse(Path(path).read_text())


def texts(tree: ast.Module) -> Iterator[str]:
    """The strings of a module that no reader alone is meant to see."""
    shown = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in shown:
            yield node.value


def test_sql_asks_for_the_banks_time_or_says_why_not() -> None:
    """now() in SQL has clock.ahead() added to it, where it is not counted above."""
    found: Counter[str] = Counter()
    for name, tree in modules():
        for text in texts(tree):
            found[name] += sum(not _BANKS.match(text, match.end()) for match in _SQL_TIME.finditer(text))
    assert {name: count for name, count in found.items() if count} == {name: IN_SQL[name][0] for name in IN_SQL}


def test_python_asks_the_clock_or_says_why_not() -> None:
    """Nothing but the modules above looks past meshkit/clock.py."""
    found: Counter[str] = Counter()
    for name, tree in modules():
        found[name] += sum(isinstance(node, ast.Attribute) and ast.unparse(node) in _ASKED for node in ast.walk(tree))
    assert {name: count for name, count in found.items() if count} == {name: IN_PYTHON[name][0] for name in IN_PYTHON}


def test_the_clock_is_called_where_it_hangs() -> None:
    """A copy of `clock.now`, by import or by reference, would not be moved with a sandbox's clock."""
    moved = {"now", "ahead", "of_machine"}
    copies = []
    for name, tree in modules():
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "meshkit.clock":
                copies += [f"{name}: {alias.name}" for alias in node.names if alias.name in moved]
            elif isinstance(node, ast.Attribute) and id(node) not in called and name != "meshkit/sandbox.py":
                copies += [f"{name}:{node.lineno}" for one in moved if ast.unparse(node) == f"clock.{one}"]
    assert copies == []
