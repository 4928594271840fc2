"""Check digits of an IBAN (ISO 13616, mod 97); it must not know which countries or banks exist."""

from __future__ import annotations

import re

_FORM = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")


def is_valid(iban: str) -> bool:
    """Whether an IBAN without spaces is well-formed and its check digits are right (ISO 7064 MOD 97-10)."""
    # Check digits run from 02 to 98: 00, 01 and 99 are congruent to others and never issued.
    if not _FORM.fullmatch(iban) or not 2 <= int(iban[2:4]) <= 98:
        return False
    digits = "".join(str(int(character, 36)) for character in iban[4:] + iban[:4])
    return int(digits) % 97 == 1


def with_check_digits(country_code: str, account: str) -> str:
    """The IBAN of a country code and a national account number."""
    number = int("".join(str(int(character, 36)) for character in f"{account}{country_code}00"))
    return f"{country_code}{98 - number % 97:02d}{account}"
