"""The plan of a payment file: exact amounts, stable request ids, refusals of single payments, batches."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.payment_files import document, payment
from transactions.payments import pain001, plan
from transactions.payments.plan import PlannedPayment

TODAY = date(2026, 1, 1)
ROOT = Path(__file__).resolve().parents[3]


def planned(*payments: str, edit: tuple[str, str] = ("", "")) -> tuple[PlannedPayment, ...]:
    """The plan of a small file, with one piece of its text exchanged."""
    text = document(*payments).decode()
    assert edit[0] in text
    return plan.plan(pain001.parse(text.replace(*edit).encode()), today=TODAY)


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("10.50", "EUR", 1050),
        ("0.01", "EUR", 1),
        ("1050", "JPY", 1050),
        ("1050.00", "JPY", 1050),
        ("1.050", "KWD", 1050),
        ("90071992547409.93", "EUR", 9007199254740993),
    ],
)
def test_amounts_become_minor_units_by_the_currencys_exponent(amount: str, currency: str, minor: int) -> None:
    """EUR has two places, JPY none, KWD three; nothing passes through a float."""
    (item,) = planned(payment("E-1", amount, currency))
    assert item.request is not None
    assert item.request.amount.minor_units == minor


@pytest.mark.parametrize(("amount", "currency"), [("10.5", "JPY"), ("10.505", "EUR"), ("1.0505", "KWD")])
def test_an_amount_with_too_many_places_refuses_that_payment_alone(amount: str, currency: str) -> None:
    """Half a yen is not rounded: that payment is refused and the others go on."""
    bad, good = planned(payment("E-1", amount, currency), payment("E-2", "1.00", "EUR"))
    assert bad.request is None
    assert "decimal places" in bad.refusal
    assert good.request is not None


def test_an_unknown_currency_is_sent_so_that_the_service_refuses_it() -> None:
    """XQQ is well-formed: the payment is planned with two decimals, and a note says so."""
    (item,) = planned(payment("E-1", "99.00", "XQQ"))
    assert item.request is not None
    assert (item.request.amount.currency_code, item.request.amount.minor_units) == ("XQQ", 9900)
    assert "two decimals" in item.note


def test_an_unknown_currency_with_more_places_is_refused_here() -> None:
    """What cannot be said in two decimals is not rounded either."""
    (item,) = planned(payment("E-1", "99.001", "XQQ"))
    assert item.request is None


def test_a_zero_amount_is_refused_before_it_can_spoil_its_batch() -> None:
    """The schema allows zero, the contract does not: the payment is refused by the contract's own rule."""
    bad, good = planned(payment("E-1", "0", "EUR"), payment("E-2", "1.00", "EUR"))
    assert bad.request is None
    assert "greater than zero" in bad.refusal
    assert good.request is not None


def test_a_payment_to_oneself_is_refused_by_the_contracts_rule() -> None:
    """Debit and credit account must differ."""
    (item,) = planned(payment("E-1", "1.00", "EUR", iban="AT611904300234573201"))
    assert "must differ" in item.refusal


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (("<PmtMtd>TRF<", "<PmtMtd>CHK<"), "CHK"),
        (("<Dt>2025-01-15<", "<Dt>2099-01-01<"), "2099-01-01"),
        (("<CdtrAcct><Id><IBAN>NL91ABNA0417164300</IBAN></Id></CdtrAcct>", ""), "no creditor account"),
        (("<Ustrd>Salary</Ustrd>", "<Ustrd>" + "a" * 100 + "</Ustrd><Ustrd>" + "b" * 100 + "</Ustrd>"), "remittance"),
    ],
)
def test_what_is_not_offered_is_refused_by_payment(edit: tuple[str, str], what: str) -> None:
    """Cheques, future days, missing accounts and texts that are too long are refused, each with its cause."""
    (item,) = planned(payment("E-1", "1.00", "EUR"), edit=edit)
    assert item.request is None
    assert what in item.refusal


