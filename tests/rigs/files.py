"""File systems on a device: files that must be there after a crash, and cases that a bad device fails.

The cases look at what xfstests' generic group looks at where a block device can be at fault. They are told in
our own words: no registry of packages has those tests.
"""

import ctypes
import fcntl
import mmap
import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from tests.e2e.disks import MIB, tool

BLOCK = 4096
SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of ext4 and xfs
SHUTDOWN_NOLOGFLUSH = 2
PUNCH, KEEP_SIZE, ZERO_RANGE = 2, 1, 16
COLLAPSE, INSERT = 8, 32
LIBC = ctypes.CDLL(None, use_errno=True)


def content(seed: int, size: int) -> bytes:
    """The content of a file."""
    return random.Random(seed).randbytes(size)


class Durable:
    """Makes, replaces and removes files until the device fails; knows which must be there after that."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.kept: dict[str, tuple[int, int]] = {}  # by name: seed and size, since they were made durable
        self.doubtful: set[str] = set()  # what was being changed when the device failed
        self.done = 0
        self._numbers = random.Random(seed)
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Durable":
        self._thread.start()
        return self

    def wait(self, more: int) -> None:
        """Returns when so many more changes are durable. Raises `AssertionError` if one fails."""
        with self._changed:
            goal = self.done + more
            assert self._changed.wait_for(lambda: self.done >= goal or self._over, 120)
            assert self.done >= goal, "a change has failed"

    def stop(self) -> None:
        """Ends, or waits for the end if the device has failed."""
        self._over = True
        self._thread.join(120)
        assert not self._thread.is_alive(), "a request does not end"

    def _run(self) -> None:
        while not self._over:
            name = f"file{self._numbers.randrange(40)}"
            self.doubtful = {name}
            try:
                self._change(name)
            except OSError:
                break
            with self._changed:
                self.doubtful = set()
                self.done += 1
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _change(self, name: str) -> None:
        """Replaces a file, or removes it; durable when this returns."""
        numbers, path = self._numbers, self.root / name
        if name in self.kept and numbers.random() < 0.3:
            path.unlink()
            self._sync()
            del self.kept[name]
            return
        seed, size = numbers.randrange(1 << 30), numbers.choice((0, 1, 511, 4096, 20_000, 300_000))
        with (self.root / f".{name}").open("wb") as file:
            file.write(content(seed, size))
            file.flush()
            os.fsync(file.fileno())
        os.rename(self.root / f".{name}", path)
        self._sync()
        self.kept[name] = (seed, size)

    def _sync(self) -> None:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def check(self) -> int:
        """Holds that what was durable is there, and nothing else; how many files there are."""
        for name, (seed, size) in self.kept.items():
            if name not in self.doubtful:
                assert (self.root / name).read_bytes() == content(seed, size), name
        names = {path.name for path in self.root.iterdir() if path.name.startswith("file")}
        assert names - self.doubtful == self.kept.keys() - self.doubtful
        for name in self.doubtful & names:  # whole, if it is there
            (self.root / name).read_bytes()
        return len(self.kept)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if LIBC.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def one_file_by_all_ways(root: Path, seed: int, rounds: int) -> None:
    """Buffered, direct and mapped access, holes, truncation, moved ranges: always the model's bytes."""
    numbers, model = random.Random(seed), bytearray()
    path, most = root / f"all{seed}", 2 * MIB
    plain = os.open(path, os.O_RDWR | os.O_CREAT)
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    for _ in range(rounds):
        offset = numbers.randrange(most)
        length = min(numbers.choice((1, 512, 4096, 10_000, 200_000)), most - offset)
        begin, blocks = offset // BLOCK * BLOCK, max(length // BLOCK, 1) * BLOCK
        what = numbers.randrange(9)
        if what <= 1 or not model:
            _put(model, offset, data := numbers.randbytes(length))
            assert os.pwrite(plain, data, offset) == length
        elif what == 2:
            buffer = mmap.mmap(-1, blocks)
            buffer[:] = numbers.randbytes(blocks)
            assert os.pwritev(direct, [buffer], begin) == blocks
            _put(model, begin, buffer[:])
        elif what == 3:
            with mmap.mmap(plain, len(model)) as mapped:
                end = min(offset + length, len(model))
                if offset < end:
                    mapped[offset:end] = data = numbers.randbytes(end - offset)
                    model[offset:end] = data
        elif what == 4:
            mode = numbers.choice((PUNCH, ZERO_RANGE))
            _fallocate(plain, mode | KEEP_SIZE, offset, length)
            end = min(offset + length, len(model))
            if offset < end:
                model[offset:end] = bytes(end - offset)
        elif what == 5:
            size = numbers.randrange(most)
            os.ftruncate(plain, size)
            model[size:] = bytes(max(size - len(model), 0))
        elif what == 6 and begin + blocks < len(model):
            _fallocate(plain, COLLAPSE, begin, blocks)
            del model[begin : begin + blocks]
        elif what == 7 and begin < len(model) and len(model) + blocks < most:
            _fallocate(plain, INSERT, begin, blocks)
            model[begin:begin] = bytes(blocks)
        else:
            os.fsync(plain)
            os.posix_fadvise(plain, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(plain, most, 0) == model
    os.fsync(plain)
    for fd in (plain, direct):
        os.close(fd)


def _put(model: bytearray, offset: int, data: bytes) -> None:
    model[len(model) :] = bytes(max(offset + len(data) - len(model), 0))
    model[offset : offset + len(data)] = data


def trim_beside_writers(root: Path, seed: int, rounds: int) -> None:
    """What is discarded is free space, never a file's."""
    numbers, kept = random.Random(seed), {}
    over = threading.Event()

    def trim() -> None:
        while not over.is_set():
            tool("fstrim", root)

    thread = threading.Thread(target=trim)
    thread.start()
    try:
        for number in range(rounds):
            name = root / f"trim{numbers.randrange(8)}"
            name.unlink(missing_ok=True)
            name.write_bytes(content(number, 100_000))
            kept[name] = number
    finally:
        over.set()
        thread.join()
    tool("fstrim", root)
    Path("/proc/sys/vm/drop_caches").write_text("1")
    for name, number in kept.items():
        assert name.read_bytes() == content(number, 100_000), name


def many_direct_at_once(root: Path, seed: int, rounds: int) -> None:
    """Asynchronous direct I/O of many sizes into a file with holes, verified."""
    shape = ["--rw=randwrite", "--bsrange=4k-64k", f"--size={min(rounds, 32)}m", f"--randseed={seed}"]
    verify = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_async=1"]
    engine = ["--ioengine=libaio", "--direct=1", "--iodepth=16", "--fallocate=none"]
    tool("fio", "--name=x", f"--filename={root / 'aio'}", *shape, *verify, *engine)


def shut_down(root: Path) -> None:
    """Stops a file system where it stands: what is not durable is lost."""
    fd = os.open(root, os.O_RDONLY)
    fcntl.ioctl(fd, SHUTDOWN, SHUTDOWN_NOLOGFLUSH.to_bytes(4, "little"))
    os.close(fd)


def fsck(kind: str, device: str) -> None:
    """Holds that a file system that was unmounted is clean."""
    tool(*(["e2fsck", "-fn", device] if kind == "ext4" else ["xfs_repair", "-n", device]))


Case = Callable[[Path, int, int], None]
CASES: list[Case] = [one_file_by_all_ways, trim_beside_writers, many_direct_at_once]


def fsx(program: str, root: Path, seed: int, rounds: int) -> None:
    """The file system exerciser itself, if it is there."""
    command = [program, "-q", "-S", str(seed), "-N", str(rounds), "-P", "/tmp", str(root / "fsx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def stress(root: Path, seed: int, seconds: int) -> None:
    """stress-ng's file system stressors side by side, all with verification."""
    names = ("hdd", "dir", "rename", "link", "fallocate", "seek", "readahead", "sync-file", "iomix", "aio")
    kinds = [word for name in names for word in (f"--{name}", "1")]
    small = ["--hdd-bytes", "4m", "--fallocate-bytes", "4m", "--seek-size", "4m", "--readahead-bytes", "4m"]
    small += ["--sync-file-bytes", "4m", "--iomix-bytes", "4m"]
    common = ["--temp-path", str(root), "--verify", "--timeout", str(seconds), "--seed", str(seed)]
    tool("stress-ng", "--quiet", *common, *kinds, *small, timeout_s=seconds + 600)
