"""Clock and limits of the machine."""

import ctypes
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from obd.doctor import Finding

# Before this program was written it cannot be.
_EARLIEST: Final = 1735689600  # 2025-01-01
# linux/timex.h
_STA_UNSYNC: Final = 0x40
_TIMEX_BYTES: Final = 512
_STATUS_OFFSET: Final = 40

# A device of an image with many layers has that many files and connections open.
_FILES: Final = 65536
_MAPS: Final = 65530


def check_clock() -> Iterator[Finding]:
    """Whether certificates and tokens can be judged."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < _EARLIEST:
        what = f"it is said to be {now}: certificates and tokens will be refused"
        yield Finding("problem", "clock", what, "set the clock: timedatectl set-ntp true")
        return
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # no modes: only asked
    known = ctypes.CDLL(None).adjtimex(buffer) >= 0
    status = int.from_bytes(buffer.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], "little")
    if known and status & _STA_UNSYNC:
        what = f"{now}; nothing in this machine keeps the clock right"
        yield Finding("warning", "clock", what, "timedatectl set-ntp true (needless if the host does)")
    else:
        yield Finding("ok", "clock", now)


def check_limits() -> Iterator[Finding]:
    """Limits on files and mappings."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FILES:
        fix = f"LimitNOFILE={_FILES} in the unit, or ulimit -Hn {_FILES}"
        yield Finding("warning", "limits", f"at most {hard} files may be open (RLIMIT_NOFILE)", fix)
    else:
        yield Finding(
            "ok", "limits", f"{hard if hard != resource.RLIM_INFINITY else 'any number of'} files may be open"
        )
    maps = int(Path("/proc/sys/vm/max_map_count").read_text())
    if maps < _MAPS:
        fix = f"sysctl -w vm.max_map_count={_MAPS}"
        yield Finding("warning", "limits", f"vm.max_map_count is {maps}", fix)
    else:
        yield Finding("ok", "limits", f"vm.max_map_count is {maps}")
