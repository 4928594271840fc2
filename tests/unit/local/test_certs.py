"""The mesh's certificates and the issuer's key: what is damaged is made anew or named, never a traceback."""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from local import certs, issuer
from local.state import MeshError, State, open_state


@pytest.fixture
def state() -> Iterator[State]:
    """A state folder with certificates and an issuer."""
    folder = Path(tempfile.mkdtemp(prefix="florin-certs-"))
    folder.chmod(0o755)
    made = open_state(folder / "state")
    certs.ensure(made)
    issuer.ensure(made)
    yield made
    shutil.rmtree(folder)


def whole(state: State) -> bool:
    """Whether every identity has a certificate of the present authority that fits its key."""
    authority = x509.load_pem_x509_certificate(state.ca.read_bytes())
    for identity in certs.IDENTITIES:
        chain, key = state.certificate(identity)
        certificate = x509.load_pem_x509_certificate(chain.read_bytes())
        certificate.verify_directly_issued_by(authority)
        if load_pem_private_key(key.read_bytes(), None).public_key() != certificate.public_key():
            return False
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if names.get_values_for_type(x509.UniformResourceIdentifier) != [f"spiffe://florin/{identity}"]:
            return False
    return True


@pytest.mark.parametrize("identity", certs.IDENTITIES)
def test_certificates_pass_the_strict_check_that_later_pythons_make(state: State, identity: str) -> None:
    """Python does by itself from 3.13 on; each identity shakes hands with the broker's."""
    sides = [ssl.create_default_context(purpose) for purpose in (ssl.Purpose.SERVER_AUTH, ssl.Purpose.CLIENT_AUTH)]
    for context, name in zip(sides, (identity, "nats"), strict=True):
        certificate, key = state.certificate(name)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(state.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = sides[0].wrap_bio(down, up, server_hostname="localhost")
    server = sides[1].wrap_bio(up, down, server_side=True)
    for side in (client, server) * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert (client.version(), server.version()) == ("TLSv1.3", "TLSv1.3")
    assert server.getpeercert() is not None


def test_a_second_start_changes_nothing(state: State) -> None:
    """Clients keep trusting the authority they know."""
    before = {path: path.read_bytes() for path in state.root.rglob("*.pem")}
    certs.ensure(state)
    assert {path: path.read_bytes() for path in state.root.rglob("*.pem")} == before


DAMAGES: dict[str, Callable[[State], None]] = {
    "an empty authority": lambda state: state.ca.write_text(""),
    "no authority": lambda state: state.ca.unlink(),
    "no key of the authority": lambda state: (state.secrets / "ca-key.pem").unlink(),
    "an empty key of the authority": lambda state: (state.secrets / "ca-key.pem").write_text(""),
    "another authority's key": lambda state: shutil.copy(state.certificate("nats")[1], state.secrets / "ca-key.pem"),
    "an empty certificate": lambda state: state.certificate("accounts")[0].write_text(""),
    "no key": lambda state: state.certificate("edge")[1].unlink(),
    "another identity's key": lambda state: shutil.copy(state.certificate("nats")[1], state.certificate("edge")[1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_anew(state: State, damage: str) -> None:
    """A crash between two files, a full disk, a hand too many: the next start has certificates that fit."""
    DAMAGES[damage](state)
    certs.ensure(state)
    assert whole(state)


def test_what_expires_soon_is_renewed(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is the time at which certificates are read, so it is the one at which they are renewed."""
    before = state.ca.read_bytes()
    monkeypatch.setattr(certs, "_RENEW_BEFORE", timedelta(days=366))
    monkeypatch.setattr(certs, "_LIFETIME", timedelta(days=400))
    certs.ensure(state)
    assert state.ca.read_bytes() != before
    assert whole(state)


def test_the_issuers_key_is_made_once_and_stays_secret(state: State) -> None:
    """What is published verifies and cannot sign."""
    token = issuer.mint(state, "teller")
    issuer.ensure(state)
    assert issuer.mint(state, "teller").split(".")[0] == token.split(".")[0]
    published = json.loads((state.root / "jwks.json").read_text())["keys"]
    assert [set(key) & {"d", "k"} for key in published] == [set()]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kty": "EC"}'])
def test_a_damaged_issuers_key_is_a_sentence(state: State, content: str) -> None:
    """It names the file and the way out."""
    (state.secrets / "issuer-key.json").write_text(content)
    for use in (lambda: issuer.ensure(state), lambda: issuer.mint(state, "teller")):
        with pytest.raises(MeshError, match=r"issuer-key.json is damaged; remove it"):
            use()


@pytest.mark.parametrize(
    ("role", "options", "words"),
    [
        ("root", {}, "no role root; the roles are customer, teller"),
        ("customer", {}, "names its customer"),
        ("teller", {"customer": "ada"}, "names its customer"),
        ("teller", {"lifetime_seconds": 3601}, "from 1 to 3600"),
        ("teller", {"lifetime_seconds": 0}, "from 1 to 3600"),
    ],
)
def test_a_token_that_nobody_would_take_is_not_made(
    state: State, role: str, options: dict[str, int], words: str
) -> None:
    """The sentence says what is wrong before a service has to."""
    with pytest.raises(MeshError, match=words):
        issuer.mint(state, role, **options)  # type: ignore[arg-type]
