"""Commands start without modules that cost more than their work."""

import subprocess
import sys
from pathlib import Path

import pytest

import obdcore

# Each of these costs more than all of a small command's own work.
HEAVY = {
    "argparse",
    "re",
    "typing",
    "json",
    "enum",
    "dataclasses",
    "logging",
    "pathlib",
    "subprocess",
    "ctypes",
}


@pytest.mark.parametrize(
    ("module", "argv"), [("tools.create", ["new", "index", "1"]), ("tools.commit", ["data", "index", "out"])]
)
def test_starts_without_heavy_modules(tmp_path: Path, module: str, argv: list[str]) -> None:
    obdcore.lsmt_create(str(tmp_path / "data"), str(tmp_path / "index"), size=1 << 30)
    if module == "tools.create":
        (tmp_path / "index").unlink()
    script = f"import sys; sys.argv[1:] = {argv!r}; from {module} import main; print(main(), *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    status, *modules = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert "obdcore" in modules
    assert not HEAVY & set(modules)
