"""Names are recognised across order, spelling and script, and strangers are left alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.matching import NameIndex, score, tokens
from compliance.model import ListedName

THRESHOLD = 0.85
LISTED = (
    ListedName("1", "MARCHENKOV, Viktor Pavlovich", alias=False),
    ListedName("1", "VITYA THE MARCH", alias=True),
    ListedName("2", "NORTHWIND SHIPPING LTD", alias=False),
    ListedName("3", "ALI, Muhammad", alias=False),
    ListedName("4", "Maria GONZALES", alias=False),
    ListedName("5", "ABDULRAHMAN, Yusuf", alias=False),
    ListedName("6", "Bäckerei Müller GmbH", alias=False),
)


@pytest.fixture(scope="module")
def index() -> NameIndex:
    """The listed names."""
    return NameIndex(LISTED)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("MARCHENKOV, Viktor Pavlovich", "1"),
        ("Viktor Pavlovich Marchenkov", "1"),
        ("viktor marchenkov", "1"),
        ("Vitya the March", "1"),
        ("Victor Marchenkov", "1"),
        ("Viktor Marchenkof", "1"),
        ("Виктор Марченков", "1"),
        ("Northwind Shipping GmbH", "2"),
        ("Northwind Shiping", "2"),
        ("Mohamed Ali", "3"),
        ("Maria Gonzalez", "4"),
        ("Abdul Rahman Yusuf", "5"),
        ("Backerei Muller", "6"),
    ],
)
def test_a_listed_name_is_found_however_it_is_written(index: NameIndex, name: str, entry: str) -> None:
    """Exact, alias, order, typo, sound, legal form, joined words and another script all lead to the entry."""
    found = index.match(name, score_min=THRESHOLD)
    assert [match.listed.entry for match in found[:1]] == [entry]


@pytest.mark.parametrize(
    "name",
    [
        "Oleg Tarasenko",
        "Jane Doe",
        "Northern Shipping",
        "Viktor",
        "Maria Huber",
        "Shipping Ltd",
        "Ltd",
        "",
        "...",
        "🙂",
    ],
)
def test_an_unrelated_name_is_not_found(index: NameIndex, name: str) -> None:
    """One shared word, a common first name, a legal form or no name at all are no match."""
    assert index.match(name, score_min=THRESHOLD) == ()


def test_an_entry_is_found_once_by_its_best_name(index: NameIndex) -> None:
    """An alias beside the name does not double the match."""
    found = index.match("Viktor Pavlovich Marchenkov", score_min=0.1)
    assert [match.listed.entry for match in found].count("1") == 1
    assert found[0].score == 1.0


def test_the_score_of_a_name_with_itself_is_one_whatever_the_order() -> None:
    """The order of the tokens does not count."""
    assert score(tokens("Maria Anna Gonzales"), tokens("Gonzales, Anna Maria")) == 1.0


def test_a_very_long_name_is_matched_in_bounded_time(index: NameIndex) -> None:
    """140 characters of single letters are cut, not aligned in full."""
    assert index.match("a " * 70, score_min=THRESHOLD) == ()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=140))
def test_any_text_can_be_matched(text: str) -> None:
    """No creditor name, however odd, makes a screening fail."""
    for match in NameIndex(LISTED).match(text, score_min=0.0):
        assert 0.0 <= match.score <= 1.0
