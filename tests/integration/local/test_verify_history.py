"""INV-9: what somebody with every right changes in sealed history is found and named, in the database and offline."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL

from accounts import messages, seal_store, signing
from accounts.history import Head, JournalContent, SealedEntry
from accounts.merkle import Frontier
from accounts.model import JournalKind
from accounts.sealing import Sealer
from accounts.settings import Settings
from accounts.signing import Signer
from checker import sealed_log
from checker.log_check import Report
from checker.rules import RULES
from checker.tables import all_of
from local import export_file, verify, verify_export
from local.export_file import ExportEnd, LineWrong
from local.state import MeshError
from meshkit.database import Database, execute
from tests.integration.accounts.conftest import FUNDER, Ledger, new_ledger
from tests.support import parts as real

UUID_0 = b"00000000-0000-0000-0000-000000000000"
Change = Callable[["Books", psycopg.Connection[Any]], None]


@dataclass(slots=True)
class Books:
    """A tenant with seven sealed journals under two heads."""

    ledger: Ledger
    signer: Signer
    url: URL
    admin: str
    keys: Path
    journals: list[str]

    @property
    def tenant(self) -> str:
        """Its name."""
        return self.ledger.tenant

    @contextmanager
    def superuser(self) -> Iterator[psycopg.Connection[Any]]:
        """Somebody whom neither rights nor constraints stop."""
        with psycopg.connect(self.admin) as connection:
            connection.execute("SET session_replication_role = replica")
            yield connection

    def found(self) -> list[str]:
        """What the check of the database says of this tenant."""
        with verify._connect(self.url) as connection:
            keys = signing.verifying_keys(self.keys)
            checked, violations = sealed_log.check(connection, keys)
            missing = [one.line for one in sealed_log.unsealed(connection)]
        assert checked >= 0
        return [one for one in violations if one.startswith(self.tenant)] + sorted(
            one for one in missing if one.startswith(self.tenant)
        )

    async def export(self, path: Path) -> Path:
        """An export as the service and the command would make it."""
        tenant = self.tenant

        async def work(conn: Any) -> tuple[list[Any], list[Any]]:
            return (
                await seal_store.export(conn, tenant, start=0, end=100),
                await seal_store.heads(conn, tenant, above=0, up_to=100),
            )

        rows, heads = await self.ledger.db.run(tenant, work, read_only=True)
        lines = [
            (position + 1, 0, export_file.journal_line(messages.sealed_journal(position, journal, leaf, content)))
            for position, journal, leaf, content in rows
        ]
        lines += [(head.tree_size, 1, export_file.head_line(messages.tree_head(head))) for head in heads]
        path.write_text(
            export_file.header(tenant, self.signer.known.raw()) + "".join(line for *_, line in sorted(lines))
        )
        return path

    def offline(self, path: Path) -> list[str]:
        """What the check of a file says."""
        return [one.removeprefix(f"{self.tenant}: ") for one in verify_export.verify(path, self.keys).violations]


@pytest.fixture(scope="module")
def database(parts: real.Parts) -> str:
    """A database of accounts."""
    return real.fresh_database(parts, "accounts")


@pytest.fixture(scope="module")
async def db(parts: real.Parts, database: str) -> AsyncIterator[Database]:
    """As the service sees it."""
    async with Database.open(real.settings_for(parts, Settings, database)) as opened:
        yield opened


@pytest.fixture
async def books(parts: real.Parts, database: str, db: Database, tmp_path: Path) -> Books:
    """Money in, and six payments; four journals under the first head, three more under the second."""
    key = tmp_path / "key.pem"
    key.write_text(signing.new_private_pem())
    signer = signing.signer(key)
    public = tmp_path / "public.pem"
    public.write_text(signer.known.pem())
    ledger = await new_ledger(db)
    await ledger.open("a", posted=100)
    await ledger.open("b")
    made = Books(
        ledger, signer, parts.url(database, f"{database}_owner"), parts.postgres.admin_dsn(database), public, []
    )
    sealer = Sealer(db, signer, every_seconds=1)
    for count in (3, 3):
        for number in range(count):
            await ledger.apply(ledger.post(("a", -10 - number), ("b", 10 + number), actor=FUNDER))
        while (await sealer.seal()).more:
            pass
    made.journals = [row[0] for row in await ledger.rows("SELECT journal::text FROM sealed_journals ORDER BY position")]
    assert len(made.journals) == 7
    return made


async def test_history_that_nobody_changed_is_what_was_sealed(books: Books, tmp_path: Path) -> None:
    """In the database and in the file."""
    assert books.found() == []
    finding = verify_export.verify(await books.export(tmp_path / "x"), books.keys)
    assert (finding.violations, finding.checked) == ([], 7)
    (head,) = await books.ledger.rows("SELECT time FROM tree_heads ORDER BY tree_size DESC LIMIT 1")
    assert finding.claim == (
        f"{verify.CLAIMS['INV-9']}; tenant {books.tenant}: 7 journals, signed at"
        f" {head[0].astimezone(UTC).isoformat()} by key {books.signer.key_id}"
    )


def amount(books: Books, root: psycopg.Connection[Any]) -> None:
    """Ten becomes a thousand, on both sides, and the balances with it."""
    for sign in (-1, 1):
        root.execute(
            "UPDATE entries SET amount = 1000 * %s WHERE journal = %s AND amount * %s > 0",
            (sign, books.journals[2], sign),
        )


def time(books: Books, root: psycopg.Connection[Any]) -> None:
    """A microsecond."""
    root.execute(
        "UPDATE journals SET create_time = create_time + interval '1 microsecond' WHERE journal = %s",
        (books.journals[2],),
    )


def infinity(books: Books, root: psycopg.Connection[Any]) -> None:
    """A time that no client can read."""
    root.execute("UPDATE journals SET effective_time = 'infinity' WHERE journal = %s", (books.journals[2],))


def origin(books: Books, root: psycopg.Connection[Any]) -> None:
    """One letter."""
    root.execute("UPDATE journals SET origin = 'transfers/x' WHERE journal = %s", (books.journals[2],))


def entry(books: Books, root: psycopg.Connection[Any]) -> None:
    """A leg that is gone."""
    root.execute("DELETE FROM entries WHERE journal = %s AND leg = 1", (books.journals[2],))


def account(books: Books, root: psycopg.Connection[Any]) -> None:
    """Somebody else is paid."""
    root.execute("UPDATE entries SET account = 'bank' WHERE journal = %s AND amount > 0", (books.journals[2],))


def journal(books: Books, root: psycopg.Connection[Any]) -> None:
    """The journal, with its entries."""
    root.execute("DELETE FROM entries WHERE journal = %s", (books.journals[2],))
    root.execute("DELETE FROM journals WHERE journal = %s", (books.journals[2],))


NOT_SEALED = "position 2, journals/{2}: the journal is not what was sealed"
GONE = "position 2, journals/{2}: the journal is gone"


@pytest.mark.parametrize(
    ("change", "wanted", "exported"),
    [
        (amount, NOT_SEALED, NOT_SEALED),
        (time, NOT_SEALED, NOT_SEALED),
        (infinity, NOT_SEALED, GONE),
        (origin, NOT_SEALED, NOT_SEALED),
        (entry, NOT_SEALED, NOT_SEALED),
        (account, NOT_SEALED, NOT_SEALED),
        (journal, GONE, GONE),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
async def test_a_changed_journal_is_named(
    books: Books, tmp_path: Path, change: Change, wanted: str, exported: str
) -> None:
    """By its position and its name, in the database and in an export of afterwards; an export of before is good."""
    before = await books.export(tmp_path / "before")
    with books.superuser() as root:
        change(books, root)
    assert books.found() == [f"{books.tenant}: {wanted.format(*books.journals)}"]
    assert books.offline(await books.export(tmp_path / "after"))[0] == exported.format(*books.journals)
    assert books.offline(before) == []


@pytest.mark.parametrize("page", [1, 2, 3, 7, 8])
async def test_a_log_is_judged_alike_in_pages_of_any_size(
    books: Books, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Journals, nodes and heads of a page are those that belong together, wherever it ends."""
    monkeypatch.setattr(sealed_log, "PAGE", page)
    assert books.found() == []
    with books.superuser() as root:
        origin(books, root)
        root.execute("DELETE FROM tree_nodes WHERE tenant = %s AND level = 1 AND number = 2", (books.tenant,))
        root.execute("INSERT INTO tree_nodes VALUES (%s, 1, 5, %s)", (books.tenant, b"3" * 32))
        root.execute("DELETE FROM tree_heads WHERE tenant = %s AND number = 1", (books.tenant,))
    assert sorted(books.found()) == sorted(
        f"{books.tenant}: {one}"
        for one in (
            NOT_SEALED.format(*books.journals),
            "positions 4 to 5: the tree's node over them is gone",
            "the tree has a node of level 1, number 5, over no journals",
            "head of size 7: it is number 2 and follows number 0",
        )
    )


