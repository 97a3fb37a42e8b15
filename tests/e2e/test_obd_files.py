"""The `obd` command on files: import, export, info, verify, config, with qemu-img as the judge."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import BIN, ok, run

SECTOR = 512


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw image with data, written zeros, holes, and a size that is no multiple of 4096."""
    path = tmp_path_factory.mktemp("raw") / "image.raw"
    random.seed(7)
    with path.open("wb") as file:
        file.truncate(40 * (1 << 20) + 3 * SECTOR)
        for _ in range(60):
            file.seek(random.randrange(0, 40 << 20) // SECTOR * SECTOR)
            file.write(random.choice([bytes(65536), random.randbytes(8192), b"x" * 1536]))
    return path


def config(directory: Path, *lowers: Path, **more: object) -> Path:
    path = directory / "config.v1.json"
    path.write_text(json.dumps({"lowers": [{"file": str(lower)} for lower in lowers], **more}))
    return path


def same(first: Path, second: Path) -> bool:
    command = ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(first), str(second)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "options", [[], ["-z"], ["-z", "-t", "--algorithm", "zstd", "--bs", "64"], ["-t"]], ids=" ".join
)
def test_import_and_export_give_the_same_disk(tmp_path: Path, raw: Path, options: list[str]) -> None:
    layer, back = tmp_path / "layer", tmp_path / "back.raw"
    ok("obd", "import", *options, raw, layer)
    ok("obd", "verify", layer)
    ok("obd", "export", config(tmp_path, layer), back)
    assert same(raw, back)
    assert back.stat().st_size == raw.stat().st_size
    assert back.stat().st_blocks < raw.stat().st_blocks, "written zeros became holes"
    assert layer.stat().st_size < raw.stat().st_blocks * 512, "zeros take no room in the layer"


def test_export_to_a_pipe(tmp_path: Path, raw: Path) -> None:
    ok("obd", "import", raw, tmp_path / "layer")
    program = str(BIN / "obd")
    command = [program, "export", str(config(tmp_path, tmp_path / "layer")), "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == raw.read_bytes()
    assert process.returncode == 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"obd: io: standard output was closed\n"
    assert process.returncode == 255


def test_outputs_are_not_overwritten_unless_asked(tmp_path: Path, raw: Path) -> None:
    layer = tmp_path / "layer"
    layer.write_text("mine")
    assert "exists" in run("obd", "import", raw, layer).err
    assert layer.read_text() == "mine"
    ok("obd", "import", "-f", raw, layer)
    image = config(tmp_path, layer)
    (tmp_path / "out").write_text("mine")
    assert "exists" in run("obd", "export", image, tmp_path / "out").err
    ok("obd", "export", "--force", image, tmp_path / "out")
    assert same(raw, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["config.v1.json", "layer", "out"], "no temporary file is left"


def test_odd_and_empty_images(tmp_path: Path) -> None:
    odd = tmp_path / "odd.raw"
    odd.write_bytes(b"y" * 1000)
    ok("obd", "import", odd, tmp_path / "layer")
    ok("obd", "export", config(tmp_path, tmp_path / "layer"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"y" * 1000 + bytes(24)
    (tmp_path / "empty").touch()
    assert "empty" in run("obd", "import", tmp_path / "empty", tmp_path / "no").err
    assert not (tmp_path / "no").exists()


def test_info_tells_what_a_file_is(tmp_path: Path, raw: Path) -> None:
    layer = tmp_path / "layer"
    ok("obd", "import", "-z", "-t", raw, layer)
    ok("overlaybd-create", "-s", tmp_path / "data", tmp_path / "index", "1")
    said = ok("obd", "info", layer, tmp_path / "data", "/etc/passwd").out
    assert f"{layer}: committed layer" in said
    assert "tar: member overlaybd.commit" in said
    assert "zfile: lz4, with checksums" in said
    assert "device: 40.0 MiB" in said
    assert "writable sparse data layer" in said
    assert "/etc/passwd: neither a layer nor a zfile" in said
    facts = json.loads(ok("obd", "info", "--json", layer).out)
    assert facts[0]["file"] == str(layer)
    assert facts[0]["lsmt"]["trailer"]["virtual_size"] == raw.stat().st_size
    assert "not-found" in run("obd", "info", tmp_path / "absent", layer).err


def test_verify_says_what_is_wrong_and_where(tmp_path: Path, raw: Path) -> None:
    layer, bad = tmp_path / "layer", tmp_path / "bad"
    ok("obd", "import", "-z", raw, layer)
    whole = layer.read_bytes()
    bad.write_bytes(whole[:50_000] + bytes([whole[50_000] ^ 1]) + whole[50_001:])
    said = run("obd", "verify", bad, layer)
    assert said.status == 255
    assert f"obd: corrupt: {bad}: at " in said.err and "checksum" in said.err
    assert said.out == f"{layer}: ok\n", "one bad file does not hide the others"
    bad.write_bytes(whole[:-1])
    assert "no trailer: the zfile is cut off" in run("obd", "verify", bad).err, (
        "though reading would do without"
    )
    bad.write_bytes(whole[:-1000])
    assert f"corrupt: {bad}: " in run("obd", "verify", bad).err
    assert "neither a layer" in run("obd", "verify", "/etc/passwd").err


def test_verify_of_a_configuration_checks_digests_too(tmp_path: Path, raw: Path) -> None:
    import hashlib

    layer = tmp_path / "layer"
    ok("obd", "import", raw, layer)
    digest = f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}"
    lower = {"file": str(layer), "digest": digest, "size": layer.stat().st_size}
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"lowers": [lower], "resultFile": str(tmp_path / "result")}))
    assert ok("obd", "verify", path).out == f"{path}: layer 0: ok\n{path}: ok\n"
    assert not (tmp_path / "result").exists(), "a check is no attempt to open a device"
    path.write_text(json.dumps({"lowers": [{**lower, "digest": "sha256:" + "0" * 64}]}))
    said = run("obd", "verify", path).err
    assert f"digest is {digest}, the configuration says sha256:0000" in said
    path.write_text(json.dumps({"lowers": [{**lower, "size": 17}]}))
    assert "the configuration says 17" in run("obd", "verify", path).err
    path.write_text('{"lowers": [}')
    assert "not JSON: line 1 column 13" in run("obd", "verify", path).err


