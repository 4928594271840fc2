"""The pure ledger: invariants under random steps, and each refusal in its order of precedence."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts import errors, ledger
from accounts.book import (
    Actor,
    Book,
    BookAccount,
    Cancel,
    Expire,
    Held,
    Leg,
    Outcome,
    Place,
    Post,
    Posted,
    Refused,
    Release,
    Seen,
    Step,
    Stored,
)
from accounts.ledger_errors import StateChanged
from accounts.model import AccountState, AccountType, HoldState, JournalKind
from meshkit.idempotency import NAMESPACE
from meshkit.money import INT64_MAX

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STAFF = Actor(customer=None, may_fund=False)
FUNDER = Actor(customer=None, may_fund=True)
TENANT = "demo"


def key(number: int) -> str:
    """The key of the number."""
    return str(uuid.UUID(int=number))


def account(name: str, posted: int = 0, **changes: object) -> BookAccount:
    """A customer account of the customer of the same name."""
    made = BookAccount(
        tenant=TENANT,
        id=name,
        type=AccountType.CUSTOMER,
        state=AccountState.ACTIVE,
        currency="EUR",
        posted=posted,
        held=0,
        overdraft_limit=0,
        sequence=0,
        owners=(name,),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def bank(**changes: object) -> BookAccount:
    """A settlement account."""
    return account("bank", type=AccountType.SETTLEMENT, owners=(), **changes)


def book(*accounts: BookAccount) -> Book:
    """A book in which each account is known by its name."""
    made = Book()
    for one in accounts:
        made.accounts[one.tenant, one.id] = one
        made.references[one.tenant, f"accounts/{one.id}"] = one.id
    return made


def post(
    number: int,
    *legs: tuple[str, int],
    actor: Actor = STAFF,
    kind: JournalKind = JournalKind.TRANSFER,
    hold: int | None = None,
    keep_hold: bool = False,
    currency: str = "EUR",
    origin: str = "transfers/t",
) -> Post:
    """A journal of (account, amount) legs."""
    return Post(
        tenant=TENANT,
        key=key(number),
        actor=actor,
        kind=kind,
        origin=origin,
        legs=tuple(Leg(f"accounts/{name}", currency, amount) for name, amount in legs),
        hold_key="" if hold is None else key(hold),
        keep_hold=keep_hold,
    )


def place(
    number: int,
    name: str,
    amount: int,
    *,
    actor: Actor = STAFF,
    currency: str = "EUR",
    expire_time: datetime | None = None,
) -> Place:
    """A hold."""
    return Place(TENANT, key(number), actor, "transfers/t", f"accounts/{name}", currency, amount, expire_time)


def one(subject: Book, step: Step) -> Outcome:
    """The outcome of a single step."""
    return ledger.apply(subject, [step], NOW)[0]


def snapshot(subject: Book) -> dict[tuple[str, str], BookAccount]:
    """The accounts as they are now."""
    return {place: replace(one) for place, one in subject.accounts.items()}


def refusal(subject: Book, step: Step) -> type[Exception]:
    """The class of a step's refusal; a refusal must have changed nothing."""
    before = snapshot(subject)
    outcome = one(subject, step)
    assert isinstance(outcome, Refused)
    assert subject.accounts == before
    return type(outcome.refusal)


# --- properties -----------------------------------------------------------------------------------------------

NAMES = ["a", "b", "c", "bank"]
AMOUNTS = st.integers(min_value=-120, max_value=120)
KEYS = st.integers(min_value=0, max_value=14)
ACTORS = st.sampled_from([STAFF, FUNDER, Actor("a", may_fund=False), Actor("b", may_fund=False)])


