"""What is read of which table, and how it is gone through in slices: one declaration for statements and for rights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

Connection = Any
"""A psycopg.Connection in a REPEATABLE READ transaction; a slice is the same rows for all of its statements."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a service. `key` are the columns that an index orders it by, with their types."""

    service: str
    name: str
    key: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    at_once: int = 1000
    """Rows of a slice: some tens of milliseconds."""
    next_key: str = ""
    """Where slices are not so many rows but all of one key: a statement that gives the next one, of those that {slice}
    lets through."""
    derived: tuple[tuple[str, str], ...] = ()
    """More columns of the rows that are judged, with what they are made of."""
    weight: str = ""
    """With it, a statement that gives how many rows are read for the keys that {slice} lets through."""

    @property
    def id(self) -> str:
        """Names it among the tables of all services."""
        return f"{self.service}.{self.name}"


def _table(service: str, name: str, key: str, columns: str, **more: Any) -> Table:
    pairs = tuple((part.split()[0], part.split()[1]) for part in key.split(", "))
    return Table(service, name, pairs, tuple(columns.split()), **more)


ACCOUNTS = _table(
    "accounts",
    "accounts",
    "tenant text, account text",
    "tenant account type state currency posted held overdraft_limit minimum_balance sequence",
)
# The ledger's, and those of archived periods that are attached: a row is in one of two tables, and may be moved between
# two slices.
JOURNALS = _table(
    "accounts",
    "all_journals",
    "tenant text, journal uuid",
    "tenant journal kind origin create_time effective_time xid",
)
ENTRIES = _table(
    "accounts",
    "all_entries",
    "tenant text, account text, sequence bigint",
    "tenant account sequence journal leg currency amount balance_after create_time effective_time",
    derived=(("before", "sequence - 1"),),
)
ARCHIVED_SPANS = _table(
    "accounts",
    "archived_spans",
    "tenant text, account text, period smallint",
    "tenant account period first_sequence last_sequence opening closing first_time last_time is_dated",
)
STATEMENTS = _table(
    "accounts",
    "statements",
    "tenant text, statement uuid",
    "tenant statement account currency opening closing opening_sequence closing_sequence end_time",
)
OVERDRAFT_CHANGES = _table(
    "accounts", "overdraft_changes", "tenant text, change uuid", "tenant change account state currency previous_limit"
)
TRANSFERS = _table(
    "transactions",
    "transfers",
    "tenant text, id text",
    "tenant id version state currency amount journal request_key request_id reversed_by captured capture_of fee"
    " fee_schedule fee_version fee_account quote credit_amount credit_currency rate debit_position credit_position"
    " reversal_of debit_account credit_account update_time expire_time voided",
)
PAYMENT_FILES = _table(
    "transactions",
    "payment_files",
    "tenant text, id text",
    "tenant id waiting under_way completed declined refused cancelled",
    at_once=2,  # each has up to a hundred thousand items
)
PAYMENT_FILE_ITEMS = _table(
    "transactions",
    "payment_file_items",
    "tenant text, file text, number integer",
    "tenant file number state transfer",
)
JOURNAL_ACCOUNTS = _table(
    "accounts",
    "journal_accounts",
    "tenant text, account text, create_time timestamptz, journal uuid",
    "tenant account create_time journal",
)
JOURNAL_METADATA = _table(
    "accounts", "journal_metadata", "tenant text, journal uuid, key text", "tenant journal key value create_time"
)
WITHDRAWALS = _table(
    "transactions", "withdrawals", "tenant text, id text", "tenant id version state reversal update_time"
)
DEPOSITS = _table(
    "transactions",
    "deposits",
    "tenant text, id text",
    "tenant id version state step credit_transfer suspense_transfer update_time",
)
RAIL_EXCEPTIONS = _table("transactions", "rail_exceptions", "tenant text, id text", "tenant id version update_time")
SCHEDULES = _table("transactions", "schedules", "tenant text, id text", "tenant id version update_time")
SCHEDULE_RUNS = _table(
    "transactions",
    "schedule_runs",
    "tenant text, schedule text, number bigint",
    "tenant schedule number create_time state attempts update_time",
)
# A day at a time: what counts against limits is found by its day.
LIMIT_USAGE = replace(
    _table("compliance", "limit_usage", "day date", "tenant customer currency day used"),
    next_key="SELECT min(day) FROM (SELECT min(day) AS day FROM reservations WHERE {slice}"
    " UNION ALL SELECT min(day) FROM limit_usage WHERE {slice}) AS d",
    weight="SELECT (SELECT count(*) FROM reservations WHERE {slice})"
    " + (SELECT count(*) FROM limit_usage WHERE {slice})",
)
RESERVATIONS = _table(
    "compliance",
    "reservations",
    "tenant text, transfer text",
    "tenant transfer customers currency day amount state",
)
OUTBOXES = {
    service: _table(
        service,
        "outbox",
        "tenant text, aggregate text, version bigint",
        "tenant aggregate version event_id",
        at_once=2000,
        derived=(("before", "version - 1"),),
    )
    for service in ("accounts", "transactions", "compliance", "notifications")
}

SWEPT = (
    ACCOUNTS,
    JOURNALS,
    ENTRIES,
    ARCHIVED_SPANS,
    STATEMENTS,
    OVERDRAFT_CHANGES,
    JOURNAL_ACCOUNTS,
    JOURNAL_METADATA,
    TRANSFERS,
    PAYMENT_FILES,
    PAYMENT_FILE_ITEMS,
    SCHEDULES,
    SCHEDULE_RUNS,
    WITHDRAWALS,
    DEPOSITS,
    RAIL_EXCEPTIONS,
    LIMIT_USAGE,
    *OUTBOXES.values(),
)
"""Those that are gone through."""

