"""`obd convert` of three layers of Debian, registry to registry, against its steps one after another."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import lz4.block  # type: ignore[import-untyped]

from tests.e2e import servers

BIN = Path(sys.executable).parent
ROUNDS = 3
BLOCK = 4096
SECOND_RUNS = 5
OCI = "application/vnd.oci.image."
# Packages of this machine that make the layers, by priority and name.
LAYERS = (
    re.compile("(required|important) "),
    re.compile(r"\w+ (lib)?(python3|perl)"),
    re.compile(r"\w+ (git|gcc|cpp|binutils|libgcc|libstdc)"),
)
MOST_BYTES = 200 << 20


def files_of_packages(chosen: re.Pattern[str], without: set[str]) -> list[str]:
    """The files of the packages of a layer that no layer below has, up to the bound."""
    command = ["dpkg-query", "--show", "--showformat", "${Priority} ${binary:Package}\n"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    names = [line.split()[1] for line in shown if chosen.match(line)]
    listed = subprocess.run(["dpkg-query", "--listfiles", *names], check=True, capture_output=True, text=True)
    found, size = [], 0
    for name in dict.fromkeys(listed.stdout.splitlines()):
        if not name.startswith("/") or name == "/." or name in without or not os.path.lexists(name):
            continue
        size += os.lstat(name).st_size
        if size > MOST_BYTES:
            break
        found.append(name)
    without.update(found)
    return found


def make_image(home: Path) -> tuple[list[Path], Path]:
    """The layers as tars, and an OCI layout of them compressed with gzip."""
    layout = home / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)
    tars: list[Path] = []
    descriptors, diff_ids, seen = [], [], set[str]()
    for number, chosen in enumerate(LAYERS):
        tar = home / f"{number}.tar"
        names = "\0".join(name[1:] for name in files_of_packages(chosen, seen)).encode()
        pack = ["tar", "-C", "/", "--no-recursion", "--null", "-T", "-", "-cf", str(tar)]
        subprocess.run(pack, input=names, check=True, stderr=subprocess.DEVNULL)
        packed = layout / "packed"
        with packed.open("wb") as out:
            subprocess.run(["gzip", "-nc", tar], check=True, stdout=out)
        descriptors.append(adopt(layout, packed, f"{OCI}layer.v1.tar+gzip"))
        diff_ids.append(digest(tar))
        tars.append(tar)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}manifest.v1+json",
        "config": document(layout, config, f"{OCI}config.v1+json"),
        "layers": descriptors,
    }
    entry = document(layout, manifest, f"{OCI}manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return tars, layout


def digest(path: Path) -> str:
    """That of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def adopt(layout: Path, path: Path, media_type: str) -> dict[str, object]:
    """Makes a file a blob; its descriptor."""
    found: dict[str, object] = {"mediaType": media_type, "digest": digest(path), "size": path.stat().st_size}
    path.rename(layout / "blobs" / str(found["digest"]).replace(":", "/"))
    return found


def document(layout: Path, content: Mapping[str, object], media_type: str) -> dict[str, object]:
    """Makes a document a blob; its descriptor."""
    path = layout / "document"
    path.write_text(json.dumps(content))
    return adopt(layout, path, media_type)