@st.composite
def posts(draw: st.DrawFn) -> Post:
    """Journals of two to four legs, mostly balanced."""
    legs = draw(st.lists(st.tuples(st.sampled_from(NAMES), AMOUNTS), min_size=1, max_size=3))
    if draw(st.integers(0, 9)) > 0:
        legs.append((draw(st.sampled_from(NAMES)), -sum(amount for _, amount in legs)))
    return post(
        draw(KEYS),
        *legs,
        actor=draw(ACTORS),
        kind=draw(st.sampled_from(list(JournalKind))),
        hold=draw(st.one_of(st.none(), KEYS)),
        keep_hold=draw(st.booleans()),
    )


HOLD_STEPS = st.builds(
    place,
    KEYS,
    st.sampled_from(NAMES),
    st.integers(1, 100),
    actor=ACTORS,
    expire_time=st.sampled_from([None, NOW, NOW + timedelta(seconds=1)]),
)
STEPS = st.one_of(
    posts(),
    posts(),
    HOLD_STEPS,
    KEYS.map(lambda number: Release(TENANT, key(number))),
    KEYS.map(lambda number: Cancel(TENANT, key(number))),
)


def start() -> Book:
    """Three customer accounts with 100 each, one with an overdraft limit, one with a minimum, and the bank's own."""
    return book(
        account("a", 100),
        account("b", 100, overdraft_limit=50),
        account("c", 100, minimum_balance=30),
        bank(posted=-300),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_invariants_hold_under_any_steps(steps: list[Step]) -> None:
    """INV-1, INV-2 and INV-3 hold after every step, and a refusal changes nothing."""
    subject = start()
    opening = {one.id: one.posted for one in subject.accounts.values()}
    entries: dict[str, list[tuple[int, int, int]]] = {name: [] for name in NAMES}
    seen: set[str] = set()
    for step in steps:
        before = snapshot(subject)
        outcome = one(subject, step)
        if isinstance(outcome, Refused):
            assert subject.accounts == before
        if isinstance(outcome, Posted) and outcome.journal not in seen:
            seen.add(outcome.journal)
            assert sum(leg.amount for leg in outcome.legs) == 0
            for leg in outcome.legs:
                entries[leg.account].append((leg.sequence, leg.amount, leg.balance_after))
        assert sum(one.posted for one in subject.accounts.values()) == 0
        for one_account in subject.accounts.values():
            active = [
                hold.amount
                for hold in subject.holds.values()
                if hold.account == one_account.id and hold.state is HoldState.ACTIVE
            ]
            assert one_account.held == sum(active) >= 0
            if one_account.type is AccountType.CUSTOMER:
                assert one_account.available >= 0
    for name, added in entries.items():
        running = opening[name]
        for number, (sequence, amount, balance_after) in enumerate(added, start=1):
            running += amount
            assert (sequence, balance_after) == (number, running)
        assert running == subject.accounts[TENANT, name].posted


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=20), st.randoms(use_true_random=False))
def test_a_key_keeps_its_outcome_whatever_comes_later(steps: list[Step], random: object) -> None:
    """INV-5: asking all the keys again moves nothing, and gives journals and refusals as before."""
    subject = start()
    ledger.apply(subject, steps, NOW)
    standing = dict(subject.outcomes)
    before = snapshot(subject)
    again = [step for step in steps if not isinstance(step, Release)]
    random.shuffle(again)  # type: ignore[attr-defined]
    for step, outcome in zip(again, ledger.apply(subject, again, NOW), strict=True):
        was = standing[step.tenant, step.key]
        if isinstance(was, Held):
            assert isinstance(outcome, Held)
            assert outcome.hold == subject.holds[step.tenant, step.key]
        else:
            assert outcome == was
    assert subject.accounts == before


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=15), st.integers(0, 14))
def test_a_cancelled_key_is_never_done(steps: list[Step], number: int) -> None:
    """After CancelSteps a step that did not stand before cannot be done, and one that stood is answered."""
    subject = start()
    outcome = one(subject, Cancel(TENANT, key(number)))
    assert isinstance(outcome, Refused)
    ledger.apply(subject, steps, NOW)
    assert (TENANT, key(number)) not in subject.holds
    assert isinstance(subject.outcomes[TENANT, key(number)], Refused)
    assert ledger.journal_id(TENANT, key(number)) not in {
        outcome.journal for outcome in subject.outcomes.values() if isinstance(outcome, Posted)
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25), st.integers(0, 25))
def test_batches_of_any_size_come_to_the_same(steps: list[Step], cut: int) -> None:
    """Where a batch ends does not matter: the outcomes are those of one step after the other."""
    whole, parts = start(), start()
    outcomes = ledger.apply(whole, steps, NOW)
    split = ledger.apply(parts, steps[:cut], NOW) + ledger.apply(parts, steps[cut:], NOW)
    assert [type(outcome) for outcome in outcomes] == [type(outcome) for outcome in split]
    assert whole.accounts == parts.accounts


