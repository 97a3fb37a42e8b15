"""Puts the program where a host has it, or takes it away from there.

It runs in the environment of `make build` and copies from there and from the tree: no network is needed. The
result stands by itself: commands in `PREFIX/bin`, and an environment of their own in `PREFIX/venv`, on the
system's Python, with the packages that `requirements.lock` pins. Configuration that exists stays as it is.
"""

import argparse
import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from py_compile import PycInvalidationMode

TREE = Path(__file__).resolve().parents[1]
PREFIX = "/opt/overlaybd"  # named by the files in etc/ and systemd/
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"

# What is not true of a copy: an installer's notes about its own work, and what names the place of a build.
NOTES = frozenset(("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "sboms"))

# Isolated: no variable of the environment, no file beside the command or in a home changes what is imported.
COMMAND = """\
#!{venv}/bin/python3 -I
import sys

from {module} import {function}

sys.exit({function}())
"""

ENVIRONMENT = """\
home = /usr/bin
include-system-site-packages = false
version = {version[0]}.{version[1]}.{version[2]}
"""

# An empty file system, the lowest layer of images that are converted without one of their own.
# It is the same each time.
BASE_LAYER = "baselayers/ext4_64"
BASE_BYTES = 64 << 30
BASE_FEATURES = "-O ^has_journal,sparse_super,flex_bg -G 1"
BASE_UUID = "6f766c62-6400-4000-8000-000000000064"
BASE_TIME = "1577836800"


class Installation:
    """The program below `root`, which stands for `/`, at `prefix`."""

    def __init__(self, root: Path, prefix: Path) -> None:
        self.root = root
        self.prefix = prefix
        self.home = self._at(prefix)
        self.venv = self.home / "venv"
        self.packages = Path("lib", PYTHON, "site-packages")

    def make(self) -> None:
        """Installs all of it, in place of what an earlier version has there."""
        (self.home / "bin").mkdir(parents=True, exist_ok=True)
        self._make_venv()
        self._remove_commands()
        for name, function in _commands().items():
            self._write_command(name, function)
        self._make_base_layer()
        for source, target, mode in self._configuration():
            self._write_configuration(source, target, mode)
        for unit in sorted((TREE / "systemd").iterdir()):
            self._write(self._unit(unit), self._text(unit))

    def remove(self) -> None:
        """Removes what `make` has made, but for configuration that was changed since."""
        self._remove_commands()
        shutil.rmtree(self.venv, ignore_errors=True)
        gone = [self.home / BASE_LAYER, *(self._unit(unit) for unit in (TREE / "systemd").iterdir())]
        for source, target, _ in self._configuration():
            if not os.path.lexists(target) or self._is_as_made(source, target):
                gone.append(target)
            else:
                print(f"{target}: stays, it was changed")
        for file in gone:
            file.unlink(missing_ok=True)
        for folder in {file.parent for file in gone} | {self.home / "bin"}:
            _remove_empty(folder)
        _remove_empty(self.home)

    def _at(self, path: str | Path) -> Path:
        """Where a path of the host lies below the root."""
        return self.root / Path(path).relative_to("/")

    def _unit(self, unit: Path) -> Path:
        return self._at("/lib/systemd/system") / unit.name

    def _configuration(self) -> Iterator[tuple[Path, Path, int]]:
        """The files of `etc`, where each goes, and its mode."""
        for source in sorted(path for path in (TREE / "etc").rglob("*") if path.is_file()):
            if source.name == "cred.json":
                yield source, self.home / source.name, 0o600
            else:
                yield source, self._at("/etc") / source.relative_to(TREE / "etc"), 0o644

    def _text(self, source: Path) -> str:
        """What is installed of a file of `etc` or `systemd`."""
        return source.read_text().replace(PREFIX, str(self.prefix))

    def _write_configuration(self, source: Path, target: Path, mode: int) -> None:
        if not os.path.lexists(target):
            self._write(target, self._text(source), mode)
        elif not self._is_as_made(source, target):
            print(f"{target}: stays, it is not {source.relative_to(TREE)}")

    def _is_as_made(self, source: Path, target: Path) -> bool:
        """Whether a file has what is installed. One that leads to a place that is not there is somebody's."""
        return target.exists() and target.read_bytes() == self._text(source).encode()

    def _write(self, target: Path, text: str, mode: int = 0o644) -> None:
        """Writes a file that is whole from the first moment under its name."""
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(target)

    def _write_command(self, name: str, function: str) -> None:
        module, _, called = function.partition(":")
        text = COMMAND.format(venv=self.prefix / "venv", module=module, function=called)
        self._write(self.home / "bin" / name, text, 0o755)

    def _remove_commands(self) -> None:
        """Removes the commands that run in our environment: an earlier version may have had others."""
        first = f"#!{self.prefix / 'venv'}/".encode()
        for file in (self.home / "bin").glob("*"):
            if file.is_file() and file.read_bytes().startswith(first):
                file.unlink()

    def _make_venv(self) -> None:
        new, old = self.venv.with_name("venv.new"), self.venv.with_name("venv.old")
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        packages = new / self.packages
        for name, version in _pinned():
            _copy_distribution(name, version, packages)
        _copy_program(packages)
        compileall.compile_dir(
            packages,
            quiet=1,
            stripdir=str(new),
            prependdir=str(self.prefix / "venv"),
            invalidation_mode=PycInvalidationMode.CHECKED_HASH,  # the same whenever it is made
        ) or sys.exit("there are files that do not compile")
        (new / "pyvenv.cfg").write_text(ENVIRONMENT.format(version=sys.version_info))
        (new / "bin").mkdir()
        (new / "bin/python3").symlink_to(f"/usr/bin/{PYTHON}")
        if self.venv.exists():
            self.venv.rename(old)
        new.rename(self.venv)
        shutil.rmtree(old, ignore_errors=True)

    def _make_base_layer(self) -> None:
        layer = self.home / BASE_LAYER
        layer.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile() as disk:
            os.truncate(disk.name, BASE_BYTES)
            extended = f"nodiscard,lazy_itable_init=1,root_owner=0:0,hash_seed={BASE_UUID}"
            command = ["mkfs.ext4", "-q", "-F", *BASE_FEATURES.split(), "-E", extended, "-U", BASE_UUID]
            _run(*command, disk.name, E2FSPROGS_FAKE_TIME=BASE_TIME)
            _run(str(Path(sys.executable).with_name("obd")), "import", "-z", "-f", disk.name, str(layer))


def _commands() -> dict[str, str]:
    """The commands of the program, and the function behind each."""
    commands: dict[str, str] = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]["scripts"]
    return commands


def _pinned() -> list[tuple[str, str]]:
    """The packages of `requirements.lock` and their versions."""
    lock = (TREE / "requirements.lock").read_text()
    return re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)


