"""A layer that is being fetched for a conversion, and cannot be read from where it is put meanwhile."""

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

from obd.convert.fetch import Fetch
from obd.oci.descriptor import Descriptor
from obd.oci.protocols import ImageSource

LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", "sha256:" + "0" * 64, 3)


class Remote:
    """A source that has its layers elsewhere."""

    def path(self, _: Descriptor) -> str | None:
        return None

    def blob(self, _: Descriptor) -> BinaryIO:
        return io.BytesIO(b"abc")


def test_who_reads_it_learns_why_it_ends(tmp_path: Path) -> None:
    """Its reader was told that its bytes are wrong, and a traceback stood on stderr."""
    path = tmp_path / "layer"
    fetch = Fetch(cast(ImageSource, Remote()), LAYER, str(path), lambda: None)
    archive = fetch.open()  # before all has arrived, so that it comes by a pipe
    fetch._advance(3)
    assert os.read(archive, 9) == b"", "it ends"
    os.close(archive)
    fetch.close()
    lost = fetch.failure()
    assert isinstance(lost, FileNotFoundError) and lost.filename == str(path)
