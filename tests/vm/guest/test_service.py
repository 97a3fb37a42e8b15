"""The package on a node: installed, run by systemd, used as README says, in trouble, and removed."""

import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.disks import tool
from tests.vm.boot import PROJECT
from tests.vm.guest import systemd
from tests.vm.guest.systemd import Systemd
from tests.vm.guest.tcmu_disk import Disk, Gate, attach, clear, modules, of_zeros
from tests.vm.readme import blocks_of_readme

# The first test has the package made, systemd started and the package installed.
pytestmark = [pytest.mark.timeout(240), pytest.mark.guest("uml")]

UNIT = "overlaybd-tcmu"
SERVE = "obd-serve@"
SNAPSHOTTER = "overlaybd-snapshotter"
CONFIGURATION = Path("/etc/overlaybd/overlaybd.json")
WAIT_S = 60.0
LOOK_S = 0.1
# It shall be in use, but leave the guest time for other things.
PAUSE_S = 0.01
KEPT = "cap_chown,cap_dac_override,cap_fowner,cap_net_admin,cap_sys_admin,cap_sys_resource"
GREETING = "from the image\n"

# To read what is known of all packages of the host would take dpkg longer than all else.
FEW_PACKAGES = """
    mkdir -p /var/lib/few/info /var/lib/few/updates
    few="libc6 libgcc-s1 libstdc++6 libext2fs2 python3.11 kmod init-system-helpers"
    dpkg --status $few >/var/lib/few/status
    echo admindir /var/lib/few >/etc/dpkg/dpkg.cfg.d/few
"""


def app(node: Systemd, folder: Path) -> None:
    """The image that README takes for an example, made by what is installed."""
    (folder / "tree").mkdir()
    (folder / "tree/greeting").write_text(GREETING)
    (folder / "disk").touch()
    os.truncate(folder / "disk", 8 << 20)
    tool("mkfs.ext4", "-q", "-d", folder / "tree", folder / "disk")
    node.sh(f"/opt/overlaybd/bin/obd import -z {folder}/disk {folder}/layer")
    config = Path("/etc/overlaybd/images/app.json")
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"lowers": [{"file": f"{folder}/layer"}]}))


@contextmanager
def settings(**keys: object) -> Iterator[None]:
    """Another configuration of the host for a while."""
    before = CONFIGURATION.read_text()
    CONFIGURATION.write_text(json.dumps({**json.loads(before), **keys}))
    yield
    CONFIGURATION.write_text(before)


def until(true: Callable[[], object]) -> None:
    """Waits until something is so."""
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(LOOK_S)


def log() -> str:
    """What the service has said."""
    return Path("/var/log/overlaybd.log").read_text()


def main_pid(node: Systemd) -> int:
    return int(node.show(UNIT, "MainPID"))


def started_again(node: Systemd, old: int) -> bool:
    """Whether another process than the old one is there and ready."""
    return node.show(UNIT, "ActiveState") == "active" and main_pid(node) not in (0, old)


