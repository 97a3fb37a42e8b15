"""Options that several layer commands share, and what their values mean."""

from __future__ import annotations

from tools.errors import Failure, say
from tools.options import Argument, flag, option
from tools.values import existing_file, integer, positive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ALGORITHMS = ("lz4", "zstd")
BLOCK_SIZES_KIB = (4, 8, 16, 32, 64)
UUID_LENGTH = 36
UUID_DASHES = (8, 13, 18, 23)
HEX_DIGITS = "0123456789abcdefABCDEF"


def verbose() -> Argument:
    """The flag `--verbose`."""
    return flag("--verbose", help="tell details on stderr")


def algorithm() -> Argument:
    """The option `--algorithm`."""
    return option("--algorithm", metavar="lz4|zstd", default="lz4", help="how to compress")


def block_size() -> Argument:
    """The option `--bs`."""
    return option(
        "--bs",
        metavar="KIB",
        convert=integer,
        default=4,
        help="size of a compressed block, KiB: 4, 8, 16, 32, 64",
    )


def service_config() -> Argument:
    """The option `--service_config_path`; the file is needed only for layers that are in a registry."""
    return option(
        "--service_config_path",
        metavar="FILE",
        convert=existing_file,
        help="service configuration, for layers in a registry (default that of the host)",
    )


def upload_options() -> tuple[Argument, ...]:
    """The options of commands that can send their result to a registry."""
    return (
        option(
            "--upload",
            metavar="URL",
            help="also upload the result: https://HOST/v2/REPOSITORY/blobs/uploads/",
        ),
        option(
            "--upload_bs",
            metavar="KIB",
            convert=positive,
            default=262144,
            help="upload chunk in KiB",
        ),
        option("--cred_file_path", metavar="FILE", convert=existing_file, help="credentials, JSON"),
        option("--tls_key_path", metavar="FILE", convert=existing_file, help="private key of a TLS client"),
        option("--tls_cert_path", metavar="FILE", convert=existing_file, help="certificate of a TLS client"),
    )


def block_size_bytes(kib: int) -> int:
    """The value of `--bs` in bytes."""
    if kib not in BLOCK_SIZES_KIB:
        raise Failure("invalid '--bs' parameters.")
    return kib * 1024


def uuid_or_none(word: str | None, name: str) -> str | None:
    """A uuid as given; None for an invalid one, which upstream ignores too (we say so). Too long is an error.

    `name` is the option, for messages.
    """
    if not word:
        return None
    if len(word) > UUID_LENGTH:
        raise Failure(f"{name}: longer than {UUID_LENGTH} characters: {word}")
    if len(word) == UUID_LENGTH and all(
        char in HEX_DIGITS or (char == "-" and at in UUID_DASHES) for at, char in enumerate(word)
    ):
        # Upstream takes a digit in the place of a dash, and skips it.
        return "".join("-" if at in UUID_DASHES else char for at, char in enumerate(word))
    say(f"WARNING {name} is not a UUID and is ignored: {word}")
    return None


def warn_of_cut(records: int, index: str) -> None:
    """Tells of records at the end of a writable layer's index that were torn, as they are after a crash."""
    if records:
        say(f"WARNING {index}: the last {records} records are torn and left out, as after a crash")


def report(info: dict[str, Any], wanted: bool) -> None:
    """With `--verbose`: what the core says about the finished work, one `name: value` a line on stderr."""
    if wanted:
        for name, value in info.items():
            say(f"{name}: {value}")
