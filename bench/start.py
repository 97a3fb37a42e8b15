"""How long `overlaybd-create` and `overlaybd-commit` of a small layer take, against Python doing nothing."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent
ROUNDS = 30


def run(*command: str | Path) -> float:
    """Runs a command and gives its wall time in seconds."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    """Takes turns, so that what else the machine does hits all alike; the median of each counts."""
    with tempfile.TemporaryDirectory() as folder:
        data, index, layer = (Path(folder) / name for name in ("data", "index", "layer"))

        def create() -> float:
            data.unlink(missing_ok=True)
            index.unlink(missing_ok=True)
            return run(BIN / "overlaybd-create", data, index, "1")

        def commit() -> float:
            layer.unlink(missing_ok=True)
            return run(BIN / "overlaybd-commit", data, index, layer)

        turns: dict[str, Callable[[], float]] = {
            "pass": lambda: run(sys.executable, "-c", "pass"),
            "create": create,
            "commit": commit,
        }
        times: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(ROUNDS):
            for name, turn in turns.items():
                times[name].append(turn())
    median = {name: sorted(each)[len(each) // 2] for name, each in times.items()}
    for name in ("create", "commit"):
        row = {
            "name": f"start.{name}",
            "value": median[name] * 1000,
            "unit": "ms",
            "peer": f"python -c pass: {median['pass'] * 1000:.1f} ms",
            "ratio": median[name] / median["pass"],
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
