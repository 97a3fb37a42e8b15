"""`obd verify`: reads all of a layer, or of an image's layers, and checks what there is to check."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from typing import TYPE_CHECKING

from tools.errors import FAILED, describe, say, tell
from tools.obd.common import log_to_stderr, service_option
from tools.options import Command, Namespace, positional
from tools.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from obd.config import ImageConfig
    from obd.locate import Source
    from obd.service import Service

# Bytes read at a time.
PIECE_BYTES = 4 << 20


def verify(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    log_to_stderr()
    results = [
        _image(path, args.service) if _is_config(path) else _attempt(path, partial(_layer_file, path))
        for path in args.file
    ]
    return 0 if all(results) else FAILED


def _attempt(name: str, check: Callable[[Progress], object]) -> bool:
    """Runs one check and says how it went."""
    try:
        with Progress(f"verifying {os.path.basename(name)}") as progress:
            check(progress)
    except OSError as error:
        line = describe(error)
        say(f"obd: {line}" if name in line else f"obd: {name}: {line}")
        return False
    tell(f"{name}: ok")
    return True


def _is_config(path: str) -> bool:
    """Layers are binary; what begins like a JSON object is a configuration."""
    try:
        with open(path, "rb") as file:
            return file.read(64).lstrip()[:1] == b"{"
    except OSError:
        return False


def _layer_file(path: str, progress: Progress) -> None:
    import obdcore
    from obd.errors import ObdError

    found = obdcore.layer_verify(path, progress)
    if "lsmt" not in found and "zfile" not in found:
        raise ObdError("unsupported", "neither a layer nor a zfile", path)


def _image(path: str, service_path: str | None) -> bool:
    """The configuration, each layer by itself, and that they make a stack."""
    from obd.config import load_image
    from obd.locate import locate
    from obd.service import Service

    try:
        config = load_image(path)
        service = Service(service_path)
    except OSError as error:
        say(f"obd: {describe(error)}")
        return False
    results = []
    for part in (part for source in locate(config) for part in source.parts):
        results.append(_attempt(f"{path}: {part.title}", partial(_layer, part, service)))
    if config.writable:
        upper = config.upper
        # The data file of one of turboOCI is no layer but bare sectors.
        for name in (upper.index,) if upper.target else (upper.data, upper.index):
            results.append(_attempt(f"{path}: upper: {name}", partial(_layer_file, name)))
    results.append(_attempt(path, partial(_stack, config, service)))
    return all(results)


def _layer(source: Source, service: Service, progress: Progress) -> None:
    """One blob: its digest if the configuration says one, then, but for a target, structure and checksums."""
    from obd.errors import ObdError

    check = (lambda *_: None) if source.is_target else _layer_file
    if source.local:
        with open(source.path, "rb") as file:
            fd, size = file.fileno(), os.fstat(file.fileno()).st_size
            _copy(source, source.path, lambda at, count: os.pread(fd, count, at), size, None, progress)
        check(source.path, progress)
        return
    if source.nowhere:
        raise ObdError("not-found", source.nowhere)
    from tempfile import TemporaryFile

    blob = service.blob(source.url, source.lower)
    # For a moment on disk as a whole, as a device would read it: then it is checked as a local layer is.
    with TemporaryFile() as copy:
        _copy(source, source.shown_url, blob.read_at, blob.size, copy.fileno(), progress)
        check(f"/proc/self/fd/{copy.fileno()}", progress)


def _copy(
    source: Source,
    name: str,
    read_at: Callable[[int, int], bytes],
    size: int,
    target: int | None,
    progress: Progress,
) -> None:
    """Reads a blob of `size` bytes, into `target` if given, and compares its digest and size."""
    from obd.errors import ObdError

    lower = source.lower
    if lower.size_bytes and size != lower.size_bytes:
        raise ObdError("corrupt", f"{size} bytes long, the configuration says {lower.size_bytes}", name)
    if target is None and not lower.digest:
        return
    digest = hashlib.sha256()
    for at in range(0, size, PIECE_BYTES):
        piece = read_at(at, min(PIECE_BYTES, size - at))
        digest.update(piece)
        if target is not None:
            os.pwrite(target, piece, at)
        progress(at + len(piece), size)
    found = f"sha256:{digest.hexdigest()}"
    if lower.digest and found != lower.digest:
        raise ObdError("corrupt", f"digest is {found}, the configuration says {lower.digest}", name)


def _stack(config: ImageConfig, service: Service, progress: Progress) -> None:
    """Opens the lowers as one device, and leaves the upper and the result file alone."""
    from dataclasses import replace

    import obd
    from obd.config import Upper

    if config.data_lowers:
        obd.open(replace(config, upper=Upper(), result_file=""), service).close()


COMMAND = Command(
    "verify",
    "Reads all of a layer, or of an image's layers, and checks every header, index, checksum and digest.",
    options=[service_option()],
    positionals=[positional("file", repeat=True, help="layers or image configurations")],
    run=verify,
)
