"""What a conversion plans and says, by documents alone; and what it keeps in its directories."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from obd.convert.beside import beside, index_beside
from obd.convert.chain import key_of, uuid_of
from obd.convert.crew import Crew
from obd.convert.documents import config_of, index_of, made_of
from obd.convert.options import Options
from obd.convert.plan import ImagePlan, chosen_entries, first_vsize, plan_image
from obd.convert.publish import Wanted, unchanged
from obd.convert.record import Made, Records
from obd.convert.work import Work
from obd.errors import ObdError
from obd.oci import Descriptor, Index, Manifest, Platform
from obd.oci.archive_destination import ArchiveDestination
from obd.oci.digest import chain_ids
from obd.oci.media import DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST

A, B, C = (f"sha256:{digit * 64}" for digit in "abc")
GIB = 1 << 30


def layer(digest: str = A, media_type: str = OCI_LAYER_GZIP, size: int = 100, **more: Any) -> Descriptor:
    return Descriptor(media_type, digest, size, **more)


def plan(layers: list[Descriptor], diff_ids: list[str] | object) -> ImagePlan:
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = Manifest(Descriptor(OCI_CONFIG, B, 10), tuple(layers))
    return plan_image(Descriptor(OCI_MANIFEST, C, 10), manifest, json.dumps(config).encode())


def test_names_follow_from_chain_ids() -> None:
    """By the example of the OCI image specification: the hash of both, with a space between them."""
    import hashlib

    first, second = chain_ids([A, B])
    assert first == A
    assert second == "sha256:" + hashlib.sha256(f"{A} {B}".encode()).hexdigest()
    assert uuid_of(A) == "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
    steps = plan([layer(), layer(B, DOCKER_LAYER_GZIP)], [A, B]).steps
    assert [step.parent_uuid for step in steps] == [None, uuid_of(A)]
    assert key_of(A, {"x": 1, "y": 2}) == key_of(A, {"y": 2, "x": 1}) != key_of(B, {"x": 1, "y": 2})


@pytest.mark.parametrize(
    ("layers", "diff_ids", "words"),
    [
        ([], [], "unsupported: .*has no layers"),
        ([layer()], [A, B], "corrupt: .*1 layers, but 2 diff IDs"),
        ([layer()], None, "corrupt: .*no list of diff IDs"),
        ([layer()], ["sha256:short"], "corrupt: .*no list of diff IDs"),
        ([layer()], ["sha512:" + "a" * 128], "unsupported: diff IDs by other than SHA-256"),
        ([layer(media_type="application/vnd.in-toto+json")], [A], "unsupported: layer 0 .*is no archive"),
        ([layer()] * 255, [A] * 255, "limit: .*255 layers"),
        (
            [layer(annotations={"containerd.io/snapshot/overlaybd/blob-digest": A})],
            [A],
            "unsupported: layer 0 .*is of kind overlaybd already",
        ),
    ],
)
def test_what_cannot_be_converted(layers: list[Descriptor], diff_ids: object, words: str) -> None:
    with pytest.raises(ObdError, match=words):
        plan(layers, diff_ids)


def test_the_device_has_room() -> None:
    assert first_vsize(plan([layer(size=10)], [A])) == 64 * GIB
    assert first_vsize(plan([layer(size=32 * GIB)], [A])) == 64 * GIB
    assert first_vsize(plan([layer(size=33 * GIB)], [A])) == 128 * GIB


def entry(digest: str, architecture: str, **more: Any) -> Descriptor:
    return Descriptor(OCI_MANIFEST, digest, 10, platform=Platform("linux", architecture), **more)


def test_entries_of_an_index() -> None:
    says = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": A}
    index = Index((entry(A, "amd64"), entry(B, "arm64"), entry(C, "unknown", annotations=says)))
    others = [
        replace(entry(C, "amd64"), platform=Platform(os, "amd64"), digest=C.replace("c", digit))
        for os, digit in (("windows", "d"), ("unknown", "e"))
    ]
    index = replace(index, manifests=(*others, *index.manifests))
    assert [each.digest for each in chosen_entries(index, (), True)] == [A, B]
    assert [each.digest for each in chosen_entries(index, ("linux/arm64", "linux/amd64"), False)] == [B, A]
    with pytest.raises(ObdError, match="not-found"):
        chosen_entries(index, ("linux/s390x",), False)
    new = index_of(index, Descriptor("", C, 1), {A: Descriptor(OCI_MANIFEST, B, 20)}, Options())
    converted, attestation = new.manifests
    assert (converted.digest, str(converted.platform)) == (B, "linux/amd64")
    assert attestation.digest == C and attestation.annotations["vnd.docker.reference.digest"] == B


def test_beside_originals() -> None:
    native, zstd = Options(), Options(algorithm="zstd")
    original = entry(A, "amd64")
    there = Index((entry(C, "arm64"),), {"kept": "yes"})
    index = index_beside(there, [original], {A: Descriptor(OCI_MANIFEST, B, 20)}, native)
    assert [each.digest for each in index.manifests] == [C, A, B]
    assert index.annotations == {"kept": "yes"}
    found = beside(index, original, native)
    assert found is not None and found.annotations == made_of(A, native)
    assert beside(index, original, zstd) is None
    # Made anew in another way it takes the place of the first.
    again = index_beside(index, [original], {A: Descriptor(OCI_MANIFEST, B.replace("b", "d"), 20)}, zstd)
    assert [each.digest[7] for each in again.manifests] == ["c", "a", "d"]
    # One of turboOCI stands beside it.
    turbo = Options(turbo=True)
    both = index_beside(index, [original], {A: Descriptor(OCI_MANIFEST, B.replace("b", "e"), 20)}, turbo)
    assert [each.digest[7] for each in both.manifests] == ["c", "a", "b", "e"]


@pytest.mark.parametrize("data", [b'{"schemaVersion":1}', b'{"schemaVersion":2,"mediaType":"odd"}', b"none"])
def test_what_has_the_tag_may_be_anything(data: bytes) -> None:
    class There(ArchiveDestination):
        name, tag = "there", "v1"

        def __init__(self) -> None:
            pass

        def manifest(self, reference: str) -> bytes:
            return data

    original = entry(A, "amd64")
    wanted = Wanted(original, None, (original,), several=False)
    assert unchanged(There(), wanted, Options()) is None


def test_configurations_keep_all_else() -> None:
    config = {"z": 1, "rootfs": {"type": "layers", "diff_ids": [A]}, "history": [{"empty_layer": True}]}
    found = json.loads(config_of(config, [B]))
    assert found == {**config, "rootfs": {"type": "layers", "diff_ids": [B]}} and list(found) == list(config)


def test_jobs_do_not_change_what_is_said() -> None:
    assert Options(jobs=1).said() == Options(jobs=9, work="x").said() != Options(fs="erofs").said()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"digest": "x"}', json.dumps({"digest": A, "size": 0, "diff_id": A, "kind": ""})),
        json.dumps({"digest": A, "size": 9, "diff_id": A, "kind": "turbo", "places": []}),
    ],
)
def test_records_that_make_no_sense_are_none(tmp_path: Path, text: str) -> None:
    records = Records(str(tmp_path))
    (tmp_path / "key.json").write_text(text)
    assert records.get("key") is None
    made = Made(A, 5, A, "native", ("http://a/v2/b",))
    records.put("key", made)
    assert records.get("key") == made
    records.put("key", Made(A, 5, A, "native", ("http://a/v2/c",)))
    found = records.get("key")
    assert found is not None and found.places == ("http://a/v2/c", "http://a/v2/b")


def test_what_killed_runs_left_goes(tmp_path: Path) -> None:
    """Not what belongs to runs that live, and finished layers only after a week."""
    with Work(str(tmp_path)) as living:
        dead, (old, new) = tmp_path / "runs/dead", (tmp_path / "layers" / name for name in ("old", "new"))
        dead.mkdir()
        (dead / "file").touch()
        (tmp_path / "runs/dead.lock").touch()
        (tmp_path / "runs/without").mkdir()
        for layer in (old, new):
            layer.touch()
        os.utime(old, (time.time() - 8 * 24 * 3600,) * 2)
        with Work(str(tmp_path)):
            assert os.path.isdir(living.path)
        assert sorted(os.listdir(tmp_path / "runs")) == sorted(
            [os.path.basename(living.path), f"{os.path.basename(living.path)}.lock"]
        )
        assert os.listdir(tmp_path / "layers") == ["new"]
    assert os.listdir(tmp_path / "runs") == []


def test_finished_layers_are_shared_between_runs(tmp_path: Path) -> None:
    import hashlib

    data = b"layer" * 1000
    made = Made(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), A, "native")
    with Work(str(tmp_path)) as first, Work(str(tmp_path)) as second:
        assert second.finished("key", made) is None
        path = first.temporary("new")
        Path(path).write_bytes(data)
        first.finish("key", path, made)
        own = second.finished("key", made)
        first.done()
        assert own is not None and Path(own).read_bytes() == data
        assert os.listdir(tmp_path / "layers") == []


def test_images_of_one_run_may_have_layers_in_common(tmp_path: Path) -> None:
    """One looks for a layer when the other has just finished it, or has found it too."""
    import hashlib

    data = b"layer" * 1000
    made = Made(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), A, "native")
    with Work(str(tmp_path)) as work:
        path = work.temporary("new")
        Path(path).write_bytes(data)
        files = [work.finish("key", path, made), *(work.finished("key", made) for _ in range(2))]
        assert [Path(file or "").read_bytes() for file in files] == [data] * 3


def test_the_first_failure_is_the_one_told() -> None:
    def fail() -> None:
        raise ObdError("io", "first")

    with pytest.raises(ObdError, match="first"), Crew(2) as crew:

        def wait_for_ever() -> None:
            while True:
                crew.check()
                time.sleep(0.001)

        waiting = crew.submit(crew.layers, wait_for_ever)
        crew.submit(crew.pushes, fail)
        waiting.result()