# --- holds and replays ----------------------------------------------------------------------------------------


def test_a_journal_consumes_the_hold_it_names() -> None:
    """What the hold kept back pays the journal, in the same step."""
    subject = book(account("a", 100), account("b"))
    one(subject, place(1, "a", 100))
    assert refusal(subject, post(2, ("a", -100), ("b", 100))) is errors.InsufficientFunds
    posted = one(subject, post(3, ("a", -100), ("b", 100), hold=1))
    assert isinstance(posted, Posted)
    assert (subject.accounts[TENANT, "a"].posted, subject.accounts[TENANT, "a"].held) == (0, 0)
    assert subject.holds[TENANT, key(1)].state is HoldState.CONSUMED
    assert refusal(subject, post(4, ("b", -1), ("a", 1), hold=1)) is errors.HoldNotFound
    one(subject, post(5, ("b", -50), ("a", 50)))
    assert refusal(subject, post(6, ("a", -1), ("b", 1), hold=1)) is errors.HoldNotActive


def test_a_journal_takes_part_of_a_hold_and_leaves_the_rest() -> None:
    """Several may, up to what is held; the last one consumes it. Each change is told with what is kept back then."""
    subject = book(account("a", 100), account("b"))
    one(subject, place(1, "a", 100))
    assert refusal(subject, post(2, ("a", -101), ("b", 101), hold=1, keep_hold=True)) is errors.HoldExceeded
    assert isinstance(one(subject, post(3, ("a", -30), ("b", 30), hold=1, keep_hold=True)), Posted)
    assert (subject.accounts[TENANT, "a"].posted, subject.accounts[TENANT, "a"].held) == (70, 70)
    assert refusal(subject, post(4, ("a", -71), ("b", 71), hold=1, keep_hold=True)) is errors.HoldExceeded
    one(subject, post(5, ("a", -70), ("b", 70), hold=1, keep_hold=True))
    assert (subject.accounts[TENANT, "a"].posted, subject.accounts[TENANT, "a"].held) == (0, 0)
    told = [(hold.version, hold.amount, hold.state) for hold in subject.hold_changes]
    assert told == [(1, 100, HoldState.ACTIVE), (2, 70, HoldState.ACTIVE), (3, 70, HoldState.CONSUMED)]


def test_a_journal_that_keeps_nothing_gives_back_what_it_leaves() -> None:
    """A final capture of less than is held ends the hold whole."""
    subject = book(account("a", 100), account("b"))
    one(subject, place(1, "a", 100))
    one(subject, post(2, ("a", -40), ("b", 40), hold=1))
    assert (subject.accounts[TENANT, "a"].posted, subject.accounts[TENANT, "a"].held) == (60, 0)


