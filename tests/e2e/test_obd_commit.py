"""`obd commit`: what was written to an image is in the new one, and what was there is not sent again."""

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import obdcore
from obd.oci import open_source
from obd.oci.manifest import Manifest, parse_manifest
from obd.service import Service
from tests.e2e.commands import Done, ok, run, serving
from tests.e2e.oci_images import Layer, Layout
from tests.e2e.servers import Registry
from tests.e2e.test_obd_mount import needs_mount

PREFIX = "containerd.io/snapshot/overlaybd/"


class Home:
    """A registry with a converted image `app:v1`, and places for what tests make."""

    def __init__(self, path: Path, registry: Registry) -> None:
        self.path = path
        self.registry = registry
        layout = Layout(path / "layout")
        first = Layer().add("etc", tarfile.DIRTYPE).add("etc/kept", data=b"k" * 70000)
        image = layout.image([first, Layer().add("etc/second", data=b"two")])
        small = ["--vsize", "1", "--work", str(path / "work")]
        ok("obd", "convert", *small, layout.tag(image, "x"), self.name("app:v1"))

    def name(self, image: str) -> str:
        return f"{self.registry.host}/{image}"

    def image(self, name: str) -> tuple[Manifest, dict[str, Any]]:
        """The manifest of an image, and its configuration."""
        with open_source(self.name(name), Service(None)) as source:
            manifest = parse_manifest(source.root()[1])
            assert isinstance(manifest, Manifest)
            with source.blob(manifest.config) as stream:
                return manifest, json.loads(stream.read())

    def writable(self, directory: Path, name: str = "app:v1") -> Path:
        """A configuration of an image of the registry with an upper."""
        manifest, _ = self.image(name)
        data, index = directory / "data", directory / "index"
        ok("overlaybd-create", data, index, "0")
        repository = self.registry.repository(name.partition(":")[0])
        return self.config(
            directory,
            [{"digest": layer.digest, "size": layer.size} for layer in manifest.layers],
            {"data": str(data), "index": str(index)},
            repository,
        )

    def config(
        self, directory: Path, lowers: list[dict[str, Any]], upper: dict[str, str], repository: str = ""
    ) -> Path:
        path = directory / "config.json"
        path.write_text(
            json.dumps(
                {
                    "repoBlobUrl": f"{repository}/blobs" if repository else "",
                    "lowers": lowers,
                    "upper": upper,
                }
            )
        )
        return path

    def write(self, directory: Path, config: Path, name: str, data: bytes) -> None:
        """Writes a file in the image, as a container would have."""
        (directory / "layer.tar").write_bytes(Layer("").add(name, data=data).raw())
        service = ["--service_config_path", self.service()]
        ok("overlaybd-apply", *service, directory / "layer.tar", config)

    def service(self) -> str:
        """A service configuration with a cache of its own."""
        path = self.path / "service.json"
        cache = {"cacheType": "file", "cacheDir": str(self.path / "cache"), "cacheSizeGB": 1}
        path.write_text(json.dumps({"cacheConfig": cache}))
        return str(path)

    def commit(self, *words: str | Path) -> Done:
        return run("obd", "commit", "--service", self.service(), "--work", self.path / "work", *words)

    def cat(self, image: str, path: str) -> str:
        return ok("obd", "cat", "--service", self.service(), f"{image}:{path}").out


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    path = tmp_path_factory.mktemp("commit")
    with Registry(path / "registry") as registry:
        yield Home(path, registry)


def hows(done: Done) -> list[str]:
    """What became of each layer."""
    assert done.status == 0, done.err
    return [line.split()[2] for line in done.out.splitlines()[:-1]]