async def test_two_journals_that_change_places_are_named(books: Books, tmp_path: Path) -> None:
    """With their leaves the nodes above tell; by their names alone each is not what stands at its place."""
    first, second = books.journals[2:4]
    swap = "UPDATE sealed_journals AS s SET {0} FROM sealed_journals AS o WHERE s.tenant = %s AND o.tenant = s.tenant"
    swap += " AND s.position IN (2, 3) AND o.position = 5 - s.position"
    with books.superuser() as root:
        root.execute("ALTER TABLE sealed_journals DROP CONSTRAINT inv_9_sealed_once")
        root.execute(swap.format("journal = o.journal, leaf_hash = o.leaf_hash"), (books.tenant,))
    assert books.found() == [f"{books.tenant}: positions 2 to 3: one of them, or their order, is not what was sealed"]
    after = books.offline(await books.export(tmp_path / "after"))
    assert after == [
        (
            "head of size 4: its root is not that of the journals; the change is in one of the positions 0 to 3,"
            " or in the head"
        )
    ]
    with books.superuser() as root:
        root.execute(swap.format("leaf_hash = o.leaf_hash"), (books.tenant,))
        root.execute("ALTER TABLE sealed_journals ADD CONSTRAINT inv_9_sealed_once UNIQUE (tenant, journal)")
    wrong = [
        f"position 2, journals/{second}: the journal is not what was sealed",
        f"position 3, journals/{first}: the journal is not what was sealed",
    ]
    assert [one for one in books.offline(await books.export(tmp_path / "again")) if "sealed" in one] == wrong
    assert books.found() == [f"{books.tenant}: {one}" for one in wrong]


