"""What is read in the benchmarks: made once on the host, copied to a guest's memory."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.nbd import SIZE, make
from obdcore import lsmt_import


@dataclass(frozen=True)
class Content:
    """The same bytes as they are, as a compressed layer and as qcow2; and an image of the layer."""

    directory: Path

    @property
    def raw(self) -> Path:
        """The bytes as they are."""
        return self.directory / "raw"

    @property
    def layer(self) -> Path:
        """The compressed layer."""
        return self.directory / "layer"

    @property
    def qcow2(self) -> Path:
        """Uncompressed qcow2."""
        return self.directory / "qcow2"

    @property
    def config(self) -> Path:
        """The configuration of the image, in a copy."""
        return self.directory / "config.json"

    def make(self) -> None:
        """Makes the files."""
        make(self.raw)
        with self.raw.open("rb") as source, self.layer.open("xb") as target:
            lsmt_import(source.fileno(), SIZE, target.fileno(), compress={"algorithm": "lz4"})
        qcow2 = ("-O", "qcow2", "-o", "compat=0.10", self.raw, self.qcow2)
        subprocess.run(["qemu-img", "convert", "-q", *qcow2], check=True)

    def copy(self, directory: Path, *files: Path) -> "Content":
        """Copies some of the files, with a configuration for where they are then."""
        for file in files:
            shutil.copy(file, directory)
        copied = Content(directory)
        lowers = [{"file": str(copied.layer)}]
        copied.config.write_text(json.dumps({"lowers": lowers, "resultFile": str(directory / "result")}))
        return copied
