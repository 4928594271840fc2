"""What the databases of several services say of the same transfers: INV-6 and INV-8 across services; it only reads.

Transfers are read first, so that what they name must be in the readings after it. Events are on their way between
services, and steps are under way: only what two readings, ten seconds apart, say alike is a violation.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from checker import archive
from checker.findings import Violation
from checker.tables import Connection, Rows
from meshkit import clock

Connections = Mapping[str, Connection]
"""By service."""

# How the services number states in their tables.
_MOVED = ("COMPLETED", "REVERSED")  # by a journal of their own
_NOTHING_MOVED = ("DECLINED", "VOIDED", "EXPIRED")
_FINAL = (*_MOVED, *_NOTHING_MOVED, "CAPTURED")
_COUNTED = (1, 2)  # reservations: live, captured
_RELEASED = 3

# What has to be held for an authorization, and for its fee, while no capture is under way that may have taken of it,
# and no clock can have ended it that is a few minutes fast.
_LEFT = (
    "CASE WHEN t.state = 'AUTHORIZED' AND NOT t.voided"
    " AND t.expire_time > now() + %(ahead)s::interval + interval '5 minutes'"
    " AND NOT EXISTS (SELECT 1 FROM transfers AS c WHERE c.tenant = t.tenant AND c.capture_of = t.id"
    " AND c.capture_of <> '' AND c.state IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW'))"
    " THEN t.amount - t.captured + coalesce(t.fee, 0) - coalesce((SELECT sum(c.fee) FROM transfers AS c"
    " WHERE c.tenant = t.tenant AND c.capture_of = t.id AND c.capture_of <> ''"
    " AND c.state IN ('COMPLETED', 'REVERSED')), 0) END"
)
_TRANSFERS = (
    "SELECT t.tenant, t.id, t.version, t.state, CASE WHEN t.rate IS NULL THEN t.currency ELSE '' END, t.journal,"
    " nullif(t.fee, 0), t.fee_account, t.amount, t.credit_amount, t.debit_position, t.credit_position,"
    f" t.reversal_of <> '', t.debit_account, t.credit_account, t.captured, {_LEFT} FROM {{rows}} AS t"
    " WHERE t.state NOT IN ('ACCEPTED', 'SCREENED', 'IN_REVIEW')"
)
_NAMED = (
    "SELECT t.tenant, t.id, t.state, t.journal, CASE WHEN t.rate IS NULL THEN t.currency ELSE '' END"
    " FROM transfers AS t JOIN unnest(%s::text[], %s::text[]) AS k(tenant, id) USING (tenant, id)"
)
_JOURNALS = (
    "SELECT j.tenant, 'journals/' || j.journal, j.origin FROM all_journals AS j"
    " JOIN unnest(%s::text[], %s::uuid[]) AS k(tenant, journal) USING (tenant, journal)"
)
_ORIGINS = (
    "SELECT j.tenant, 'journals/' || j.journal, j.origin FROM {rows} AS j WHERE starts_with(j.origin, 'transfers/')"
)
# The first two legs are payer's and payee's.
_LEGS = (
    "SELECT e.tenant, 'journals/' || e.journal, 'accounts/' || e.account, e.amount FROM all_entries AS e"
    " JOIN unnest(%s::text[], %s::uuid[]) AS k(tenant, journal) USING (tenant, journal) WHERE e.leg >= 2 ORDER BY e.leg"
)
_HOLDS = (
    "SELECT h.tenant, h.origin, h.amount FROM holds AS h"
    " JOIN unnest(%s::text[], %s::text[]) AS k(tenant, account) USING (tenant, account)"
    " WHERE h.state = 1 AND h.origin = ANY (%s::text[])"
)
_RESERVATIONS = (
    "SELECT r.tenant, r.transfer, r.state, r.amount, coalesce(i.version, 0) FROM reservations AS r"
    " JOIN unnest(%s::text[], %s::text[]) AS k(tenant, transfer) USING (tenant, transfer)"
    " LEFT JOIN inbox AS i ON i.tenant = r.tenant AND i.source = '//florin/transactions' AND i.aggregate = r.transfer"
)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer that is final or authorized, as far as others have to agree with it; amounts in minor units."""

    tenant: str
    id: str
    version: int
    state: str
    currency: str
    """Empty where two may be concerned."""
    journal: str
    fee: int | None
    fee_account: str | None
    amount: int
    credit_amount: int | None
    debit_position: str | None
    credit_position: str | None
    is_reversal: bool
    debit_account: str
    credit_account: str
    captured: int
    left: int | None
    """What has to be held for it; None where that cannot be said."""

    @property
    def name(self) -> str:
        """The resource name."""
        return f"transfers/{self.id}"

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after it but a reversal."""
        return self.state in _FINAL

    @property
    def has_moved(self) -> bool:
        """Whether a journal of its own moved its money."""
        return self.state in _MOVED

    def more_legs(self) -> list[tuple[str | None, int]]:
        """The legs of its journal behind those of payer and payee: the exchange's, then the fee's."""
        legs: list[tuple[str | None, int]] = []
        if self.credit_amount is not None:
            legs = [(self.debit_position, self.amount), (self.credit_position, -self.credit_amount)]
        if self.fee is not None:
            payer, payee = self.debit_account, self.fee_account
            if self.is_reversal:
                payer, payee = self.fee_account or "", self.credit_account
            legs += [(payer, -self.fee), (payee, self.fee)]
        return legs

    def violation(self, invariant: str, sentence: str, *, is_on_its_way: bool = False) -> Violation:
        """What is wrong with it."""
        return Violation(
            invariant, self.tenant, self.currency, self.name, sentence, is_on_its_way=is_on_its_way, is_exact=True
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """What was looked at, by invariant, and what may be wrong."""

    checked: Mapping[str, int]
    suspects: Sequence[Violation]


def judge(connections: Connections, rows: Rows, ahead: timedelta | None = None) -> Judged:
    """Compares some rows of transfers with what accounts and compliance have of them; `ahead` is how far the bank's
    time is ahead of the databases', unless it is as in this process."""
    parameters = {**rows.parameters(), "ahead": clock.ahead() if ahead is None else ahead}
    found = connections["transactions"].execute(rows.statement(_TRANSFERS), parameters)
    transfers = [Transfer(*row) for row in found]
    if not transfers:
        return Judged({}, ())
    final = [transfer for transfer in transfers if transfer.is_final]
    accounts, compliance = connections["accounts"], connections["compliance"]
    with_legs, suspects = _journals(accounts, [transfer for transfer in final if transfer.has_moved])
    suspects += _holds(accounts, transfers)
    suspects += _reservations(compliance, final)
    return Judged({"INV-6": len(final) + with_legs, "INV-8": len(final)}, suspects)


