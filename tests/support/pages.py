"""The fenced blocks of the project's pages, so that tests run what readers copy."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str, *, section: str = "") -> list[str]:
    """The blocks of a language on a page, in order; of one section (a heading's text) if it is given.

    Raises AssertionError when there is none: a page that was rewritten must not make its test vanish.
    """
    text = (ROOT / page).read_text()
    if section:
        found = re.search(rf"^(#+) {re.escape(section)}\n(.*?)(?=^#{{1,2}} |\Z)", text, re.M | re.S)
        assert found is not None, f"{page} has no section {section}"
        text = found[2]
    found_blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    assert found_blocks, f"{page} has no {language} block in {section or 'it'}"
    return found_blocks