def test_the_same_file_gives_the_same_requests() -> None:
    """Paying a file again is the same request_ids and payloads, so everything is replayed."""
    one = planned(payment("E-1", "1.00", "EUR"), payment("E-2", "2.00", "EUR"))
    two = planned(payment("E-1", "1.00", "EUR"), payment("E-2", "2.00", "EUR"))
    assert [item.request for item in one] == [item.request for item in two]
    assert one[0].request is not None
    assert one[0].request.request_id == "MSG-1/BLOCK-1/E-1"


def test_a_repeated_end_to_end_id_is_the_same_request_id() -> None:
    """With the same payload it will be replayed, with another refused: both carry the key of the first."""
    first, again, changed = planned(
        payment("E-1", "1.00", "EUR"), payment("E-1", "1.00", "EUR"), payment("E-1", "2.00", "EUR")
    )
    assert first.request == again.request
    assert first.request is not None
    assert changed.request is not None
    assert changed.request.request_id == first.request.request_id
    assert [item.repeats for item in (first, again, changed)] == [False, True, True]


def test_payments_without_an_end_to_end_id_are_told_apart_by_their_place() -> None:
    """NOTPROVIDED is what the standard has payers write; two such payments are two payments."""
    one, two = planned(payment("NOTPROVIDED", "1.00", "EUR"), payment("NOTPROVIDED", "1.00", "EUR"))
    assert one.request is not None
    assert two.request is not None
    assert one.request.request_id != two.request.request_id
    assert one.request.end_to_end_id == "NOTPROVIDED"


@given(
    st.tuples(*[st.text(min_size=1, max_size=35)] * 3),
    st.tuples(*[st.text(min_size=1, max_size=35)] * 3),
)
def test_request_ids_are_unique_and_short_enough(one: tuple[str, str, str], two: tuple[str, str, str]) -> None:
    """Different identifications never share a key, whatever characters they hold, and every key fits the contract."""
    keys = [plan.request_id(*parts, index=1) for parts in (one, two)]
    assert all(len(key) <= 128 for key in keys)
    assert (keys[0] == keys[1]) == (one == two)


def test_the_separator_inside_an_id_makes_no_collision() -> None:
    """ "a/b" + "c" and "a" + "b/c" are two payments."""
    assert plan.request_id("a/b", "c", "d", 1) != plan.request_id("a", "b/c", "d", 1)
    assert plan.request_id("a", "b", "c/d", 1) != plan.request_id("a", "b/c", "d", 1)


@given(st.integers(0, 10**15), st.sampled_from([("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4)]))
def test_minor_units_are_exact(minor: int, currency: tuple[str, int]) -> None:
    """Any amount written with the currency's places comes back to the minor unit."""
    code, places = currency
    assert plan.minor_units(Decimal(minor).scaleb(-places), code) == (minor, "")


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 20))
def test_batches_keep_the_order_and_hold_each_key_once(keys: list[int], size: int) -> None:
    """Every payment is sent once, in the order of the file; a repeated key waits for the next batch."""
    items = planned(*[payment(f"E-{key}", "1.00", "EUR") for key in keys]) if keys else ()
    made = plan.batches(items, size)
    assert [item for batch in made for item in batch] == list(items)
    for batch in made:
        ids = [item.request.request_id for item in batch if item.request is not None]
        assert len(ids) == len(set(ids)) <= size


@pytest.mark.parametrize("size", [0, -1, 1001])
def test_a_batch_has_one_to_a_thousand_payments(size: int) -> None:
    """The contract takes at most a thousand."""
    with pytest.raises(ValueError, match="1 to 1000"):
        plan.batches((), size)


def test_the_example_is_what_its_generator_writes() -> None:
    """The committed file and the script that makes it do not drift apart."""
    made = subprocess.run(
        [sys.executable, "-c", "import runpy; print(runpy.run_path('examples/make_payroll.py')['document'](), end='')"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        env={"PYTHONIOENCODING": "utf-8", "PYTHONPATH": f"{ROOT}:{ROOT / 'build/gen'}"},
    ).stdout
    assert made == (ROOT / "examples" / "payroll.xml").read_bytes()
