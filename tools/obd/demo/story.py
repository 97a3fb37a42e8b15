"""What the demo does, step by step, and what it measured."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.obd.demo.workshop import Workshop, program

if TYPE_CHECKING:
    from tools.obd.demo.registry import Registry

# Virtual size of the demo's disk. What is not written takes no room anywhere.
DISK_BYTES = 4 << 30

# The first program: it loads a good part of a language's library, as real programs do.
PROGRAM = ("/usr/bin/python3", "-c", "import json, platform; print(json.dumps(platform.libc_ver()))")

CHANGED_FILE = "etc/obd-demo"
CHANGED_TEXT = "written in the upper\n"


@dataclass(frozen=True)
class Start:
    """One way from an empty machine to the first program's answer."""

    seconds: float
    requests: int
    fetched_bytes: int


class Story:
    """The steps share the workshop, the registry and the layers made so far."""

    def __init__(self, workshop: Workshop, registry: Registry) -> None:
        self.shop = workshop
        self.registry = registry
        self.lowers: list[dict[str, object]] = []
        self.tags = 0

    def make_base(self, rootfs: str) -> str:
        """An ext4 file system with the files of `rootfs` as a compressed layer; returns the layer's path."""
        raw, layer = self.shop.path("base.raw"), self.shop.path("base.layer")
        with open(raw, "wb") as file:
            file.truncate(DISK_BYTES)
        # Inode tables are written now, not by the kernel after the first mount: that would fill the upper.
        options = "lazy_itable_init=0,lazy_journal_init=0"
        self.shop.run("mke2fs", "-q", "-t", "ext4", "-L", "obd-demo", "-E", options, "-d", rootfs, raw)
        self.shop.run(program("obd"), "import", "-z", "-t", raw, layer)
        os.unlink(raw)
        return layer

    def push(self, layer: str) -> None:
        """Pushes a layer; from now on the image has it on top."""
        self.tags += 1
        self.shop.run(program("obd"), "push", layer, "--to", f"{self.registry.address}/demo/debian")
        self.lowers.append({"digest": digest_of(layer), "size": os.path.getsize(layer)})

    def config(self, name: str, upper: dict[str, str] | None = None) -> tuple[str, str]:
        """Files in a new directory: the configuration of the image so far, a service with an empty cache."""
        home = self.shop.make(name)
        image = {
            "repoBlobUrl": f"http://{self.registry.address}/v2/demo/debian/blobs",
            "lowers": self.lowers,
            "upper": upper or {},
            "resultFile": os.path.join(home, "result"),
        }
        service = {
            "cacheConfig": {"cacheType": "file", "cacheDir": os.path.join(home, "cache"), "cacheSizeGB": 4}
        }
        for file, content in (("config.v1.json", image), ("overlaybd.json", service)):
            with open(os.path.join(home, file), "w") as out:
                json.dump(content, out, indent=2)
        return os.path.join(home, "config.v1.json"), os.path.join(home, "overlaybd.json")

    def mount(self, config: tuple[str, str], *options: str) -> str:
        """Mounts an image and returns the directory; it is unmounted at the end in any case."""
        image, service = config
        directory = self.shop.make(os.path.basename(os.path.dirname(image)), "root")
        self.shop.undo(self._unmount_quietly, directory)
        self.shop.run(program("obd"), "mount", "--service", service, *options, image, directory)
        return directory

    def unmount(self, directory: str) -> None:
        """Unmounts an image; its upper is on disk afterwards."""
        self.shop.run(program("obd"), "umount", directory)

    def _unmount_quietly(self, directory: str) -> None:
        self.shop.run(program("obd"), "umount", directory, show=False)

    def start_lazily(self) -> Start:
        """From an empty cache to the first program's answer, by a mounted image that is read as needed."""
        config = self.config("lazy")
        mark, begin = self.registry.mark(), time.perf_counter()
        root = self.mount(config)
        answer = self.shop.run("chroot", root, *PROGRAM)
        seconds = time.perf_counter() - begin
        requests, fetched = self.registry.sent(mark)
        self.shop.say(f"  {answer.strip()}  after {seconds:.2f} s")
        self.unmount(root)
        return Start(seconds, requests, fetched)

    def start_by_download(self, url: str) -> Start:
        """From nothing to the first program's answer by downloading the whole image and unpacking it."""
        root = self.shop.make("whole", "root")
        mark, begin = self.registry.mark(), time.perf_counter()
        self.shop.run("sh", "-c", 'curl -sSf "$1" | tar -xzp --numeric-owner -C "$2"', "sh", url, root)
        answer = self.shop.run("chroot", root, *PROGRAM)
        seconds = time.perf_counter() - begin
        requests, fetched = self.registry.sent(mark)
        self.shop.say(f"  {answer.strip()}  after {seconds:.2f} s")
        return Start(seconds, requests, fetched)

    def change(self) -> str:
        """Writes a file and installs a package in an upper; returns the layer that was committed of it."""
        data, index, layer = (self.shop.path(name) for name in ("upper.data", "upper.index", "change.layer"))
        self.shop.run(program("overlaybd-create"), data, index, "0")
        root = self.mount(self.config("change", {"data": data, "index": index}), "--rw")
        with open(os.path.join(root, CHANGED_FILE), "w") as file:
            file.write(CHANGED_TEXT)
        package = os.path.join(root, "tmp", "obd-demo-hello.deb")
        self.shop.run("dpkg-deb", "--root-owner-group", "--build", self._package_tree(), package)
        self.shop.run("chroot", root, "dpkg", "--install", "/tmp/obd-demo-hello.deb")
        os.unlink(package)
        self.unmount(root)
        self.shop.run(program("overlaybd-commit"), "-z", "-t", data, index, layer)
        return layer

    def _package_tree(self) -> str:
        tree = self.shop.make("package")
        os.makedirs(os.path.join(tree, "DEBIAN"))
        os.makedirs(os.path.join(tree, "usr/bin"))
        with open(os.path.join(tree, "DEBIAN/control"), "w") as control:
            control.write(
                "Package: obd-demo-hello\nVersion: 1.0\nArchitecture: all\n"
                "Maintainer: nobody <nobody@example.com>\nDescription: says that it was installed\n"
            )
        script = os.path.join(tree, "usr/bin/obd-demo-hello")
        with open(script, "w") as file:
            file.write("#!/bin/sh\necho installed in the upper\n")
        os.chmod(script, 0o755)
        return tree

    def show_change(self) -> None:
        """Starts the two-layer image from an empty cache, shows the change, and checks the file system."""
        config = self.config("both")
        root = self.mount(config)
        with open(os.path.join(root, CHANGED_FILE)) as file:
            assert file.read() == CHANGED_TEXT, "the file written in the upper is not in the committed image"
        self.shop.say(f"  /{CHANGED_FILE}: {CHANGED_TEXT.strip()}")
        self.shop.say(f"  obd-demo-hello: {self.shop.run('chroot', root, '/usr/bin/obd-demo-hello').strip()}")
        self.unmount(root)
        raw = self.shop.path("both.raw")
        self.shop.run(program("obd"), "export", "--service", config[1], config[0], raw)
        self.shop.run("e2fsck", "-fn", raw)
        os.unlink(raw)


def digest_of(path: str) -> str:
    """The registry digest of a file."""
    import hashlib

    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
