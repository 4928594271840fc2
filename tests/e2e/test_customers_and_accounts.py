"""Customers and accounts from their opening to their end, as staff and customers see them."""

from __future__ import annotations

import secrets

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from florin.accounts.v1 import account_pb2, account_service_pb2, customer_pb2
from florin.compliance.v1 import compliance_service_pb2, kyc_pb2
from local import issuer
from tests.support.mesh import Mesh, once_known
from tests.support.parts import wait_until
from tests.support.protocols import refused
from tests.support.tokens import claims

pb = account_service_pb2
ACTIVE, PENDING = account_pb2.ACCOUNT_STATE_ACTIVE, account_pb2.ACCOUNT_STATE_PENDING
FROZEN, CLOSED = account_pb2.ACCOUNT_STATE_FROZEN, account_pb2.ACCOUNT_STATE_CLOSED


def get(mesh: Mesh, account: str) -> account_pb2.Account:
    """An account as a teller sees it."""
    found: account_pb2.Account = mesh.call("AccountService.GetAccount", pb.GetAccountRequest(name=account)).account
    return found


def open_account(mesh: Mesh, customer: str, **more: object) -> account_pb2.Account:
    """A new account, whatever its state."""
    request = pb.CreateAccountRequest(
        customers=[customer],
        type=account_pb2.ACCOUNT_TYPE_CUSTOMER,
        currency_code="EUR",
        request_id=secrets.token_hex(8),
        **more,  # type: ignore[arg-type]
    )
    opened: account_pb2.Account = mesh.call("AccountService.CreateAccount", request).account
    return opened


def submit(mesh: Mesh, customer: str) -> str:
    """Hands a customer's identity in; gives the profile's name."""
    request = compliance_service_pb2.SubmitKycRequest(customer=customer, legal_name="Ada Beispiel", country_code="DE")
    stubs, metadata = mesh.stubs(), mesh.metadata()
    name: str = once_known(lambda: stubs.compliance.SubmitKyc(request, metadata=metadata, timeout=10)).profile.name
    return name


def iban() -> str:
    """An IBAN with right check digits that no other test uses."""
    account = f"{secrets.randbelow(10**18):018d}"
    check = 98 - int(f"{account}131400") % 97  # DE00 moved behind the account: D is 13, E is 14
    return f"DE{check:02d}{account}"


def test_an_account_waits_for_its_owners_verification(mesh: Mesh) -> None:
    """PENDING takes no money; once compliance verifies the owner the account is ACTIVE without anybody's doing."""
    customer = mesh.customer(verified=False)
    account, other = open_account(mesh, customer), mesh.account(funds=10_00)
    assert account.state == PENDING
    payment = mesh.transfer(other, account.name, 5_00)
    refusal = refused(lambda: mesh.call("TransferService.CreateTransfer", payment))
    assert refusal.is_for("FAILED_PRECONDITION", "ACCOUNT_PENDING")
    name = submit(mesh, customer)
    verify = compliance_service_pb2.VerifyCustomerRequest(name=name)
    assert refused(lambda: mesh.call("ComplianceService.VerifyCustomer", verify)).reason == "SCOPE_MISSING"
    profile = mesh.call("ComplianceService.VerifyCustomer", verify, "compliance").profile
    assert profile.state == kyc_pb2.KycProfile.KYC_STATE_VERIFIED
    wait_until(lambda: get(mesh, account.name).state == ACTIVE, 20)
    shown = mesh.call("AccountService.GetCustomer", pb.GetCustomerRequest(name=customer)).customer
    assert shown.kyc_state == customer_pb2.Customer.KYC_STATE_VERIFIED
    mesh.call("TransferService.CreateTransfer", mesh.transfer(other, account.name, 5_00))
    assert mesh.balance(account.name).posted.minor_units == 5_00


def test_nobody_verifies_what_they_submitted(mesh: Mesh) -> None:
    """A person with both scopes still needs a second one; so does a rejection."""
    customer = mesh.customer(verified=False)
    both = issuer.sign(mesh.state, claims(sub="both", scope="kyc:submit kyc:verify kyc:read"))
    request = compliance_service_pb2.SubmitKycRequest(customer=customer, legal_name="Ada Beispiel", country_code="DE")
    metadata, stub = [("authorization", f"Bearer {both}")], mesh.stubs().compliance
    name = once_known(lambda: stub.SubmitKyc(request, metadata=metadata, timeout=10)).profile.name
    verify = compliance_service_pb2.VerifyCustomerRequest(name=name)
    reject = compliance_service_pb2.RejectCustomerRequest(name=name, reason="not me")
    assert refused(lambda: stub.VerifyCustomer(verify, metadata=metadata, timeout=10)).reason == "FOUR_EYES"
    assert refused(lambda: stub.RejectCustomer(reject, metadata=metadata, timeout=10)).reason == "FOUR_EYES"
    mesh.call("ComplianceService.VerifyCustomer", verify, "compliance")


