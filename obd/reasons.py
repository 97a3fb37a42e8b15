"""Why a device did not open, in the words that users and tools look for in result files."""

from __future__ import annotations

import errno
from typing import Final, Self

import obdcore
from obd.config import ImageConfig
from obd.errors import ObdError, kind_of, line_of
from obd.locate import Source

# Upstream's text for what a registry answered, by kind of failure.
_REASONS: Final = {
    "denied": "Authentication failed",
    "timed-out": "Get meta timedout",
    "not-found": "No such file or directory",
    "busy": "Too many requests",
    "limit": "Too many requests",
}
_CONNECTION: Final = frozenset(
    {
        errno.ENOTCONN,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EPIPE,
    }
)


class OpenError(ObdError):
    """A device that cannot be opened.

    `result` is the message for the result file, which starts with upstream's words; `source` the lower at
    fault, None if it is not (or not only) one lower.
    """

    def __init__(self, kind: str, result: str, *, file: str = "", source: Source | None = None) -> None:
        super().__init__(kind, result, file)
        self.result = result
        self.source = source

    def with_later(self, later: Self) -> OpenError:
        """The same failure, with what happened afterwards (a way round that failed too) behind it."""
        if later is self:
            return self
        return OpenError(
            self.kind, f"{self.result}; then: {later.result}", file=self.file, source=self.source
        )


def refusal(error: OSError, sources: list[Source], config: ImageConfig) -> OpenError:
    """The failure to open the stack of `sources` that `error` of the core stands for."""
    if isinstance(error, OpenError):
        return error
    kind, file, detail = kind_of(error), getattr(error, "file", None), line_of(error)
    if config.writable and file in (config.upper.data, config.upper.index, config.upper.target or None):
        return OpenError(kind, f"failed to open upper {file}: {detail}")
    parts = [part for source in sources for part in source.parts]
    source = next((part for part in parts if file and file in (part.path, part.shown_url)), None)
    if source is None:
        return OpenError(kind, f"failed to create overlaybd device: {detail}")
    if source.local:
        return OpenError(kind, f"{_local(kind, source.path)}: {detail}", source=source)
    return OpenError(kind, f"{_remote(kind, error, source)} ({detail})", source=source)


def _local(kind: str, path: str) -> str:
    if kind not in ("corrupt", "unsupported", "limit"):
        return f"failed to open local file {path}"
    return (
        f"failed to open switch file {path}" if _broken_zfile(path) else "failed to create overlaybd device"
    )


def _remote(kind: str, error: OSError, source: Source) -> str:
    if kind in ("corrupt", "unsupported"):
        if "zfile" in str(error):
            return f"failed to open switch file /{source.shown_url}"
        return "failed to create overlaybd device"
    reason = _REASONS.get(kind)
    if reason is None:
        reason = "Connection failed" if error.errno in _CONNECTION else "Unexpected response"
    return f"failed to open remote file as tar file /{source.shown_url}: {reason}"


def _broken_zfile(path: str) -> bool:
    """True if the file claims to be a zfile and cannot be opened as one."""
    try:
        if obdcore.zfile_detect(path):
            obdcore.ZFileReader(path)
        return False
    except OSError:
        return True
