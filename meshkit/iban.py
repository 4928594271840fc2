"""Check digits of an IBAN (ISO 13616, mod 97); it must not know which countries or banks exist."""

from __future__ import annotations


def is_valid(iban: str) -> bool:
    """Whether the check digits of an IBAN without spaces are right."""
    if not 15 <= len(iban) <= 34 or not iban.isalnum() or not iban.isascii():
        return False
    rearranged = iban[4:] + iban[:4]
    try:
        number = int("".join(str(int(character, 36)) for character in rearranged))
    except ValueError:
        return False
    return number % 97 == 1


def with_check_digits(country_code: str, account: str) -> str:
    """The IBAN of a country code and a national account number."""
    number = int("".join(str(int(character, 36)) for character in f"{account}{country_code}00"))
    return f"{country_code}{98 - number % 97:02d}{account}"