def test_a_hold_whose_time_is_over_is_not_consumed_and_ends_once() -> None:
    """Whoever is first, its journal or its end: it ends in one state."""
    later = NOW + timedelta(seconds=1)
    subject = book(account("a", 100), account("b"))
    one(subject, place(1, "a", 60, expire_time=later))
    kept = one(subject, Expire(TENANT, key(1)))
    assert isinstance(kept, Held)
    assert kept.hold.state is HoldState.ACTIVE  # not yet
    (late,) = ledger.apply(subject, [post(2, ("a", -60), ("b", 60), hold=1)], later)
    assert isinstance(late, Refused)
    assert isinstance(late.refusal, errors.HoldNotActive)
    assert subject.accounts[TENANT, "a"].held == 60
    for step in (Expire(TENANT, key(1)), Release(TENANT, key(1)), Expire(TENANT, key(1))):
        (ended,) = ledger.apply(subject, [step], later)
        assert isinstance(ended, Held)
        assert (ended.hold.state, ended.hold.version) == (HoldState.EXPIRED, 2)
    assert subject.accounts[TENANT, "a"].held == 0


def test_a_released_hold_gives_back_and_stays_released() -> None:
    """Releasing twice is releasing once; a consumed hold cannot be released."""
    subject = book(account("a", 100), account("b"))
    one(subject, place(1, "a", 60))
    for _ in range(2):
        outcome = one(subject, Release(TENANT, key(1)))
        assert isinstance(outcome, Held)
        assert outcome.hold.state is HoldState.RELEASED
    assert subject.accounts[TENANT, "a"].held == 0
    assert refusal(subject, post(2, ("a", -1), ("b", 1), hold=1)) is errors.HoldNotActive
    one(subject, place(3, "a", 60))
    one(subject, post(4, ("a", -60), ("b", 60), hold=3))
    outcome = one(subject, Release(TENANT, key(3)))
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.refusal, errors.HoldNotActive)


def test_a_hold_released_before_it_was_placed_is_never_placed() -> None:
    """ReleaseHolds of a hold that is not there stores STEP_CANCELLED under its key."""
    subject = book(account("a", 100))
    for step in (Release(TENANT, key(1)), place(1, "a", 10), Release(TENANT, key(1))):
        outcome = one(subject, step)
        assert isinstance(outcome, Refused)
        assert isinstance(outcome.refusal, errors.StepCancelled)
    assert subject.accounts[TENANT, "a"].held == 0


def test_a_stored_outcome_is_answered_as_it_was_stored() -> None:
    """A replay reads the store, whatever else the step says; it is not stored again."""
    subject = book(account("a", 100), account("b"))
    subject.outcomes[TENANT, key(1)] = Stored(TENANT, key(1), b"as it was")
    assert one(subject, post(1, ("a", -1), ("b", 1))) == Stored(TENANT, key(1), b"as it was")
    assert subject.fresh == []
    assert not subject.accounts[TENANT, "a"].changed


# --- refusals, in their order ---------------------------------------------------------------------------------


def full_book() -> Book:
    """Accounts with everything that can be refused."""
    return book(
        account("a", 100),
        account("b", 100),
        account("usd", 100, currency="USD"),
        account("pending", 100, state=AccountState.PENDING),
        account("frozen", 100, state=AccountState.FROZEN),
        account("closed", state=AccountState.CLOSED),
        account("undebited", 100, debits_blocked=True),
        account("uncredited", 100, credits_blocked=True),
        account("full", ledger.POSTED_MAX),
        bank(),
    )


PRECEDENCE = [
    (errors.AccountNotFound, ("nobody", 1), ("a", -2), ("a", 3), ("usd", 4)),
    (errors.AccountsIdentical, ("a", -2), ("a", 3), ("bank", -1), ("usd", 4)),
    (errors.AccountTypeWrong, ("bank", -2), ("usd", 3)),
    (errors.CurrencyMismatch, ("a", -2), ("usd", 3), ("pending", 4)),
    (errors.JournalUnbalanced, ("a", -2), ("pending", 3)),
    (errors.AccountPending, ("frozen", -1), ("closed", -1), ("pending", 2)),
    (errors.AccountFrozen, ("closed", -1), ("frozen", 1)),
    (errors.AccountClosed, ("undebited", -1), ("closed", 1)),
    (errors.AccountDebitsBlocked, ("undebited", -101), ("uncredited", 101)),
    (errors.AccountCreditsBlocked, ("a", -101), ("uncredited", 1), ("full", 100)),
    (errors.AmountOverflow, ("a", -101), ("full", 101)),
    (errors.InsufficientFunds, ("a", -101), ("b", 101)),
]


