"""The bytes of journals and heads are fixed for good, and nothing but a journal or a head has any."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from accounts import history, signing
from accounts.history import Head, JournalContent, SealedEntry

JOURNAL = JournalContent(
    "demo", "j", 1, "o", 5, 6, (SealedEntry("a", 1, "EUR", -5, -5), SealedEntry("b", 1, "EUR", 5, 5))
)


def test_the_bytes_that_are_hashed_and_signed_never_change() -> None:
    """A leaf and a head by the definition in sealed.proto, written down once more here; kept by auditors for years."""

    def text(value: str) -> bytes:
        return len(value.encode()).to_bytes(4, "big") + value.encode()

    def numbers(*values: int) -> bytes:
        return b"".join(value.to_bytes(8, "big", signed=True) for value in values)

    journal = "0b5e3c1e-8f0f-5b1e-9c53-0d6f2b0a7a11"
    entries = (SealedEntry("ä", 1, "EUR", -5, -5), SealedEntry("b", 7, "EUR", 5, 2**63 - 1))
    content = JournalContent("demo", journal, 2, "funding/ü", 1_700_000_000_123_456, -1, entries)
    wanted = (
        text("florin.accounts.v1.SealedJournal")
        + text("demo")
        + text(journal)
        + numbers(2)
        + text("funding/ü")
        + numbers(1_700_000_000_123_456, -1, 2)
        + (text("ä") + numbers(1) + text("EUR") + numbers(-5, -5))
        + (text("b") + numbers(7) + text("EUR") + numbers(5, 2**63 - 1))
    )
    assert content.canonical() == wanted
    assert content.leaf().hex() == "e7638dd8126ea78cd254c151d31b7cd82725cfbd2dd83f5cc00aaabf07e38407"
    head = Head("demo", 3, bytes(32), 9, "00ff", b"")
    assert head.canonical() == (
        text("florin.accounts.v1.TreeHead")
        + text("demo")
        + numbers(3)
        + (32).to_bytes(4, "big")
        + bytes(32)
        + numbers(9)
        + text("00ff")
    )


def test_metadata_have_a_leaf_of_another_form() -> None:
    """By the definition in sealed.proto: another first text, and pairs in the order of their keys' bytes at the end, in
    whatever order they come."""

    def text(value: str) -> bytes:
        return len(value.encode()).to_bytes(4, "big") + value.encode()

    plain = JOURNAL.canonical()
    head = text("florin.accounts.v1.SealedJournal")
    assert plain.startswith(head)
    wanted = (
        text("florin.accounts.v1.SealedJournalWithMetadata")
        + plain.removeprefix(head)
        + (3).to_bytes(8, "big")
        + (text("b") + text("2") + text("bb") + text("1") + text("é") + text("ü"))
    )
    pairs = (("é", "ü"), ("bb", "1"), ("b", "2"))
    for metadata in (pairs, pairs[::-1]):
        assert dataclasses.replace(JOURNAL, metadata=metadata).canonical() == wanted


@given(*(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3) for _ in range(2)))
def test_other_metadata_are_other_bytes(first: dict[str, str], second: dict[str, str]) -> None:
    """No two sets of metadata have a leaf in common, none at all included."""
    leaves = {dataclasses.replace(JOURNAL, metadata=tuple(one.items())).canonical() for one in (first, second)}
    assert len(leaves) == (1 if first == second else 2)


@given(st.data())
def test_every_field_of_a_journal_is_in_its_leaf(data: st.DataObject) -> None:
    """A journal that differs in any field of itself or of an entry has other bytes."""
    field = data.draw(st.sampled_from(dataclasses.fields(JournalContent)))
    changed: Any = getattr(JOURNAL, field.name)
    if field.name == "entries":
        part = data.draw(st.sampled_from(dataclasses.fields(SealedEntry)))
        entry = dataclasses.replace(changed[0], **{part.name: _other(getattr(changed[0], part.name))})
        changed = data.draw(st.sampled_from([(entry, changed[1]), changed[:1], changed[::-1], (*changed, entry)]))
    elif field.name == "metadata":
        changed = data.draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), min_size=1)).items()
        changed = tuple(changed)
    else:
        changed = _other(changed)
    assert dataclasses.replace(JOURNAL, **{field.name: changed}).canonical() != JOURNAL.canonical()


def _other(value: Any) -> Any:
    return value + 1 if isinstance(value, int) else value + "x"


@pytest.mark.parametrize("wrong", [None, 2**63, "1", 1.0])
def test_what_no_journal_can_have_has_no_bytes(wrong: Any) -> None:
    """Somebody may have put anything into a row or a file: it is wrong, and no failure."""
    with pytest.raises(ValueError, match="not a"):
        dataclasses.replace(JOURNAL, create_time=wrong).canonical()
    with pytest.raises(ValueError, match="not a"):
        dataclasses.replace(JOURNAL, origin=7).canonical()
    with pytest.raises(ValueError, match="surrogates"):
        dataclasses.replace(JOURNAL, origin="\ud800").canonical()
    for pair in ((None, "v"), ("k", None)):
        with pytest.raises(ValueError, match="not a text"):
            dataclasses.replace(JOURNAL, metadata=(pair,)).canonical()  # type: ignore[arg-type]


def test_a_journal_that_does_not_sum_to_zero_is_told_by_its_currency() -> None:
    """INV-1 from what was exported."""
    assert history.unbalanced(JOURNAL.entries) is None
    assert history.unbalanced((*JOURNAL.entries, SealedEntry("c", 1, "CHF", 1, 1))) == "CHF"


def test_a_head_is_signed_by_the_key_that_it_names(tmp_path: Path) -> None:
    """By no other, and not after any change; keys of before still verify what they signed."""
    file = tmp_path / "key.pem"
    file.write_text(signing.new_private_pem())
    old = signing.signer(file)
    file.write_text(signing.new_private_pem() + old.known.pem())
    new = signing.signer(file)
    assert new.key_id != old.key_id
    assert [name for name, _ in new.known.raw()] == [new.key_id, old.key_id]
    head = old.sign("demo", 3, bytes(32), 9)
    assert new.known.is_signed(head)
    assert signing.verifying_keys(file).is_signed(head)
    for change in ({"tenant": "x"}, {"tree_size": 4}, {"root_hash": b"1" * 32}, {"time": 8}, {"key_id": new.key_id}):
        assert not new.known.is_signed(dataclasses.replace(head, **change))  # type: ignore[arg-type]
    (tmp_path / "other.pem").write_text(signing.new_private_pem())
    assert not signing.verifying_keys(tmp_path / "other.pem").is_signed(head)


def test_a_file_without_the_one_key_that_signs_is_refused(tmp_path: Path) -> None:
    """None, two, another kind of key, no PEM, no file."""
    file = tmp_path / "key.pem"
    ec = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"
    for text, why in (
        ("", "exactly one"),
        (signing.new_private_pem() * 2, "exactly one"),
        (ec, "not Ed25519"),
        (broken, "no key"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=why):
            signing.signer(file)
    with pytest.raises(ValueError, match="cannot be read"):
        signing.signer(tmp_path / "none.pem")
    file.write_text("")
    with pytest.raises(ValueError, match="no key"):
        signing.verifying_keys(file)
