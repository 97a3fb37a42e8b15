"""What several subcommands of `obd` share."""

from __future__ import annotations

from tools.options import Argument, Namespace, flag, option
from tools.values import Rejected, existing_file, positive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from obd.registry import Registry
    from obd.service import Service

MAX_JOBS = 64
# For the help of commands that take images of any kind of place.
IMAGE_NAMES = (
    "Images are named [docker://|http[s]://]HOST/REPOSITORY[:TAG][@DIGEST], oci:DIRECTORY[:TAG], "
    "oci-archive:FILE[:TAG], docker-archive:FILE[:NAME:TAG]."
)


def service_option() -> Argument:
    """The option `--service`."""
    return option(
        "--service",
        metavar="FILE",
        convert=existing_file,
        help="service configuration (default /etc/overlaybd/overlaybd.json if it exists)",
    )


def registry_options() -> list[Argument]:
    """The options for how registries are spoken to; `registry_of` makes use of them."""
    return [
        flag("--http", help="plain HTTP"),
        flag("--insecure", help="accept any TLS certificate"),
        option(
            "--ca",
            metavar="FILE",
            convert=existing_file,
            help="PEM with authorities trusted besides the system's",
        ),
        option(
            "--credentials",
            metavar="FILE",
            convert=existing_file,
            help="credential file (default: the service's)",
        ),
        service_option(),
    ]


def registry_of(args: Namespace, service: Service) -> Registry:
    """The dialogue with registries that `registry_options` ask for. Raises `OSError`."""
    from obd.credentials import FileCredentials

    credentials = FileCredentials(args.credentials) if args.credentials else service.credentials()
    return service.make_registry(credentials, ca_file=args.ca or "", insecure=args.insecure)


def jobs(word: str) -> int:
    """The value of `--jobs`."""
    value = positive(word)
    if value > MAX_JOBS:
        raise Rejected(f"at most {MAX_JOBS}")
    return value


def log_to_stderr() -> None:
    """Lets warnings of the packages below be seen, one line each."""
    import logging

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


def amount(count: int) -> str:
    """A number of bytes for people: `1.5 GiB`."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
