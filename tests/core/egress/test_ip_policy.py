from ipaddress import ip_address

import pytest

from app.core.egress.ip_policy import PrivateHosts, why_refused


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("fec0::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("100.64.0.1", "carrier"),
        ("100.100.100.200", "carrier"),
        ("168.63.129.16", "metadata"),
        ("0.0.0.0", "unspecified"),  # noqa: S104 - checked, not bound
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
        ("192.0.2.1", "documentation"),
        ("198.18.0.1", "documentation"),
        ("2001:db8::1", "documentation"),
        ("64:ff9b::7f00:1", "embeds or relays"),
        ("64:ff9b:1::1", "embeds or relays"),
        ("2002:7f00:1::", "embeds or relays"),
        ("2001::1", "embeds or relays"),
        ("::127.0.0.1", "embeds or relays"),
        ("::ffff:10.0.0.1", "private"),
        ("::ffff:169.254.169.254", "link-local"),
        ("4000::1", "not a public"),
    ],
)
def test_non_public_addresses_are_rejected(address: str, reason: str) -> None:
    assert reason in str(why_refused(ip_address(address)))


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0"),
        *("169.253.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"),
    ],
)
def test_public_addresses_are_accepted(address: str) -> None:
    assert why_refused(ip_address(address)) is None


def test_private_hosts_parse_names_and_networks() -> None:
    hosts = PrivateHosts.parse(["judge.internal", " 127.0.0.1", "10.1.0.0/16", "fd00::/8"])
    assert hosts.name_is_allowed("Judge.Internal.", 443)
    assert not hosts.name_is_allowed("evil.judge.internal", 443)
    for allowed in ("127.0.0.1", "10.1.255.1", "fd12::1", "::ffff:10.1.0.1"):
        assert hosts.address_is_allowed(ip_address(allowed), 80)
    for other in ("127.0.0.2", "10.2.0.1", "::1"):
        assert not hosts.address_is_allowed(ip_address(other), 80)


def test_private_hosts_with_a_port() -> None:
    """The other ports of the machine stay closed: its Postgres, for example."""
    hosts = PrivateHosts.parse(["LocalHost:11434", "10.0.0.7:8000", "[::1]:80"])
    assert hosts.has_addresses
    assert hosts.name_is_allowed("localhost", 11434)
    assert not hosts.name_is_allowed("localhost", 5432)
    for address, port in (("10.0.0.7", 8000), ("::ffff:10.0.0.7", 8000), ("::1", 80)):
        assert hosts.address_is_allowed(ip_address(address), port)
        assert not hosts.address_is_allowed(ip_address(address), port + 1)
    assert not PrivateHosts.parse(["localhost:11434"]).has_addresses


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "localhost:0",
        "localhost:99999",
        "10.0.0.0/8:80",
        "10.1.2.3/16",
        "http://x",
        "a b",
        "1.2.3",
        "user@host",
        "*.internal",
    ],
)
def test_invalid_private_host_entry_is_rejected(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a host name, an address or a network"):
        PrivateHosts.parse([entry])
