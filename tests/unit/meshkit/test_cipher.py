"""Personal data at rest: sealed, bound to its purpose, readable after a rotation."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.cipher import Cipher

_KEY = os.urandom(32)


@given(st.text())
def test_what_is_sealed_opens_for_its_purpose(text: str) -> None:
    """Any text comes back."""
    cipher = Cipher(_KEY)
    assert cipher.decrypt(cipher.encrypt(text, "customers.display_name"), "customers.display_name") == text


def test_a_ciphertext_does_not_open_for_another_purpose() -> None:
    """A value moved to another column is found."""
    cipher = Cipher(_KEY)
    with pytest.raises(ValueError, match="not sealed"):
        cipher.decrypt(cipher.encrypt("Ada", "a"), "b")


def test_after_a_rotation_old_and_new_open() -> None:
    """The first key seals; the others still open."""
    old, new = os.urandom(32), os.urandom(32)
    sealed = Cipher(old).encrypt("Ada", "a")
    rotated = Cipher(new, old)
    assert rotated.decrypt(sealed, "a") == "Ada"
    assert Cipher(new).decrypt(rotated.encrypt("Ada", "a"), "a") == "Ada"


def test_the_same_text_is_sealed_differently_each_time() -> None:
    """Equal names cannot be seen to be equal in the table."""
    cipher = Cipher(_KEY)
    assert cipher.encrypt("Ada", "a") != cipher.encrypt("Ada", "a")
