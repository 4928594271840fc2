"""INV-9 on an export's file, without a server: leaves, roots, signatures, sums, balances, by the public key alone.

Its memory grows with the number of accounts, and with entries that stand before the ones they follow, not with
journals.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from accounts import signing
from accounts.history import Head, JournalContent, SealedEntry, unbalanced
from checker.findings import CLAIMS
from checker.log_check import LogCheck, Report
from local.export_file import LineWrong, lines, read_item, read_tenant
from local.state import MeshError
from local.verify import Finding
from meshkit import clock

_NAMED_MAX = 5


@dataclass(slots=True)
class _Account:
    """How far an account's entries follow each other."""

    currency: str
    sequence: int = 0
    balance: int = 0
    waiting: dict[int, tuple[SealedEntry, str]] = field(default_factory=dict)
    """Entries that stand in the log before one that they follow, with where they are.

    Transactions are sealed in the order in which they began, and may have posted in another.
    """


class _Accounts:
    """Whether each account's balances are the sums of its entries, numbered without a gap (INV-2)."""

    def __init__(self, log: LogCheck) -> None:
        self._log = log
        self._accounts: dict[str, _Account] = {}

    def add(self, content: JournalContent, where: str) -> None:
        """The entries of a journal."""
        currency = unbalanced(content.entries)
        if currency is not None:
            self._log.say(f"{where}: its entries do not sum to zero {currency}")
        for entry in content.entries:
            account = self._accounts.setdefault(entry.account, _Account(entry.currency))
            if entry.currency != account.currency:
                self._log.say(f"{where}: accounts/{entry.account} is in {account.currency}, not in {entry.currency}")
            if entry.sequence <= account.sequence or entry.sequence in account.waiting:
                self._log.say(f"{where}: accounts/{entry.account} has an entry number {entry.sequence} before it")
                continue
            account.waiting[entry.sequence] = (entry, where)
            self._follow(account)

    def waiting(self) -> str:
        """What to say of entries that follow one that is not there, or not yet; empty for none."""
        late = {name: account for name, account in sorted(self._accounts.items()) if account.waiting}
        if not late:
            return ""
        missing = [f"accounts/{name} number {account.sequence + 1}" for name, account in late.items()]
        more = f" and {len(missing) - _NAMED_MAX} more" if len(missing) > _NAMED_MAX else ""
        number = sum(len(account.waiting) for account in late.values())
        return f"{number} entries follow some that are in no journal here: {', '.join(missing[:_NAMED_MAX])}{more}"

    def _follow(self, account: _Account) -> None:
        while (found := account.waiting.pop(account.sequence + 1, None)) is not None:
            entry, where = found
            if entry.balance_after != account.balance + entry.amount:
                self._log.say(
                    f"{where}: accounts/{entry.account} has {account.balance} and {entry.amount} more,"
                    f" and {entry.balance_after} after it"
                )
            account.sequence, account.balance = entry.sequence, entry.balance_after


def _signed(log: LogCheck) -> str:
    """What is signed of a log, when and by which key: a good verdict on an old file says nothing of today."""
    head = log.signed
    if head is None:
        return "none of them in a signed head"
    try:
        time = clock.from_microseconds(head.time).isoformat()
    except OverflowError:
        time = f"{head.time} µs since 1970"
    number = "" if head.tree_size == log.size else f"{head.tree_size} of them "
    return f"{number}signed at {time} by key {head.key_id}"


def verify(path: Path, public_key: Path) -> Finding:
    """Checks a whole export. Raises MeshError when there is no such file, or no key."""
    try:
        keys = signing.verifying_keys(public_key)
    except ValueError as error:
        raise MeshError(f"{public_key}: {error}.") from None
    finding, report = Finding("INV-9", CLAIMS["INV-9"]), Report()
    try:
        file = path.open("rb")
    except OSError as error:
        raise MeshError(f"{path}: {error.strerror}.") from None
    with file:
        found = lines(file)
        try:
            tenant = read_tenant(next(found, b""))
        except LineWrong as wrong:
            raise MeshError(f"{path} is no export: {wrong}.") from None
        log = LogCheck(tenant, keys, report)
        accounts = _Accounts(log)
        last: object = None
        for number, line in enumerate(found, 2):
            try:
                last = item = read_item(line, tenant)
            except LineWrong as wrong:
                log.say(f"line {number} is neither a journal nor a head: {wrong}")
                continue
            if isinstance(item, Head):
                log.head(item)
                continue
            finding.checked += 1
            log.journal(item.position, item.journal, item.leaf, item.content)
            if item.content is not None:
                accounts.add(item.content, f"position {item.position}, journals/{item.journal}")
        if not isinstance(last, Head):
            log.say("there is no head at its end, so nothing says that it is whole: export into it again")
    finding.violations = report.sentences()
    finding.claim += f"; tenant {tenant}: {finding.checked} journals, {_signed(log)}"
    if accounts.waiting():
        finding.claim += f"; {accounts.waiting()}"
    return finding