def test_a_change_becomes_a_layer_upon_those_that_are_there(home: Home, tmp_path: Path) -> None:
    config = home.writable(tmp_path)
    home.write(tmp_path, config, "etc/new", b"written\n")
    words = ["--base", home.name("app:v1"), "--message", "a file more", "--author", "me"]
    more = ["--cmd", '["/bin/new", "-x"]', "--env", "PATH=/usr/bin", "--env", "NEW=1"]
    written = ["--write-config", str(tmp_path / "new.json")]
    done = home.commit(*words, *more, *written, config, home.name("app:v2"))
    assert hows(done) == ["there", "there", "pushed"]
    before, old = home.image("app:v1")
    after, new = home.image("app:v2")
    assert after.layers[:2] == before.layers
    last = after.layers[2]
    assert {key.removeprefix(PREFIX): value for key, value in last.annotations.items()} == {
        "version": "0.1.0",
        "blob-digest": last.digest,
        "blob-size": str(last.size),
        "blob-fs-type": "ext4",
    }
    assert new["rootfs"]["diff_ids"] == [*old["rootfs"]["diff_ids"], last.digest]
    assert new["history"][:-1] == old["history"]
    said = new["history"][-1]
    assert (said["created_by"], said["comment"], said["author"]) == ("obd commit", "a file more", "me")
    assert new["config"]["Cmd"] == ["/bin/new", "-x"] and new["config"]["Labels"] == {"a": "b"}
    assert new["config"]["Env"] == ["PATH=/usr/bin", "NEW=1"]
    assert "overlaybd.convert.source" not in after.annotations
    assert home.cat(home.name("app:v2"), "/etc/new") == "written\n"
    assert home.cat(home.name("app:v2"), "/etc/second") == "two"
    lowers = json.loads((tmp_path / "new.json").read_text())["lowers"]
    assert [lower["digest"] for lower in lowers] == [layer.digest for layer in after.layers]


