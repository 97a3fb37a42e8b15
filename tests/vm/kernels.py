"""Kernels for guests, and other packages of Debian: downloaded once, unpacked in a cache, never installed."""

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
APT = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=0")
BACKPORTS = "deb http://deb.debian.org/debian bookworm-backports main\n"
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}


_missing: dict[str, str] = {}  # packages that could not be had in this run, and why


class Unavailable(Exception):
    """There can be no guest here; the text says why."""


@dataclass(frozen=True)
class Kernel:
    """A kernel to start, and its modules: a directory such as `/lib/modules/RELEASE`."""

    image: Path
    modules: Path


def cache() -> Path:
    """Where kernels are kept: `OVERLAYBD_VM_CACHE`, else `overlaybd-vm` among the user's caches."""
    if named := os.environ.get("OVERLAYBD_VM_CACHE"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overlaybd-vm"


def uml() -> Kernel:
    """User Mode Linux 6.1, as Debian 12 has it."""
    root = _kept("user-mode-linux_*", lambda: _kernel("user-mode-linux"))
    return Kernel(root / "usr/bin/linux.uml", _modules(root))


def cloud() -> Kernel:
    """The kernel 6.12 that Debian 12 has for virtual machines."""
    root = _kept(
        "linux-image-6.12*-cloud-amd64_*", lambda: _kernel(_dependency("linux-image-6.12-cloud-amd64"))
    )
    return Kernel(next(root.glob("boot/vmlinuz-*")), _modules(root))


def emulator() -> Path:
    """QEMU 10, of Debian's backports; the data that it needs is that of the installed one."""
    return _kept("qemu-system-x86_*10.*", _backported) / "usr/bin/qemu-system-x86_64"


def runner() -> Path:
    """tcmu-runner and its library, as Debian 12 has them."""
    return _kept("tcmu-runner_*", lambda: _program("tcmu-runner", "libtcmu2"))


def initiator() -> Path:
    """The iSCSI initiator open-iscsi and its libraries, as Debian 12 has them."""
    return _kept("open-iscsi_*", lambda: _program("open-iscsi", "libisns0", "libopeniscsiusr"))


def xstate() -> Path:
    """The library to preload into User Mode Linux, made of `xstate.c`."""
    source = HERE / "xstate.c"
    library = cache() / f"xstate-{sha256(source.read_bytes()).hexdigest()[:12]}.so"
    if not library.exists():
        cache().mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache()) as directory:
            new = Path(directory, "new")
            run("cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", new, source)
            new.rename(library)
    return library


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a tool that is needed for a guest; its output."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as e:
        raise Unavailable(f"no program {command[0]}") from e
    if done.returncode:
        raise Unavailable(
            f"{' '.join(map(str, command))}: {(done.stderr.strip() or 'failed').splitlines()[-1]}"
        )
    return done.stdout


def _kept(pattern: str, download: Callable[[], Path]) -> Path:
    """The unpacked package that matches in the cache, the newest; if there is none, it is downloaded."""
    if kept := sorted(cache().glob(pattern), key=lambda path: path.stat().st_mtime):
        return kept[-1]
    if reason := _missing.get(pattern):
        raise Unavailable(reason)
    try:
        cache().mkdir(parents=True, exist_ok=True)
        return download()
    except Unavailable as e:
        _missing[pattern] = str(e)  # that need not be tried for every test
        raise


def _kernel(package: str) -> Path:
    """Downloads and unpacks a kernel; its directory in the cache."""
    with TemporaryDirectory(dir=cache()) as directory:
        root = _download(directory, package)
        if (of_uml := root / "usr/lib/uml/modules").exists():
            (root / "lib").mkdir()
            of_uml.rename(root / "lib/modules")
        run("depmod", "-b", root, _modules(root).name)
        return _keep(root)


def _program(*packages: str) -> Path:
    """Downloads and unpacks packages into one directory; that, in the cache."""
    with TemporaryDirectory(dir=cache()) as directory:
        return _keep(_download(directory, *packages))


def _backported() -> Path:
    """Downloads and unpacks QEMU of the backports, with lists of its own; its directory in the cache."""
    with TemporaryDirectory(dir=cache()) as directory:
        Path(directory, "sources.list").write_text(BACKPORTS)
        Path(directory, "lists", "partial").mkdir(parents=True)
        settings = {
            "Dir::Etc::SourceList": f"{directory}/sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": f"{directory}/lists",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return _keep(_download(directory, "qemu-system-x86", options=options))


def _download(directory: str, *packages: str, options: Sequence[str] = ()) -> Path:
    """Downloads packages to a directory, and unpacks them in one there that has the name of the first."""
    command = (*APT, *options, "download", *packages)
    try:
        run(*command, cwd=Path(directory))
    except Unavailable:  # the lists are absent or old
        run(*APT, *options, "update")
        run(*command, cwd=Path(directory))
    debs = {deb.name.partition("_")[0]: deb for deb in Path(directory).glob("*.deb")}
    root = Path(directory, debs[packages[0]].stem)
    for deb in debs.values():
        run("dpkg-deb", "-x", deb, root)
    return root


def _keep(root: Path) -> Path:
    """Puts a complete directory into the cache: a run that is ended leaves nothing that looks like one."""
    final = cache() / root.name
    if not final.exists():  # else another run was faster
        root.rename(final)
    return final


def _modules(root: Path) -> Path:
    """The directory of the modules below an unpacked package."""
    return next((root / "lib/modules").iterdir())


def _dependency(package: str) -> str:
    """The package that a package which is only a name stands for."""
    for line in run("apt-cache", "depends", package).splitlines():
        word, _, name = line.strip().partition(": ")
        if word == "Depends":
            return name
    raise Unavailable(f"{package} depends on nothing")
