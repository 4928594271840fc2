"""The model as the contract's messages, with what each reader may see; it must not decide anything else."""

from __future__ import annotations

from compliance import traces
from compliance.model import Case, Decision, KycProfile, Limit, Outcome, Rule, Watchlist
from florin.common.v1 import money_pb2
from florin.compliance.v1 import decision_pb2, kyc_pb2, policy_pb2, screening_service_pb2
from meshkit.clock import timestamp
from meshkit.identity import Principal

_RULE_OUTCOMES = {
    Outcome.DECLINE: policy_pb2.RULE_OUTCOME_DECLINE,
    Outcome.REVIEW: policy_pb2.RULE_OUTCOME_REVIEW,
}
RULE_OUTCOMES: dict[int, Outcome] = {int(value): outcome for outcome, value in _RULE_OUTCOMES.items()}
"""The contract's outcomes of a rule → ours."""
_OFFICERS = frozenset({"kyc:verify", "compliance:read"})


def kyc_profile(profile: KycProfile, reader: Principal) -> kyc_pb2.KycProfile:
    """A profile. Watchlist matches are for officers and auditors alone; a customer is not told who or why (no tipping
    off), staff without those scopes see all but the matches."""
    message = kyc_pb2.KycProfile(
        name=profile.name,
        customer=f"customers/{profile.customer}",
        legal_name=profile.legal_name,
        country_code=profile.country_code,
        birth_date=profile.birth_date,
        state=kyc_pb2.KycProfile.KycState.ValueType(profile.state.value),
        create_time=timestamp(profile.create_time),
        update_time=timestamp(profile.update_time),
        etag=profile.etag,
    )
    if reader.is_staff:
        message.submitted_by, message.decided_by = profile.submitted_by, profile.decided_by
        message.reason = profile.reason
        if reader.scopes & _OFFICERS:
            message.watchlist_matches.extend(profile.watchlist_matches)
    return message


def limit(one: Limit) -> policy_pb2.Limit:
    """A limit."""
    return policy_pb2.Limit(
        name=one.name,
        kind=policy_pb2.LimitKind.ValueType(one.kind.value),
        customer=f"customers/{one.customer}" if one.customer else "",
        maximum=money_pb2.Money(currency_code=one.currency, minor_units=one.maximum),
        update_time=timestamp(one.update_time),
        updated_by=one.updated_by,
    )


def rule(one: Rule) -> policy_pb2.Rule:
    """A rule."""
    return policy_pb2.Rule(
        name=one.name,
        expression=one.expression,
        outcome=_RULE_OUTCOMES[one.outcome],
        enabled=one.enabled,
        description=one.description,
        version=one.version,
        update_time=timestamp(one.update_time),
        updated_by=one.updated_by,
    )


def watchlist(one: Watchlist) -> policy_pb2.Watchlist:
    """A watchlist."""
    return policy_pb2.Watchlist(
        name=one.name,
        version=one.version,
        entry_count=one.entry_count,
        name_count=one.name_count,
        sha256=one.sha256,
        import_time=timestamp(one.import_time),
    )


def decision(one: Decision) -> decision_pb2.Decision:
    """A decision with its trace; its method asks for compliance:read."""
    return decision_pb2.Decision(
        name=one.name,
        transfer=one.transfer,
        outcome=decision_pb2.DecisionOutcome.ValueType(one.outcome.value),
        trace=traces.to_message(one.checks),
        case=one.case,
        create_time=timestamp(one.create_time),
    )


def case(one: Case) -> decision_pb2.Case:
    """A case."""
    message = decision_pb2.Case(
        name=one.name,
        transfer=one.transfer,
        decision=f"decisions/{one.id}",
        customer=f"customers/{one.customer}" if one.customer else "",
        amount=money_pb2.Money(currency_code=one.currency, minor_units=one.amount),
        creditor_name=one.creditor_name,
        state=decision_pb2.CaseState.ValueType(one.state.value),
        requested_by=one.requested_by,
        resolved_by=one.resolved_by,
        reason=one.reason,
        create_time=timestamp(one.create_time),
        expire_time=timestamp(one.expire_time),
    )
    if one.resolve_time is not None:
        message.resolve_time.CopyFrom(timestamp(one.resolve_time))
    return message


def outcome(one: Decision, *, traced: bool = False) -> screening_service_pb2.ScreenTransfersResponse.ScreeningOutcome:
    """A decision as the transactions service is told it: what the customer may know, no trace unless `traced`."""
    message = screening_service_pb2.ScreenTransfersResponse.ScreeningOutcome(
        key=str(one.key),
        outcome=decision_pb2.DecisionOutcome.ValueType(one.outcome.value),
        decision=one.name,
        case=one.case,
    )
    if one.refusal is not None:
        message.refusal.CopyFrom(traces.refusal_to_message(one.refusal))
    if traced:
        message.trace.CopyFrom(traces.to_message(one.checks))
        if one.limit_refusal is not None:
            message.limit_refusal.CopyFrom(traces.refusal_to_message(one.limit_refusal))
    return message
