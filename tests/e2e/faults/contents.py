"""Scenarios of wrong contents: everything about the answer is right, but for the bytes."""

import random

from tests.e2e.faults.answers import GAVE_UP
from tests.e2e.faults.scenario import RIGHT, Right, Scenario, Section, fails
from tests.e2e.faults.site import Call


def flipped(call: Call) -> None:
    """The bytes asked for with one bit in each 4 KiB that is not as it was."""
    body = bytearray(call.body)
    for at in range(0, len(body), 4096):
        body[at] ^= 0x10
    call.part(bytes(body))


def zeros(call: Call) -> None:
    """Zeros in place of the bytes."""
    call.part(bytes(len(call.body)))


def shifted(call: Call) -> None:
    """Bytes of another place under the right range."""
    step = -1000 if call.first else 1000
    call.part(call.site.data[call.first + step : call.last + step + 1].ljust(len(call.body), b"\0"))


def replaced(call: Call) -> None:
    """Another blob of the same length, with another ETag."""
    body = random.Random(call.first).randbytes(len(call.body))
    call.x.answer(206, [call.range(), ("ETag", '"another"')], body)


def longer(call: Call) -> None:
    """The blob has grown."""
    call.part(range_=call.range(total=len(call.site.data) + 4096))


def shorter(call: Call) -> None:
    """Only the first half of the blob is there."""
    half = len(call.site.data) // 2
    if call.first >= half:
        call.status(416, {"Content-Range": f"bytes */{half}"})
    else:
        last = min(call.last, half - 1)
        call.part(call.site.data[call.first : last + 1], call.range(last=last, total=half))


WRONG = fails(
    "corrupt",
    "its source gave the same",
    "checksum",
    note="the registry's copy is wrong: push the layer again",
)
AGAIN = Right("the checksum of the block tells, and it is fetched again")

CONTENTS = Section(
    "Contents",
    "The answer is well-formed, but its bytes are not those of the layer. A compressed layer has a"
    " checksum for each block. One that is not compressed has none: what comes then is checked only by"
    " its length, until a download checks the digest of the whole.",
    (
        Scenario("flipped bits", flipped, AGAIN, WRONG, times=1, when=("read",)),
        Scenario("zeros", zeros, AGAIN, WRONG, times=1, when=("read",)),
        Scenario("bytes of another place", shifted, AGAIN, WRONG, times=1, when=("read",)),
        Scenario("another blob of the same length", replaced, AGAIN, WRONG, times=1, when=("read",)),
        Scenario(
            "flipped bits while the image is opened",
            flipped,
            RIGHT,
            fails("corrupt"),
            when=("open",),
            times=1,
        ),
        Scenario(
            "zeros while the image is opened",
            zeros,
            RIGHT,
            fails("corrupt", "its source gave the same"),
            when=("open",),
            times=1,
        ),
        Scenario("the blob has grown", longer, lasting=fails("corrupt", GAVE_UP, "blob of another length")),
        Scenario(
            "the blob has shrunk",
            shorter,
            fails("out-of-bounds", "416", "the blob has only"),
            fails("out-of-bounds", "416", "the blob has only"),
            when=("read",),
        ),
    ),
)
