"""Which URLs webhooks may go to, as far as their text tells."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifications.addresses import check_url, is_allowed, is_public
from notifications.errors import EndpointUrlForbidden

NOT_PUBLIC = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8",
    "192.168.1.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::ffff:10.0.0.1", "::ffff:93.184.215.14", "64:ff9b::a00:1", "2001::1", "2001:db8::1", "2002:a00:1::",
    "fc00::1", "fe80::1", "fec0::1", "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_nobodys_on_the_internet_is_refused(address: str) -> None:
    """Private, local, documentation, multicast and metadata addresses, also IPv4 ones inside IPv6."""
    assert not is_public(ipaddress.ip_address(address))
    assert not is_allowed(address, allow_loopback=False)


@given(st.ip_addresses(v=4))
def test_what_is_public_is_global_by_the_standard_library_too(address: ipaddress.IPv4Address) -> None:
    """Our list allows nothing that the standard library calls private, reserved or multicast."""
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_hidden_in_ipv6_is_never_public(address: ipaddress.IPv4Address) -> None:
    """Mapped, NAT64 and 6to4 forms would lead to the address inside."""
    inside = int(address)
    for hidden in ((0xFFFF << 32) | inside, (0x64FF9B << 96) | inside, (0x2002 << 112) | (inside << 80)):
        assert not is_public(ipaddress.IPv6Address(hidden))


def test_loopback_is_allowed_only_where_it_was_asked_for() -> None:
    """And only written as itself."""
    assert is_allowed("127.0.0.1", allow_loopback=True)
    assert is_allowed("::1", allow_loopback=True)
    assert not is_allowed("::ffff:127.0.0.1", allow_loopback=True)
    assert not is_allowed("10.0.0.1", allow_loopback=True)
    assert not is_allowed("localhost", allow_loopback=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver.example/", "ftp://receiver.example/", "receiver.example", "https://", "https:///path",
        "https://user@receiver.example/", "https://:secret@receiver.example/", "https://receiver.example/#part",
        "https://receiver.example:0/", "https://receiver.example:99999/", "https://receiver.example\\@10.0.0.1/",
        "https://receiver.example/a b", "https://réceiver.example/", "https://10.0.0.1/", "https://[::1]/",
        "https://2130706433/", "https://0x7f.1/", "https://127.1/", "https://0x7f000001/", "https://1.2.3.0x4/",
        "https://[fe80::1%25eth0]/",
    ],
)  # fmt: skip
def test_a_url_that_is_not_plainly_an_https_receiver_is_refused(url: str) -> None:
    """Whatever one parser could read otherwise than another."""
    with pytest.raises(EndpointUrlForbidden):
        check_url(url, allow_loopback=False)


def test_a_plain_https_url_is_taken_with_its_port() -> None:
    """443 unless it names one."""
    assert check_url("https://receiver.example/hooks?a=b", allow_loopback=False) == ("receiver.example", 443)
    assert check_url("https://receiver.example:8443/", allow_loopback=False) == ("receiver.example", 8443)
    assert check_url("https://93.184.215.14/", allow_loopback=False) == ("93.184.215.14", 443)
    assert check_url("http://127.0.0.1:9000/", allow_loopback=True) == ("127.0.0.1", 9000)