async def test_a_leaf_that_was_changed_with_its_journal_is_found_by_the_nodes_above(books: Books) -> None:
    """As far up as the tree was changed too, the smallest subtree that is not is named; with all of it, the heads."""
    with books.superuser() as root:
        origin(books, root)
        root.execute(
            "UPDATE sealed_journals SET leaf_hash = %s WHERE tenant = %s AND position = 2", (b"1" * 32, books.tenant)
        )
    found = books.found()
    assert f"{books.tenant}: positions 2 to 3: one of them, or their order, is not what was sealed" in found
    with books.superuser() as root:
        root.execute("DELETE FROM tree_nodes WHERE tenant = %s", (books.tenant,))
    found = books.found()
    assert f"{books.tenant}: positions 0 to 1: the tree's node over them is gone" in found
    assert [one for one in found if "head of size" in one] == [
        (
            f"{books.tenant}: head of size 4: its root is not that of the journals; the change is in one of"
            " the positions 0 to 3, or in the head"
        )
    ]


async def test_a_place_that_is_gone_is_named(books: Books, tmp_path: Path) -> None:
    """The row of the log, with its journal or without; the last one too."""
    with books.superuser() as root:
        root.execute("DELETE FROM sealed_journals WHERE tenant = %s AND position IN (2, 6)", (books.tenant,))
    assert books.found() == [
        f"{books.tenant}: position 2 is missing",
        f"{books.tenant}: head of size 7: there are 6 positions before it",
        *sorted(f"{books.tenant}/journals/{books.journals[place]} is not sealed" for place in (2, 6)),
    ]
    after = books.offline(await books.export(tmp_path / "after"))
    assert after == ["position 2 is missing", "head of size 7: there are 6 positions before it"]


