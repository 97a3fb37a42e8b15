"""A real image: Debian's files in layers by umoci, moved by skopeo, converted, mounted, run, committed."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.commands import ok
from tests.e2e.servers import Registry
from tests.e2e.trees import Tree, assert_clean, assert_same, needs_erofs, needs_loop, tree

pytestmark = [
    pytest.mark.usefixtures("run_directory"),
    needs_loop,
    pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed"),
    pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no Debian here"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse here"),
]

# Packages that every Debian has, in the order of the layers that they go to.
BASE = [
    "bash",
    "coreutils",
    "libc6",
    "libtinfo6",
    "libselinux1",
    "libpcre2-8-0",
    "libacl1",
    "libattr1",
    "libgmp10",
]
MORE = ["perl-base", "libcrypt1", "passwd", "tzdata", "e2fsprogs"]
MERGED = ["bin", "sbin", "lib", "lib64"]


def tool(*words: str | Path) -> str:
    """Runs a program that must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def install(packages: list[str], root: Path) -> None:
    """Copies the files of packages as they are on this machine, with all that they have."""
    names = set()
    for line in tool("dpkg-query", "--listfiles", *packages).splitlines():
        directory, name = os.path.split(line)
        if name and name != "." and os.path.lexists(line):
            path = Path(os.path.realpath(directory), name)
            names |= {str(path), *map(str, path.parents)} - {"/"}
    names |= {f"/{name}" for name in MERGED if os.path.islink(f"/{name}")}
    listed = "\0".join(sorted(name.lstrip("/") for name in names)).encode()
    pack = ["tar", "--create", "--directory=/", "--no-recursion", "--null", "--files-from=-", "--xattrs"]
    packed = subprocess.run(pack, input=listed, capture_output=True, check=True)
    unpack = ["tar", "--extract", "--preserve-permissions", f"--directory={root}", "--xattrs"]
    subprocess.run(unpack, input=packed.stdout, check=True)


def change(root: Path) -> None:
    """What the last layer does to those below."""
    shutil.rmtree(root / "usr/share/doc", ignore_errors=True)  # small machines have none
    (root / "usr/share/zoneinfo/Europe/Paris").unlink()
    shutil.rmtree(root / "usr/share/zoneinfo/Asia")
    (root / "usr/share/zoneinfo/Asia").write_text("a file where a directory was")
    os.link(root / "usr/bin/bash", root / "usr/bin/again")
    os.chown(root / "usr/bin/env", 1000, 70_000)
    (root / "usr/bin/env").chmod(0o4711)
    os.setxattr(root / "usr/bin/cat", "security.capability", bytes.fromhex("0100000200040000" + 12 * "00"))
    (root / "etc/changed").write_text("changed")
    os.mknod(root / "etc/null", 0o20666, os.makedev(1, 3))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> tuple[str, Tree]:
    """The name of an image in the registry, and what umoci unpacks of it."""
    home = tmp_path_factory.mktemp("original")
    image, bundle = f"{home}/oci:debian", home / "bundle"
    tool("umoci", "init", "--layout", home / "oci")
    tool("umoci", "new", "--image", image)
    tool("umoci", "unpack", "--image", image, bundle)
    for fill in (
        lambda root: install(BASE, root),
        lambda root: install(MORE, root),
        change,
    ):
        fill(bundle / "rootfs")
        tool("umoci", "repack", "--refresh-bundle", "--image", image, bundle)
    tool("umoci", "unpack", "--image", image, home / "again")
    name = f"{registry.host}/debian:plain"
    tool("skopeo", "copy", "--dest-tls-verify=false", f"oci:{home}/oci:debian", f"docker://{name}")
    return name, tree(home / "again/rootfs")


@contextmanager
def mounted(home: Path, config: Path, *words: str) -> Iterator[Path]:
    point = home / "root"
    point.mkdir(exist_ok=True)
    service = home / "service.json"
    cache = {"cacheType": "file", "cacheDir": str(home / "cache"), "cacheSizeGB": 1}
    service.write_text(json.dumps({"cacheConfig": cache}))
    ok("obd", "mount", "--service", service, *words, config, point)
    try:
        yield point
    finally:
        ok("obd", "umount", point)


def converted(home: Path, original: str, *words: str) -> Path:
    """The configuration of the image that `obd convert` makes of an image in the registry."""
    tag = "v1" + "".join(words).replace("--", "-").replace("=", "-")
    name, config = original.replace("plain", tag), home / "image.json"
    ok("obd", "convert", "--work", home / "work", *words, original, name)
    ok("obd", "pull", "--config", config, "--dir", home / "meta", name)
    return config


@pytest.mark.parametrize(
    ("fs", "words"),
    [
        ("ext4", []),
        ("ext4", ["--turbo"]),
        pytest.param("erofs", ["--fs=erofs"], marks=needs_erofs),
        pytest.param("erofs", ["--fs=erofs", "--turbo"], marks=needs_erofs),
    ],
    ids=["ext4", "ext4-turbo", "erofs", "erofs-turbo"],
)
def test_it_is_what_umoci_unpacks(
    tmp_path: Path, original: tuple[str, Tree], fs: str, words: list[str]
) -> None:
    name, wanted = original
    config = converted(tmp_path, name, *words)
    with mounted(tmp_path, config) as root:
        assert_same(tree(root), wanted)
        assert tool("chroot", root, "/usr/bin/again", "-c", "echo $((6 * 7))") == "42\n"
    ok("obd", "export", config, tmp_path / "raw")
    assert_clean(tmp_path / "raw", fs)


def test_a_change_becomes_a_new_image(tmp_path: Path, original: tuple[str, Tree]) -> None:
    name, wanted = original
    config = converted(tmp_path, name)
    data, index = tmp_path / "data", tmp_path / "index"
    ok("overlaybd-create", data, index, "0")
    upper = {"upper": {"data": str(data), "index": str(index)}}
    config.write_text(json.dumps(json.loads(config.read_text()) | upper))
    with mounted(tmp_path, config, "--rw") as root:
        tool(
            "chroot",
            root,
            "/bin/bash",
            "-c",
            "echo new >/etc/new; rm /etc/changed; mv /usr/bin/env /usr/bin/env2",
        )
        changed = tree(root)
    base, new = name.replace(":plain", ":v1"), name.replace(":plain", ":v2")
    ok("obd", "commit", "--work", tmp_path / "work", "--base", base, config, new)
    ok("obd", "pull", "--force", "--config", config, new)
    with mounted(tmp_path, config) as root:
        assert_same(tree(root), changed)
    assert set(changed) ^ set(wanted) == {"etc/new", "etc/changed", "usr/bin/env", "usr/bin/env2"}