def test_the_same_change_at_the_same_time_is_the_same_image(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    config = home.writable(tmp_path)
    home.write(tmp_path, config, "etc/new", b"same\n")
    words = ["--base", home.name("app:v1"), str(config)]
    first = home.commit(*words, home.name("app:a"))
    second = home.commit(*words, home.name("app:b"))
    assert hows(first)[2] == "pushed" and hows(second) == ["there"] * 3
    assert first.out.splitlines()[-1].split()[0] == second.out.splitlines()[-1].split()[0]
    assert home.image("app:a")[1]["created"] == "2023-11-14T22:13:20Z"
    for time in ("yesterday", "9" * 20):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", time)
        failed = run("obd", "commit", config, home.name("app:c"))
        assert failed.status == 255 and failed.err.startswith("obd: invalid: SOURCE_DATE_EPOCH: ")


def test_another_repository_mounts_what_is_below(home: Home, tmp_path: Path) -> None:
    config = home.writable(tmp_path)
    home.write(tmp_path, config, "etc/new", b"elsewhere\n")
    done = home.commit(config, home.name("other/app:v2"))
    assert hows(done) == ["mounted", "mounted", "pushed"]
    assert home.cat(home.name("other/app:v2"), "/etc/new") == "elsewhere\n"
    _, new = home.image("other/app:v2")
    assert len(new["history"]) == 3 and new["config"] == {}


def test_a_layout_gets_copies(home: Home, tmp_path: Path) -> None:
    config = home.writable(tmp_path)
    home.write(tmp_path, config, "etc/new", b"offline\n")
    name = f"oci:{tmp_path / 'out'}:v2"
    done = home.commit("--base", home.name("app:v1"), config, name)
    assert hows(done) == ["copied", "copied", "pushed"]
    assert home.cat(name, "/etc/new") == "offline\n"


def test_an_upper_in_use_is_refused_and_its_snapshots_can_be_had(home: Home, tmp_path: Path) -> None:
    config = home.writable(tmp_path)
    home.write(tmp_path, config, "etc/new", b"before\n")
    words = ["--service", home.service(), "--nbd", f"unix:{tmp_path / 'nbd'}"]
    with serving(config, *words) as (process, _):
        done = home.commit("--base", home.name("app:v1"), config, home.name("app:busy"))
        assert (done.status, len(done.lines)) == (255, 1)
        assert "busy: " in done.err and "take a snapshot and commit with --no-upper" in done.err
        new = [tmp_path / "data2", tmp_path / "index2"]
        ok("obd", "snapshot", str(process.pid), "--data", new[0], "--index", new[1])
        done = home.commit("--no-upper", "--base", home.name("app:v1"), config, home.name("app:live"))
        assert hows(done) == ["there", "there", "pushed"]
    assert home.cat(home.name("app:live"), "/etc/new") == "before\n"


def test_layers_of_this_machine_are_pushed_in_the_form_of_a_registry(home: Home, tmp_path: Path) -> None:
    plain, wrapped = tmp_path / "plain", tmp_path / "wrapped"
    for path, options in ((plain, []), (wrapped, ["-z", "-t"])):
        (tmp_path / "raw").write_bytes(bytes([7]) * 65536 + bytes(1 << 20))
        ok("obd", "import", *options, tmp_path / "raw", path)
    pair = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    ok("overlaybd-create", pair["data"], pair["index"], "0")
    config = home.config(tmp_path, [{"file": str(plain)}, {"file": str(wrapped)}], pair)
    image = obdcore.Image([str(plain), str(wrapped)], (pair["data"], pair["index"]))
    image.write_at(1 << 20, b"x" * 4096)
    image.close()
    assert hows(home.commit(config, home.name("disk:v1"))) == ["pushed", "there", "pushed"]
    manifest, _ = home.image("disk:v1")
    assert len({layer.digest for layer in manifest.layers}) == 2
    config.write_text(
        json.dumps(
            {
                "repoBlobUrl": home.registry.repository("disk") + "/blobs",
                "lowers": [{"digest": layer.digest, "size": layer.size} for layer in manifest.layers],
            }
        )
    )
    ok("obd", "export", "--service", home.service(), config, tmp_path / "out")
    wanted = bytearray(bytes([7]) * 65536 + bytes(1 << 20))
    wanted[1 << 20 : (1 << 20) + 4096] = b"x" * 4096
    assert (tmp_path / "out").read_bytes() == wanted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"upper": {}}, "has no upper"),
        ({"lowers": []}, "it has 0 layers, the base 2"),
        ({"lowers": [{"digest": f"sha256:{'1' * 64}", "size": 9}] * 2}, f"lowers[0] is sha256:{'1' * 64}"),
    ],
)
def test_what_makes_no_sense_is_refused(
    change: dict[str, Any], said: str, home: Home, tmp_path: Path
) -> None:
    config = home.writable(tmp_path)
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    done = home.commit("--base", home.name("app:v1"), config, home.name("app:none"))
    assert (done.status, len(done.lines)) == (255, 1)
    assert said in done.err
    assert run("obd", "inspect", home.name("app:none")).status == 255


@needs_mount
@pytest.mark.usefixtures("run_directory")
def test_what_was_written_to_a_mount_is_seen_in_one_of_the_new_image(home: Home, tmp_path: Path) -> None:
    config = home.writable(tmp_path)
    point = tmp_path / "mnt"
    point.mkdir()
    service = ["--service", home.service()]
    ok("obd", "mount", "--rw", *service, config, point)
    try:
        (point / "etc/note").write_text("from a mount\n")
        (point / "etc/second").unlink()
    finally:
        ok("obd", "umount", point)
    words = ["--base", home.name("app:v1"), "--write-config", str(tmp_path / "new.json")]
    assert hows(home.commit(*words, config, home.name("app:v3"))) == ["there", "there", "pushed"]
    ok("obd", "mount", *service, tmp_path / "new.json", point)
    try:
        assert (point / "etc/note").read_text() == "from a mount\n"
        assert not (point / "etc/second").exists()
    finally:
        ok("obd", "umount", point)
    ok("obd", "export", *service, tmp_path / "new.json", tmp_path / "raw")
    subprocess.run(["e2fsck", "-fn", tmp_path / "raw"], check=True, capture_output=True)
