"""Page tokens belong to one list, one filter and one shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import pages
from meshkit.errors import PageTokenInvalid

_INT64 = st.integers(-(2**63), 2**63 - 1)
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.lists(_INT64 | _TEXT, min_size=1, max_size=4), st.text(max_size=20))
def test_a_token_gives_back_its_position(key: list[int | str], filter_text: str) -> None:
    """Any keyset survives the way out and back."""
    assert pages.decode("transfers", filter_text, pages.encode("transfers", filter_text, key)) == key


def test_a_token_of_another_filter_is_refused() -> None:
    """Going on with another filter would skip or repeat rows silently."""
    token = pages.encode("transfers", "state = COMPLETED", ["a"])
    with pytest.raises(PageTokenInvalid):
        pages.decode("transfers", "state = DECLINED", token)


def test_a_token_of_another_shape_is_refused() -> None:
    """A made-up position of the wrong type must not reach the database."""
    token = pages.encode("entries", "", ["not a number"])
    with pytest.raises(PageTokenInvalid):
        pages.decode("entries", "", token, shape=[int])


@pytest.mark.parametrize("key", ["a\0b", "\ud800", 2**63, -(2**63) - 1])
def test_a_position_that_no_database_can_be_asked_with_is_refused(key: str | int) -> None:
    """The tag of a token is no secret, so one can be made up around anything."""
    with pytest.raises(PageTokenInvalid):
        pages.decode("entries", "", pages.encode("entries", "", [key]))


@given(st.text(max_size=60))
def test_no_text_breaks_the_decoder(text: str) -> None:
    """Whatever is sent as a token is either a position or refused."""
    try:
        pages.decode("entries", "", text)
    except PageTokenInvalid:
        return


def test_the_first_page_has_no_position() -> None:
    """An empty token begins at the beginning."""
    assert pages.decode("entries", "", "") is None
