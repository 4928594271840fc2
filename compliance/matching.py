"""Whether two names may be the same person or company; it must not know what follows from a match.

A name is brought to lower-case Latin tokens without legal forms (rigour: transliteration, tokens, GmbH and Ltd.).
An inverted index of the tokens' beginnings, endings and sounds gives candidates, rapidfuzz drops the unlikely ones,
and rigour aligns the rest token by token, whatever their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from compliance.model import ListedName, Match

# A match of part of a listed name ("Viktor Marchenkov" of "Marchenkov, Viktor Pavlovich") is worth nearly as much as
# the whole: what a list has more weighs this much. What a payment has more weighs in full.
_EXTRA_LISTED_WEIGHT = 0.3
# Tokens that sound alike (Mohamed, Muhammad) though they are written differently.
_SOUND_SCORE = 0.9
_SOUND_LETTERS_MIN = 3
# Enough that a name is found among thousands that share its commonest token, few enough for a millisecond.
_CANDIDATES_MAX = 400
_ALIGNED_MAX = 10
_PREFILTER_CUTOFF = 55.0
_MATCHES_MAX = 5
NAME_TOKENS_MAX = 24
"""Longer names are cut here: 140 characters of single letters must not cost the alignment's square."""


@lru_cache(maxsize=8192)
def tokens(name: str) -> tuple[str, ...]:
    """A name as comparable tokens, in their order; empty when it has no letters or digits."""
    # Imported here: rigour and ICU cost half a second and 60 MB that a start and a migration do not need.
    from rigour.names import remove_org_types, tokenize_name
    from rigour.text.translit import ascii_text

    plain = (ascii_text(name) or "").casefold()
    bare = tokenize_name(remove_org_types(plain)) or tokenize_name(plain)
    return tuple(bare[:NAME_TOKENS_MAX])


@lru_cache(maxsize=65536)
def _sound(token: str) -> str:
    from rigour.text import metaphone

    return str(metaphone(token) or "")


def _blocks(token: str) -> set[str]:
    """What a token is found by: its beginning, its ending and its sound. A slip of the pen leaves one of them."""
    found = {f"<{token[:3]}", f"{token[-3:]}>"}
    sound = _sound(token)
    if len(sound) >= 2:
        found.add(f"~{sound}")
    return found


def score(given: Sequence[str], listed: Sequence[str]) -> float:
    """How alike two token lists are, from 0 to 1; the order of tokens does not count."""
    from rigour.names import Name, align_person_name_order
    from rigour.names.compare import compare_parts

    if not given or not listed:
        return 0.0
    if sorted(given) == sorted(listed):
        return 1.0
    left, right = align_person_name_order(list(Name(" ".join(given)).parts), list(Name(" ".join(listed)).parts))
    matched = total = 0.0
    alone_given: list[str] = []
    alone_listed: list[str] = []
    for cluster in compare_parts(left, right):
        ours, theirs = [part.form for part in cluster.qps], [part.form for part in cluster.rps]
        weight = float(sum(map(len, ours)) + sum(map(len, theirs)))
        if ours and theirs and cluster.score > 0:
            matched += weight * max(cluster.score, _sound_score("".join(ours), "".join(theirs)))
            total += weight
        else:
            alone_given.extend(ours)
            alone_listed.extend(theirs)
    for ours_alone in alone_given:
        partner = next((other for other in alone_listed if _sound_score(ours_alone, other) > 0), None)
        total += len(ours_alone)
        if partner is not None:
            alone_listed.remove(partner)
            total += len(partner)
            matched += _SOUND_SCORE * (len(ours_alone) + len(partner))
    total += _EXTRA_LISTED_WEIGHT * sum(map(len, alone_listed))
    return round(min(matched / total, 1.0), 4) if total else 0.0


def _sound_score(one: str, other: str) -> float:
    sound = _sound(one)
    alike = len(sound) >= _SOUND_LETTERS_MIN and sound == _sound(other)
    return _SOUND_SCORE if alike else 0.0


class NameIndex:
    """The names of one version of a watchlist, ready to be matched with. Immutable once built, so threads share it."""

    def __init__(self, names: Iterable[ListedName]) -> None:
        self._names: list[ListedName] = []
        self._texts: list[str] = []
        self._blocks: dict[str, list[int]] = {}
        for listed in names:
            parts = tokens(listed.name)
            if not parts:
                continue
            position = len(self._names)
            self._names.append(listed)
            self._texts.append(" ".join(sorted(parts)))
            for block in set().union(*map(_blocks, parts)):
                self._blocks.setdefault(block, []).append(position)

    def __len__(self) -> int:
        return len(self._names)

    def match(self, name: str, *, score_min: float) -> tuple[Match, ...]:
        """The entries that a name resembles by `score_min` or more, the most alike first, each entry once."""
        from rapidfuzz import fuzz, process

        given = tokens(name)
        if not given:
            return ()
        shared: Counter[int] = Counter()
        for block in set().union(*map(_blocks, given)):
            shared.update(self._blocks.get(block, ()))
        candidates = {position: self._texts[position] for position, _ in shared.most_common(_CANDIDATES_MAX)}
        likely = process.extract(
            " ".join(sorted(given)),
            candidates,
            scorer=fuzz.token_ratio,
            score_cutoff=_PREFILTER_CUTOFF,
            limit=_ALIGNED_MAX,
        )
        best: dict[str, Match] = {}
        for text, _, position in likely:
            found = Match(self._names[position], score(given, text.split(" ")))
            known = best.get(found.listed.entry)
            if found.score >= score_min and (known is None or found.score > known.score):
                best[found.listed.entry] = found
        ranked = sorted(best.values(), key=lambda match: (-match.score, match.listed.entry))
        return tuple(ranked[:_MATCHES_MAX])


def warm() -> None:
    """Pays for the heavy imports and their tables, so that the first screening need not."""
    NameIndex([ListedName("0", "Warm Start Ltd", alias=False)]).match("Варм Старт", score_min=0.5)