async def test_a_forged_head_is_named(books: Books, tmp_path: Path) -> None:
    """Signed by another key, moved to another time, or changed."""
    other = tmp_path / "other.pem"
    other.write_text(signing.new_private_pem())
    forged = signing.signer(other).sign(books.tenant, 7, b"2" * 32, 1)
    with books.superuser() as root:
        root.execute(
            "UPDATE tree_heads SET time = time + interval '1 s' WHERE tenant = %s AND number = 1", (books.tenant,)
        )
        root.execute(
            "UPDATE tree_heads SET root_hash = %s, key_id = %s, signature = %s WHERE tenant = %s AND number = 2",
            (forged.root_hash, forged.key_id, forged.signature, books.tenant),
        )
    wrong = [
        f"head of size 4: it is not signed by key {books.signer.key_id}, or that key is not ours",
        f"head of size 7: it is not signed by key {forged.key_id}, or that key is not ours",
        (
            "head of size 7: its root is not that of the journals; the change is in one of the positions 4 to 6,"
            " or in the head"
        ),
    ]
    assert books.found() == [f"{books.tenant}: {one}" for one in wrong]
    assert books.offline(await books.export(tmp_path / "after")) == wrong


async def test_heads_that_are_gone_are_named(books: Books) -> None:
    """The first by its number, the last by what it was over, both by the events that told of them."""
    with books.superuser() as root:
        root.execute("DELETE FROM tree_heads WHERE tenant = %s AND number = 1", (books.tenant,))
    assert books.found() == [f"{books.tenant}: head of size 7: it is number 2 and follows number 0"]
    with books.superuser() as root:
        root.execute("DELETE FROM tree_heads WHERE tenant = %s", (books.tenant,))
    assert books.found() == [
        f"{books.tenant}: positions 0 to 6: the head over them is gone",
        f"{books.tenant}: head number 1: it was told of by an event, and is gone",
    ]


async def test_a_log_that_is_gone_leaves_journals_that_are_not_sealed(books: Books) -> None:
    """All of it, with its events."""
    with books.superuser() as root:
        for table in ("sealed_journals", "tree_nodes", "tree_heads", "outbox"):
            root.execute(f"DELETE FROM {table} WHERE tenant = %s", (books.tenant,))  # type: ignore[arg-type]
    assert len(books.found()) == 7


async def test_heads_are_not_believed_without_a_key(books: Books) -> None:
    """A check that cannot tell who signed does not say that all is well."""
    with verify._connect(books.url) as connection:
        assert any("--public-key" in one for one in sealed_log.check(connection, None)[1])


async def test_a_changed_line_of_an_export_is_named(books: Books, tmp_path: Path) -> None:
    """The file is evidence of itself: no field of a journal or head can be changed in it."""
    path = await books.export(tmp_path / "x")
    lines = path.read_text().splitlines(keepends=True)
    place = 2
    fields = [
        ("kind", 3),
        ("origin", "transfers/x"),
        ("createTime", 1),
        ("effectiveTime", 1),
        ("journal", books.journals[0]),
        ("leaf", "00" * 32),
        ("position", 9),
        ("entries", []),
    ]
    for name, value in fields:
        line = json.loads(lines[place + 1])
        line[name] = value
        path.write_text("".join([*lines[: place + 1], json.dumps(line) + "\n", *lines[place + 2 :]]))
        assert books.offline(path), name
    head = json.loads(lines[-1])
    for name, value in (("treeSize", 8), ("rootHash", "00" * 32), ("time", 1), ("keyId", "00"), ("signature", "00")):
        path.write_text("".join([*lines[:-1], json.dumps({"head": {**head["head"], name: value}}) + "\n"]))
        assert books.offline(path), name