def journals_of_others(connections: Connections, rows: Rows) -> list[Violation]:
    """Journals, of some rows, whose transfers are not there, or do not know of them although they are final.

    A transfer is recorded before its journal is asked for.
    """
    journals = connections["accounts"].execute(rows.statement(_ORIGINS), rows.parameters()).fetchall()
    keys = {(tenant, origin.removeprefix("transfers/")) for tenant, _, origin in journals}
    if not keys:
        return []
    columns = [tenant for tenant, _ in keys], [id_ for _, id_ in keys]
    known = {
        (tenant, f"transfers/{id_}"): rest
        for tenant, id_, *rest in connections["transactions"].execute(_NAMED, columns)
    }
    suspects = []
    for tenant, journal, origin in journals:
        if (tenant, origin) not in known:
            sentence = f" is not there: journals {[journal]}, expected []"
            suspects.append(Violation("INV-6", tenant, "", origin, sentence, is_exact=True))
            continue
        state, wanted, currency = known[tenant, origin]
        if state in _FINAL and journal != wanted:
            sentence = f" is {state}: journals {[journal]}, expected {[wanted] if wanted else []}"
            suspects.append(Violation("INV-6", tenant, currency, origin, sentence, is_exact=True))
    return suspects


def _journals(accounts: Connection, moved: Sequence[Transfer]) -> tuple[int, list[Violation]]:
    """Whether each has the journal that it names, which moved its fee and its exchange too, from whom and to whom it
    should, and nothing else; gives how many had those."""
    named = [(t.tenant, id_) for t in moved if (id_ := _uuid(t.journal)) is not None]
    columns = [tenant for tenant, _ in named], [id_ for _, id_ in named]
    origins = {(tenant, journal): origin for tenant, journal, origin in accounts.execute(_JOURNALS, columns)}
    legs: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for tenant, journal, account, amount in accounts.execute(_LEGS, columns):
        legs.setdefault((tenant, journal), []).append((account, amount))
    away = archive.away(
        accounts, [(tenant, id_) for tenant, id_ in named if (tenant, f"journals/{id_}") not in origins]
    )
    with_legs, suspects = 0, []
    for transfer in moved:
        place = transfer.tenant, transfer.journal
        if place in away:
            continue
        if origins.get(place) != transfer.name:
            sentence = f" is {transfer.state}: journals [], expected {[transfer.journal]}"
            suspects.append(transfer.violation("INV-6", sentence))
        wanted, found = transfer.more_legs(), legs.get(place, [])
        with_legs += bool(wanted)
        if found != wanted:
            sentence = f": its journal's other legs are {found}, expected {wanted}"
            suspects.append(transfer.violation("INV-6", sentence))
    return with_legs, suspects