def test_config_check_and_show(tmp_path: Path, raw: Path) -> None:
    layer = tmp_path / "layer"
    ok("obd", "import", raw, layer)
    image = config(tmp_path, layer, typo=1)
    said = ok("obd", "config", "check", image)
    assert said.out == f"{image}: ok\n"
    assert said.err == f"obd: warning: {image}: unknown key typo is ignored\n"
    shown = json.loads(ok("obd", "config", "show", "--json", image).out)
    assert shown["mode"] == "read-only"
    assert shown["layers"][0]["from"] == str(layer)
    service = tmp_path / "overlaybd.json"
    service.write_text('{"ioEngine": 9}')
    done = run("obd", "config", "check", service, image)
    assert "ioEngine: 9 is not allowed" in done.err
    assert (done.status, done.out) == (255, f"{image}: ok\n"), "one wrong file does not hide the next"
    service.write_text('{"cacheDir": "/x", "certConfig": {"caFile": "/absent"}, "logPath": "/l"}')
    said = ok("obd", "config", "check", "--as-service", service)
    assert f"{service}: unknown key cacheDir" in said.err
    assert f"{service}: certConfig.caFile: cannot read /absent" in said.err
    shown = json.loads(ok("obd", "config", "show", "--json", service).out)
    assert shown["file"] == str(service)
    assert shown["settings"]["logConfig.logPath"] == {"value": "/l", "from": "legacy key logPath"}
    assert '  logConfig.logPath = "/l"  (legacy key logPath)\n' in ok("obd", "config", "show", service).out
    assert "  cacheConfig.cacheDir = " in ok("obd", "config", "show").out, "without a file: the host's"


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    import signal

    big = tmp_path / "big.raw"
    with big.open("wb") as file:
        for _ in range(64):
            file.write(random.randbytes(1 << 20))
        file.truncate(1 << 40)
    program = str(BIN / "obd")
    command = [program, "import", "-z", "--algorithm", "zstd", str(big), str(tmp_path / "layer")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not [name for name in os.listdir(tmp_path) if name.startswith(".layer")]:
            assert process.poll() is None, "it has to be interrupted in its work"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM
    assert os.listdir(tmp_path) == ["big.raw"]