def run(*words: str | Path) -> float:
    """Seconds of a whole run of a command, which must succeed."""
    begin = time.perf_counter()
    subprocess.run(
        [BIN / words[0], *words[1:]], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - begin


def one_after_another(source: str, target: str, home: Path) -> float:
    """Seconds of pull, create, apply and commit of each layer, and push, each a command of ours."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    took = run("obd", "copy", source, f"oci:{home}/layout:v1")
    index = json.loads((home / "layout/index.json").read_text())
    blobs = home / "layout/blobs"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].replace(":", "/")).read_text())
    config = json.loads((blobs / manifest["config"]["digest"].replace(":", "/")).read_text())
    lowers: list[dict[str, str]] = []
    for number, layer in enumerate(manifest["layers"]):
        pair = {name: str(home / f"{name}{number}") for name in ("data", "index")}
        size = ["64", "--mkfs"] if number == 0 else ["0"]
        took += run("overlaybd-create", pair["data"], pair["index"], *size)
        (home / "config.json").write_text(json.dumps({"lowers": lowers, "upper": pair}))
        archive, sum_ = blobs / layer["digest"].replace(":", "/"), config["rootfs"]["diff_ids"][number]
        took += run("overlaybd-apply", archive, home / "config.json", "--checksum", sum_)
        commit = home / f"{number}.layer"
        took += run("overlaybd-commit", pair["data"], pair["index"], commit, "-z", "-t")
        lowers.append({"file": str(commit)})
    return took + run("obd", "push", *(lower["file"] for lower in lowers), "--to", target)


def convert(source: str, target: str, work: Path, *words: str) -> tuple[float, int]:
    """Seconds and peak KiB of a whole run of the command."""
    begin = time.perf_counter()
    command = [str(BIN / "obd"), "convert", source, target, "--work", str(work), *words]
    timed = ["/usr/bin/env", "python3", "-c", WATCH, *command]
    done = subprocess.run(timed, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - begin, int(done.stdout.splitlines()[-1])


# Runs a command, which is then the only child, and says its peak of memory.
WATCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def lz4_bytes(tars: list[Path]) -> int:
    """What LZ4 makes of the layers by blocks, those that do not shrink stored."""
    total = 0
    for tar in tars:
        with tar.open("rb") as file:
            while block := file.read(BLOCK):
                total += min(len(lz4.block.compress(block, store_size=False)), len(block))
    return total


def row(name: str, value: float, unit: str, peer: str | None = None, ratio: float | None = None) -> None:
    """Prints a measurement."""
    print(json.dumps({"name": name, "value": value, "unit": unit, "peer": peer, "ratio": ratio}))


def stored_bytes(image: str) -> int:
    """What the layers of an image take."""
    shown = subprocess.run([BIN / "obd", "inspect", "--json", image], check=True, capture_output=True)
    return sum(layer["size"] for layer in json.loads(shown.stdout)["image"]["layers"])


def moved_layers(server: servers.Registry, before: int) -> int:
    """Requests for the bytes of blobs, to or fro, in the registry's log from `before` bytes on."""
    text = server.log.read_text()[before:]
    return len(re.findall(r'"(?:GET|PATCH|PUT) /v2/\S*/blobs/', text))


def main() -> None:
    """Takes turns, so that what else the machine does hits both alike; the median of the ratios counts."""
    with tempfile.TemporaryDirectory() as name, servers.Registry(Path(name) / "registry") as server:
        home = Path(name)
        tars, layout = make_image(home)
        size = sum(tar.stat().st_size for tar in tars)
        source = f"{server.host}/bench/source:v1"
        run("obd", "copy", f"oci:{layout}:v1", source)
        rounds = []
        for number in range(ROUNDS):
            shutil.rmtree(home / "work", ignore_errors=True)
            target = f"{server.host}/bench/target{number}:v1"
            took, memory = convert(source, target, home / "work")
            peer = one_after_another(source, f"{server.host}/bench/steps{number}:v1", home / "steps")
            shutil.rmtree(home / "work")
            alone, _ = convert(source, f"{server.host}/bench/alone{number}:v1", home / "work", "--jobs", "1")
            shutil.rmtree(home / "work")
            print(
                f"steps {peer:.2f} s, convert {took:.2f} s, {memory} KiB; --jobs 1 {alone:.2f} s",
                file=sys.stderr,
            )
            rounds.append((took / peer, took, memory, alone / took))
        ratio, took, *_ = sorted(rounds)[ROUNDS // 2]
        row("convert.whole", took, "s", "its steps one after another", ratio)
        scale = sorted(each[3] for each in rounds)[ROUNDS // 2]
        row("convert.scale", took, "s", f"--jobs 1, here {os.cpu_count()} processors", scale)
        row("convert.memory", max(each[2] for each in rounds) / 1024, "MiB")
        before = server.log.stat().st_size
        again = [convert(source, target, home / "work")[0] for _ in range(SECOND_RUNS)]
        row("convert.again", sorted(again)[SECOND_RUNS // 2], "s")
        row("convert.again_moved", moved_layers(server, before), "requests")
        stored = stored_bytes(target)
        row("convert.size", stored / 1e6, "MB", "lz4 by blocks of 4096", stored / lz4_bytes(tars))
        convert(source, f"oci:{home}/turbo:v1", home / "work", "--turbo")
        turbo, original = stored_bytes(f"oci:{home}/turbo:v1"), stored_bytes(source)
        row("convert.turbo_metadata", turbo / 1e6, "MB", "the original layers", turbo / original)
        print(f"{size / 1e6:.0f} MB of archives", file=sys.stderr)


if __name__ == "__main__":
    main()
