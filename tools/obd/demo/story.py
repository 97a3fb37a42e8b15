"""What the demo does, step by step, and what it measured."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools.obd.demo.workshop import Workshop, program

if TYPE_CHECKING:
    from tools.obd.demo.registry import Registry

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
    """The steps share the workshop and the registry."""

    def __init__(self, workshop: Workshop, registry: Registry) -> None:
        self.shop = workshop
        self.registry = registry

    def name(self, tag: str) -> str:
        """The demo's image in the registry."""
        return f"{self.registry.address}/demo/debian:{tag}"

    def publish(self, tar: str, tag: str) -> None:
        """Makes `tar`, a compressed root file system, an ordinary image in the registry."""
        self.shop.run(
            "skopeo", "copy", "--dest-tls-verify=false", f"tarball:{tar}", f"docker://{self.name(tag)}"
        )

    def pull(self, tag: str) -> str:
        """Pulls an ordinary image, as anybody would, into an OCI layout; returns the layout's name."""
        layout = f"oci:{self.shop.path('layout')}:{tag}"
        self.shop.run("skopeo", "copy", "--src-tls-verify=false", f"docker://{self.name(tag)}", layout)
        return layout

    def convert(self, layout: str, tag: str) -> int:
        """Makes an overlaybd image of it, in the registry; returns the bytes of its layers."""
        work = self.shop.path("work")
        made = self.shop.run(program("obd"), "convert", "--json", "--work", work, layout, self.name(tag))
        return sum(layer["size"] for image in json.loads(made)["images"] for layer in image["layers"])

    def layer_url(self, layout: str) -> str:
        """Where the registry has the one layer of an ordinary image."""
        directory, _, _ = layout.removeprefix("oci:").rpartition(":")

        def blob(digest: str) -> Any:
            with open(os.path.join(directory, "blobs", *digest.split(":"))) as file:
                return json.load(file)

        with open(os.path.join(directory, "index.json")) as file:
            manifest = blob(json.load(file)["manifests"][0]["digest"])
        return f"http://{self.registry.address}/v2/demo/debian/blobs/{manifest['layers'][0]['digest']}"

    def config(self, tag: str, upper: dict[str, str] | None = None) -> tuple[str, str]:
        """Files in a new directory: the configuration of an image, a service with an empty cache."""
        home = self.shop.make(tag if upper is None else f"{tag}-changed")
        image, service = os.path.join(home, "config.v1.json"), os.path.join(home, "overlaybd.json")
        self.shop.run(program("obd"), "pull", "--config", image, self.name(tag))
        if upper is not None:
            with open(image) as file:
                words = json.load(file)
            with open(image, "w") as file:
                json.dump({**words, "upper": upper}, file, indent=2)
        cache = {"cacheType": "file", "cacheDir": os.path.join(home, "cache"), "cacheSizeGB": 4}
        with open(service, "w") as file:
            json.dump({"cacheConfig": cache}, file, indent=2)
        return image, service

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

    def start_lazily(self, tag: str) -> Start:
        """From the image's name to the first program's answer, by a mounted image that is read as needed."""
        mark, begin = self.registry.mark(), time.perf_counter()
        root = self.mount(self.config(tag))
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

    def change(self, tag: str, new_tag: str) -> None:
        """Writes a file and installs a package in an upper, and commits that as a new image."""
        data, index = (self.shop.path(name) for name in ("upper.data", "upper.index"))
        self.shop.run(program("overlaybd-create"), data, index, "0")
        config = self.config(tag, {"data": data, "index": index})
        root = self.mount(config, "--rw", "-o", "dev")  # packages' scripts want /dev/null
        with open(os.path.join(root, CHANGED_FILE), "w") as file:
            file.write(CHANGED_TEXT)
        package = os.path.join(root, "tmp", "obd-demo-hello.deb")
        self.shop.run("dpkg-deb", "--root-owner-group", "--build", self._package_tree(), package)
        self.shop.run("chroot", root, "dpkg", "--install", "/tmp/obd-demo-hello.deb")
        os.unlink(package)
        self.unmount(root)
        base = ("--base", self.name(tag), "--message", "a file and a package")
        self.shop.run(program("obd"), "commit", *base, config[0], self.name(new_tag))

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

    def show_change(self, tag: str) -> None:
        """Starts the new image from an empty cache, shows the change, and checks the file system."""
        config = self.config(tag)
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
