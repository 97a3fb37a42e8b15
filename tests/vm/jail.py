"""Runs a command to which the whole host is read-only, and whose processes all end with it.

usage: jail.py COMMAND [ARGUMENT...]

It ends with the command's exit status. SIGTERM ends everything, as does the death of whoever started this.
In there `/dev/shm` is empty and can be written.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence

LIBC = ctypes.CDLL(None, use_errno=True)

# Numbers of <linux/prctl.h>, <linux/sched.h>, <linux/mount.h>, <linux/fcntl.h> and <asm/unistd.h>.
PR_SET_PDEATHSIG = 1
CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 0x40000, 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1


def main(command: Sequence[str]) -> int:
    """Runs the command; its exit status."""
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    _call("unshare", CLONE_NEWNS | CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        # The first process of a namespace: when it ends, the kernel ends all others in there.
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        _make_read_only()
        os._exit(os.spawnvp(os.P_WAIT, command[0], list(command)) & 0xFF)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the guest's death shall be seen at the other ends

    def end(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _make_read_only() -> None:
    """Makes every mount of this namespace read-only but for an empty `/dev/shm`."""
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _forget_devices()
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    _call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes))
    _call("mount", b"guest", b"/dev/shm", b"tmpfs", 0, b"size=100%")


def _forget_devices() -> None:
    """Unmounts here what other tests have mounted at this moment, so that they can unmount it for good."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            words = line.split(b" ")
            kind, source = words[words.index(b"-") + 1 :][:2]
            if words[4] != b"/" and (kind.startswith(b"fuse.") or source.startswith(b"/dev/loop")):
                _call("umount2", words[4].replace(b"\\040", b" "), MNT_DETACH)


def _call(name: str, *arguments: object) -> None:
    """Calls a function of the C library."""
    if getattr(LIBC, name)(*arguments) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except OSError as e:
        sys.exit(f"jail: {e.filename}: {e.strerror}")