@pytest.mark.parametrize("case", PRECEDENCE, ids=lambda case: case[0].__name__)
def test_post_journals_refuses_in_the_documented_order(case: tuple[type[Exception], tuple[str, int]]) -> None:
    """Each journal breaks one rule and some that stand after it: the first one is the answer."""
    expected, *legs = case
    assert refusal(full_book(), post(1, *legs)) is expected  # type: ignore[arg-type]


def test_a_missing_hold_goes_before_missing_funds() -> None:
    """HOLD_NOT_FOUND stands before AMOUNT_OVERFLOW and INSUFFICIENT_FUNDS, and after the states."""
    assert refusal(full_book(), post(1, ("a", -101), ("b", 101), hold=9)) is errors.HoldNotFound
    assert refusal(full_book(), post(1, ("a", -1), ("closed", 1), hold=9)) is errors.AccountClosed
    assert refusal(full_book(), post(1, ("undebited", -1), ("uncredited", 1), hold=9)) is errors.HoldNotFound


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (place(1, "nobody", 1, currency="USD"), errors.AccountNotFound),
        (place(1, "bank", 1, currency="USD"), errors.AccountTypeWrong),
        (place(1, "pending", 1, currency="USD"), errors.CurrencyMismatch),
        (place(1, "pending", 101), errors.AccountPending),
        (place(1, "frozen", 101), errors.AccountFrozen),
        (place(1, "closed", 101), errors.AccountClosed),
        (place(1, "undebited", 101), errors.AccountDebitsBlocked),
        (place(1, "a", 101), errors.InsufficientFunds),
    ],
)
def test_place_holds_refuses_in_the_documented_order(step: Place, expected: type[Exception]) -> None:
    """Each hold breaks one rule and some that stand after it: the first one is the answer."""
    assert refusal(full_book(), step) is expected


def test_a_foreign_account_is_as_good_as_none() -> None:
    """A customer debits own accounts alone; the text does not tell foreign from absent."""
    subject = book(account("a", 100), account("b", 100))
    stranger = Actor("b", may_fund=False)
    foreign = one(subject, post(1, ("a", -1), ("b", 1), actor=stranger))
    absent = one(subject, post(2, ("nobody", -1), ("b", 1), actor=stranger))
    assert isinstance(foreign, Refused)
    assert isinstance(absent, Refused)
    assert str(foreign.refusal).replace("/a", "/X") == str(absent.refusal).replace("/nobody", "/X")
    assert refusal(subject, place(3, "a", 1, actor=stranger)) is errors.AccountNotFound
    assert isinstance(one(subject, post(4, ("b", -1), ("a", 1), actor=stranger)), Posted)


def test_money_enters_from_settlement_accounts_by_those_who_may_fund() -> None:
    """Funding debits a settlement account alone; a transfer from it needs the scope; a reversal does not."""
    subject = book(account("a", 100), account("b"), bank())
    assert refusal(subject, post(1, ("a", -1), ("b", 1), kind=JournalKind.FUNDING, actor=FUNDER)) is (
        errors.AccountTypeWrong
    )
    assert refusal(subject, post(2, ("bank", -1), ("b", 1))) is errors.AccountTypeWrong
    assert isinstance(one(subject, post(3, ("bank", -1), ("b", 1), actor=FUNDER)), Posted)
    assert isinstance(one(subject, post(4, ("bank", -1), ("b", 1), kind=JournalKind.REVERSAL)), Posted)


