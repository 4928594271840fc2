"""Keys and visibility of a transfer."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from meshkit.identity import Principal
from tests.unit.transactions.making import ANNA, TELLER, transfer
from transactions.model import CREATE_METHOD, request_key


@given(st.lists(st.text(alphabet="ab:/", max_size=4), min_size=4, max_size=4, unique=False))
def test_the_scope_of_a_request_id_is_tenant_subject_method_and_id(parts: list[str]) -> None:
    """INV-5: the same four parts give the same key; moving a part to another place gives another."""
    tenant, subject, method, request_id = parts
    principal = Principal(tenant, subject, None, frozenset())
    assert request_key(principal, method, request_id) == request_key(principal, method, request_id)
    other = Principal(tenant + "x", subject, None, frozenset())
    assert request_key(other, method, request_id) != request_key(principal, method, request_id)
    assert request_key(principal, method, request_id + "x") != request_key(principal, method, request_id)


def test_scopes_of_a_caller_do_not_change_the_key() -> None:
    """A caller whose token was renewed with other scopes still means the same request."""
    renewed = replace(TELLER, scopes=frozenset({"transfers:write"}))
    assert request_key(renewed, CREATE_METHOD, "r") == request_key(TELLER, CREATE_METHOD, "r")


def test_each_step_has_a_key_of_its_own_that_never_changes() -> None:
    """A step that is done again after a crash has the key it had before."""
    subject = transfer(request_id="r")
    keys = {step: subject.step_key(step) for step in ("screen", "post", "hold")}
    assert len(set(keys.values())) == 3
    moved_on = replace(subject, version=7, debit_account="accounts/other")
    assert {step: moved_on.step_key(step) for step in keys} == keys


def test_customers_see_what_they_made_and_what_debits_them() -> None:
    """A foreign customer and a foreign tenant see nothing; staff sees its tenant."""
    subject = transfer(customers=("customers/anna",))
    assert subject.visible_to(ANNA)
    assert subject.visible_to(TELLER)
    assert not subject.visible_to(replace(ANNA, customer="customers/ben"))
    assert not subject.visible_to(replace(TELLER, tenant="other"))
