"""Texts from elsewhere, for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text in which whatever a terminal would act upon instead of showing it is escaped as in Python: controls, marks
    that turn the direction of writing, half surrogate pairs."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
