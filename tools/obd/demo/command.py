"""The demo from start to end."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from tools.errors import Failure
from tools.obd.demo import rootfs
from tools.obd.demo.registry import Registry
from tools.obd.demo.story import Start, Story
from tools.obd.demo.workshop import Workshop

if TYPE_CHECKING:
    from tools.options import Namespace

# What must be installed, and the Debian package that has it.
NEEDED = {
    "chroot": "coreutils",
    "curl": "curl",
    "docker-registry": "docker-registry",
    "dpkg-deb": "dpkg",
    "e2fsck": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "skopeo": "skopeo",
    "tar": "tar",
}


def run(values: Namespace) -> int:
    """Carries out `obd demo`."""
    _check_machine(values.from_host)
    with Workshop(values.directory, values.quiet) as shop:
        shop.say("building a root file system")
        root = shop.make("rootfs")
        made_of = rootfs.build(shop, root, values.mirror.rstrip("/"), from_host=values.from_host)
        shop.say("packing its files as an ordinary image, in a registry on loopback")
        tar = shop.path("whole.tar.gz")
        shop.run("tar", "-czpf", tar, "--numeric-owner", "-C", root, ".")
        shutil.rmtree(root)
        story = Story(shop, Registry(shop))
        story.publish(tar, "plain")
        shop.say("pulling it as anybody would, and making an overlaybd image of it")
        layout = story.pull("plain")
        image_bytes = story.convert(layout, "v1")
        shop.say("starting that image from an empty cache")
        lazy = story.start_lazily("v1")
        shop.say("the same by downloading and unpacking all of the ordinary one")
        whole = story.start_by_download(story.layer_url(layout))
        _table(made_of, image_bytes, lazy, os.path.getsize(tar), whole)
        shop.say("changing the image in a writable layer, and committing that as a new one")
        story.change("v1", "v2")
        shop.say("starting the new image from an empty cache")
        story.show_change("v2")
        shop.say("done: the change is there, and the file system is clean")
    return 0


def _check_machine(from_host: bool) -> None:
    if os.geteuid() != 0:
        raise Failure("obd demo: must be run by root: it mounts file systems")
    missing = [
        name for name in NEEDED if shutil.which(name) is None and not (from_host and name == "mmdebstrap")
    ]
    if missing:
        packages = " ".join(sorted({NEEDED[name] for name in missing}))
        raise Failure(f"obd demo: {', '.join(missing)} is missing: apt-get install {packages}")
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        raise Failure("obd demo: this machine has no /dev/fuse or no /dev/loop-control")


def _table(made_of: str, image_bytes: int, lazy: Start, whole_bytes: int, whole: Start) -> None:
    rows = [
        ("", "mounted, read as needed", "downloaded and unpacked"),
        ("size in the registry", _size(image_bytes), _size(whole_bytes)),
        ("fetched until first program", _size(lazy.fetched_bytes), _size(whole.fetched_bytes)),
        (
            "share of the image",
            _share(lazy.fetched_bytes, image_bytes),
            _share(whole.fetched_bytes, whole_bytes),
        ),
        ("requests", str(lazy.requests), str(whole.requests)),
        ("time to first program", f"{lazy.seconds:.2f} s", f"{whole.seconds:.2f} s"),
    ]
    print(f"\n  {made_of}. Both from the same registry on loopback; a network makes the difference larger.")
    print(
        "  Left: a layer converted by obd. Right: the tar.gz that it was, by curl and tar into a directory.\n"
    )
    for row in rows:
        print(f"  {row[0]:<30}{row[1]:>26}{row[2]:>26}")
    print(f"\n  {whole.seconds / lazy.seconds:.1f} times as fast.\n", flush=True)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"
