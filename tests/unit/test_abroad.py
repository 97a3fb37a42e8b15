"""Where servers may send us: the same answers as the core's, in every spelling of an address."""

import pytest

from obd.abroad import is_abroad, kind_of_address, may_lead

REGISTRY = "https://registry.example/v2/a/blobs/x"
HERE = "http://127.0.0.1:5000/v2/a/blobs/x"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        *(
            (each, "here")
            for each in ("127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1")
        ),
        *((each, "here") for each in ("2002:7f00:1::", "64:ff9b::7f00:1", "::127.0.0.1")),
        *(
            (each, "near")
            for each in ("169.254.169.254", "255.255.255.255", "224.0.0.1", "fe80::1%eth0", "ff02::1")
        ),
        *((each, "near") for each in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")),
        *(
            (each, "near")
            for each in ("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:169.254.169.254", "fd20:ce::254")
        ),
        *(
            (each, "")
            for each in ("10.0.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "fd00::1", "64:ff9b::808:808")
        ),
    ],
)
def test_addresses(address: str, kind: str) -> None:
    assert kind_of_address(address) == kind


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://localhost/",
            "http://LOCALHOST.:80/",
            "http://a.localhost/",
            "http://127.1/",
            "http://2130706433/",
        ),
        *("http://0x7f.1/", "http://0177.0.0.1/", "http://[::1]/", "http://[::ffff:7f00:1]/", "http://0/"),
    ],
)
def test_only_a_registry_of_this_machine_may_name_this_machine(url: str) -> None:
    assert not may_lead(REGISTRY, url)
    assert may_lead(HERE, url) and not is_abroad(HERE, url)


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://2852039166/", "http://[fe80::1]/", "http://169.254.43518/"]
)
def test_nobody_may_name_the_link(url: str) -> None:
    assert not may_lead(REGISTRY, url) and not may_lead(HERE, url)
    assert may_lead(url, url)  # whom a configuration names, it names


def test_names_are_looked_at_when_they_are_connected_to() -> None:
    assert may_lead(REGISTRY, "https://cdn.example/x") and is_abroad(REGISTRY, "https://cdn.example/x")
    assert not is_abroad(REGISTRY, "https://Registry.example:444/y")
