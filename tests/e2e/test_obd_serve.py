"""`obd serve`: an image for NBD clients until a signal ends it, with nothing lost."""

import json
import os
import random
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import START_S, ok, run, serving


@pytest.fixture
def image(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.write_bytes(random.Random(1).randbytes(1 << 20) + bytes(3 << 20))
    ok("obd", "import", "-z", raw, tmp_path / "layer")
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"lowers": [{"file": str(tmp_path / "layer")}]}))
    return path


def test_over_tcp_on_any_free_port(tmp_path: Path, image: Path) -> None:
    with serving(image, "--nbd", "127.0.0.1:0", "--name", "a b") as (process, uri):
        assert uri.startswith("nbd://127.0.0.1:") and uri.endswith("/a%20b")
        subprocess.run(["qemu-img", "compare", uri, tmp_path / "raw"], check=True, capture_output=True)
        again = run("obd", "serve", image, "--nbd", uri.split("/")[2])
        assert again.status == 255 and len(again.lines) == 1, "the address is taken"
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
def test_it_gives_up_privileges(image: Path) -> None:
    with serving(image, "--nbd", "127.0.0.1:0") as (process, _):
        status = Path(f"/proc/{process.pid}/status").read_text()
        # Files whosever they are, and ports below 1024.
        assert int(re.findall(r"CapEff:\s*(\w+)", status)[0], 16) & ~0x40F == 0
        assert re.findall(r"CapPrm:\s*(\w+)", status) == re.findall(r"CapEff:\s*(\w+)", status)
        assert re.findall(r"NoNewPrivs:\s*(\w+)", status) == ["1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_written_is_kept_when_a_signal_ends_it(
    tmp_path: Path, image: Path, number: signal.Signals
) -> None:
    ok("overlaybd-create", tmp_path / "data", tmp_path / "index", "0")
    upper = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    image.write_text(json.dumps({**json.loads(image.read_text()), "upper": upper}))
    socket = tmp_path / "sock"
    with serving(image, "--nbd", f"unix:{socket}") as (process, uri):
        write = ["qemu-io", "-f", "raw", "-c", "write -P 7 64k 64k", uri]
        subprocess.run(write, check=True, capture_output=True)
        process.send_signal(number)
        assert process.wait(START_S) == 0
        assert process.stderr is not None and process.stderr.read() == b""
    assert not socket.exists()
    ok("obd", "export", image, tmp_path / "after")
    expected = bytearray((tmp_path / "raw").read_bytes())
    expected[64 << 10 : 128 << 10] = b"\x07" * (64 << 10)
    assert (tmp_path / "after").read_bytes() == expected


def test_a_bad_block_is_an_error_and_a_line_that_names_it(tmp_path: Path, image: Path) -> None:
    layer = tmp_path / "layer"
    with layer.open("r+b") as file:
        file.seek(300_000)
        file.write(b"\xff" * 16)
    with serving(image, "--nbd", "127.0.0.1:0") as (process, uri):
        compare = subprocess.run(
            ["qemu-img", "compare", uri, tmp_path / "raw"], capture_output=True, check=False
        )
        assert compare.returncode > 1, "an I/O error, not other bytes"
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert f"obd: {image}: corrupt: {layer}: at " in said and "checksum" in said


@pytest.mark.parametrize("address", ["nonsense", "unix:", "127.0.0.1:70000", "unix:/absent/directory/sock"])
def test_a_wrong_address_is_one_line(image: Path, address: str) -> None:
    done = run("obd", "serve", image, "--nbd", address)
    assert (done.status, done.out, len(done.lines)) == (255, "", 1)
    assert not os.path.exists("sock")
