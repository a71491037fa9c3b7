"""The IP addresses that requests for clients may reach: public ones, and those that the operator allows.

The ranges are listed here because `ipaddress.is_global` has changed between Python versions, and is true for addresses
that can lead back into the private network (NAT64, 6to4, Teredo).
"""

from collections.abc import Iterable
from contextlib import suppress
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
    "an address that embeds or relays to another address": (
        *("192.88.99.0/24", "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
        *("2001::/23", "2002::/16", "5f00::/16"),
    ),
}
"""Description in the error -> ranges. The first matching range gives the description."""
_REFUSED: Final = tuple((ip_network(text), name) for name, texts in REFUSED.items() for text in texts)
_LOCAL_DOMAINS: Final = frozenset({"localhost", "local", "internal", "lan"})
"""Top-level domains that are not delegated: RFC 6761, RFC 6762, ICANN's reservation of `internal`, and common use."""
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")


def why_refused(address: Address) -> str | None:
    """Describe why an address is refused ("a loopback address"); None for a public one.

    An IPv4 address inside an IPv6 address (`::ffff:10.0.0.1`) is checked as the IPv4 address.
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
    """What the operator allows in addition to public addresses: host names, single addresses, networks, and ports."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    services: frozenset[tuple[str, int]] = frozenset()
    """Names and addresses of which one port is allowed."""

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Parse entries: `judge.internal`, `127.0.0.1`, `10.1.0.0/16`, and with a port `localhost:11434`, `[::1]:80`.

        Raises `ValueError` for others.
        """
        names: set[str] = set()
        networks: list[Network] = []
        services: set[tuple[str, int]] = set()
        for entry in map(str.strip, entries):
            with suppress(ValueError):
                networks.append(ip_network(entry))
                continue
            host, port = _split(entry)
            address = literal(host)
            if address is None and (not host or set(host) & set("/:@*?#[] ") or host.replace(".", "").isdigit()):
                raise ValueError(
                    f"{entry!r} is not a host name, an address or a network (the host bits of a network must be 0), "
                    "and a port follows a name or an address only, as in `localhost:11434`"
                )
            if port is None:
                names.add(plain_name(host))
            else:
                services.add((plain_name(host) if address is None else str(_plain(address)), port))
        return cls(frozenset(names), tuple(networks), frozenset(services))

    @property
    def has_addresses(self) -> bool:
        """Whether addresses are allowed, to which a name may resolve."""
        return bool(self.networks) or any(literal(host) for host, _ in self.services)

    def name_is_allowed(self, host: str, port: int) -> bool:
        """Return whether the operator allows this port of a host, which may then have any address."""
        return plain_name(host) in self.names or (plain_name(host), port) in self.services

    def address_is_allowed(self, address: Address, port: int) -> bool:
        """Return whether the operator allows the address, or this port of it."""
        address = _plain(address)
        return (str(address), port) in self.services or any(address in network for network in self.networks)


def _split(entry: str) -> tuple[str, int | None]:
    """Split `host:port`; an entry without a port between 1 and 65535 is a host."""
    host, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16 and (":" not in host or "[" in host):
        return host.removeprefix("[").removesuffix("]"), int(port)
    return entry, None


def plain_name(host: str) -> str:
    """Normalise a host name for comparison: lower case, without a final dot."""
    return host.lower().rstrip(".")


def is_local_name(host: str) -> bool:
    """Return whether no public host has this name: `localhost`, a name without a dot, or one reserved for networks."""
    labels = plain_name(host).split(".")
    return len(labels) == 1 or labels[-1] in _LOCAL_DOMAINS or labels[-2:] == ["home", "arpa"]


def literal(host: str) -> Address | None:
    """Return the IP address if a URL's host is one, None for a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
