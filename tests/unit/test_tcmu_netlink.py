"""What the kernel announces of TCMU devices, byte by byte, and names that are and are not of such devices."""

import struct

import pytest

from tcmu.configfs import Backstore
from tcmu.genetlink import COMMAND, HEADER, attribute, attributes, messages
from tcmu.netlink import Change, Event, parse
from tcmu.uio import Device

FAMILY = 30
NAME = b"tcm-user/1/vol1/overlaybd//etc/config.json;dev/1\0"
DEVICE = Device(7, Backstore(1, "vol1"), "overlaybd//etc/config.json;dev/1")


def message(command: int, *parts: bytes, family: int = FAMILY) -> bytes:
    body = COMMAND.pack(command, 2) + b"".join(parts)
    return HEADER.pack(HEADER.size + len(body), family, 0, 0, 0) + body


def announced(command: int, *more: bytes, name: bytes = NAME, family: int = FAMILY) -> bytes:
    number = [attribute(kind, struct.pack("=I", value)) for kind, value in ((2, 7), (8, 99))]
    return message(command, attribute(1, name), *number, *more, family=family)


def test_events_are_understood() -> None:
    data = b"".join(
        (
            announced(1),
            announced(2),
            announced(3, attribute(5, struct.pack("=Q", 1 << 40))),
            announced(3, attribute(4, b"overlaybd//new\0")),
            announced(3, attribute(6, b"\1")),
        )
    )
    assert parse(data, FAMILY) == [
        Event(Change.ADDED, 99, DEVICE),
        Event(Change.REMOVED, 99, DEVICE),
        Event(Change.RECONFIGURED, 99, DEVICE, size_bytes=1 << 40),
        Event(Change.RECONFIGURED, 99, DEVICE, config="overlaybd//new"),
        Event(Change.RECONFIGURED, 99, DEVICE, write_cache=True),
    ]
    assert (DEVICE.subtype, DEVICE.argument) == ("overlaybd", "/etc/config.json;dev/1")
    assert DEVICE.path == "/dev/uio7"


def test_what_makes_no_sense_is_left_out() -> None:
    good = announced(1)
    for bad in (
        announced(9),  # no such command
        announced(1, family=FAMILY + 1),
        announced(1, name=b"tcm-user/x/vol/overlaybd//c\0"),
        announced(1, name=b"tcm-user/1/vol\0"),
        announced(1, name=b"other/1/vol/overlaybd//c\0"),
        announced(1, name=b""),
        message(1, attribute(1, NAME)),
        message(1)[: HEADER.size] + b"",
    ):
        assert parse(good + bad, FAMILY) == [Event(Change.ADDED, 99, DEVICE)], bad
    for end in range(len(good)):
        assert len(parse(good + good[:end], FAMILY)) == 1
        assert parse(good[:end], FAMILY) == []


def test_lengths_that_lie_end_the_reading() -> None:
    for length in (0, 3, 1000, 65535):
        assert attributes(struct.pack("=HH", length, 1) + b"abc") == {}
    for length in (0, 15, 17, 1 << 31):
        assert list(messages(HEADER.pack(length, FAMILY, 0, 0, 0))) == []


@pytest.mark.parametrize("config", ["overlaybd/a,b", "overlaybd/a\nb", "overlaybd/" + "x" * 250])
def test_what_the_kernel_would_misunderstand_is_refused(config: str) -> None:
    with pytest.raises(ValueError, match="configuration of a backstore"):
        Backstore(1, "vol").create(config)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 128])
def test_a_name_that_will_not_do_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a backstore"):
        Backstore(1, name).create("overlaybd//c")
