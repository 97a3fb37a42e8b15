"""A process that is killed while it takes snapshots: its configuration opens to all that it flushed."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import obd
import obdcore

BLOCK = 4096
BLOCKS = 64
ROUNDS = 12
# Writes numbers round and round the device, each flushed before it is said, and takes snapshots beside that.
# Putting the configuration in place takes long, and an empty line is said before, so that kills find the time
# between the cut and that.
CHILD = """
import itertools, os, sys, threading, time
import obd
replace = os.replace
os.replace = lambda *names: os.write(1, b"\\n") and time.sleep(0.02) or replace(*names)
config, first, turn = sys.argv[1], int(sys.argv[2]), sys.argv[3]
device = obd.open(config)
threading.excepthook = lambda told: sys.excepthook(*told[:3]) or os._exit(1)
def snapshots():
    for number in range(15):
        name = f"{os.path.dirname(config)}/u{turn}.{number}"
        device.snapshot(name, name + ".index", sparse=number % 2 == 0)
threading.Thread(target=snapshots, daemon=True).start()
for number in itertools.count(first):
    device.write(number % BLOCKS * BLOCK, number.to_bytes(8) * (BLOCK // 8))
    device.flush()
    os.write(1, b"%d\\n" % number)
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    upper = {"data": str(tmp_path / "u"), "index": str(tmp_path / "u.index")}
    obdcore.lsmt_create(*upper.values(), size=BLOCKS * BLOCK)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"upper": upper}))
    program = CHILD.replace("BLOCKS", str(BLOCKS)).replace("BLOCK", str(BLOCK))
    numbers = random.Random(1)
    first = 1
    lowers: list[dict[str, str]] = []
    for turn in range(ROUNDS):
        child = subprocess.Popen(
            [sys.executable, "-c", program, config, str(first), str(turn)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        with child.stdout as said:
            # Counted by what was done, since disks differ. Every second kill is just after a cut.
            lines: list[str] = []
            while lines.count("\n") < turn % 4:
                lines.append(next(said))
            lines += [next(said) for _ in range(0 if turn % 2 else numbers.randrange(1, 60))]
            child.send_signal(signal.SIGKILL)
            last = max((int(line) for line in [*lines, *said] if line != "\n"), default=first - 1)
        child.wait()
        with obd.open(config) as device:
            found = [int.from_bytes(device.read(place * BLOCK, BLOCK)[-8:]) for place in range(BLOCKS)]
            for place, number in enumerate(found):
                flushed = max(last - (last - place) % BLOCKS, 0)
                under_way = last + 1 if (last + 1) % BLOCKS == place else flushed
                assert number in (flushed, under_way), (place, last)
            assert device.read(0, BLOCK) == found[0].to_bytes(8) * (BLOCK // 8)
        first = max(found) + 1
        before, lowers = lowers, json.loads(config.read_text()).get("lowers", [])
        assert lowers[: len(before)] == before
    assert len(lowers) > ROUNDS, "hardly a snapshot was taken"
