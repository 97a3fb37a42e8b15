"""Where a server may send us: not to this machine, its link, or services of clouds for their guests.

Those believe whoever reaches them, and only a configuration may name them. The core holds connections to
the same (`abroad` of `obdcore.Target`). A registry that is itself on this machine may name others there.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

# Services of clouds at addresses that are not special by themselves: Alibaba, Azure, Oracle, AWS, Google.
_SERVICES: Final = ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_HERE, _NEAR = "here", "near"


def kind_of_address(address: str) -> str:
    """Of an address in numbers: "here" for this machine's, "near" for what else is not to be named, or ""."""
    ip = _plain(ipaddress.ip_address(address.partition("%")[0]))
    if ip.is_loopback or (ip.version == 4 and int(ip) >> 24 == 0) or ip.is_unspecified:
        return _HERE
    special = ip.is_link_local or ip.is_multicast or str(ip) in (*_SERVICES, "255.255.255.255")
    return _NEAR if special else ""


def _plain(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of version 4 that one of version 6 stands for, if it does."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) >> 16):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def _kind_of_host(host: str) -> str:
    """As `kind_of_address`, in whatever spelling. "" also for names, which connecting looks up."""
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return _HERE
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ""
    return max(kind_of_address(str(each[4][0])) for each in found)


def may_lead(asked: str, url: str) -> bool:
    """Whether the server of the URL `asked` may send us to `url`, as far as its host tells."""
    from_host, to_host = _host(asked), _host(url)
    kind = _kind_of_host(to_host)
    return not kind or from_host == to_host or (kind == _HERE and _kind_of_host(from_host) == _HERE)


def is_abroad(asked: str, url: str) -> bool:
    """Whether the address of `url`, which only the server of `asked` has named, is to be looked at."""
    return _host(asked) != _host(url) and _kind_of_host(_host(asked)) != _HERE


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").lower()
