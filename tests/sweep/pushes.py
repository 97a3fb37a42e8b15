"""A script of what goes into a registry: layers pushed, an image copied, converted and committed there."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import obdcore
from tests.e2e.oci_images import Layer, Layout
from tests.e2e.servers import Registry
from tests.sweep.images import WHEN
from tests.sweep.model import Model
from tests.sweep.script import Run, Say
from tests.sweep.shim import Shim
from tests.sweep.world import BASE

_ACCEPT: Final = ", ".join(f"application/vnd.oci.image.{kind}.v1+json" for kind in ("manifest", "index"))


def make_pushes(home: Path, _: str) -> Path:
    """A registry (Debian's), an image of files in a layout, a layer, and a device with an upper upon it."""
    template = home / "template-push"
    layout = Layout(template / "source")
    first = Layer().add("etc", tarfile.DIRTYPE).add("etc/kept", data=b"k" * 70000)
    layout.tag(layout.image([first, Layer().add("etc/second", data=b"two")]), "x")
    (home / "push.raw").write_bytes(BASE)
    with (home / "push.raw").open("rb") as source, (template / "lower").open("xb") as target:
        obdcore.lsmt_import(
            source.fileno(), len(BASE), target.fileno(), compress={"algorithm": "lz4"}, tar=True
        )
    upper = {"data": "@/u.data", "index": "@/u.index"}
    paths = [str(template / name[2:]) for name in upper.values()]
    obdcore.lsmt_create(*paths, size=1 << 20)
    image = obdcore.Image([str(template / "lower")], (paths[0], paths[1]))
    image.write_at(4096, b"changed" * 4096)
    image.close()
    (template / "config.json").write_text(json.dumps({"lowers": [{"file": "@/lower"}], "upper": upper}))
    (template / "service.json").write_text(json.dumps({"enableAudit": False}))
    # It ends with all else of `home`.
    (template / "host").write_text(Registry(home / "registry").host)
    return template


class Pushes(Run):
    """Each command makes a tag, whose image is whole, or none."""

    def __init__(self, place: str, say: Say, model: Model) -> None:
        super().__init__(place, say, model, sparse=False)
        os.environ["SOURCE_DATE_EPOCH"] = WHEN
        # A registry that knows nothing of the runs before.
        self._run: Final = "r" + hashlib.sha256(place.encode()).hexdigest()[:16]
        self._shim: Final = Shim()
        with self._shim.paused():
            self._host: Final = Path(self._path("host")).read_text()

    def story(self) -> None:
        """All four, one after the other."""
        self.attempt("push", self._push)
        self.attempt("copy", self._copy)
        self.attempt("convert", self._convert)
        self.attempt("commit", self._commit)

    def clean(self) -> None:
        """The same again, of what may be there already."""
        for name in ("pushed", "app", "committed"):
            self._check(name)
        written = Path(self._path("pushed.json"))
        if written.exists() and "lowers" not in json.loads(written.read_text()):
            self._say("wrong", "pushed.json is not whole")
        self._push()
        self._copy()
        # In earnest, though it may be done already: what was left is removed by the next conversion.
        self._convert("--no-reuse")
        self._commit()

    def _push(self) -> None:
        words = ["--to", self._image("pushed:x"), "--config", self._path("pushed.json"), "-f"]
        self.obd("push", *words, self._path("lower"))
        self._check("pushed", "x")

    def _copy(self) -> None:
        words = ["--jobs", "1", "--platform", "linux/amd64", f"oci:{self._path('source')}:x"]
        self.obd("copy", *words, self._image("app:x"))
        self._check("app", "x")

    def _convert(self, *more: str) -> None:
        words = ["--fs", "erofs", "--jobs", "1", "--referrer", "--work", self._path("work"), *more]
        self.obd("convert", *words, self._image("app:x"), self._image("app:y"))
        self._check("app", "y")

    def _commit(self) -> None:
        words = ["--work", self._path("work2"), self._path("config.json")]
        self.obd("commit", *words, self._image("committed:x"))
        self._check("committed", "x")

    def _image(self, name: str) -> str:
        return f"{self._host}/{self._run}/{name}"

    # ---- what the registry has

    def _check(self, name: str, wanted: str = "") -> None:
        """All that a tag names is there and is what its name says; `wanted` is a tag that must be there."""
        with self._shim.paused():
            tags = json.loads(self._get(f"{name}/tags/list") or b"{}").get("tags") or []
            if wanted and wanted not in tags:
                self._say("wrong", f"{name} has no tag {wanted}, though the command ended well")
            for tag in tags:
                data = self._get(f"{name}/manifests/{tag}")
                if data is None:
                    self._say("wrong", f"{name}:{tag} is not there")
                else:
                    self._check_manifest(name, json.loads(data))

    def _check_manifest(self, name: str, document: dict[str, Any]) -> None:
        blobs = [*document.get("layers", []), *([document["config"]] if "config" in document else [])]
        for blob in [*document.get("manifests", []), *blobs]:
            kind = "blobs" if blob in blobs else "manifests"
            data = self._get(f"{name}/{kind}/{blob['digest']}") or b""
            if len(data) != blob["size"] or blob["digest"] != f"sha256:{hashlib.sha256(data).hexdigest()}":
                self._say("wrong", f"{name}: {blob['mediaType']} is not what its name says")
            elif kind == "manifests":
                self._check_manifest(name, json.loads(data))

    def _get(self, path: str) -> bytes | None:
        url = f"http://{self._host}/v2/{self._run}/{path}"
        request = urllib.request.Request(url, headers={"Accept": _ACCEPT})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return None