async def test_an_export_that_was_cut_is_not_whole(books: Books, tmp_path: Path) -> None:
    """At a line or within one: it is said, and the export can be gone on with after its last whole line."""
    path = await books.export(tmp_path / "x")
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert books.offline(path) == [
        "there is no head at its end, so nothing says that it is whole: export into it again"
    ]
    first = head_in(lines[5], books.tenant)
    assert export_file.find_end(path, books.tenant) == ExportEnd(7, first, len(whole) - len(lines[-1]))
    path.write_bytes(whole[:-20])
    assert len(books.offline(path)) == 2
    end = export_file.find_end(path, books.tenant)
    with export_file.open_at(path, end) as file:
        file.write(lines[-1])
    assert path.read_bytes() == whole
    assert export_file.find_end(path, books.tenant) == ExportEnd(7, head_in(lines[-1], books.tenant), len(whole))
    assert export_file.find_end(tmp_path / "none", books.tenant) is None


def head_in(line: bytes, tenant: str) -> Head:
    """The head of a line."""
    item = export_file.read_item(line, tenant)
    assert isinstance(item, Head)
    return item


async def test_what_is_no_export_is_not_taken_for_one(books: Books, tmp_path: Path) -> None:
    """Neither verified nor written over."""
    path = tmp_path / "x"
    for text in (
        "letters to the editor\n",
        "[]\n",
        '{"format": 1}\n',
        '{"format": "florin-journals/1", "tenant": 1}\n',
    ):
        path.write_text(text)
        with pytest.raises(MeshError, match="is no export"):
            verify_export.verify(path, books.keys)
        with pytest.raises(MeshError, match="is no export"):
            export_file.find_end(path, books.tenant)
    await books.export(path)
    with pytest.raises(MeshError, match="is an export of tenant"):
        export_file.find_end(path, "other")
    with pytest.raises(MeshError, match="No such file"):
        verify_export.verify(tmp_path / "none", books.keys)
    with pytest.raises(MeshError, match="there is no key"):
        verify_export.verify(path, path)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b"null\n",
        b'{"head": 1}\n',
        b'{"position": 1.5, "leaf": "", "journal": "x"}\n',
        b'{"position": true, "leaf": "", "journal": "x"}\n',
        b'{"position": 99999999999999999999, "leaf": "", "journal": "x"}\n',
        b'{"position": 7, "leaf": "zz", "journal": "x"}\n',
        b'{"position": 7, "leaf": "00", "journal": "x", "entries": [1]}\n',
        (
            b'{"position": 7, "leaf": "00", "journal": "\\ud800", "kind": 1, "origin": "", "createTime": 1,'
            b' "effectiveTime": 1, "entries": []}\n'
        ),
        b'{"position": 7, "position": 7, "leaf": "' + b"00" * 32 + b'", "journal": "' + UUID_0 + b'"}\n',
        b'{"position": 7, "leaf": "' + b"00" * 32 + b'", "journal": "' + UUID_0 + b'", "note": 1}\n',
        b'{"position": 9000000000000000000, "leaf": "00", "journal": "x"}\n',
    ],
)
async def test_a_hostile_line_is_said_to_be_wrong(books: Books, tmp_path: Path, line: bytes) -> None:
    """Whatever it is: a sentence, no failure, and no end of time or memory."""
    path = await books.export(tmp_path / "x")
    path.write_bytes(path.read_bytes() + line)
    assert books.offline(path)


async def test_a_line_that_could_mean_two_things_is_no_line(books: Books, tmp_path: Path) -> None:
    """A name twice, another kind's names beside, a hash of another length: whatever the rest is worth."""
    path = await books.export(tmp_path / "x")
    *lines, last = path.read_text().splitlines()
    head, journal = last.encode(), lines[1].encode()
    for line, why in (
        (head[:-2] + b',"keyId":"' + books.signer.key_id.encode() + b'"}}', "twice"),
        (head[:-1] + b',"position":7}', "do not belong"),
        (journal[:-1] + b',"head":null}', "no object"),
        (journal.replace(b'"sequence":1', b'"sequence":1,"note":1', 1), "do not belong"),
        (head.replace(b'"rootHash":"', b'"rootHash":"00'), "32 bytes"),
        (journal.replace(b'"journal":"', b'"journal":"0'), "UUID"),
    ):
        with pytest.raises(LineWrong, match=why):
            export_file.read_item(line, books.tenant)


