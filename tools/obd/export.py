"""`obd export`: the device of an image, flattened, as a raw disk image."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tools.errors import Failure
from tools.obd.common import log_to_stderr, service_option
from tools.options import Command, Namespace, flag, positional
from tools.output import Output
from tools.progress import Progress
from tools.values import existing_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obd.image import Device

# Bytes read in one go, and how many such reads are under way at once: enough to hide a registry's latency.
PIECE_BYTES = 1 << 20
PIECES_AHEAD = 8
# Extents are asked for over this much of the device at a time.
WINDOW_BYTES = 1 << 30


def export(args: Namespace) -> int:
    """Runs the command; returns the exit status."""
    import obd

    log_to_stderr()
    with obd.open(args.config, args.service) as device:
        if args.raw == "-":
            _stream(device)
        else:
            with (
                Output(args.raw, replace=args.force, inputs=[args.config]) as out,
                Progress("exporting") as progress,
            ):
                for offset, data in _pieces(device, progress):
                    _write(out.fd, data, offset)
                os.ftruncate(out.fd, device.size)
    return 0


def _stream(device: Device) -> None:
    """Everything to standard output, zeros too: a pipe has no holes."""
    fd = sys.stdout.fileno()
    zeros = bytes(PIECE_BYTES)
    at = 0
    try:
        with Progress("exporting") as progress:
            for offset, data in _pieces(device, progress):
                _fill(fd, zeros, offset - at)
                _write(fd, data)
                at = offset + len(data)
        _fill(fd, zeros, device.size - at)
    except BrokenPipeError:
        raise Failure("obd: io: standard output was closed") from None


def _pieces(device: Device, progress: Progress) -> Iterator[tuple[int, bytes]]:
    """The data of the device in order, as (offset, bytes); what is left out is zeros."""
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    ahead: deque[tuple[int, Future[bytes]]] = deque()
    with ThreadPoolExecutor(PIECES_AHEAD) as pool:
        try:
            for offset, length in _data_ranges(device):
                ahead.append((offset, pool.submit(device.read, offset, length)))
                if len(ahead) == PIECES_AHEAD:
                    at, piece = ahead.popleft()
                    yield at, piece.result()
                    progress(at, device.size)
            while ahead:
                at, piece = ahead.popleft()
                yield at, piece.result()
        finally:
            for _, piece in ahead:
                piece.cancel()


def _data_ranges(device: Device) -> Iterator[tuple[int, int]]:
    for window in range(0, device.size, WINDOW_BYTES):
        at = window
        for length, kind in device.extents(window, min(WINDOW_BYTES, device.size - window)):
            if kind == "data":
                for start in range(at, at + length, PIECE_BYTES):
                    yield start, min(PIECE_BYTES, at + length - start)
            at += length


def _write(fd: int, data: bytes, offset: int | None = None) -> None:
    view = memoryview(data)
    while view:
        done = os.write(fd, view) if offset is None else os.pwrite(fd, view, offset)
        view = view[done:]
        if offset is not None:
            offset += done


def _fill(fd: int, zeros: bytes, count: int) -> None:
    while count > 0:
        count -= os.write(fd, memoryview(zeros)[: min(count, len(zeros))])


COMMAND = Command(
    "export",
    "Writes the device of an image as a raw disk image, flattened and sparse.",
    options=[service_option(), flag("-f", "--force", help="replace the output if it exists")],
    positionals=[
        positional("config", convert=existing_file, help="image configuration"),
        positional("raw", help="raw disk image to write; - for standard output"),
    ],
    run=export,
)