def test_a_journals_id_is_uuid5_of_its_key() -> None:
    """The same on every replica, and what the standard library makes of the same name."""
    expected = uuid.uuid5(NAMESPACE, f"{TENANT}/journals/{key(1)}")
    assert ledger.journal_id(TENANT, key(1)) == str(expected)


def test_a_zero_leg_is_refused() -> None:
    """An entry adds something, always."""
    assert refusal(full_book(), post(1, ("a", 0), ("b", 0))) is errors.JournalUnbalanced


def test_balances_never_leave_64_bits() -> None:
    """Overflow is refused on both sides, holds included, before it could reach a column."""
    subject = book(account("a", ledger.POSTED_MAX - 1, overdraft_limit=10**15), bank(posted=-INT64_MAX))
    assert subject.accounts[TENANT, "a"].available <= INT64_MAX
    assert refusal(subject, post(1, ("bank", -5), ("a", 5), actor=FUNDER)) is errors.AmountOverflow
    assert refusal(subject, post(2, ("bank", -2), ("a", 1), ("a", 1), actor=FUNDER)) is errors.AmountOverflow
    assert refusal(subject, place(3, "bank", INT64_MAX, actor=FUNDER)) is errors.AmountOverflow


def test_several_legs_on_one_account_count_together() -> None:
    """Two debits that are covered one by one, but not together, are refused."""
    subject = book(account("a", 100), account("b"))
    assert refusal(subject, post(1, ("a", -60), ("a", -60), ("b", 120))) is errors.InsufficientFunds
    posted = one(subject, post(2, ("a", -60), ("a", -40), ("b", 100)))
    assert isinstance(posted, Posted)
    assert [(leg.sequence, leg.balance_after) for leg in posted.legs] == [(1, 40), (2, 0), (1, 100)]


def exchange(actor: Actor) -> Post:
    """10.00 EUR of "a" against 11.00 USD for "b", by way of the bank's positions."""
    legs = (
        Leg("accounts/a", "EUR", -1000),
        Leg("accounts/b", "USD", 1100),
        Leg("accounts/eur", "EUR", 1000, position=True),
        Leg("accounts/usd", "USD", -1100, position=True),
    )
    return replace(post(1, actor=actor), legs=legs)


def positions(type_: AccountType = AccountType.INTERNAL) -> list[BookAccount]:
    """The bank's, of which nothing is in yet."""
    return [account(name.lower(), type=type_, owners=(), currency=name) for name in ("EUR", "USD")]


@pytest.mark.parametrize("actor", [STAFF, FUNDER, Actor("a", may_fund=False)])
def test_an_exchange_moves_both_currencies_through_positions(actor: Actor) -> None:
    """On anybody's behalf who may debit the payer; each currency sums to zero, and a position may be negative."""
    accounts = [account("a", 1000), account("b", currency="USD"), *positions()]
    (outcome,) = ledger.apply(book(*accounts), [exchange(actor)], NOW)
    assert isinstance(outcome, Posted)
    assert [one.posted for one in accounts] == [0, 1100, 1000, -1100]


def test_a_customer_changes_own_money_alone() -> None:
    """The positions are debited on anybody's behalf, the payer is not."""
    accounts = [account("a", 1000), account("b", currency="USD"), *positions()]
    (outcome,) = ledger.apply(book(*accounts), [exchange(Actor("b", may_fund=False))], NOW)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.refusal, errors.AccountNotFound)


@pytest.mark.parametrize("type_", [one for one in AccountType if one is not AccountType.INTERNAL])
def test_no_other_account_is_a_position(type_: AccountType) -> None:
    """A customer's could be debited by everybody else; a settlement account would let money enter."""
    accounts = [account("a", 1000), account("b", currency="USD"), *positions(type_)]
    (outcome,) = ledger.apply(book(*accounts), [exchange(FUNDER)], NOW)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.refusal, errors.AccountTypeWrong)


