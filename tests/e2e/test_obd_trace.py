"""`obd trace`: what a file says, and a recording of a device that is in use."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from obd.sockets import statistics
from tests.e2e.commands import BIN, START_S, ok, run, serving
from tests.ref import trace_ref

pytestmark = pytest.mark.usefixtures("run_directory")

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a read-only image of random bytes."""
    home = tmp_path_factory.mktemp("image")
    (home / "raw").write_bytes(random.Random(6).randbytes(SIZE))
    ok("obd", "import", "-z", home / "raw", home / "layer")
    (home / "c.json").write_text(json.dumps({"lowers": [{"file": str(home / "layer")}]}))
    return home / "c.json"


@pytest.fixture
def served(tmp_path: Path, image: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    (tmp_path / "overlaybd.json").write_text('{"enableAudit": false}')
    words = ("--nbd", f"unix:{tmp_path / 'sock'}", "--service", tmp_path / "overlaybd.json")
    with serving(image, *words) as (process, uri):
        yield process, uri


def test_what_a_trace_says(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_bytes(trace_ref.write([(1, 512, 4096), (0, 0, 512), (1, MIB, MIB), (0, 0, 0)]))
    lines = ok("obd", "trace", "show", trace).out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["1", "512", "4096"],
        ["0", "0", "512"],
        ["1", str(MIB), str(MIB)],
    ]
    assert lines[3:] == [
        "layer 0: 1 records, 512 bytes, up to byte 512",
        f"layer 1: 2 records, 1.0 MiB, up to byte {2 * MIB}",
        f"{trace}: 3 records, 1.0 MiB, 1 passed over",
    ]
    facts = json.loads(ok("obd", "trace", "show", "--json", trace).out)
    assert facts["records"][1] == {"layer": 0, "offset": 0, "bytes": 512}
    assert facts["layers"][1] == {"layer": 1, "records": 2, "bytes": MIB + 4096, "end": 2 * MIB}
    assert (facts["kind"], facts["bytes"], facts["passed_over"]) == ("trace", MIB + 4608, 1)


def test_what_is_no_good_trace(tmp_path: Path) -> None:
    whole = trace_ref.write([(0, 0, 512)] * 3)
    (tmp_path / "damaged").write_bytes(whole[:-1] + b"\1")
    (tmp_path / "short").write_bytes(whole[:-24])
    for name, what in (("damaged", "checksum"), ("short", "72 bytes")):
        done = run("obd", "trace", "show", tmp_path / name)
        assert done.status == 255 and done.out == "" and what in done.err
        assert done.err.startswith(f"obd: {tmp_path / name}: corrupt: ")
        done = run("obd", "trace", "show", "--json", tmp_path / name)
        assert done.status == 255 and json.loads(done.out)["damage"] in done.err
    (tmp_path / "empty").touch()
    assert "asks for a recording" in ok("obd", "trace", "show", tmp_path / "empty").out
    (tmp_path / "list").write_text("# what\n\n/usr/bin/app\n/etc/\n")
    assert "a list of 2 paths" in ok("obd", "trace", "show", tmp_path / "list").out


@pytest.mark.parametrize("by", ["config", "pid", "name"])
def test_a_device_in_use_is_recorded_until_ctrl_c(
    tmp_path: Path, image: Path, served: tuple["subprocess.Popen[bytes]", str], by: str
) -> None:
    process, uri = served
    which = {
        "config": [os.path.relpath(image)],
        "pid": ["--device", str(process.pid)],
        "name": ["--device", uri],
    }
    trace = tmp_path / "trace"
    command = [str(BIN / "obd"), "trace", "record", *which[by], "-o", str(trace)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as recording:
        assert recording.stderr is not None and recording.stdout is not None
        assert f"process {process.pid}; Ctrl-C ends it" in recording.stderr.readline()
        assert statistics(process.pid)["devices"][0]["recording"] is True
        read = ["qemu-io", "-r", "-f", "raw", "-c", f"read {MIB} 65536", uri]
        subprocess.run(read, check=True, capture_output=True)
        recording.send_signal(signal.SIGINT)
        assert recording.wait(START_S) == 0
        count = int(recording.stdout.read().split()[-2])
    records = trace_ref.read(trace.read_bytes())
    assert len(records) == count and any(offset > MIB for _, offset, _ in records)
    assert statistics(process.pid)["devices"][0]["recording"] is False


def test_a_recording_ends_by_itself_or_with_its_process(
    tmp_path: Path, image: Path, served: tuple["subprocess.Popen[bytes]", str]
) -> None:
    process, _ = served
    trace = tmp_path / "trace"
    ok("obd", "trace", "record", image, "-o", trace, "--seconds", "1")
    assert trace_ref.read(trace.read_bytes()), "the reads that open the image"
    trace.unlink()
    command = [str(BIN / "obd"), "trace", "record", str(image), "-o", str(trace)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as recording:
        assert recording.stderr is not None and "Ctrl-C" in recording.stderr.readline()
        process.kill()
        process.wait()
        assert recording.wait(START_S) == 255
        assert recording.stderr.read() == f"obd: process {process.pid} has ended, and its recording with it\n"
    assert not trace.exists()


def test_what_cannot_be_recorded(
    tmp_path: Path, image: Path, served: tuple["subprocess.Popen[bytes]", str]
) -> None:
    (tmp_path / "other.json").write_text(image.read_text())
    cases: list[tuple[list[Path | str], str]] = [
        ([tmp_path / "other.json", "-o", tmp_path / "t"], "no device of"),
        (["--device", "absent", "-o", tmp_path / "t"], "no process or device absent"),
        ([image, "--device", "x", "-o", tmp_path / "t"], "either an image configuration or --device"),
        (["-o", tmp_path / "t"], "either an image configuration or --device"),
        ([image, "-o", tmp_path / "absent" / "t"], "cannot become a file"),
        ([image, "-o", tmp_path], "cannot become a file"),
    ]
    for words, what in cases:
        done = run("obd", "trace", "record", *words)
        assert done.status == 255 and what in done.err, words
    assert statistics(served[0].pid)["devices"][0]["recording"] is False