def _holds(accounts: Connection, transfers: Sequence[Transfer]) -> list[Violation]:
    """Whether nothing is held for what is final, and what is left of each standing authorization and of its fee is."""
    places = {(t.tenant, t.debit_account.removeprefix("accounts/")) for t in transfers}
    columns = [tenant for tenant, _ in places], [account for _, account in places]
    held = {
        (tenant, origin): amount
        for tenant, origin, amount in accounts.execute(_HOLDS, (*columns, [t.name for t in transfers]))
    }
    suspects = []
    for transfer in transfers:
        amount = held.get((transfer.tenant, transfer.name))
        if transfer.is_final and amount is not None:
            suspects.append(transfer.violation("INV-6", f" is {transfer.state} and still has a hold"))
        if transfer.left is not None and amount != transfer.left:
            sentence = f" is AUTHORIZED with {transfer.left} left, and {amount or 0} held"
            suspects.append(transfer.violation("INV-6", sentence))
    return suspects


def _reservations(compliance: Connection, final: Sequence[Transfer]) -> list[Violation]:
    """Whether what moved counts against its limits, as much as moved, and what did not does not."""
    columns = [t.tenant for t in final], [t.name for t in final]
    known = {(tenant, transfer): rest for tenant, transfer, *rest in compliance.execute(_RESERVATIONS, columns)}
    suspects = []
    for transfer in final:
        state, amount, told = known.get((transfer.tenant, transfer.name), (None, 0, 0))
        is_on_its_way = told < transfer.version
        if transfer.state in _NOTHING_MOVED and state in _COUNTED:
            sentence = f" is {transfer.state} and its reservation still counts"
        elif transfer.state not in _NOTHING_MOVED and state == _RELEASED:
            sentence = f" is {transfer.state} and its reservation was given back"
        elif transfer.state == "CAPTURED" and state in _COUNTED and amount != transfer.captured:
            sentence = f" captured {transfer.captured}, its reservation counts {amount}"
        else:
            continue
        suspects.append(transfer.violation("INV-8", sentence, is_on_its_way=is_on_its_way))
    return suspects


def _uuid(journal: str) -> Any:
    """The id in a journal's name; None for what is none."""
    try:
        return uuid.UUID(journal.removeprefix("journals/"))
    except ValueError:
        return None