LOOKED_UP: dict[str, dict[str, tuple[str, ...]]] = {
    "accounts": {
        # What all_journals and all_entries are made of, and where a period that is not attached is told of.
        "journals": JOURNALS.columns,
        "entries": ENTRIES.columns,
        "archived_journals": ("period", *JOURNALS.columns),
        "archived_entries": ("period", *ENTRIES.columns),
        "archived_periods": ("tenant", "period", "first_position", "last_position"),
        "attached_periods": ("period",),
        "detached_spans": ("tenant", "account", "first_sequence", "last_sequence"),
        "detached_journals": ("tenant", "journal", "position"),
        "audit": ("tenant", "action", "resource"),
        "ledger_freezes": ("tenant", "currency", "state"),
        "holds": ("tenant", "hold", "account", "currency", "amount", "state", "origin"),
        "sealed_journals": ("tenant", "position", "journal", "leaf_hash"),
        "tree_nodes": ("tenant", "level", "number", "hash"),
        "tree_heads": ("tenant", "tree_size", "root_hash", "time", "key_id", "signature", "number"),
    },
    "transactions": {
        "fee_schedule_versions": ("tenant", "kind", "currency", "version", "account", "maximum"),
        "quotes": (
            *("tenant", "id", "debit_amount", "debit_currency", "credit_amount", "credit_currency", "rate"),
            *("debit_position", "credit_position"),
        ),
    },
    "compliance": {
        RESERVATIONS.name: RESERVATIONS.columns,
        "inbox": ("tenant", "source", "aggregate", "version"),
    },
    "notifications": {},
}
"""What is read beside them, by service and table."""


def read_columns(service: str) -> dict[str, tuple[str, ...]]:
    """Every table of a service that is read, with the columns that are."""
    swept = {table.name: table.columns for table in SWEPT if table.service == service}
    return {**swept, **LOOKED_UP[service]}


Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a table as a statement has them: all, or those of a slice."""

    table: Table
    after: Key | None = None
    """The key that they come after; None from the first on."""
    upto: Key | None = None
    """The last key; None up to the last row, or as many as there are in a slice."""
    is_all: bool = False
    source: str = ""
    """A statement that gives them, where they are no slice of the key's order."""
    values: dict[str, Any] = field(default_factory=dict)
    """Parameters of `source`."""

    def statement(self, text: str) -> str:
        """A statement about these rows, which it has as {rows}, and the condition of their key as {slice}.

        They are read first, once, with what their table derives. So a plan begins with them, however many rows there
        seem to be, and what they are compared with is found by its index: row-level security keeps an index from being
        asked for what a statement works out of a row on the way.
        """
        judged = ", ".join(("*", *(f"{made} AS {name}" for name, made in self.table.derived)))
        if self.is_all:
            return text.replace("{rows}", f"(SELECT {judged} FROM {self.table.name})").replace("{slice}", "true")
        rows = f"WITH judged AS MATERIALIZED (SELECT {judged} FROM {self.sql()} AS r) "
        return rows + text.replace("{rows}", "judged").replace("{slice}", self.condition())

    def sql(self) -> str:
        """The rows, to be put behind FROM."""
        if self.is_all:
            return self.table.name
        if self.source:
            return f"({self.source})"
        columns, keys = ", ".join(self.table.columns), self._keys()
        # A slice may have grown since it was bounded, but not without a bound: more is the next sweep's.
        limit = "" if self.table.next_key else f" LIMIT {self.table.at_once * (1 if self.upto is None else 2)}"
        return f"(SELECT {columns} FROM {self.table.name} WHERE {self.condition()} ORDER BY {keys}{limit})"

    def condition(self) -> str:
        """What the key has to be, for rows of other tables that have it too."""
        conditions = []
        if self.after is not None:
            conditions.append(f"({self._keys()}) > ({self._places('after')})")
        if self.upto is not None:
            conditions.append(f"({self._keys()}) <= ({self._places('upto')})")
        return " AND ".join(conditions) or "true"

    def parameters(self) -> dict[str, Any]:
        """What the statement's places stand for."""
        found = dict(self.values)
        for name, key in (("after", self.after), ("upto", self.upto)):
            found.update({f"{name}_{number}": value for number, value in enumerate(key or ())})
        return found

    def bounded(self, connection: Connection) -> tuple[Rows, int]:
        """The same rows by their last key, however many are added meanwhile, and their number; none has no last."""
        if self.table.next_key:
            statement = self.table.next_key.replace("{slice}", self.condition())
            (key,) = connection.execute(statement, self.parameters()).fetchone()
            if key is None:
                return self, 0
            found = replace(self, upto=(key,))
            weight = self.table.weight.replace("{slice}", found.condition())
            (count,) = connection.execute(weight, found.parameters()).fetchone()
            return found, count
        descending = ", ".join(f"{name} DESC" for name, _ in self.table.key)
        statement = f"SELECT count(*) OVER (), {self._keys()} FROM {self.sql()} AS t ORDER BY {descending} LIMIT 1"
        row = connection.execute(statement, self.parameters()).fetchone()
        return (replace(self, upto=tuple(row[1:])), row[0]) if row else (self, 0)

    def _keys(self) -> str:
        return ", ".join(name for name, _ in self.table.key)

    def _places(self, name: str) -> str:
        return ", ".join(f"%({name}_{number})s::{type_}" for number, (_, type_) in enumerate(self.table.key))


def all_of(table: Table) -> Rows:
    """Every row of a table."""
    return Rows(table, is_all=True)


def selected(table: Table, source: str, values: dict[str, Any]) -> Rows:
    """The rows that a statement gives; it has the table's columns."""
    return Rows(table, source=source, values=values)