async def test_what_a_terminal_would_act_upon_is_escaped(books: Books, tmp_path: Path) -> None:
    """A hostile file or row does not write over the verdict on it."""
    path = await books.export(tmp_path / "x")
    attack = "\x1b[2K\x1b[1A\nINV-9  holds\u202e"
    text = path.read_text()
    named = f'"keyId":"{books.signer.key_id}","signature"'
    path.write_text(text.replace(named, f'"keyId":{json.dumps(attack)},"signature"'))
    said = verify.as_text([verify_export.verify(path, books.keys)])
    assert r"\x1b[2K" in said
    assert all(line.isprintable() for line in said.splitlines())
    assert len([line for line in said.splitlines() if line.startswith("INV-9")]) == 1
    path.write_text(text.replace(f'"{books.tenant}"', json.dumps(attack), 1))
    with pytest.raises(MeshError) as caught:
        verify_export.verify(path, books.keys)
    assert str(caught.value).isprintable()
    report = Report()
    report.say(attack)
    assert report.sentences() == [r"\x1b[2K\x1b[1A\nINV-9  holds\u202e"]


async def test_balances_that_do_not_follow_are_named(books: Books, tmp_path: Path) -> None:
    """Even where it was signed like that: a bank that seals wrong books is found out by its own signature."""
    finding = verify_export.verify(wrong_books(books, tmp_path), books.keys)
    assert [one.split(": ", 2)[2] for one in finding.violations] == [
        "its entries do not sum to zero EUR",
        "accounts/a has 10 and 5 more, and 16 after it",
        "accounts/a has an entry number 2 before it",
    ]
    assert finding.claim.endswith("; 1 entries follow some that are in no journal here: accounts/b number 3")


def wrong_books(books: Books, folder: Path) -> Path:
    """An export that was signed over entries that make no sense."""
    frontier = Frontier()
    legs = [
        (SealedEntry("a", 1, "EUR", 10, 10), SealedEntry("b", 1, "EUR", -10, -10)),
        (SealedEntry("a", 2, "EUR", 5, 16), SealedEntry("b", 2, "EUR", -6, -16)),
        (SealedEntry("a", 2, "EUR", 1, 17), SealedEntry("b", 4, "EUR", -1, -17)),
    ]
    lines = [export_file.header(books.tenant, books.signer.known.raw())]
    for position, entries in enumerate(legs):
        content = JournalContent(books.tenant, f"00000000-0000-0000-0000-{position:012}", 1, "o", 1, 1, entries)
        frontier.append(content.leaf())
        sealed = messages.sealed_journal(position, content.journal, content.leaf(), content)
        lines.append(export_file.journal_line(sealed))
    head = books.signer.sign(books.tenant, frontier.size, frontier.root(), 1)
    path = folder / "wrong"
    path.write_text("".join([*lines, export_file.head_line(messages.tree_head(head))]))
    return path


async def test_entries_without_a_journal_are_named(books: Books, tmp_path: Path) -> None:
    """Money that moves beside the log: the ledger is asked for it, and an export lacks the entry that others follow."""
    journal = str(uuid.uuid4())
    with books.superuser() as root:
        for account, amount, leg in (("a", -30, 0), ("b", 30, 1)):
            root.execute(
                "UPDATE accounts SET posted = posted + %s, sequence = sequence + 1 WHERE tenant = %s AND account = %s",
                (amount, books.tenant, account),
            )
            root.execute(
                "INSERT INTO entries (tenant, account, sequence, journal, leg, currency, amount, balance_after,"
                " create_time, effective_time) SELECT tenant, account, sequence, %s, %s, currency, %s, posted,"
                " recorded_time, recorded_time FROM accounts WHERE tenant = %s AND account = %s",
                (journal, leg, amount, books.tenant, account),
            )
    with verify._connect(books.url) as connection:
        said = [
            violation.line
            for rule in RULES
            if rule.table.service == "accounts"
            for violation in rule.violations(connection, all_of(rule.table))
        ]
    assert [one for one in said if one.startswith(books.tenant)] == [
        f"{books.tenant}/journals/{journal} has entries and does not exist"
    ]
    await books.ledger.apply(books.ledger.post(("a", -1), ("b", 1), actor=FUNDER))
    await Sealer(books.ledger.db, books.signer, every_seconds=1).seal()
    claim = verify_export.verify(await books.export(tmp_path / "x"), books.keys).claim
    assert claim.endswith(
        "; 2 entries follow some that are in no journal here: accounts/a number 8, accounts/b number 7"
    )


