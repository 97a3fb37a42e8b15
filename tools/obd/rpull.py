"""`obd rpull`: an image brought to containerd without its layers, which are read when they are used."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from tools.errors import Failure, tell
from tools.obd.common import log_to_stderr, service_option
from tools.options import Command, Namespace, flag, option, positional

if TYPE_CHECKING:
    from obd.reference import Reference
    from obd.registry import Registry
    from obd.service import Service

# Bytes. Longer ones are tokens of some clouds.
MAX_PASSWORD = 64 << 10
ADDRESS = "/run/containerd/containerd.sock"


def rpull(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    from obd.containerd.client import Containerd
    from obd.containerd.pull import pull
    from obd.oci.platform import Platform, own_platform
    from obd.oci.registry_source import RegistrySource
    from obd.reference import parse_reference
    from obd.service import Service

    log_to_stderr()
    reference = parse_reference(args.image, plain_http=args.http)
    if reference is None:
        raise Failure(f"obd: invalid: {args.image}: not REGISTRY/REPOSITORY[:TAG][@DIGEST]")
    service = Service(args.service)
    login = _Login(args.user, reference, service) if args.user else None
    with (
        Containerd(args.address, args.namespace) as containerd,
        RegistrySource(login.registry() if login else service.registry(), reference) as source,
    ):
        done = pull(
            containerd,
            source,
            args.image,
            platform=Platform.parse(args.platform) if args.platform else own_platform(),
            snapshotter=args.snapshotter,
            download=args.download_blobs,
        )
    if login:
        login.keep()
    if args.json:
        shown = {"digest": done.digest, "lazy": done.lazy, "fetched": done.fetched, "present": done.present}
        tell(json.dumps(shown, indent=2))
    else:
        here = f", {done.present} here already" if done.present else ""
        tell(f"{done.digest}: {done.lazy} layers are read lazily, {done.fetched} were fetched{here}")
    return 0


class _Login:
    """A user whose password is on standard input, for one repository."""

    def __init__(self, user: str, reference: Reference, service: Service) -> None:
        from obd.config import DEFAULT_CREDENTIAL_FILE
        from obd.credentials import Credential

        settings = service.config.credentials
        if ":" in user:
            raise Failure("obd: invalid: -u: the user alone; the password is read from standard input")
        if settings.mode not in ("", "file", "node"):
            what = f"-u: devices look for credentials by the mode {settings.mode} (credentialConfig)"
            raise Failure(f"obd: unsupported: {what}: log in there")
        self._path = settings.path if settings.mode != "node" and settings.path else DEFAULT_CREDENTIAL_FILE
        self._place = reference.url.partition("://")[2].replace("/v2/", "/", 1)
        self._credential = Credential(user, _password(user))
        self._service = service

    def registry(self) -> Registry:
        """The dialogue as that user."""
        from obd.credentials.keep import GivenCredentials

        host = self._place.partition("/")[0]
        return self._service.make_registry(GivenCredentials(host, self._credential), p2p=True)

    def keep(self) -> None:
        """Has the devices of the image be that user too."""
        from obd.credentials.keep import keep

        keep(self._path, self._place, self._credential)


def _password(user: str) -> str:
    """The password, asked for at a terminal."""
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass(f"Password of {user}: ")
    return sys.stdin.readline(MAX_PASSWORD + 1).rstrip("\r\n")


COMMAND = Command(
    "rpull",
    "Brings an image to containerd without its layers, which overlaybd-snapshotter has read lazily.",
    options=[
        option("--address", default=ADDRESS, metavar="SOCKET", help="containerd's"),
        option("-n", "--namespace", default="default", metavar="NAME", help="of containerd"),
        option("--snapshotter", default="overlaybd", metavar="NAME", help="its name in containerd"),
        flag("--download-blobs", help="fetch the blobs of the layers all the same"),
        option(
            "--platform", metavar="OS/ARCH", default="", help="of an image for several (default: this one)"
        ),
        flag("--http", help="plain HTTP"),
        option(
            "-u",
            "--user",
            default="",
            metavar="USER",
            help="who we are to the registry; the password is read from standard input, and kept for devices",
        ),
        flag("--json", help="for programs: how many layers are lazy, fetched and here already"),
        service_option(),
    ],
    positionals=[positional("image", help="REGISTRY/REPOSITORY[:TAG][@DIGEST], which becomes its name")],
    details="Layers that are not overlaybd's are fetched and unpacked as usual. What -u says is kept, after "
    "the pull, in the credential file of the service configuration.",
    run=rpull,
)