@pytest.mark.parametrize(
    ("field", "value"), [("country_code", "ZZ"), ("birth_date", "1990-02-31"), ("birth_date", "2999-01-01")]
)
def test_an_identity_that_cannot_be_is_refused(mesh: Mesh, field: str, value: str) -> None:
    """No such country, no such day, a day to come: rules and officers have to be able to rely on them."""
    customer = mesh.customer(verified=False)
    request = compliance_service_pb2.SubmitKycRequest(customer=customer, legal_name="Ada Beispiel", country_code="DE")
    setattr(request, field, value)
    refusal = refused(lambda: mesh.call("ComplianceService.SubmitKyc", request))
    assert refusal.is_for("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert refusal.violations == [field]


def test_a_rejected_customer_gets_no_account_until_verified_after_all(mesh: Mesh) -> None:
    """CUSTOMER_REJECTED, until the identity is handed in again and accepted."""
    customer = mesh.customer(verified=False)
    name = submit(mesh, customer)
    reject = compliance_service_pb2.RejectCustomerRequest(name=name, reason="the document is unreadable")
    mesh.call("ComplianceService.RejectCustomer", reject, "compliance")

    def kyc_state() -> int:
        request = pb.GetCustomerRequest(name=customer)
        state: int = mesh.call("AccountService.GetCustomer", request).customer.kyc_state
        return state

    wait_until(lambda: kyc_state() == customer_pb2.Customer.KYC_STATE_REJECTED, 20)
    refusal = refused(lambda: open_account(mesh, customer))
    assert refusal.is_for("FAILED_PRECONDITION", "CUSTOMER_REJECTED")
    submit(mesh, customer)
    mesh.call("ComplianceService.VerifyCustomer", compliance_service_pb2.VerifyCustomerRequest(name=name), "compliance")
    wait_until(lambda: kyc_state() == customer_pb2.Customer.KYC_STATE_VERIFIED, 20)
    assert open_account(mesh, customer).state == ACTIVE


def test_a_frozen_account_moves_nothing_until_it_is_unfrozen(mesh: Mesh) -> None:
    """Neither debits nor credits; the reason is shown to staff alone, and other accounts are not touched."""
    owner = mesh.customer()
    frozen, other = mesh.account(owner, funds=10_00), mesh.account(funds=10_00)
    freeze = pb.FreezeAccountRequest(name=frozen, reason="reported stolen")
    assert mesh.call("AccountService.FreezeAccount", freeze).account.freeze_reason == "reported stolen"
    own = mesh.call("AccountService.GetAccount", pb.GetAccountRequest(name=frozen), "customer", customer=owner).account
    listed = mesh.call("AccountService.ListAccounts", pb.ListAccountsRequest(), "customer", customer=owner).accounts
    for seen in (own, *listed):  # a case of compliance may be behind it
        assert (seen.state, seen.freeze_reason) == (FROZEN, "")
    for debit, credit in ((frozen, other), (other, frozen)):
        payment = mesh.transfer(debit, credit, 1_00)
        refusal = refused(lambda payment=payment: mesh.call("TransferService.CreateTransfer", payment))
        assert refusal.is_for("FAILED_PRECONDITION", "ACCOUNT_FROZEN")
        assert refusal.metadata["account"] == frozen
    close = refused(lambda: mesh.call("AccountService.CloseAccount", pb.CloseAccountRequest(name=frozen)))
    assert close.reason == "ACCOUNT_FROZEN"
    unfreeze = pb.UnfreezeAccountRequest(name=frozen, reason="found again")
    assert mesh.call("AccountService.UnfreezeAccount", unfreeze).account.state == ACTIVE
    mesh.call("TransferService.CreateTransfer", mesh.transfer(frozen, other, 1_00))
    assert mesh.balance(frozen).posted.minor_units == 9_00


def test_an_account_is_closed_at_zero_and_for_good(mesh: Mesh) -> None:
    """ACCOUNT_NOT_EMPTY with the figure, then CLOSED: nothing comes in any more, and closing it again is no error."""
    account, heir = mesh.account(funds=7_00), mesh.account()
    close = pb.CloseAccountRequest(name=account)
    full = refused(lambda: mesh.call("AccountService.CloseAccount", close))
    assert full.is_for("FAILED_PRECONDITION", "ACCOUNT_NOT_EMPTY")
    assert full.metadata["posted_minor_units"] == "700"
    mesh.call("TransferService.CreateTransfer", mesh.transfer(account, heir, 7_00))
    assert mesh.call("AccountService.CloseAccount", close).account.state == CLOSED
    assert mesh.call("AccountService.CloseAccount", close).account.state == CLOSED
    payment = mesh.transfer(heir, account, 1_00)
    assert refused(lambda: mesh.call("TransferService.CreateTransfer", payment)).reason == "ACCOUNT_CLOSED"
    reopen = pb.UnfreezeAccountRequest(name=account, reason="sorry")
    assert refused(lambda: mesh.call("AccountService.UnfreezeAccount", reopen)).reason == "ACCOUNT_CLOSED"


def test_of_two_people_who_change_an_account_the_slower_one_is_told(mesh: Mesh) -> None:
    """An etag read before somebody else's change is refused; only what the mask names is changed."""
    account = get(mesh, mesh.account())
    mine, theirs = account_pb2.Account(), account_pb2.Account()
    mine.CopyFrom(account)
    theirs.CopyFrom(account)
    theirs.display_name, theirs.overdraft_limit_minor_units = "Rent", 99
    first = pb.UpdateAccountRequest(account=theirs, update_mask=FieldMask(paths=["display_name"]))
    changed = mesh.call("AccountService.UpdateAccount", first).account
    assert (changed.display_name, changed.overdraft_limit_minor_units) == ("Rent", 0)
    mine.display_name = "Savings"
    second = pb.UpdateAccountRequest(account=mine, update_mask=FieldMask(paths=["display_name"]))
    refusal = refused(lambda: mesh.call("AccountService.UpdateAccount", second))
    assert refusal.is_for("ABORTED", "ETAG_MISMATCH")
    assert refusal.metadata["present_etag"] == changed.etag
    second.account.etag = mine.etag = changed.etag
    assert mesh.call("AccountService.UpdateAccount", second).account.display_name == "Savings"
    wrong = pb.UpdateAccountRequest(account=mine, update_mask=FieldMask(paths=["balance"]))
    assert refused(lambda: mesh.call("AccountService.UpdateAccount", wrong)).reason == "UPDATE_MASK_INVALID"


def test_an_overdraft_limit_is_used_and_cannot_be_taken_away_below_its_use(mesh: Mesh) -> None:
    """What is available grows by the limit; OVERDRAFT_IN_USE while the account is below the new one."""
    account, other = mesh.account(), mesh.account()

    def limit(minor_units: int) -> pb.UpdateAccountRequest:
        wanted = account_pb2.Account(name=account, overdraft_limit_minor_units=minor_units)
        return pb.UpdateAccountRequest(account=wanted, update_mask=FieldMask(paths=["overdraft_limit_minor_units"]))

    mesh.call("AccountService.UpdateAccount", limit(50_00))
    assert mesh.balance(account).available.minor_units == 50_00
    mesh.call("TransferService.CreateTransfer", mesh.transfer(account, other, 40_00))
    assert mesh.balance(account).posted.minor_units == -40_00
    assert refused(lambda: mesh.call("AccountService.UpdateAccount", limit(39_99))).reason == "OVERDRAFT_IN_USE"
    mesh.call("AccountService.UpdateAccount", limit(40_00))
    payment = mesh.transfer(account, other, 1)
    assert refused(lambda: mesh.call("TransferService.CreateTransfer", payment)).reason == "INSUFFICIENT_FUNDS"


def test_an_account_is_paid_by_its_iban(mesh: Mesh) -> None:
    """An identifier names one account of the tenant: it is paid by it, and nobody else can have it."""
    number, payer = iban(), mesh.account(funds=10_00)
    identifiers = [account_pb2.AccountIdentifier(iban=number)]
    account = open_account(mesh, mesh.customer(), identifiers=identifiers)
    paid = mesh.call("TransferService.CreateTransfer", mesh.transfer(payer, f"iban:{number}", 4_00)).transfer
    assert paid.credit_account == account.name
    assert mesh.balance(account.name).posted.minor_units == 4_00
    taken = refused(lambda: open_account(mesh, mesh.customer(), identifiers=identifiers))
    assert taken.is_for("ALREADY_EXISTS", "IDENTIFIER_TAKEN")
    to_itself = mesh.transfer(account.name, f"iban:{number}", 1_00)
    identical = refused(lambda: mesh.call("TransferService.CreateTransfer", to_itself))
    assert identical.is_for("INVALID_ARGUMENT", "ACCOUNTS_IDENTICAL")


def test_a_customer_sees_own_accounts_and_nobody_elses(mesh: Mesh) -> None:
    """Lists hold own accounts alone; a foreign account is refused in the words of one that does not exist."""
    mine, other = mesh.customer(), mesh.customer()
    own, foreign = [mesh.account(mine), mesh.account(mine, currency="JPY")], mesh.account(other)
    as_me = {"role": "customer", "customer": mine}
    listed = mesh.call("AccountService.ListAccounts", pb.ListAccountsRequest(), **as_me).accounts
    assert sorted(account.name for account in listed) == sorted(own)
    theirs = pb.ListAccountsRequest(customer=other)
    assert list(mesh.call("AccountService.ListAccounts", theirs, **as_me).accounts) == []
    missing = foreign[:-1] + ("0" if foreign[-1] != "0" else "1")
    texts = []
    for name in (foreign, missing):
        request = pb.GetAccountRequest(name=name)
        refusal = refused(lambda request=request: mesh.call("AccountService.GetAccount", request, **as_me))
        assert refusal.is_for("NOT_FOUND", "ACCOUNT_NOT_FOUND")
        texts.append(refusal.message.replace(name, "…"))
    assert texts[0] == texts[1]
    assert mesh.call("AccountService.GetAccount", pb.GetAccountRequest(name=own[0]), **as_me).account.name == own[0]
