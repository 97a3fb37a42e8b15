"""The one way to write an output file: whole under its final name, or not there at all.

The bytes go to a file of another name in the same directory, which gets the final name when they are all on
disk. Whatever goes wrong before that (an error, a full disk, SIGINT, SIGTERM, SIGHUP) removes it. Its writer
holds a lock on it: what a killed command left has none, and the next one that writes this output removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from tools.errors import Failure
from tools.stopping import stopping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_SUFFIX = ".tmp"
_RANDOM_BYTES = 6
# New files that others took for those of a dead command, before this one had locked them.
_ATTEMPTS = 100


class Output:
    """`with Output(path) as out:` and write to the descriptor `out.fd`.

    path: the final name. It must not exist; with `replace` a regular file of that name is replaced (at once
    and last), but nothing else is: no device, no symbolic link, none of `inputs`, which are being read.
    mode: permissions of the new file, before the umask.

    Raises `Failure` on entry if the file cannot be created, `OSError` on exit if it cannot be made whole.
    """

    def __init__(
        self, path: str, *, replace: bool = False, mode: int = 0o644, inputs: Iterable[str] = ()
    ) -> None:
        self.path = path
        self.replace = replace
        self.mode = mode
        self.inputs = tuple(inputs)
        self.fd = -1
        self._temporary = ""
        self._signals = stopping()

    def __enter__(self) -> Output:
        self._signals.__enter__()
        try:
            self._clear()
            self._check()
            self._open()
        except BaseException as error:
            self._discard()
            self._signals.__exit__(None, None, None)
            if isinstance(error, OSError):
                raise Failure(f"failed to open file '{self.path}', {error.errno}: {error.strerror}") from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            os.close(self.fd)
            self._discard()
            self._signals.__exit__(None, None, None)

    def write(self, data: bytes) -> None:
        """Appends all of `data`. Raises `OSError`."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from None

    @property
    def temporary(self) -> str:
        """The name that the file has until it is whole; for a last look at it before the end."""
        return self._temporary

    def _check(self) -> None:
        """Refuses early what cannot succeed, so that no long work is lost."""
        if not self.path:
            raise FileNotFoundError(errno.ENOENT, "the name of the output is empty", self.path)
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not self.replace:
            raise FileExistsError(errno.EEXIST, "exists and is not overwritten", self.path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file and is not replaced", self.path)
        for name in self.inputs:
            if os.path.exists(name) and os.path.samestat(os.stat(name), found):
                raise OSError(errno.EINVAL, f"is also an input ({name})", self.path)

    def _prefix(self) -> str:
        # The name of the target may use up the 255 bytes that a name can have.
        return f".{os.fsdecode(os.fsencode(os.path.basename(self.path))[:200])}."

    def _clear(self) -> None:
        """Removes the files of commands that were killed. What cannot be removed disturbs nobody."""
        directory, prefix = os.path.dirname(self.path), self._prefix()
        try:
            names = os.listdir(directory or ".")
        except OSError:
            return
        for name in names:
            number = name.removeprefix(prefix).removesuffix(_SUFFIX)
            if name != f"{prefix}{number}{_SUFFIX}" or len(number) != 2 * _RANDOM_BYTES:
                continue
            path = os.path.join(directory, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            except OSError:
                pass  # somebody's who lives, or not ours to remove
            finally:
                os.close(fd)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(_ATTEMPTS):
            name = f"{self._prefix()}{os.urandom(_RANDOM_BYTES).hex()}{_SUFFIX}"
            path = os.path.join(os.path.dirname(self.path), name)
            self.fd = os.open(path, flags, self.mode)
            self._temporary = path
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # just being removed
            except OSError:
                return  # a file system without locks: nobody removes it there
            else:
                if os.fstat(self.fd).st_nlink:
                    return
            os.close(self.fd)
            self._temporary = ""
        raise OSError(errno.EBUSY, "others keep removing new files", self.path)

    def _publish(self) -> None:
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from None
        if self.replace:
            os.rename(self._temporary, self.path)
            self._temporary = ""
        else:
            try:
                os.link(self._temporary, self.path)
            except OSError as error:
                if error.errno == errno.EEXIST:
                    raise FileExistsError(errno.EEXIST, "exists and is not overwritten", self.path) from None
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise
                _rename_no_replace(self._temporary, self.path)
                self._temporary = ""
        self._discard()
        _sync_directory(os.path.dirname(self.path))

    def _discard(self) -> None:
        if self._temporary:
            temporary, self._temporary = self._temporary, ""
            if os.path.lexists(temporary):
                os.unlink(temporary)


def _rename_no_replace(source: str, target: str) -> None:
    """renameat2 with RENAME_NOREPLACE, for file systems without hard links."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(source), os.fsencode(target))
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _sync_directory(directory: str) -> None:
    fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some file systems cannot sync a directory; the file itself is safe by then.
        if error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, directory or ".") from None
    finally:
        os.close(fd)
