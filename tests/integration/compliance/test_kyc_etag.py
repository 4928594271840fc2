"""Whoever decides about an identity decides about the one that was looked at."""

from __future__ import annotations

from florin.compliance.v1 import compliance_service_pb2 as pb
from florin.compliance.v1 import kyc_pb2
from tests.integration.compliance.conftest import Service, refused
from tests.integration.compliance.test_people import submission


async def test_an_identity_that_was_exchanged_after_the_look_is_not_verified(service: Service) -> None:
    """The second pair of eyes must not be led past a name by handing in another one in time."""
    await service.know("anna")
    seen = (await service.call("SubmitKyc", submission(name="Anna Example"), "teller")).profile
    await service.call("SubmitKyc", submission(name="Viktor Marchenkov"), "teller")
    for method, request in (
        ("VerifyCustomer", pb.VerifyCustomerRequest(name=seen.name, etag=seen.etag)),
        ("RejectCustomer", pb.RejectCustomerRequest(name=seen.name, reason="blurred copy", etag=seen.etag)),
    ):
        async with refused("ETAG_MISMATCH"):
            await service.call(method, request, "compliance")
    found = (await service.call("GetKycProfile", pb.GetKycProfileRequest(name=seen.name), "compliance")).profile
    assert (found.state, found.legal_name) == (kyc_pb2.KycProfile.KYC_STATE_SUBMITTED, "Viktor Marchenkov")
    again = pb.VerifyCustomerRequest(name=seen.name, etag=found.etag)
    verified = (await service.call("VerifyCustomer", again, "compliance")).profile
    assert verified.state == kyc_pb2.KycProfile.KYC_STATE_VERIFIED
    assert verified.etag not in (seen.etag, found.etag)
    async with refused("KYC_DECIDED"):
        await service.call("VerifyCustomer", again, "compliance")
