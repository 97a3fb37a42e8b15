"""What `obd inspect` says: of good images what matters, and of any other nothing worse than an error."""

import json
import os
import random
from pathlib import Path
from typing import Any

from obd.errors import ObdError
from obd.oci import Descriptor, Index, Manifest, Platform, media, parse_manifest
from obd.oci.docker_archive import open_docker_archive
from obd.oci.layers import BLOB_DIGEST, FS_TYPE, TARGET_DIGEST, VERSION
from obd.oci.summary import summary
from obd.oci.tar import Tar
from tests.unit.test_oci_archives import CONFIG, DIFF_ID, LAYER, Member, contents, docker, tar
from tests.unit.test_oci_copy import Memory
from tests.unit.test_oci_manifest import DIGEST, mutated
from tools.obd.inspect import show

WANTED = Platform("linux", "amd64")
FULL: dict[str, Any] = {
    "os": "linux",
    "architecture": "amd64",
    "created": "2026-01-01T00:00:00Z",
    "config": {
        "User": "app",
        "WorkingDir": "/srv",
        "Entrypoint": ["/bin/app", "-v"],
        "Cmd": ["run"],
        "Env": ["A=b"],
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "Labels": {"owner": "team"},
    },
    "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]},
}


class Configured(Memory):
    """An image with that configuration and layers of our kinds."""

    def __init__(self, config: object, layers: tuple[Descriptor, ...] = ()) -> None:
        data = json.dumps(config).encode()
        super().__init__(Manifest(Descriptor.of(data, media.OCI_CONFIG), layers))
        self._known[Descriptor.of(data, "").digest] = data


def test_what_matters_is_said() -> None:
    native = {VERSION: "0.1.0", BLOB_DIGEST: DIGEST, FS_TYPE: "ext4"}
    turbo = {VERSION: "0.1.0-turbo.ociv1", TARGET_DIGEST: DIGEST}
    layers = (
        Descriptor(media.OCI_LAYER, DIGEST, 5 << 20, native),
        Descriptor(media.OCI_LAYER_GZIP, DIGEST, 1 << 10, turbo),
    )
    lines = show(summary(Configured(FULL, layers), WANTED), str(WANTED))
    assert lines[3:] == [
        "runs on:    linux/amd64",
        "created:    2026-01-01T00:00:00Z",
        "user:       app",
        'entrypoint: ["/bin/app", "-v"]',
        'command:    ["run"]',
        "directory:  /srv",
        "env:        A=b",
        "port:       80/tcp",
        "volume:     /data",
        "label:      owner=team",
        "layers:     2, 5.0 MiB",
        f"    0  overlaybd      5.0 MiB  {DIGEST} (0.1.0, ext4)",
        f"    1  turboOCI       1.0 KiB  {DIGEST} (0.1.0-turbo.ociv1, of {DIGEST})",
    ]


def test_an_image_that_is_not_there_leaves_the_index() -> None:
    lost = Manifest(Descriptor.of(b"lost", media.OCI_CONFIG), ()).descriptor()
    index = Index((Descriptor(lost.media_type, lost.digest, lost.size, platform=WANTED),))

    class Lacking(Memory):
        def manifest(self, descriptor: Descriptor) -> bytes:
            if descriptor.digest == lost.digest:
                raise ObdError("not-found", "it is not here")
            return super().manifest(descriptor)

    about = summary(Lacking(index), WANTED)
    assert "image" not in about and len(about["manifests"]) == 1


def test_whatever_a_configuration_says_is_shown_or_refused() -> None:
    chance = random.Random(int(os.environ.get("PROPTEST_RNG_SEED", "1")))
    said = 0
    for _ in range(1500):
        document: Any = FULL
        for _ in range(chance.randrange(1, 4)):
            document = mutated(chance, document)
        try:
            about = summary(Configured(document), WANTED)
        except ObdError:
            continue
        said += 1
        assert all(line.isprintable() for line in show(about, str(WANTED)))
        json.dumps(about)
    assert said > 500


def test_whatever_documents_of_docker_say_is_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("PROPTEST_RNG_SEED", "1")))
    path, read = tmp_path / "a.tar", 0
    for _ in range(200):
        images, config = json.loads(docker()), json.loads(CONFIG)
        for _ in range(chance.randrange(1, 3)):
            if chance.random() < 0.7:
                images = mutated(chance, images)
            else:
                config = mutated(chance, config)
        members: list[Member] = [
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", LAYER),
            ("manifest.json", json.dumps(images).encode()),
        ]
        for tag in ("", "v1"):
            try:
                with open_docker_archive(Tar(str(tar(path, members))), tag) as source:
                    found = parse_manifest(source.root()[1])
                    assert isinstance(found, Manifest) and contents(source)[2:] == [LAYER] * len(found.layers)
                    read += 1
            except ObdError:
                continue
    assert read > 20