def test_an_internal_account_pays_only_where_it_is_named_as_a_position() -> None:
    """That others in the journal are positions gives no right to debit it as the payer."""
    accounts = [account("a", 1000, type=AccountType.INTERNAL, owners=()), account("b", currency="USD"), *positions()]
    (outcome,) = ledger.apply(book(*accounts), [exchange(STAFF)], NOW)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.refusal, errors.AccountTypeWrong)
    (outcome,) = ledger.apply(book(*accounts), [replace(exchange(FUNDER), key=key(2))], NOW)
    assert isinstance(outcome, Posted)


def expecting(step: Post, version: int, available: int | None) -> Post:
    """The journal, with what it expects of the account that it debits first."""
    return replace(step, seen=Seen(version, available))


@pytest.mark.parametrize(
    ("version", "available", "changed"),
    [(7, 100, ""), (7, None, ""), (6, 100, "BALANCE"), (8, 100, "BALANCE"), (7, 99, "AVAILABLE"), (0, 0, "BALANCE")],
)
def test_a_step_that_expects_another_account_is_refused_for_good(
    version: int, available: int | None, changed: str
) -> None:
    """Sequence, then what is available, a journal's and a hold's; the refusal says which, and stays."""
    for step in (
        expecting(post(1, ("a", -10), ("b", 10)), version, available),
        replace(place(1, "a", 10), seen=Seen(version, available)),
    ):
        made = book(account("a", 110, held=10, sequence=7), account("b"))
        (outcome,) = ledger.apply(made, [step], NOW)
        if not changed:
            assert not isinstance(outcome, Refused)
            continue
        assert isinstance(outcome, Refused) and isinstance(outcome.refusal, StateChanged)
        assert outcome.refusal.metadata["changed"] == changed
        assert outcome.refusal.metadata["available_minor_units"] == "100"
        assert made.accounts[TENANT, "a"] == account("a", 110, held=10, sequence=7)
        made.accounts[TENANT, "a"].sequence, made.accounts[TENANT, "a"].held = version, 110 - (available or 0)
        assert ledger.apply(made, [step], NOW) == [outcome]


def test_of_two_steps_that_expect_the_same_of_an_account_one_is_done() -> None:
    """Also within one batch, where the first is not written yet; credits of others count, holds do too."""
    first = expecting(post(1, ("a", -10), ("b", 10)), 0, 100)
    second = expecting(post(2, ("a", -10), ("b", 10)), 0, 100)
    made = book(account("a", 100), account("b", 50))
    outcomes = ledger.apply(made, [first, second], NOW)
    assert [type(outcome) for outcome in outcomes] == [Posted, Refused]
    held = book(account("a", 100), account("b"))
    outcomes = ledger.apply(held, [place(3, "a", 1), first, Release(TENANT, key(3)), second], NOW)
    assert [type(outcome) for outcome in outcomes] == [Held, Refused, Held, Posted]
    credited = book(account("a", 100), account("b", 50))
    assert isinstance(ledger.apply(credited, [post(4, ("b", -1), ("a", 1)), first], NOW)[1], Refused)


def test_what_a_step_expects_goes_after_the_states_and_before_the_funds() -> None:
    """Where an account is frozen that is told, and where it changed nothing is said of funds."""
    step = expecting(post(1, ("a", -1000), ("b", 1000)), 1, 100)
    frozen = book(account("a", 100), account("b", state=AccountState.FROZEN))
    (outcome,) = ledger.apply(frozen, [step], NOW)
    assert isinstance(outcome, Refused) and isinstance(outcome.refusal, errors.AccountFrozen)
    (outcome,) = ledger.apply(book(account("a", 100), account("b")), [step], NOW)
    assert isinstance(outcome, Refused) and isinstance(outcome.refusal, StateChanged)