def _copy_distribution(name: str, version: str, packages: Path) -> None:
    """Copies a package from the environment that this runs in."""
    found = distribution(name)
    if found.version != version:
        sys.exit(f"{name} {found.version} is here, requirements.lock pins {version}: make build")
    for file in found.files or ():
        if not NOTES.union(("..", "__pycache__")).intersection(file.parts) and file.suffix != ".pth":
            _copy(Path(str(found.locate_file(file))), packages / file)


def _copy_program(packages: Path) -> None:
    """Copies the extension module from the environment, and from the tree all that is Python."""
    _copy_distribution("overlaybd", distribution("overlaybd").version, packages)
    settings = tomllib.loads((TREE / "pyproject.toml").read_text())["tool"]["maturin"]
    for name in settings["python-packages"]:
        for file in sorted((TREE / name).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                _copy(file, packages / file.relative_to(TREE))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _run(*command: str, **environment: str) -> None:
    """Runs a program that must succeed; it is heard only if it does not."""
    variables = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]}: status {done.returncode}: {done.stderr.strip()}")


def _remove_empty(folder: Path) -> None:
    """Removes a directory unless there is something in it."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", default="/", help="directory that stands for / (default /)")
    parser.add_argument("--prefix", default=PREFIX, help=f"where the program goes (default {PREFIX})")
    parser.add_argument(
        "--remove", action="store_true", help="take it away; what was changed and caches stay"
    )
    args = parser.parse_args()
    os.umask(0o022)
    installation = Installation(Path(args.root or "/").absolute(), Path(args.prefix))
    installation.remove() if args.remove else installation.make()


if __name__ == "__main__":
    main()
