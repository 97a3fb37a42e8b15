"""The seekable block-compressed codec, usable alone, like gzip or lzma.

    with zfile.open("layer.zfile") as f:          # any part can be read without the rest
        f.seek(1 << 30)
        f.read(4096)

    zfile.compress_file("disk.raw", "disk.zfile", algorithm="zstd", block_size=16384)
    zfile.decompress(zfile.compress(b"bytes")) == b"bytes"

A zfile that is wrapped in a tar, as registries hold them, is read just the same. A file that is corrupt, or
does not exist, is an `OSError`: `zfile.Error`, whose text is one line with kind, file, offset and cause.
"""

from obdcore import Error
from zfile.convert import compress, compress_file, decompress, decompress_file
from zfile.reader import ZFile, info, is_zfile, open, verify

__all__ = [
    "Error",
    "ZFile",
    "compress",
    "compress_file",
    "decompress",
    "decompress_file",
    "info",
    "is_zfile",
    "open",
    "verify",
]
