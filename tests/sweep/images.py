"""A script of the commands for images: one is converted, changed and committed, and copied to an archive."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import obdcore
from tests.e2e.oci_images import Layer, Layout
from tests.sweep.model import Model
from tests.sweep.script import Run, Say

WHEN = "1700000000"


def make_images(home: Path, url: str) -> Path:
    """An image of files in a layout, and a device with an upper upon a layer beside it."""
    template = home / "template-images"
    layout = Layout(template / "source")
    first = Layer().add("etc", tarfile.DIRTYPE).add("etc/kept", data=b"k" * 70000)
    layout.tag(layout.image([first, Layer().add("etc/second", data=b"two")]), "x")
    upper = {"data": "@/u.data", "index": "@/u.index"}
    paths = [str(template / name[2:]) for name in upper.values()]
    obdcore.lsmt_create(*paths, size=1 << 20)
    image = obdcore.Image([], (paths[0], paths[1]))
    image.write_at(4096, b"changed" * 4096)
    image.close()
    (template / "config.json").write_text(json.dumps({"lowers": [], "upper": upper}))
    (template / "service.json").write_text("{}")
    return template


class Images(Run):
    """Each command makes an image, which has its tag and is whole, or has none."""

    def __init__(self, place: str, say: Say, model: Model) -> None:
        super().__init__(place, say, model, sparse=False)
        os.environ["SOURCE_DATE_EPOCH"] = WHEN

    def story(self) -> None:
        """All three, one after the other."""
        self.attempt("convert", self._convert)
        self.attempt("commit", self._commit)
        self.attempt("copy", self._copy)

    def clean(self) -> None:
        """The same again, of what may be there already."""
        self._check()
        # In earnest, though it may be done already: what was left is removed by the next that does the same.
        Path(self._path("copied.tar")).unlink(missing_ok=True)
        self._convert("--no-reuse")
        self._commit()
        self._copy()
        self._check()
        for name in ("converted", "committed"):
            if not (Path(self._path(name)) / "index.json").exists():
                self._say("wrong", f"{name} is not there")

    def _convert(self, *more: str) -> None:
        words = ["--fs", "erofs", "--jobs", "1", "--work", self._path("work"), *more]
        self.obd("convert", *words, f"oci:{self._path('source')}:x", f"oci:{self._path('converted')}:x")

    def _commit(self) -> None:
        words = ["--work", self._path("work2"), self._path("config.json")]
        self.obd("commit", *words, f"oci:{self._path('committed')}:x")

    def _copy(self) -> None:
        # An archive is not replaced.
        if not os.path.exists(self._path("copied.tar")):
            words = ["--jobs", "1", "--platform", "linux/amd64", f"oci:{self._path('source')}:x"]
            self.obd("copy", *words, f"oci-archive:{self._path('copied.tar')}:x")

    def _check(self) -> None:
        for name in ("source", "converted", "committed"):
            self._check_layout(Path(self._path(name)))
        archive = Path(self._path("copied.tar"))
        if archive.exists():
            unpacked = Path(self._path("unpacked"))
            with tarfile.open(archive) as tar:
                for member in tar:
                    if stream := tar.extractfile(member):
                        path = unpacked / member.name
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(stream.read())
            self._check_layout(unpacked)
            shutil.rmtree(unpacked)

    def _check_layout(self, layout: Path) -> None:
        """All that has a name is what the name says, and all that is named is there."""
        if not (layout / "index.json").exists():
            return
        left: list[dict[str, Any]] = json.loads((layout / "index.json").read_text())["manifests"]
        while left:
            blob = left.pop()
            path = layout / "blobs" / blob["digest"].replace(":", "/")
            data = path.read_bytes() if path.exists() else b""
            if len(data) != blob["size"] or blob["digest"] != f"sha256:{hashlib.sha256(data).hexdigest()}":
                self._say("wrong", f"{layout.name}: {blob['mediaType']} is not what its name says")
            elif "manifest" in blob["mediaType"] or "index" in blob["mediaType"]:
                document = json.loads(data)
                left += [*document.get("manifests", []), *document.get("layers", [])]
                left += [document["config"]] if "config" in document else []
