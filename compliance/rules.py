"""Conditions in CEL over `payment` and `debtor`; it must not decide what follows from one that is true."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Protocol, cast

from compliance import rule_costs
from compliance.errors import RuleInvalid

Facts = Mapping[str, Mapping[str, str | int]]
"""{"payment": {...}, "debtor": {...}} with the fields that the contract's comment on Rule lists."""

# Two different payments: a condition has to give a bool for one of them at least, and may not know other names.
SAMPLES: tuple[Facts, ...] = (
    {
        "payment": {
            "amount_minor_units": 12_345,
            "currency_code": "EUR",
            "creditor_name": "Anna Example",
            "end_to_end_id": "E2E-1",
            "remittance": "Invoice 1",
            "debit_account": "accounts/a",
            "credit_account": "accounts/b",
            "hour": 11,
        },
        "debtor": {
            "customer": "customers/c",
            "country_code": "AT",
            "kyc_state": "VERIFIED",
            "payments_today": 3,
            "used_today_minor_units": 500,
        },
    },
    {
        "payment": {
            "amount_minor_units": 1,
            "currency_code": "JPY",
            "creditor_name": "",
            "end_to_end_id": "",
            "remittance": "",
            "debit_account": "accounts/b",
            "credit_account": "accounts/a",
            "hour": 0,
        },
        "debtor": {
            "customer": "",
            "country_code": "",
            "kyc_state": "",
            "payments_today": 0,
            "used_today_minor_units": 0,
        },
    },
)
_POSITION = re.compile(r"<input>:(\d+):(\d+):\s*(?:Syntax error:\s*)?(.*)")
_FIELD = re.compile(r"(?<![\w.])(payment|debtor)\s*\.\s*(\w+)")
_UNKNOWN = re.compile(r"Undefined variable or function: '([^']+)'")


class Program(Protocol):
    """A compiled expression."""

    def execute(self, context: Facts) -> object:
        """Its value for some facts."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of a payment. `error` is set when its expression could not be evaluated for it."""

    holds: bool
    error: str = ""


@lru_cache(maxsize=4096)
def compiled(expression: str) -> Program:
    """The expression's program; the same text is compiled once. Raises RuleInvalid with the position."""
    # Imported here: it costs time and memory that a start and a migration do not need.
    # The package imports its own command line, which nothing here runs: 24 MB, and packages that images leave out.
    sys.modules.setdefault("cel.cli", ModuleType("cel.cli"))
    import cel

    try:
        program: Program = cast(Program, cel.compile(expression))
    except ValueError as error:
        found = _POSITION.search(str(error))
        if found is None:
            raise RuleInvalid("it does not compile") from None
        line, column, why = int(found[1]), int(found[2]), found[3].split(" expecting {")[0].strip()
        raise RuleInvalid(why or "it does not compile", line=line, column=column) from None
    return program


def validate(expression: str) -> None:
    """Accepts what compiles, names only what there is, gives a bool and costs little. Raises RuleInvalid."""
    program = compiled(expression)
    _check_fields(expression)
    rule_costs.check_text(expression)
    for pattern in rule_costs.patterns(expression):
        _check_pattern(pattern)
    failures: list[Exception] = []
    for sample in SAMPLES:
        try:
            value = program.execute(sample)
        except Exception as error:  # noqa: BLE001 - the evaluator raises builtin errors of every kind
            failures.append(error)
            continue
        if not isinstance(value, bool):
            raise RuleInvalid(f"it gives a {type(value).__name__} where a bool belongs")
    for failure in failures:
        unknown = _UNKNOWN.search(str(failure))
        if unknown is not None:
            raise RuleInvalid(f'there is no "{unknown[1]}"', **_position(expression, unknown[1])) from None
        # A division by zero may be the sample's fault; operands of the wrong types never are.
        if isinstance(failure, TypeError) or len(failures) == len(SAMPLES):
            raise RuleInvalid(_first_sentence(failure)) from None
    for sample in SAMPLES:
        rule_costs.check_time(lambda facts=sample: evaluate(expression, facts))  # type: ignore[misc]


def evaluate(expression: str, facts: Facts) -> Verdict:
    """Whether a rule's condition holds for a payment. It never raises: a rule that fails is told as an error."""
    try:
        value = compiled(expression).execute(facts)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong, the payment is given to a person
        return Verdict(holds=False, error=type(error).__name__)
    if not isinstance(value, bool):
        return Verdict(holds=False, error=f"gave {type(value).__name__}")
    return Verdict(holds=value)


def _check_fields(expression: str) -> None:
    """A field that does not exist may hide behind `||` when samples are evaluated, so they are looked for by name."""
    visible = rule_costs.visible(expression)
    for found in _FIELD.finditer(visible):
        if found[2] not in SAMPLES[0][found[1]]:
            place = rule_costs.line_column(visible, found.start(2))
            raise RuleInvalid(f'"{found[1]}" has no "{found[2]}"', **place)


def _check_pattern(pattern: str) -> None:
    """A pattern by itself: behind `||` no sample may come to it."""
    program = compiled(f"''.matches({pattern})")
    try:
        program.execute({})
    except Exception as error:  # noqa: BLE001 - as above
        raise RuleInvalid(_first_sentence(error)) from None
    rule_costs.check_time(lambda: program.execute({}), "a pattern")


def _position(expression: str, word: str) -> dict[str, int]:
    at = expression.find(word)
    if at < 0:
        return {}
    return rule_costs.line_column(expression, at)


def _first_sentence(error: Exception) -> str:
    return str(error).split("\n", 1)[0].split(". ", 1)[0].rstrip(".") or type(error).__name__


def warm() -> None:
    """Pays for the import, so that the first screening need not."""
    evaluate("payment.amount_minor_units > 0", SAMPLES[0])
