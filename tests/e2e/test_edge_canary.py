"""A version on trial behind the real Envoy: its share of the calls, and that callers do not see it fail."""

from __future__ import annotations

from collections import Counter

from florin.accounts.v1 import account_service_pb2, account_service_pb2_grpc
from tests.support import edge
from tests.support.parts import wait_until

CALLS = 300


def test_a_canary_gets_its_share_and_none_when_it_fails() -> None:
    """A fifth of the calls while it is well, none that fails when it is gone, and its share again when it is back."""
    with edge.running(canary_percent=20) as running, running.channel() as channel:
        stub = account_service_pb2_grpc.AccountServiceStub(channel)
        request, metadata = account_service_pb2.GetAccountRequest(name="accounts/a"), running.metadata()

        def asked(count: int) -> Counter[str]:
            answers = (stub.GetAccount(request, metadata=metadata, timeout=5) for _ in range(count))
            return Counter(answer.account.display_name for answer in answers)

        wait_until(lambda: asked(20)["accounts-1"] > 0, 20)
        assert 0.1 < asked(CALLS)["accounts-1"] / CALLS < 0.3
        tried = running.stand_ins["accounts"][1]
        tried.stop()
        assert asked(CALLS) == {"accounts-0": CALLS}
        tried.start()
        wait_until(lambda: asked(20)["accounts-1"] > 0, 20)
