"""What happened, as the contract's event messages for the outbox; ids alone, never personal data."""

from __future__ import annotations

from compliance.model import Case, Decision, KycProfile, KycState, Limit, Rule, Watchlist
from florin.compliance.v1 import decision_pb2
from florin.compliance.v1 import events_pb2 as pb
from meshkit.clock import timestamp
from meshkit.outbox import Event


def kyc_changed(profile: KycProfile) -> Event:
    """The event of a profile's present state."""
    kinds = {
        KycState.SUBMITTED: pb.KycSubmitted,
        KycState.VERIFIED: pb.CustomerVerified,
        KycState.REJECTED: pb.CustomerRejected,
    }
    customer = f"customers/{profile.customer}"
    message = kinds[profile.state](customer=customer, customers=[customer], update_time=timestamp(profile.update_time))
    return Event(profile.tenant, profile.name, profile.version, message, profile.update_time)


def decision_made(decision: Decision) -> Event:
    """A payment was screened."""
    message = pb.DecisionMade(
        decision=decision.name,
        transfer=decision.transfer,
        outcome=decision_pb2.DecisionOutcome.ValueType(decision.outcome.value),
        create_time=timestamp(decision.create_time),
    )
    return Event(decision.tenant, decision.name, 1, message, decision.create_time)


def case_opened(case: Case) -> Event:
    """A payment waits for an officer."""
    message = pb.CaseOpened(
        case=case.name,
        transfer=case.transfer,
        create_time=timestamp(case.create_time),
        expire_time=timestamp(case.expire_time),
    )
    return Event(case.tenant, case.name, 1, message, case.create_time)


def case_resolved(case: Case, *, freeze_account: bool = False) -> Event:
    """A case ended. Raises ValueError for one that is open."""
    if case.resolve_time is None:
        raise ValueError(f"{case.name} is open")
    message = pb.CaseResolved(
        case=case.name,
        transfer=case.transfer,
        state=decision_pb2.CaseState.ValueType(case.state.value),
        freeze_account=case.debit_account if freeze_account else "",
        resolve_time=timestamp(case.resolve_time),
    )
    return Event(case.tenant, case.name, case.version, message, case.resolve_time)


def limit_changed(limit: Limit) -> Event:
    """A limit was set."""
    message = pb.LimitChanged(limit=limit.name, update_time=timestamp(limit.update_time))
    return Event(limit.tenant, limit.name, limit.version, message, limit.update_time)


def rule_changed(rule: Rule) -> Event:
    """A rule was set."""
    message = pb.RuleChanged(rule=rule.name, version=rule.version, update_time=timestamp(rule.update_time))
    return Event(rule.tenant, rule.name, rule.version, message, rule.update_time)


def watchlist_imported(watchlist: Watchlist) -> Event:
    """A watchlist has a new version."""
    message = pb.WatchlistImported(
        watchlist=watchlist.name,
        version=watchlist.version,
        entry_count=watchlist.entry_count,
        import_time=timestamp(watchlist.import_time),
    )
    return Event(watchlist.tenant, watchlist.name, watchlist.version, message, watchlist.import_time)