async def test_a_journal_of_a_transaction_to_come_is_not_sealed_and_is_named(books: Books) -> None:
    """The service cannot choose the number, and who can does not hide a journal by it."""
    journal = str(uuid.uuid4())
    insert = (
        "INSERT INTO journals (tenant, journal, kind, origin, create_time, effective_time, xid)"
        " VALUES (%s, %s, 1, 'x', now(), now(), '9000000000000000000'::xid8)"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await books.ledger.db.run(books.tenant, lambda conn: execute(conn, insert, (books.tenant, journal)))
    with books.superuser() as root:
        root.execute(insert, (books.tenant, journal))
    assert (await Sealer(books.ledger.db, books.signer, every_seconds=1).seal()).sealed == 0
    assert books.found() == [f"{books.tenant}/journals/{journal} is not sealed"]
    with books.superuser() as root:
        root.execute("DELETE FROM journals WHERE journal = %s", (journal,))


async def with_metadata(books: Books, **metadata: str) -> str:
    """A journal of the bank's own that is sealed; gives its id."""
    made = books.ledger.post(("a", -1), ("b", 1))
    step = replace(made, kind=JournalKind.MANUAL, origin="manual", metadata=tuple(metadata.items()))
    (outcome,) = await books.ledger.apply(step)
    while (await Sealer(books.ledger.db, books.signer, every_seconds=1).seal()).more:
        pass
    name: str = outcome.journal.journal
    return name.removeprefix("journals/")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE journal_metadata SET value = 'x' WHERE journal = %s AND key = 'run'",
        "UPDATE journal_metadata SET key = 'x' WHERE journal = %s AND key = 'run'",
        "DELETE FROM journal_metadata WHERE journal = %s AND key = 'run'",
        "DELETE FROM journal_metadata WHERE journal = %s",
        "INSERT INTO journal_metadata SELECT tenant, journal, 'x', 'x', create_time FROM journals WHERE journal = %s",
        "UPDATE journals SET effective_time = effective_time - interval '1 day' WHERE journal = %s",
    ],
)
async def test_what_is_written_on_a_journal_is_sealed_with_it(books: Books, tmp_path: Path, change: str) -> None:
    """Changed, added or taken away, it is named, in the database and in an export; so is a time that it counts from."""
    journal = await with_metadata(books, run="2026-01", kind="accrual", note="ü")
    assert books.found() == []
    before = await books.export(tmp_path / "before")
    assert books.offline(before) == []
    with books.superuser() as root:
        assert root.execute(change, (journal,)).rowcount
    wrong = f"position 7, journals/{journal}: the journal is not what was sealed"
    assert books.found() == [f"{books.tenant}: {wrong}"]
    assert books.offline(await books.export(tmp_path / "after"))[0] == wrong
    changed = before.read_text().replace('"run":"2026-01"', '"run":"2026-02"')
    before.write_text(changed)
    assert books.offline(before) == [wrong]


async def test_what_is_written_on_a_payments_journal_is_found(books: Books) -> None:
    """Nothing belongs there: it was sealed without, so whoever adds something changes it."""
    with books.superuser() as root:
        root.execute(
            "INSERT INTO journal_metadata SELECT tenant, journal, 'x', 'x', create_time FROM journals"
            " WHERE journal = %s",
            (books.journals[2],),
        )
    assert books.found() == [f"{books.tenant}: {NOT_SEALED.format(*books.journals)}"]


async def test_metadata_of_an_export_are_texts(books: Books, tmp_path: Path) -> None:
    """Or the line is none."""
    await with_metadata(books, run="x")
    line = next(one for one in (await books.export(tmp_path / "x")).read_bytes().splitlines() if b'"metadata"' in one)
    for metadata, why in ((b'{"run":1}', "no text"), (b"[]", "no object"), (b'{"run":"x","run":"y"}', "twice")):
        with pytest.raises(LineWrong, match=why):
            export_file.read_item(line.replace(b'{"run":"x"}', metadata), books.tenant)
