"""An image exported by the kernel's iSCSI target to the initiator open-iscsi on the same machine."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tcmu
from tests.e2e.disks import MIB, fails, tool
from tests.vm import kernels
from tests.vm.guest.tcmu_disk import HBA, Daemon, clear, of_data, of_zeros, running

TARGET = "iqn.2024-01.com.example:overlaybd"
PORTAL = "127.0.0.1:3260"
SIZE = 16 * MIB
END_S = 120.0
LOOK_S = 0.05
try:
    # On the host, before a guest is booted: there it cannot be downloaded.
    ROOT, LACKS = kernels.initiator(), ""
except kernels.Unavailable as reason:
    ROOT, LACKS = Path(), str(reason)

pytestmark = pytest.mark.skipif(bool(LACKS), reason=f"no open-iscsi: {LACKS}")


def iscsiadm(*words: str | Path) -> str:
    return tool(ROOT / "sbin/iscsiadm", *words)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def initiator(daemon: Daemon) -> Iterator[None]:
    """A running initiator."""
    os.environ["LD_LIBRARY_PATH"] = str(ROOT / "usr/lib/x86_64-linux-gnu")
    tool("modprobe", "-a", "iscsi_tcp", "iscsi_target_mod")
    Path("/run/lock").mkdir(exist_ok=True)
    settings = Path("/etc/iscsi")  # the guest's own, as all that is not shared
    shutil.copytree(ROOT / "etc/iscsi", settings, dirs_exist_ok=True)
    (settings / "initiatorname.iscsi").write_text("InitiatorName=iqn.2024-01.com.example:guest\n")
    # In a session of its own: when it ends it ends its whole group.
    process = subprocess.Popen([ROOT / "sbin/iscsid", "--foreground"], start_new_session=True)
    nothing_yet = 21  # what iscsiadm says if it reaches the daemon, and there is no session
    ask = (ROOT / "sbin/iscsiadm", "-m", "session")
    while subprocess.run(ask, capture_output=True, check=False).returncode != nothing_yet:
        assert process.poll() is None
        time.sleep(LOOK_S)
    yield
    process.send_signal(signal.SIGTERM)
    process.wait(END_S)
    del os.environ["LD_LIBRARY_PATH"]


@contextmanager
def exported(*configs: str) -> Iterator[list[Path]]:
    """Images as LUNs of a target that the initiator is logged in to; their disks."""
    backstores = []
    for number, config in enumerate(configs):
        backstores.append(tcmu.Backstore(HBA, f"iscsi{number}"))
        backstores[-1].create(config)
    target = tcmu.IscsiTarget(TARGET, PORTAL)
    target.create(*backstores)
    try:
        found = iscsiadm("-m", "discovery", "-t", "sendtargets", "-p", PORTAL)
        assert found == f"{PORTAL},1 {TARGET}\n"
        iscsiadm("-m", "node", "-T", TARGET, "-p", PORTAL, "--login")
        yield disks(len(configs))
        iscsiadm("-m", "node", "-T", TARGET, "-p", PORTAL, "--logout")
        assert "No active sessions" in fails(ROOT / "sbin/iscsiadm", "-m", "session")
    finally:
        target.remove()
        clear()


def disks(count: int) -> list[Path]:
    """The disks of the session, by their LUNs, once they are all there."""
    end = time.monotonic() + END_S
    while True:
        told = iscsiadm("-m", "session", "-P3")
        names = re.findall(r"Attached scsi disk (\w+)\s+State: running", told)
        if len(names) == count and all(Path("/dev", name).exists() for name in names):
            return [Path("/dev", name) for name in names]
        assert time.monotonic() < end, told
        time.sleep(LOOK_S)


@pytest.mark.usefixtures("initiator")
def test_an_image_is_used_over_iscsi(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    data = os.urandom(MIB)
    with exported(of_zeros(tmp_path, SIZE), of_data(tmp_path / "lower", data)) as (disk, fixed):
        assert "Product identification: TCMU device" in tool("sg_inq", disk)
        assert "lun=1\n" in tool("sg_luns", "--decode", disk)
        assert fixed.read_bytes() == data
        assert tool("blockdev", "--getro", fixed).strip() == "1"
        tool(
            "fio",
            "--name=verify",
            f"--filename={disk}",
            "--direct=1",
            "--ioengine=libaio",
            "--iodepth=16",
            "--rw=randwrite",
            "--bsrange=512-256k",
            "--blockalign=512",
            "--fsync=64",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
        )
        tool("blkdiscard", "--offset", "0", "--length", str(MIB), disk)
        tool("blockdev", "--flushbufs", disk)
        written = disk.read_bytes()
        assert written[:MIB] == bytes(MIB)
    with exported(f"overlaybd/{tmp_path}/config.json") as (disk,):
        assert disk.read_bytes() == written
