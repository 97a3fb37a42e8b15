"""Images of turboOCI: layers stay as they are, and get metadata by which their files are read in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import obdcore
from obd.convert.build import Build, Layer, of_layer
from obd.convert.chain import key_of
from obd.convert.layer import Applied, Lower, full
from obd.convert.record import Made
from obd.oci.media import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, layer_type
from obd.turbo.pack import pack
from obd.turbo_meta import unpack

if TYPE_CHECKING:
    from obd.convert.plan import Step

# Less than what a file of any file system can have, all of it a hole.
_LONGEST: Final = 8 << 40


class TurboBuild(Build):
    """As `Build`, but layers become some of turboOCI, except for those that are not read at random.

    These, in zstd or in gzip of several members, become native ones. The original layers are put into the
    target too.
    """

    def _key(self, step: Step, shape: dict[str, object]) -> str:
        # The index is of the very bytes that the original is compressed to.
        return key_of(step.chain_id, {**shape, "source": step.source.digest})

    def _look(self, layer: Layer) -> None:
        super()._look(layer)
        layer.turbo = layer.made is not None and layer.made.kind == "turbo"

    def _unreadable(self, layer: Layer) -> bool:
        # The metadata of a layer can always be had from where its archive is.
        return layer.made is None if layer.turbo or layer.made is None else super()._unreadable(layer)

    def _run_fetch(self, layer: Layer) -> None:
        """Also finds out what can be made of the layer, for which all of it must be here."""
        super()._run_fetch(layer)
        with of_layer(layer.step), self.crew.turn():
            self._index(layer)

    def _index(self, layer: Layer) -> None:
        assert layer.fetch is not None
        archive = layer.fetch.open()
        try:
            kind = layer_type(os.pread(archive, 4, 0))
            layer.turbo = kind != OCI_LAYER_ZSTD
            if kind != OCI_LAYER_GZIP:
                return
            index = self._file(layer, "gzip")
            with open(index, "xb") as file:
                obdcore.gzip_index(archive, file.fileno(), progress=self._told(layer, "indexing"))
            layer.gzip_index = index
        except obdcore.Error as error:
            if error.kind != "unsupported":
                raise
            layer.turbo = False
        finally:
            os.close(archive)

    def _apply(self, layer: Layer) -> None:
        assert layer.fetching is not None
        layer.fetching.result()
        super()._apply(layer)

    def _apply_archive(self, layer: Layer, lowers: Sequence[Lower], archive: int, path: str) -> Applied:
        if not layer.turbo:
            return super()._apply_archive(layer, lowers, archive, path)
        index, size = f"{path}.index", 0 if lowers else self.vsize_bytes
        obdcore.lsmt_create(path, index, size=size, turbo=True, scratch=True)
        image = obdcore.Image(list(lowers), (path, index, self._nothing()), scratch=True)
        try:
            done = self._map(image, layer, archive, new=not lowers)
        finally:
            image.close()
        layer.meta = self._file(layer, "meta")
        with open(layer.meta, "xb") as file:
            compress = self.options.compress
            obdcore.lsmt_commit(path, index, file.fileno(), turbo=True, compress=compress)
        os.unlink(path)
        os.unlink(index)
        return Applied("", tuple(done["notes"]))

    def _map(self, image: obdcore.Image, layer: Layer, archive: int, *, new: bool) -> dict[str, Any]:
        with full():
            return obdcore.turbo_apply(
                image,
                archive,
                fstype=self.options.fs,
                mkfs=new and self.options.fs == "ext4",
                sha256=layer.step.diff_id.partition(":")[2],
                progress=self._told(layer, "applying"),
            )

    def _applied(self, layer: Layer) -> None:
        # One of turboOCI is still to be put into the target.
        if not layer.turbo:
            super()._applied(layer)

    def _lower(self, layer: Layer) -> Lower:
        if not layer.turbo:
            return super()._lower(layer)
        if not layer.meta:
            layer.meta = self._unpacked(layer)
        return obdcore.TurboLayer(layer.meta, self._nothing())

    def _unpacked(self, layer: Layer) -> str:
        """The metadata out of an archive that was made before."""
        assert layer.made is not None
        home = self._file(layer, "unpacked")
        os.mkdir(home)
        with of_layer(layer.step), closing(self.target.open(layer.made, layer.path)) as stream:
            unpack(stream, home, layer.made.digest)
        return os.path.join(home, f"{self.options.fs}.fs.meta")

    def _nothing(self) -> str:
        """A file that stands for originals of any length: of content nothing is read before all is done."""
        path = self.work.temporary("nothing")
        with open(path, "ab") as file:
            file.truncate(_LONGEST)
        return path

    def _finish(self, layer: Layer) -> None:
        if not layer.turbo:
            super()._finish(layer)
            return
        path = self._file(layer, "new")
        with of_layer(layer.step), self.crew.turn():
            packed = pack({self.options.fs: layer.meta}, layer.gzip_index or None, path)
        layer.made = Made(packed.digest, packed.size, packed.diff_id, "turbo", gzip=bool(layer.gzip_index))
        layer.path = self.work.finish(layer.key, path, layer.made)
        layer.pushing = self.crew.submit(self.crew.pushes, self._push, layer)

    def _push(self, layer: Layer) -> None:
        super()._push(layer)
        if layer.turbo and layer.fetch is not None:
            with of_layer(layer.step):
                source, told = layer.step.source, self._told(layer, "pushing the original")
                self.target.put_original(self.source, source, layer.fetch.path, told)
            layer.fetch.close()
