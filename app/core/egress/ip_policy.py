"""Which IP addresses a request for a client may go to: public ones, and what the operator allows besides.

The ranges are written out: what `ipaddress` calls global has changed between Python versions, and holds addresses
that lead back inside (NAT64, 6to4, Teredo).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

REFUSED: Final[dict[str, tuple[str, ...]]] = {
    "a loopback address": ("127.0.0.0/8", "::1/128"),
    "a private address": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
    "a link-local address": ("169.254.0.0/16", "fe80::/10"),
    "a shared address of a carrier's network": ("100.64.0.0/10",),
    "a metadata service": ("168.63.129.16/32",),  # Azure's; the other clouds' are link-local, shared or private
    "an unspecified address": ("0.0.0.0/8", "::/128"),
    "a multicast or reserved address": ("224.0.0.0/4", "240.0.0.0/4", "ff00::/8"),
    "an address for documentation or tests": (
        *("192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("100::/64", "2001:db8::/32", "3fff::/20"),
    ),
    "an address that stands for another one": (
        *("192.88.99.0/24", "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
        *("2001::/23", "2002::/16", "5f00::/16"),
    ),
}
"""What it is called in the error -> ranges. The first that fits names it."""
_REFUSED: Final = tuple((ip_network(text), name) for name, texts in REFUSED.items() for text in texts)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")


def why_refused(address: Address) -> str | None:
    """What is wrong with an address ("a loopback address"), or None for a public one.

    An IPv4 address inside an IPv6 one (`::ffff:10.0.0.1`) is judged as itself.
    """
    address = _plain(address)
    for network, name in _REFUSED:
        if address in network:
            return name
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return "not a public address"
    return None


@dataclass(frozen=True)
class PrivateHosts:
    """What the operator allows besides public addresses: names of hosts, single addresses, networks."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """From `judge.internal`, `127.0.0.1`, `10.1.0.0/16`. Raises `ValueError` for what is none of these."""
        names: set[str] = set()
        networks: list[Network] = []
        for entry in (one.strip() for one in entries):
            try:
                networks.append(ip_network(entry))
            except ValueError:
                if not entry or set(entry) & set("/:@*?# ") or entry.replace(".", "").isdigit():
                    raise ValueError(
                        f"{entry!r} is neither a host name nor an address nor a network (its host bits must be 0)"
                    ) from None
                names.add(plain_name(entry))
        return cls(frozenset(names), tuple(networks))

    def name_is_allowed(self, host: str) -> bool:
        """Whether the operator named this host; then it may have any address."""
        return plain_name(host) in self.names

    def address_is_allowed(self, address: Address) -> bool:
        """Whether the address lies in a network that the operator named."""
        return any(_plain(address) in network for network in self.networks)


def plain_name(host: str) -> str:
    """A host name as it is compared: lower case, without the root's dot."""
    return host.lower().rstrip(".")


def literal(host: str) -> Address | None:
    """The address that a URL's host spells out, or None for a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
