"""Every refusal of compliance, in order of precedence; it must not tell a customer what compliance saw."""

from __future__ import annotations

from typing import ClassVar

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError


class CustomerNotFound(DomainError):
    """There is no such customer, it is not the caller's, or its event did not arrive yet."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.NOT_FOUND
    reason: ClassVar[int] = errors_pb2.REASON_CUSTOMER_NOT_FOUND
    # The customer's event may be on its way, so the same request may be answered otherwise later.
    definitive: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        super().__init__(f'There is no customer "{name}".', metadata={"name": name})


class KycProfileNotFound(DomainError):
    """There is no such profile, or it is not the caller's: the same words for both."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.NOT_FOUND
    reason: ClassVar[int] = errors_pb2.REASON_KYC_PROFILE_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f'There is no KYC profile "{name}".', metadata={"name": name})


class KycDecided(DomainError):
    """The profile was verified or rejected before."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.FAILED_PRECONDITION
    reason: ClassVar[int] = errors_pb2.REASON_KYC_DECIDED

    def __init__(self, name: str, state: str) -> None:
        super().__init__(f'"{name}" is {state} already.', metadata={"name": name, "state": state})


class FourEyes(DomainError):
    """One person may not do both halves of this."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.PERMISSION_DENIED
    reason: ClassVar[int] = errors_pb2.REASON_FOUR_EYES

    def __init__(self, name: str) -> None:
        super().__init__(f'"{name}" has to be decided by somebody else than who made it.', metadata={"name": name})


class LimitNotFound(DomainError):
    """There is no such limit."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.NOT_FOUND
    reason: ClassVar[int] = errors_pb2.REASON_LIMIT_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f'There is no limit "{name}".', metadata={"name": name})


class RuleInvalid(DomainError):
    """The expression does not compile, names what there is not, or does not give a bool."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INVALID_ARGUMENT
    reason: ClassVar[int] = errors_pb2.REASON_RULE_INVALID

    def __init__(self, why: str, *, line: int = 0, column: int = 0) -> None:
        place = f" (line {line}, column {column})" if line else ""
        where = {"line": str(line), "column": str(column)} if line else {}
        super().__init__(f"The rule's expression cannot be used{place}: {why}.", metadata={"why": why, **where})


class RuleNotFound(DomainError):
    """There is no such rule."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.NOT_FOUND
    reason: ClassVar[int] = errors_pb2.REASON_RULE_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f'There is no rule "{name}".', metadata={"name": name})


class WatchlistInvalid(DomainError):
    """The files cannot be read; the metadata name the file and the line."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INVALID_ARGUMENT
    reason: ClassVar[int] = errors_pb2.REASON_WATCHLIST_INVALID

    def __init__(self, file: str, line: int, why: str) -> None:
        place = f"{file}, line {line}" if line else file
        super().__init__(f"{place}: {why}.", metadata={"file": file, "line": str(line), "why": why})


class DecisionNotFound(DomainError):
    """There is no such decision."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.NOT_FOUND
    reason: ClassVar[int] = errors_pb2.REASON_DECISION_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f'There is no decision "{name}".', metadata={"name": name})


class CaseNotFound(DomainError):
    """There is no such case."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.NOT_FOUND
    reason: ClassVar[int] = errors_pb2.REASON_CASE_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f'There is no case "{name}".', metadata={"name": name})


class CaseResolved(DomainError):
    """The case is no longer open; the metadata say how it ended."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.FAILED_PRECONDITION
    reason: ClassVar[int] = errors_pb2.REASON_CASE_RESOLVED

    def __init__(self, name: str, state: str) -> None:
        super().__init__(f'The case "{name}" is {state} already.', metadata={"name": name, "state": state})