def replace(node: Systemd) -> None:
    """Has the daemon start another in its place."""
    node.sh(f"systemctl kill --kill-whom=main --signal=USR2 {UNIT}")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this tree, hardly compressed."""
    folder = tmp_path_factory.mktemp("package")
    quick = {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
    command = [str(PROJECT / "scripts/deb/build"), sys.executable, str(folder / "dist")]
    done = subprocess.run(command, env={**os.environ, **quick}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def put_in_place() -> None:
    """What is tried in QEMU, where to install all of it takes long: the unit, settings, commands."""
    home = Path("/opt/overlaybd")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / "bin").symlink_to(Path(sys.executable).parent)
    shutil.copytree(PROJECT / "etc/overlaybd", CONFIGURATION.parent, dirs_exist_ok=True)
    shutil.copy(PROJECT / f"systemd/{UNIT}.service", "/lib/systemd/system")


@pytest.fixture(scope="module")
def node(guest: str, request: pytest.FixtureRequest) -> Iterator[Systemd]:
    """A machine on which the service was installed and started: as README says, but straight in QEMU."""
    Path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)  # on a build machine it forbids services
    lines = blocks_of_readme("Use it on a node")[0].splitlines()
    folder = Path("/")
    if guest == "qemu":
        put_in_place()
        lines = lines[-1:]
    else:
        folder = request.getfixturevalue("package").parents[1]
    with systemd.running() as manager:
        manager.sh(FEW_PACKAGES)
        manager.sh("\n".join(line for line in lines if not line.startswith("make ")), folder)
        modules()  # for the test's own view of configfs
        yield manager


def test_installing_it_starts_the_service(node: Systemd) -> None:
    assert node.show(UNIT, "ActiveState") == "active"
    assert node.sh(f"systemctl is-enabled {UNIT}").stdout == "enabled\n"
    assert "Started " in node.journal(UNIT)
    assert "ready; " in log()
    assert node.sh("stat -c %a /opt/overlaybd/cred.json").stdout == "600\n"


@pytest.mark.guest("qemu")
def test_the_lines_of_readme_run_as_they_stand(node: Systemd, tmp_path: Path) -> None:
    _, make_disk, remove_disk = blocks_of_readme("Use it on a node")
    app(node, tmp_path)
    node.sh(make_disk)
    assert node.sh("cat /mnt/greeting").stdout == GREETING
    node.sh(remove_disk)
    assert not list(Path("/sys/class/uio").iterdir())
    assert not list(Path("/sys/kernel/config/target/loopback").glob("naa.*"))
    assert node.sh("findmnt /mnt", check=False).returncode


def assert_confined(node: Systemd, unit: str, kept: str) -> None:
    """That the process of a unit has these capabilities and could not get others, nor all system calls."""
    status = node.sh(f"cat /proc/{node.show(unit, 'MainPID')}/status").stdout
    for each in ("Bnd", "Prm", "Eff"):
        bits = re.findall(f"Cap{each}:(.*)", status)[0].strip()
        assert node.sh(f"capsh --decode={bits}").stdout.strip().split("=")[1] == kept, each
    assert re.search(r"CapAmb:\s*0+\n", status) and re.search(r"CapInh:\s*0+\n", status)
    assert re.search(r"NoNewPrivs:\s*1\n", status) and re.search(r"Seccomp:\s*2\n", status)
    assert re.search(r"Umask:\s*0027\n", status)


@pytest.mark.guest("qemu")
def test_it_may_do_only_what_it_needs(node: Systemd) -> None:
    assert_confined(node, UNIT, KEPT)
    within = f"echo $$ >/sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs; "
    within += f"nsenter --target={main_pid(node)} --mount "
    for forbidden in ("head -c 1 /dev/mem", "touch /usr/new", "touch /proc/sys/kernel/hostname"):
        node.sh(forbidden)  # everyone else may
        assert node.sh(within + forbidden, check=False).returncode, forbidden


def alone(unit: str) -> None:
    """Has a unit start without all of a boot, which would come with it."""
    settings = systemd.UNITS / f"{unit}.service.d/test.conf"
    settings.parent.mkdir()
    settings.write_text("[Unit]\nDefaultDependencies=no\n")


def test_who_serves_one_image_may_do_still_less(node: Systemd, tmp_path: Path) -> None:
    app(node, tmp_path)
    unit = f"{SERVE}app.service"
    alone(SERVE)
    node.sh("systemctl daemon-reload")
    socket = Path("/run/overlaybd/nbd/app/socket")
    node.sh(f"systemctl start {unit}")
    until(lambda: node.sh(f"test -S {socket}", check=False).returncode == 0)
    assert_confined(node, unit, "cap_chown,cap_dac_override,cap_fowner")
    assert node.sh(f"stat -c %a {socket} {socket.parent}").stdout.split() == ["600", "700"]
    # It serves all the same.
    assert node.sh(f"nbdinfo --size 'nbd+unix:///?socket={socket}'").stdout == f"{8 << 20}\n"
    head = (
        f"nbdcopy 'nbd+unix:///?socket={socket}' - | head -c 4096 | tail -c +1081 | head -c 2 | od -An -tx1"
    )
    assert node.sh(head).stdout.split() == ["53", "ef"]
    node.sh(f"systemctl stop {unit}")


def attach_and_detach_by_api(node: Systemd, config: str) -> None:
    """A read-only disk for a while, made by the daemon itself."""
    api = "curl --silent --show-error --fail-with-body --unix-socket /run/overlaybd/api.sock"
    url = "http://localhost/v1/attachments"
    made = json.loads(node.sh(f"""{api} {url} --data '{{"config": "{config}"}}'""").stdout)
    assert made["via"] == "tcmu" and made["read_only"]
    assert node.sh(f"blockdev --getro --getsize64 {made['path']}").stdout.split() == ["1", str(16 << 20)]
    node.sh(f"{api} --request DELETE {url}/{made['name']}")


@pytest.mark.guest("qemu")
def test_the_api_attaches_from_where_the_daemon_is_confined(node: Systemd, tmp_path: Path) -> None:
    config = of_zeros(tmp_path, 16 << 20).removeprefix("overlaybd/")
    with settings(serviceConfig={"enable": True}):
        node.sh(f"systemctl restart {UNIT}")
        attach_and_detach_by_api(node, config)
        starts = log().count("ready; ")
        replace(node)
        until(lambda: log().count("ready; ") > starts)
        attach_and_detach_by_api(node, config)
    node.sh(f"systemctl restart {UNIT}")


class Load:
    """Writes to a disk and reads it again, past the page cache, until something goes wrong."""

    BLOCKS = 512

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._rounds = 0
        self._end = threading.Event()
        self._failure = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def goes_on(self) -> None:
        """Waits until what begins now is done."""
        goal = self._rounds + 3
        until(lambda: self._failure or self._rounds >= goal)
        assert not self._failure

    def end(self) -> None:
        """Ends it; nothing may have gone wrong."""
        self._end.set()
        self._thread.join(WAIT_S)
        assert not self._failure and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            fd = os.open(self._disk, os.O_RDWR | os.O_DIRECT)
            block = mmap.mmap(-1, 4096)
            while not self._end.wait(PAUSE_S):
                offset = self._rounds % self.BLOCKS * len(block)
                before = self._rounds - self.BLOCKS
                assert os.preadv(fd, [block], offset) == len(block)
                assert block[:] == (self._bytes(before) if before >= 0 else bytes(len(block))), offset
                block[:] = self._bytes(self._rounds)
                assert os.pwritev(fd, [block], offset) == len(block)
                self._rounds += 1
            os.close(fd)
        except (OSError, AssertionError) as e:
            self._failure = f"round {self._rounds}: {e!r}"

    @staticmethod
    def _bytes(number: int) -> bytes:
        return number.to_bytes(8, "big") * 512


@dataclass(frozen=True)
class Busy:
    """A writable disk that is in use all the time."""

    disk: Disk
    config: str
    load: Load


@pytest.fixture(scope="module")
def busy(node: Systemd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    """It is there until the test of removal removes it."""
    config = of_zeros(tmp_path_factory.mktemp("disk"), 16 << 20)
    disk = attach("busy", config)
    load = Load(disk.node)
    load.goes_on()
    yield Busy(disk, config, load)
    load.end()


def test_reload_keeps_the_process(node: Systemd, busy: Busy) -> None:
    pid = main_pid(node)
    node.sh(f"systemctl reload {UNIT}")
    busy.load.goes_on()
    assert main_pid(node) == pid


def test_one_daemon_takes_the_place_of_another(node: Systemd, busy: Busy) -> None:
    before, starts = main_pid(node), log().count("ready; ")
    replace(node)
    until(lambda: log().count("ready; ") == starts + 1)
    assert started_again(node, before)
    busy.load.goes_on()
    replace(node)  # what was started by a daemon starts another
    until(lambda: log().count("ready; ") == starts + 2)
    busy.load.goes_on()
    assert node.show(UNIT, "NRestarts") == "0"


def test_a_daemon_goes_on_if_another_cannot_take_its_place(node: Systemd, busy: Busy) -> None:
    pid = main_pid(node)
    with settings(ioEngine=99):
        replace(node)
        until(lambda: "ioEngine" in node.journal(UNIT))
    busy.load.goes_on()
    assert main_pid(node) == pid and node.show(UNIT, "NRestarts") == "0"


def test_restart_keeps_the_disk(node: Systemd, busy: Busy) -> None:
    pid = main_pid(node)
    node.sh(f"systemctl restart {UNIT}")
    assert started_again(node, pid)
    busy.load.goes_on()


def test_what_is_killed_is_started_again(node: Systemd, busy: Busy) -> None:
    pid = main_pid(node)
    node.sh(f"systemctl kill --signal=KILL {UNIT}")
    until(lambda: started_again(node, pid))
    busy.load.goes_on()


def test_what_hangs_is_started_again(node: Systemd, busy: Busy) -> None:
    impatient = systemd.UNITS / f"{UNIT}.service.d/test.conf"
    impatient.parent.mkdir()
    impatient.write_text("[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n")
    node.sh(f"systemctl daemon-reload && systemctl restart {UNIT}")
    shutil.rmtree(impatient.parent)
    pid = main_pid(node)
    node.sh(f"systemctl kill --signal=STOP {UNIT} && systemctl daemon-reload")
    until(lambda: started_again(node, pid))
    assert "Watchdog timeout" in node.journal(UNIT)
    busy.load.goes_on()


def test_upgrading_the_package_keeps_the_disk(node: Systemd, package: Path, busy: Busy) -> None:
    alone(SNAPSHOTTER)
    node.sh(f"systemctl daemon-reload && systemctl start {SNAPSHOTTER}")
    before = node.show(SNAPSHOTTER, "MainPID")
    pid = main_pid(node)
    node.sh(f"dpkg --install {package}")
    assert started_again(node, pid)
    busy.load.goes_on()
    assert node.show(SNAPSHOTTER, "ActiveState") == "active"
    assert node.show(SNAPSHOTTER, "MainPID") != before, "it runs the new program"
    node.sh(f"systemctl stop {SNAPSHOTTER}")


def test_it_is_running_when_it_has_what_an_earlier_one_left(node: Systemd, busy: Busy) -> None:
    node.sh(f"systemctl stop {UNIT}")
    assert node.show(UNIT, "Result") == "success"
    with Gate(busy.config) as gate:
        node.sh(f"systemctl start --no-block {UNIT}")
        gate.wait()
        assert node.show(UNIT, "ActiveState") == "activating"
    until(lambda: node.show(UNIT, "ActiveState") == "active")
    busy.load.goes_on()


def test_it_is_not_removed_from_under_a_disk(node: Systemd, busy: Busy) -> None:
    done = node.sh("dpkg --remove overlaybd-python", check=False)
    assert done.returncode and "user_1/busy" in done.stderr
    assert node.show(UNIT, "ActiveState") == "active"
    busy.load.goes_on()


def test_at_shutdown_file_systems_are_unmounted_before_it(node: Systemd, tmp_path: Path) -> None:
    _, make_disk, _ = blocks_of_readme("Use it on a node")
    app(node, tmp_path)
    node.sh(make_disk)
    targets = "shutdown.target umount.target"  # those of every way to end
    (systemd.UNITS / "end.target").write_text(
        f"[Unit]\nDefaultDependencies=no\nRequires={targets}\nAfter={targets}\n"
    )
    node.sh("systemctl daemon-reload && systemctl start --job-mode=replace-irreversibly end.target")
    assert node.sh("findmnt /mnt", check=False).returncode
    assert node.show(UNIT, "ActiveState") == "active"


def test_purging_it_leaves_nothing(node: Systemd, busy: Busy) -> None:
    busy.load.end()
    busy.disk.remove()
    clear()
    node.sh("dpkg --remove overlaybd-python")
    assert node.show(UNIT, "ActiveState") == "inactive"
    assert CONFIGURATION.exists()
    node.sh("dpkg --purge overlaybd-python")
    left = [path for path in (Path("/opt/overlaybd"), Path(CONFIGURATION)) if path.exists()]
    assert not left, [str(path) for directory in left for path in directory.rglob("*")]
    assert not list(Path("/etc/systemd/system").rglob(f"{UNIT}*"))
