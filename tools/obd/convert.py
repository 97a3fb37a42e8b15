"""`obd convert`: an image of files becomes an overlaybd image."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from tools.bars import Bars
from tools.errors import Failure, say, tell
from tools.layer_options import ALGORITHMS, BLOCK_SIZES_KIB
from tools.obd.common import IMAGE_NAMES, amount, jobs, log_to_stderr, registry_of, registry_options
from tools.options import Command, Namespace, flag, option, positional
from tools.stopping import stopping
from tools.values import Choice, Rejected, positive

if TYPE_CHECKING:
    from obd.convert.options import Options, Result
    from obd.oci import ImageSource
    from obd.registry import Registry
    from obd.service import Service

MAX_VSIZE_GIB = 16384


def convert(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    options = _options(args)
    log_to_stderr()
    from obd.convert.convert import convert as run
    from obd.convert.target import Target
    from obd.oci import open_destination
    from obd.service import Service

    service = Service(args.service)
    registry = registry_of(args, service)
    if os.path.exists(args.source) and not os.path.isdir(args.source):
        return _convert_disk(args, options, service, registry)
    if args.rootfs:
        raise Failure("obd: invalid: convert: --rootfs is for disk images")
    with (
        stopping(),
        _source(args, service, registry) as source,
        open_destination(args.destination, service, plain_http=args.http, registry=registry) as destination,
        _Watch() as watch,
    ):
        target = Target(destination, args.destination, registry, plain_http=args.http)
        result = run(source, target, options, watch)
    _tell(result, args)
    return 0


def _source(args: Namespace, service: Service, registry: Registry) -> ImageSource:
    from obd.oci import Platform, open_source, own_platform

    kind, colon, path = args.source.partition(":")
    if not (colon and kind == "dir"):
        path = args.source
        # No image of a registry is called so.
        if not path.startswith(("/", "./", "../")) and path not in (".", ".."):
            return open_source(path, service, plain_http=args.http, registry=registry)
    if args.all or len(args.platform) > 1:
        raise Failure("obd: invalid: convert: a directory is for one --platform")
    from obd.convert.tree import TreeSource

    platform = Platform.parse(args.platform[0]) if args.platform else own_platform()
    return TreeSource(path, platform)


def _convert_disk(args: Namespace, options: Options, service: Service, registry: Registry) -> int:
    from obd.convert.disk import disk_format
    from obd.convert.disk_image import convert_disk
    from obd.convert.target import Target
    from obd.oci import open_destination

    for name in ("turbo", "vsize", "all", "referrer", "index"):
        if getattr(args, name):
            raise Failure(f"obd: invalid: convert: --{name} is for images of files, not for a disk")
    if len(args.platform) > 1:
        raise Failure("obd: invalid: convert: a disk is for one --platform")
    if not disk_format(args.source):
        what = "no disk image: neither qcow2, nor with partitions, nor with a known file system"
        raise Failure(f"obd: unsupported: {args.source}: {what}")
    with (
        stopping(),
        open_destination(args.destination, service, plain_http=args.http, registry=registry) as destination,
        Bars("converting") as bars,
    ):

        def told(doing: str, done: int, total: int) -> None:
            bars.update(doing, done, total or done, ended=0 < total <= done)
            bars.tick()

        target = Target(destination, args.destination, registry, plain_http=args.http)
        _tell(convert_disk(args.source, target, options, told, rootfs=args.rootfs), args)
    return 0


def _options(args: Namespace) -> Options:
    from obd.convert.options import Options

    if args.merkle and args.turbo:
        raise Failure("obd: invalid: convert: --merkle is for native layers, not for --turbo")
    if args.platform and args.all:
        raise Failure("obd: invalid: convert: --platform or --all, not both")
    return Options(
        turbo=args.turbo,
        fs=args.fs,
        algorithm=args.algorithm,
        block_kib=args.bs,
        vsize_bytes=(args.vsize or 0) << 30,
        platforms=tuple(args.platform),
        all_platforms=args.all,
        jobs=args.jobs or 0,
        referrer=args.referrer,
        index=args.index,
        merkle=args.merkle,
        work=args.work or "",
        reuse=not args.no_reuse,
    )


class _Watch(Bars):
    """Shows what is done with each layer."""

    def __init__(self) -> None:
        super().__init__("converting")

    def work(self, name: str, doing: str, done: int, total: int) -> None:
        """As `obd.convert.build.Watch.work`."""
        if doing == "compressing":
            self.update(f"{name} applying", 0, 0, ended=True)
        self.update(f"{name} {doing}", done, total, ended=0 < total <= done)


def _tell(result: Result, args: Namespace) -> None:
    if args.json:
        tell(json.dumps(asdict(result), indent=2))
        return
    for image in result.images:
        for layer in image.layers:
            tell(f"{layer.digest} {layer.size} {layer.how}")
        for note in image.notes:
            say(f"{image.platform}: {note}")
    stored = sum(layer.size for image in result.images for layer in image.layers)
    how = "unchanged" if result.unchanged else amount(stored)
    tell(f"{result.digest} {result.size} {args.destination} ({how})")


def _block_kib(word: str) -> int:
    value = positive(word)
    if value not in BLOCK_SIZES_KIB:
        raise Rejected("must be 4, 8, 16, 32 or 64")
    return value


def _vsize_gib(word: str) -> int:
    value = positive(word)
    if value > MAX_VSIZE_GIB:
        raise Rejected(f"at most {MAX_VSIZE_GIB}")
    return value


COMMAND = Command(
    "convert",
    "Makes an overlaybd image of an image of files.",
    options=[
        flag("--turbo", help="turboOCI: the layers stay as they are, only metadata is added"),
        option(
            "--fs",
            metavar="ext4|erofs",
            convert=Choice("ext4", "erofs"),
            default="ext4",
            help="file system of the image",
        ),
        option(
            "--algorithm",
            metavar="lz4|zstd",
            convert=Choice(*ALGORITHMS),
            default="lz4",
            help="how to compress",
        ),
        option("--bs", metavar="KIB", convert=_block_kib, default=4, help="size of a compressed block, KiB"),
        option(
            "--vsize",
            metavar="GIB",
            convert=_vsize_gib,
            help="size of the device (default 64, larger if the content needs it)",
        ),
        option(
            "--platform", metavar="OS/ARCH", repeat=True, help="of an image for several (default: this one)"
        ),
        flag("--all", help="all platforms"),
        option(
            "--jobs",
            metavar="N",
            convert=jobs,
            help="how many work at once (default: one for each processor)",
        ),
        flag("--referrer", help="have the new image refer to the original"),
        flag("--index", help="put the new image beside the original, in an index"),
        flag("--merkle", help="give the layers hash trees, for hosts that verify what they read"),
        flag("--rootfs", help="of a disk image: the Linux root partition alone"),
        option("--work", metavar="DIR", help="where to work, and what was done before is recorded"),
        flag("--no-reuse", help="as if nothing had been converted before"),
        flag("--json", help="for programs: what was made"),
        *registry_options(),
    ],
    positionals=[
        positional(
            "source",
            help="an image of files; dir:PATH, a root file system; or the path of a disk image",
        ),
        positional("destination", help="where the new image is to be"),
    ],
    details=f"{IMAGE_NAMES} Goes on where it was interrupted; what was done before is not done again.",
    run=convert,
)
