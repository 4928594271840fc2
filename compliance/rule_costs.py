"""What a rule may cost: every payment of its tenant is held against it, and all tenants share the service.

It looks at the text alone, before anything of it is run, and then takes the time of what may be run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from compliance.errors import RuleInvalid

SECONDS_MAX = 0.005
"""A plain rule takes some 0.03 ms. A pattern with many Unicode classes takes more: it is compiled for every payment."""
_TRIES = 3
_HOPELESS_SECONDS = 0.1

PATTERNS_MAX = 8
PATTERN_LENGTH_MAX = 64
WORK_MAX = 50_000
"""Elements of lists times characters of conditions over them: some 10 ms. A list of 300 words needs 12,000."""

# Strings and comments, which may look like anything; a raw string ends at its first quote.
_TEXT = re.compile(
    r"""//[^\n]*"""
    r"""|\b[bB]?[rR][bB]?(?:'''.*?'''|\"\"\".*?\"\"\"|'[^'\n]*'|"[^"\n]*")"""
    r"""|(?:\b[bB])?(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")""",
    re.DOTALL,
)
_CALL = re.compile(r"\.\s*(\w+)\s*\(")
_CONDITIONS = ("all", "exists", "exists_one", "existsOne")
_BUILDERS = ("map", "filter")


def visible(expression: str) -> str:
    """An expression with its strings and comments blanked out, every other character in its place."""
    return _TEXT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), expression)


def check_text(expression: str) -> None:
    """Refuses what could take long, without running it. Raises RuleInvalid."""
    text = visible(expression)
    closers = _closers(text)
    elements = text.count(",")
    work, inside_until = 0, -1
    for call in _CALL.finditer(text):
        name, start = call[1], call.end()
        if name in _BUILDERS:
            raise RuleInvalid(f"{name} is not offered", **line_column(text, call.start(1)))
        if name not in _CONDITIONS and name != "matches":
            continue
        if start < inside_until:
            raise RuleInvalid(f"{name} may not stand within another condition", **line_column(text, call.start(1)))
        if name in _CONDITIONS:
            inside_until = closers.get(start - 1, len(text))
            work += elements * (inside_until - start)
    if work > WORK_MAX:
        raise RuleInvalid("it goes through too long a list with too long a condition")
    patterns(expression)


def patterns(expression: str) -> Sequence[str]:
    """The patterns of `matches`, as they are written. Raises RuleInvalid for one that is not written out or too much.

    A pattern that came from a payment would let a payer choose what it costs.
    """
    text = visible(expression)
    found: list[str] = []
    for call in _CALL.finditer(text):
        if call[1] != "matches":
            continue
        place = line_column(text, call.start(1))
        after = expression[call.end() :]
        literal = _TEXT.match(after, len(after) - len(after.lstrip()))
        if literal is None or literal[0].startswith("//") or not after[literal.end() :].lstrip().startswith(")"):
            raise RuleInvalid("a pattern has to be written out", **place)
        if len(literal[0]) > PATTERN_LENGTH_MAX + len("r''") or "{" in literal[0]:
            why = f"a pattern has at most {PATTERN_LENGTH_MAX} characters and no counted repetition"
            raise RuleInvalid(why, **place)
        found.append(literal[0])
    if len(found) > PATTERNS_MAX:
        raise RuleInvalid(f"it has more than {PATTERNS_MAX} patterns")
    return found


def check_time(run: Callable[[], object], what: str = "it") -> None:
    """Refuses what takes too long; of a few tries the quickest counts: the machine may be busy. Raises RuleInvalid."""
    best = float("inf")
    for _ in range(_TRIES):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
        if best <= SECONDS_MAX:
            return
        if best > _HOPELESS_SECONDS:
            break
    raise RuleInvalid(f"{what} takes {best * 1000:.0f} ms, and at most {SECONDS_MAX * 1000:.0f} may be taken")


def line_column(text: str, at: int) -> dict[str, int]:
    """The place of a character, from 1."""
    return {"line": text.count("\n", 0, at) + 1, "column": at - (text.rfind("\n", 0, at) + 1) + 1}


def _closers(text: str) -> dict[int, int]:
    """Where each bracket that is opened is closed."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for at, character in enumerate(text):
        if character in "([{":
            opened.append(at)
        elif character in ")]}" and opened:
            found[opened.pop()] = at
    return found
