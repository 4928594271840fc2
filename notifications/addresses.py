"""Which URLs and addresses webhooks may go to (SSRF); pure, it must not resolve or connect."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

from notifications.errors import EndpointUrlForbidden

Address = IPv4Address | IPv6Address

# The IANA special-purpose registries, with what is not globally reachable; spelled out, since the standard library's
# `is_global` differs between patch releases. The last of each are providers' metadata services on public addresses.
_FORBIDDEN_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
    )
)  # fmt: skip
# IPv6 is allowed where it is global unicast (2000::/3), less these.
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
_FORBIDDEN_V6 = tuple(
    IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)  # fmt: skip


def is_public(address: Address) -> bool:
    """Whether an address is somebody's on the internet, so that a webhook may go there.

    IPv4 inside IPv6 (mapped, compatible, NAT64, 6to4, Teredo) is outside 2000::/3 or in a forbidden network: none of
    them can smuggle a private address.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _FORBIDDEN_V4)
    if address.scope_id is not None:
        return False
    return address in _GLOBAL_UNICAST_V6 and not any(address in network for network in _FORBIDDEN_V6)


def is_allowed(text: str, *, allow_loopback: bool) -> bool:
    """Whether a connection to this numeric address may be opened."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if is_public(address):
        return True
    # ::ffff:127.0.0.1 is not accepted as loopback: nobody needs to write it so.
    return allow_loopback and address.is_loopback and getattr(address, "ipv4_mapped", None) is None


def check_url(url: str, *, allow_loopback: bool) -> tuple[str, int]:
    """The host and port of a URL that webhooks may be sent to, as far as the text tells. Raises EndpointUrlForbidden.

    What the host resolves to is checked by whoever resolves it, and again for every connection.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise EndpointUrlForbidden("it is malformed") from None
    host = parts.hostname or ""
    if not url.isascii() or any(character <= " " or character == "\\" for character in url):
        # Parsers disagree about these; what one checks, another could connect to.
        raise EndpointUrlForbidden("it has characters that must be percent-encoded")
    if parts.scheme not in ("https", "http"):
        raise EndpointUrlForbidden("it must begin with https://")
    if not host:
        raise EndpointUrlForbidden("it names no host")
    if parts.username is not None or parts.password is not None:
        raise EndpointUrlForbidden("it must hold no user name or password")
    if parts.fragment:
        raise EndpointUrlForbidden("it must have no fragment")
    if port == 0:
        raise EndpointUrlForbidden("port 0 is no port")
    literal = _literal(host)
    if parts.scheme == "http" and not (allow_loopback and (host == "localhost" or _is_loopback(literal))):
        raise EndpointUrlForbidden("it must begin with https://")
    if literal is not None and not is_allowed(str(literal), allow_loopback=allow_loopback):
        raise EndpointUrlForbidden("its address is not a public one")
    if literal is None and _is_numeric(host):
        # 2130706433, 0x7f.1, 127.1: forms that a resolver reads as an address.
        raise EndpointUrlForbidden("its host is a number but no address")
    return host, port or (443 if parts.scheme == "https" else 80)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(address: Address | None) -> bool:
    return address is not None and address.is_loopback


def _is_numeric(host: str) -> bool:
    # WHATWG URL: a host whose last label is a number, in any notation, is meant as an IPv4 address.
    last = host.rstrip(".").rpartition(".")[2]
    if last.startswith("0x"):
        return all(character in "0123456789abcdef" for character in last[2:])
    return last.isdigit()
