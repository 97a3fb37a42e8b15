"""The native core. Public names are in the packages `obd` and `zfile`; this module is private to them.

All sizes and offsets are bytes. Every function that does I/O releases the GIL. Failures are `Error`.
`progress(done, total)` is called a few times a second from the calling thread; what it raises (Ctrl-C
included) ends the work with that exception.
"""

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

__version__: str

Progress: TypeAlias = Callable[[int, int], None]

Histogram: TypeAlias = tuple[list[tuple[float, int]], float]
"""Events by upper bound in seconds, each with all that were faster (the last bound is infinite); seconds in all."""

class Error(OSError):
    """A failure of the core. `str()` is one line: kind, file, offset, what, cause."""

    kind: str
    file: str | None
    offset: int | None
    what: str
    cause: str | None

# ---- zfile: core/python/src/zfile.rs

class ZFileReader:
    """A zfile (tar-wrapped or not) open for random access. Safe for use by several threads."""

    def __init__(self, path: str) -> None: ...
    @property
    def size(self) -> int:
        """Bytes of the file that was compressed."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on: `length`, or as many as there are. A corrupt block is an `Error`."""

    def readinto_at(self, buffer: Any, offset: int) -> int:
        """Fills a writable buffer as `read_at` would; returns how many bytes it got."""

    def info(self) -> dict[str, Any]:
        """What the zfile is made of.

        `algorithm` ("lz4" or "zstd"), `block_size`, `checksum` (whether blocks have one), `blocks`, `original_size`,
        `stored_size` (without a tar around it), `index_offset`, `header_overwritten`, `header_digest` and
        `index_digest` (whether they are there to be checked), `header_flags`, `memory_bytes` (held while open).
        """

    def verify(self, progress: Progress | None = None) -> None:
        """Reads, checks and decodes every block. A zfile without checksums is "unsupported"."""

def zfile_detect(path: str) -> bool:
    """Whether a file, or the tar member in it, begins as a zfile. One with a broken header is an `Error`."""

def zfile_compress(
    source: int,
    target: int,
    *,
    algorithm: str = "lz4",
    block_size: int = 4096,
    checksum: bool = True,
    overwrite_header: bool = False,
    tar: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compresses all that the descriptor `source` (a pipe will do) gives into the empty file `target`.

    The result does not depend on `threads` (0: one for each processor). Returns `original_size`, `stored_size`
    (without the tar) and `blocks`. Blocks of 64 KiB that do not compress are refused ("limit"): no reader of
    upstream's could read them.
    """

def zfile_decompress(path: str, target: int, *, progress: Progress | None = None) -> int:
    """Writes what a zfile (tar-wrapped or not) holds into the empty file `target`; returns its size."""

# ---- lsmt: core/python/src/lsmt.rs

def lsmt_create(
    data: str,
    index: str,
    *,
    size: int,
    sparse: bool = False,
    turbo: bool = False,
    uuid: str | None = None,
    parent_uuid: str | None = None,
    tag: bytes = b"",
    scratch: bool = False,
) -> None:
    """Creates the two files of a writable layer, neither of which may exist; after an error neither does.

    `size` is a multiple of 512; 0 takes the size of the lowers when the layer is first used on some. `turbo`: a layer
    of turboOCI, which maps content into a target; then `sparse` means nothing. A `scratch` layer is one that may be
    lost with the machine: nothing waits for the disk.
    """

def lsmt_commit(
    data: str,
    index: str | None,
    output: int,
    *,
    turbo: bool = False,
    uuid: str | None = None,
    parent_uuid: str | None = None,
    tag: bytes = b"",
    compress: Mapping[str, Any] | None = None,
    tar: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Commits a writable layer (`index` given) or a finished one (None) into the empty file `output`.

    `turbo`: one of turboOCI, whose target is not needed: maps into it stay as they are.
    `compress` holds options of `zfile_compress`: algorithm, block_size, checksum, overwrite_header, threads.
    Returns `virtual_size`, `uuid`, `parent_uuid`, `segments`, `data_size` (stored sectors), `layer_size` (before
    wrapping), `stored_size` (the file) and `cut_records`: how many records at the end of a writable layer's index
    a crash had torn, which are left out. A layer that is open elsewhere is refused ("denied").
    """

def lsmt_merge(
    lowers: Sequence[str | tuple[str, MerkleTree] | RemoteBlob | TurboLayer],
    output: int,
    *,
    upper: tuple[str, str] | tuple[str, str, str] | tuple[str, str, str, str | None] | None = None,
    uuid: str | None = None,
    parent_uuid: str | None = None,
    tag: bytes = b"",
    compress: Mapping[str, Any] | None = None,
    tar: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Flattens layers, bottom first, and perhaps a writable one (as for `Image`); otherwise as `lsmt_commit`.

    What is in targets is copied: the result is an ordinary layer.
    """

def lsmt_seal(data: str, index: str, *, scratch: bool = False) -> int:
    """Makes a writable layer a finished one inside its data file; the index file is then of no use.

    Returns `cut_records` as `lsmt_commit` does. `scratch` as for `lsmt_create`.
    """

def lsmt_resize(data: str, index: str, size: int) -> None:
    """Changes the virtual size (bytes, a multiple of 512). What falls outside is discarded."""

def ext4_create(target: Image | str) -> None:
    """Makes an empty ext4 file system on a writable image or on a raw disk image, which is a file of its final size.

    The same size gives the same bytes. Needs the system's libext2fs; without it the error is of kind `unsupported`.
    """

def ext4_version() -> str:
    """The version of libext2fs, `1.47.0`: the same one gives the same bytes. Errors as of `ext4_create`."""

def ext4_apply(
    target: Image | str,
    source: int,
    *,
    mkfs: bool = False,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Applies an OCI layer to the ext4 file system on `target` (as for `ext4_create`), which `mkfs` makes first.

    `source` is a descriptor of the layer: a tar, plain or compressed with gzip or zstd. `sha256` (hex) is what the
    uncompressed bytes must have. Returns what was done: `entries`, `files`, `bytes` of their content, `whiteouts`, and
    `notes` on what was passed over. After an error the file system may be changed in part.
    """

def erofs_apply(
    target: Image | str,
    source: int,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Applies an OCI layer to the EROFS on `target` (as for `ext4_create`), or begins one if all is zeros there.

    As `ext4_apply`, but nothing need be installed for it, and after an error the file system is as it was.
    """

def gzip_index(
    source: int, output: int, *, span: int = 1 << 20, progress: Progress | None = None
) -> dict[str, Any]:
    """Makes the random-access index of the gzip file `source` (a descriptor, read to its end) in the file `output`.

    There is a place to begin reading at every `span` bytes or so (65536 to 1 GiB) of what it unpacks to. Returns
    `points`, `gzip_size`, `index_size` and `uncompressed_size`. A file of several members is of kind `unsupported`, one
    that is damaged or no gzip `corrupt`; `output` is of no use then.
    """

def turbo_apply(
    target: Image,
    source: int,
    *,
    fstype: str = "ext4",
    mkfs: bool = False,
    imported: bool = False,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Applies an OCI layer as `ext4_apply`, but maps the content of files to where it lies in the uncompressed layer.

    The image's writable layer is one of turboOCI. `source` is a tar, plain, in gzip or in a zfile; with `imported` what
    `tar_export` made of it. A sparse file's content is stored, or, with `imported`, refused (`unsupported`). `fstype`
    is `ext4` or `erofs`, which begins where all is zeros, whatever `mkfs`.
    """

def tar_export(source: int, output: int, *, progress: Progress | None = None) -> dict[str, Any]:
    """Writes the headers of a tar (plain, in gzip or in a zfile), each with the place of the content, to `output`.

    Returns `entries` and the `size` of what was written.
    """

def lsmt_import(
    source: int,
    size: int,
    output: int,
    *,
    compress: Mapping[str, Any] | None = None,
    tar: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Makes a committed layer of the first `size` bytes (a multiple of 512) of a raw image.

    Holes and zeros, in units of 4096 bytes, are left out. Returns what `lsmt_commit` returns.
    """

class DiskImage:
    """The image of a whole disk, or a part of one: core/python/src/disk.rs. Nothing that it names is opened."""

    def __init__(self, source: int, *, format: str | None = None, without_backing: bool = False) -> None:
        """Opens the descriptor `source`: a regular file or a block device.

        `format` is "raw" or "qcow2"; None looks at how it begins, and refuses the formats of other programs
        ("unsupported"). A qcow2 image with a backing file is refused as well, unless `without_backing` is set: then
        it is what lies upon that file, and so is the layer that `to_layer` makes.
        """

    @property
    def format(self) -> str:
        """ "raw" or "qcow2"."""

    @property
    def size(self) -> int:
        """Bytes of the disk, a multiple of 512."""

    def file_system(self) -> str | None:
        """The file system that begins here: ext4, erofs, xfs, btrfs, squashfs, f2fs; None for any other."""

    def partitions(self) -> list[dict[str, Any]]:
        """`number`, `offset`, `size`, `type` (a byte of an MBR in hex, or a GUID) and `label` of each."""

    def root(self) -> tuple[DiskImage, int | None, str]:
        """The root file system of a Linux: it, the number of its partition (None: the whole disk), its kind.

        Of the partitions with a known file system that is the largest one that the table says to be a root, else the
        largest one for data of Linux. None at all is "not-found".
        """

    def part(self, offset: int, size: int) -> DiskImage:
        """A part as a disk of its own; both are multiples of 512."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes of the disk."""

    def to_layer(
        self,
        output: int,
        *,
        compress: Mapping[str, Any] | None = None,
        tar: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Makes a committed layer of it in the empty file `output`, without its zeros, in units of 4096 bytes.

        Equal disks give equal layers, whatever their images are like. Returns what `lsmt_commit` returns.
        """

    def copy_to(self, target: Image | str, *, progress: Progress | None = None) -> dict[str, int]:
        """Copies it to the start of a target as `ext4_create` takes; what is not allocated is left as it was.

        Returns bytes `written`, `zeros` (discarded) and `skipped`. One that does not fit is "no-space".
        """

def layer_info(path: str) -> dict[str, Any]:
    """What a file is, from the outside in.

    `size`; where it has them `tar` (name, offset, size), `zfile` (algorithm, block_size, blocks, checksum,
    stored_size, original_size) and `lsmt`: `kind` ("committed", "committed turboOCI", "sealed", "writable data",
    "writable sparse data", "writable index"), `header`, `trailer` (flags, virtual_size, uuid, parent_uuid, tag,
    index_offset, index_entries) and `index` (segments, zeroed, padding, mapped_bytes, zeroed_bytes, longest_sectors;
    of turboOCI also remote_bytes, which are in the target and not counted in mapped_bytes).
    """

def layer_verify(path: str, progress: Progress | None = None) -> dict[str, Any]:
    """Reads and checks all that can be checked: headers, index rules, jump table, every block's checksum.

    Returns what `layer_info` returns; raises the first fault.
    """

# ---- fetch and cache: core/python/src/{client,cache,remote}.rs

class Target:
    """Where to send a GET. `headers` and the URL may hold secrets.

    `proxy`: None as the environment says, "" none, else an HTTP proxy (`http[s]://[USER:PASSWORD@]HOST[:PORT]`).
    `endpoint` is the locator's own name for it. `limit_s`: longest time for one GET. For `fresh_s` seconds the core
    may use it again without asking, unless something fails. `abroad`: only a server has named it, so without a proxy
    it may not be this machine, its link, or a service of a cloud for its guests.
    """

    def __init__(
        self,
        url: str,
        headers: list[tuple[str, str]],
        *,
        proxy: str | None = None,
        endpoint: int = 0,
        limit_s: float | None = None,
        fresh_s: float = 0.0,
        abroad: bool = False,
    ) -> None: ...
    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> list[tuple[str, str]]: ...
    @property
    def proxy(self) -> str | None: ...
    @property
    def endpoint(self) -> int: ...

class Locator(Protocol):
    """Policy of one blob, called from any thread: where its bytes are and with which headers.

    For `locate` and `refused` an exception with `kind` "io" or "timed-out", or another `OSError`, is taken for
    something that passes.
    """

    def locate(self) -> Target:
        """The target of the next ranged GET. Must be quick when nothing has changed."""

    def refused(self, status: int, headers: list[tuple[str, str]], target: Target) -> bool:
        """`target` answered 3xx, 400, 401, 403 or 410: make the next `locate` better (redirect, token).

        False if there is nothing left to try.
        """

    def failed(self, status: int | None, why: str, target: Target) -> bool:
        """A GET failed, with `status` if it was answered. True if `locate` now names another endpoint."""

    def distrusted(self, target: Target) -> None:
        """Bytes that came from `target` proved wrong: prefer another endpoint."""

    def mismatched(self, target: Target, offset: int, length: int) -> None:
        """As `distrusted`, of bytes that do not match the tree of the blob and were thrown away: say so."""

    def describe(self) -> str:
        """Which credentials were tried, for messages."""

class MerkleTree:
    """The list of the leaves of a blob, held against its root: docs/formats/merkle.md."""

    def __init__(self, leaves: bytes, root: str) -> None:
        """`root`: 64 hex digits. A list that does not come down to it is "corrupt"."""

    @property
    def size(self) -> int:
        """Bytes of the blob."""

    @property
    def root(self) -> str: ...
    def cache_name(self, digest: str) -> str:
        """What the cache calls the blob `digest` as proved by this tree."""

class MerkleBuilder:
    """Makes the list of leaves of a blob that comes in pieces."""

    def __init__(self) -> None: ...
    def update(self, data: bytes) -> None:
        """The next bytes."""

    def finish(self) -> tuple[bytes, str]:
        """List and root, of all bytes since the last call. "limit" for a blob without any, or beyond 64 GiB."""

class HttpClient:
    """A pool of connections with its identity; those who bring none share one.

    `tls` is `(ca_file, cert_file, key_file, insecure)`, files "" for none: PEM with authorities trusted besides the
    system's, a client certificate and its key, and whether any certificate is accepted. `hosts` has other settings
    for single hosts (`host` or `host:port`, as in URLs).
    """

    def __init__(
        self,
        *,
        user_agent: str = "",
        tls: tuple[str, str, str, bool] = ("", "", "", False),
        hosts: Mapping[str, tuple[str, str, str, bool]] = {},
    ) -> None: ...

class ChunkCache:
    """A bounded cache directory shared by all images of the process (and safe beside other processes)."""

    def __init__(
        self,
        directory: str,
        capacity_bytes: int,
        chunk_bytes: int = 262144,
        *,
        min_free_bytes: int = 1073741824,
        pool_line_bytes: int | None = None,
        readahead: bool = True,
    ) -> None:
        """Opens (or creates) the directory; "" for blobs in layer directories only.

        With `pool_line_bytes` all blobs share one preallocated file of `capacity_bytes`, cut into such lines; if
        another process has it, or it cannot be made, all is read uncached, with a notice.

        `readahead`: whether to fetch in advance what sequential readers will want. Raises `Error` for a chunk size
        that is no power of two from 4096.
        """

    def flush(self) -> None:
        """Returns when everything fetched so far is on disk (or was given up)."""

    def notices(self) -> list[str]:
        """Lines for the log since the last call: when and why nothing could be kept. At most 64 are held."""

    def stats(self) -> dict[str, int]:
        """Reads: hits, misses. Fetches: fetches, fetched_bytes, uncached (served, not kept).

        Chunks: repairs (found wrong, dropped), mismatches (runs that did not match their tree), evictions.
        `used_bytes`: what the directory takes on disk.
        Of the bytes fetched, `ahead_bytes` were by readahead or from traces, and `ahead_used_bytes` wanted later.
        """

    def entries(self) -> list[dict[str, Any]]:
        """The blobs in the directory: digest, size, chunk_bytes, chunks (all), present (chunks recorded), bytes (on
        disk), tick (of the last use), pinned, in_use (by any process). Without a valid map most of it is 0."""

    def check(self, digest: str, *, repair: bool = False) -> dict[str, Any]:
        """Reads all that is recorded of a blob. right; checked, bad: chunks; digest_matches: None unless all is there.

        With `repair`, what is wrong is dropped. in_use: a process has it open, and goes on to use what it has checked.
        Raises `Error`, of kind "not-found" if the cache does not have it.
        """

    def evict(self, digest: str) -> int | None:
        """Removes a blob: the bytes freed, None if a process has it open. `Error` if it is pinned, or not there."""

    def shrink(self, size: int) -> int:
        """Evicts until the directory takes `size` bytes; what it takes then: more if blobs are pinned or open."""

    def pin(self, digest: str, pinned: bool) -> bool:
        """Pins a blob, there or not, against eviction by any process, or unpins it; whether that changed anything."""

class RemoteBlob:
    """A registry blob read by ranged GET, through a cache or (None) without."""

    def __init__(
        self,
        name: str,
        digest: str,
        locator: Locator,
        *,
        size: int = 0,
        cache: ChunkCache | None = None,
        client: HttpClient | None = None,
        media: str | None = None,
        tree: MerkleTree | None = None,
    ) -> None:
        """`name` is for messages. Size 0: learnt from the registry (or the cache), at once.

        `media` is a file in a layer directory: the blob is kept there, with its map beside it, instead of in the
        directory of `cache`; nothing limits or evicts it. With a `tree` nothing is used before it was held against
        that, wherever it comes from.
        """

    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, length: int) -> bytes: ...
    def readinto_at(self, buffer: Any, offset: int) -> int:
        """Fills the buffer, or what of it the blob reaches; returns the bytes read."""

    def copy_into(self, buffer: Any, offset: int) -> int:
        """As `readinto_at`, for a copy: what is not cached is fetched without being kept, and lets reads go first."""

    def spare(self) -> None:
        """Has images made with it from now on fetch small ranges alone, not whole chunks, until many are read."""

    def endure(self, seconds: float) -> None:
        """Has reads wait for so long, from now on, for a registry that is away or overloaded; at first they do not.

        0 ends the wait of those who wait, soon.
        """

    def distrust(self, offset: int, length: int) -> bool:
        """Drops what is cached of a range that proved wrong; false if that is of no use."""

    def switch_to(self, path: str, on_failure: Callable[[str], None]) -> None:
        """Has reads that begin from now on answered by a file with the same bytes. At most once.

        If the file fails or proves wrong, reads return to the registry for good, and `on_failure` is called, by any
        thread, with the reason.
        """

    @property
    def local(self) -> str | None:
        """The file that reads go to, if they do."""

    def missing(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Offset and length of what of the range, in whole chunks, is not in the cache; it goes on to be used."""

    def fill(self, offset: int, length: int) -> None:
        """Has the chunks of the range in the cache's file, checked and written. Readers share what it fetches.

        Fetches each missing run by one request if all goes well, and blocks until it is done: give it as much as you
        want to wait for. Raises `Error` if the registry or the disk fails, or the blob is read uncached.
        """

    def stats(self) -> dict[str, Any]:
        """`requests`; `failures` of them, and these by status (`statuses`, 0: none came); `fetched_bytes`.

        `mismatches`: answers thrown away because the tree said so.
        """

# ---- image: core/python/src/image.rs

class TurboLayer:
    """A lower of turboOCI: metadata, and the target that holds content, which is the original layer.

    A target in gzip needs the path of its index, as `gzip_index` makes it. What it unpacks to is kept in `cache`, by
    the `digest` of the target and all of the index.
    """

    def __init__(
        self,
        meta: str | RemoteBlob,
        target: str | RemoteBlob,
        gzip_index: str | None = None,
        *,
        cache: ChunkCache | None = None,
        digest: str = "",
    ) -> None: ...

class FileStat:
    """What `lstat` says of a file in an image. Times are nanoseconds since 1970."""

    @property
    def ino(self) -> int:
        """Its number, by which methods of `FileSystem` take it too, without looking for it again."""
    @property
    def mode(self) -> int:
        """Type and permissions, as in `os.stat_result.st_mode`."""
    @property
    def nlink(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device; zeros for other files."""
    @property
    def mtime_ns(self) -> int: ...
    @property
    def atime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...

class FileSystem:
    """The ext4 (ext2, ext3) or uncompressed EROFS in an image, read-only and without mounting it.

    A file is named by its path from the root, slash before it or not, or by `FileStat.ino`. Symbolic links on the way
    are followed inside the image; one at the end by `list`, `read`, `data` and `difference`, by others with `follow`.
    Raises `Error`: "not-found", "invalid" for a file of another type than a method is for, "unsupported" for what is
    not understood, "corrupt", "limit". Safe for use by several threads. Keeps the image open.
    """

    def __init__(self, image: Image, *, partition: int | None = None, layers: Sequence[str] = ()) -> None:
        """The file system of the device, or of one of its partitions; without a number that of the whole device, or if
        it has none that of its only Linux partition.

        `layers` are names for the lowers, bottom first: `difference` takes lowers of one name for the same bytes.
        """

    @property
    def kind(self) -> str:
        """ "ext4" or "erofs"."""
    @property
    def partition(self) -> int | None:
        """The number of the partition that it is in."""
    @property
    def needs_recovery(self) -> bool:
        """True if its journal was not replayed, which it is not here either: what was written last may be missing."""
    def stat(self, file: bytes | int, *, follow: bool = False) -> FileStat: ...
    def list(self, file: bytes | int) -> builtins.list[tuple[bytes, int]]:
        """Name and number of every entry of a directory but `.` and `..`, in the order in which they are stored."""

    def read(self, file: bytes | int, offset: int, length: int) -> bytes:
        """Bytes of a regular file: fewer than `length` (at most 64 MiB) only at its end."""

    def data(self, file: bytes | int, offset: int, length: int) -> builtins.list[tuple[int, int]]:
        """Where in a part of a regular file its content is, as (offset, length); what lies between reads as zeros.

        At most 8192: if as many come, there may be more behind the last.
        """

    def readlink(self, file: bytes | int) -> bytes: ...
    def xattrs(self, file: bytes | int, *, follow: bool = False) -> dict[bytes, bytes]:
        """Extended attributes, as the kernel shows them to root; access control lists in the kernel's form."""

    def difference(
        self,
        file: bytes | int,
        other: FileSystem,
        other_file: bytes | int,
        progress: Callable[[int, int], None] | None = None,
    ) -> int | None:
        """The first byte in which two regular files differ, None if they are the same. Reads only what is not the same
        place of the same layer. `progress(done, total)` in bytes; what it raises ends the work.
        """

class Image:
    """A stack of layers as a block device. Lowers, bottom first, are paths, RemoteBlobs or TurboLayers.

    The upper is (data, index); one of turboOCI has as third and fourth the paths of its target, of which nothing is
    read but what was mapped to it, and of the target's gzip index or None.
    """

    def __init__(
        self,
        lowers: Sequence[str | tuple[str, MerkleTree] | RemoteBlob | TurboLayer],
        upper: tuple[str, str] | tuple[str, str, str] | tuple[str, str, str, str | None] | None = None,
        *,
        engine: int | None = None,
        scratch: bool = False,
    ) -> None:
        """`engine`: how lowers in files are read, as `ioEngine` numbers it (0 pread, 1 Linux AIO, 2 POSIX AIO,
        3 io_uring); None: the fastest. One that the kernel refuses is replaced by pread, which
        `engine_notices` tells. `scratch`: as for `lsmt_create`, of the upper.
        """

    @property
    def size(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    def read_at(self, offset: int, length: int) -> bytes: ...
    def write_at(self, offset: int, data: bytes) -> None: ...
    def discard(self, offset: int, length: int) -> None: ...
    def map_remote(self, offset: int, length: int, target_offset: int) -> None:
        """Has the range read from the target of the upper, one of turboOCI; all in bytes, multiples of 512."""

    def flush(self) -> None: ...
    def extents(self, offset: int, length: int) -> list[tuple[int, str]]: ...
    def stats(self) -> dict[str, Any]: ...
    def snapshot(
        self,
        data: str,
        index: str,
        *,
        sparse: bool = False,
        announce: Callable[[], None] | None = None,
        publish: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Seals the upper, which becomes the topmost lower, and goes on with a new one, while the device is in use.

        Files that both exist must be an empty upper; if neither does they are created, `sparse` or not. `announce` is
        called before anything is written to it: it makes a note of what `publish` will do, so that `finish_snapshot`
        can do it if this process dies. `publish` is called once the sealed layer is durable: it puts a configuration
        with the new layers in place. Flushes wait for it; it must not flush the image. Fails it or something before it
        but after the cut, then `snapshot_unfinished` is true and the rest is done by the next flush, or by this call
        with the same files. Returns `pause_s`, for which writes waited, and `segments` of the sealed layer.
        """

    @property
    def snapshot_unfinished(self) -> bool:
        """Whether a snapshot was taken that is under way, or failed after the cut."""

    def resize(self, size: int) -> None:
        """Lets the device grow, durably, while it is in use. A smaller size is an error of kind "invalid"."""

    def start_recording(self) -> None:
        """Begins to record first reads of the lowers; those that opened the image are part of it.

        An error of kind "busy" if that is being done already.
        """

    def stop_recording(self) -> bytes:
        """Ends the recording: a whole trace file. An error of kind "invalid" if there is none."""

    def recorded(self) -> tuple[bytes, bool]:
        """What has been recorded so far, as a trace file, and whether something was left out for want of room."""

    @property
    def recording(self) -> bool: ...
    def latency(self) -> dict[str, Histogram]:
        """Where the time of reads went: "hit" (whole reads that waited for nothing, without decoding), "network"
        (waiting for fetches), "decode", "queue" (waiting for a worker). Hit and decode are sampled, and counted
        as if they were not.
        """

    def close(self) -> None: ...

def engine_notices() -> list[str]:
    """Lines for the log since the last call: which engine was refused, and why; each once a process."""

# ---- snapshots: core/python/src/snapshot.rs

def finish_snapshot(old: tuple[str, str], new: tuple[str, str], publish: Callable[[], None]) -> bool:
    """Finishes the snapshot of a process that died: seals the pair `old` and calls `publish`, which puts in place a
    configuration with the data file of `old` as topmost lower and the pair `new` as upper. May be repeated.

    False if the new upper does not exist: then no snapshot was taken. An error of kind "denied" if the image is open.
    """

# ---- traces: core/python/src/trace.rs

class Prefetch:
    """Fetches in advance what a trace or a list of paths says, beside the use of an image.

    Goes on until done, stopped or dropped. At most `workers` fetches at a time, which let those go first that somebody
    waits for. None is begun after `max_bytes` (0: no bound). Only a cache keeps what is fetched; local layers are
    passed over.
    """

    def __init__(self, image: Image, data: bytes, *, workers: int = 16, max_bytes: int = 0) -> None:
        """`data`: a whole trace file (a damaged one is an error of kind "corrupt"); anything else is a list."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Returns when all is done (True) or time is over (False)."""

    def stop(self) -> None:
        """Begins no fetch any more, and waits for those under way, but not for long."""

    def stats(self) -> dict[str, Any]:
        """`pieces` there now, `fetched_bytes` for them, `failed` and why the first did (`first_error`).

        `skipped`: parts of the data that say nothing of this image, `notes` about the first of them. `done`.
        """

def trace_detect(data: bytes) -> bool:
    """Whether bytes begin as a trace does; else, unless empty, they are a list of paths."""

def trace_parse(data: bytes) -> list[tuple[int, int, int]]:
    """The reads in a trace: layer (0 is the bottom one), offset, length. A damaged file is an `Error`."""

# ---- seen from outside: core/python/src/observe.rs

def remote_traffic() -> dict[str, Any]:
    """Reads from registries and proxies by this process: `latency` (a `Histogram`), `bytes`, `errors`."""

def take_peaks() -> tuple[float, float]:
    """Seconds that the longest read of an image took (as far as timed), and the longest from a registry, each
    since the last call.
    """

def audit_start() -> None:
    """Begins to keep events for the audit log."""

def audit_stop() -> None:
    """Keeps no further events; those that are kept can still be taken."""

def audit_take() -> tuple[list[tuple[float, int, str, dict[str, Any]]], int]:
    """The events since the last call: time since 1970 in seconds, thread, name and members of the record, in the
    order of the log. And how many were lost because nobody took them.
    """

# ---- front ends: core/python/src/serve.rs

class NbdServer:
    """Serves images by NBD. `address` is `unix:PATH` or `HOST:PORT` (port 0: any free one; no host: 127.0.0.1).

    The first export is the default one. A unix socket is accessible to its owner only and takes the place of one
    that nobody listens on; another that is in use is an error of kind `exists`. At most `workers` threads wait for
    slow requests of one image. `on_error(export, error)` is called from any thread for a request that an image
    failed, at most twenty times in ten seconds for each image.
    """

    def __init__(
        self,
        exports: Mapping[str, Image],
        address: str,
        *,
        workers: int = 16,
        on_error: Callable[[str, Error], None] | None = None,
    ) -> None: ...
    @property
    def address(self) -> str: ...
    def stats(self) -> dict[str, int]:
        """Counters: active, connections, refused, requests, read_bytes, written_bytes, errors."""

    def stop(self) -> None:
        """Stops accepting, answers what is under way, closes all connections; returns when done."""

class TcmuDevice:
    """Serves an image on the ring of a TCMU backstore, the UIO device `uio_path` such as /dev/uio0, as a SCSI disk.

    `serial` tells the unit from all others (1 to 128 printable characters, of which the hexadecimal digits make its
    NAA name); `name` says what it is, to initiators and to `on_error`. Sectors have 512 or 4096 bytes. `workers` and
    `on_error(name, error)` are as for `NbdServer`. A ring that is open elsewhere is an error with errno EBUSY.
    """

    def __init__(
        self,
        image: Image,
        uio_path: str,
        *,
        serial: str,
        name: str,
        block_bytes: int = 512,
        workers: int = 16,
        on_error: Callable[[str, Error], None] | None = None,
    ) -> None: ...
    def stats(self) -> dict[str, int]:
        """Counters: serving (0 or 1), active, requests, read_bytes, written_bytes, errors, refused, turns."""

    def oldest(self) -> tuple[float, str] | None:
        """The command that workers have been at for longest: seconds, and what it is."""

    def cease(self, drain_s: float = 0.0) -> None:
        """Takes no more commands once the ring is empty or `drain_s` have passed; what fails after that is left."""

    def stop(self, drain_s: float = 0.0) -> bool:
        """As `cease`, then lets go of ring and image.

        Waits for what is being carried out. False if commands are left: these the kernel hands out again when the
        ring is reset.
        """

class UblkDevice:
    """Serves an image as the disk /dev/ublkbN by the kernel's ublk driver (Linux 6.5). Needs root.

    `number` is N, -1 any that is free. `queues` are hardware queues with a thread each (0: as many as processors, up to
    four), `depth` the requests of each (0: 128). The disk outlives its server, alive or killed: its users wait until it
    is served again, by an object made with `recover` for the same `number` and image, and get what was under way. Its
    size, its queues and whether it is read-only are then as they were. `read_only` makes the disk of a writable image
    read-only. `workers` and `on_error(name, error)` are as for `NbdServer`; `name` is that of the disk there.
    A number that is taken is an error of kind exists, a disk that is served already of kind busy. When the object goes
    the disk stays.
    """

    def __init__(
        self,
        image: Image,
        *,
        number: int = -1,
        queues: int = 0,
        depth: int = 0,
        workers: int = 16,
        read_only: bool = False,
        recover: bool = False,
        name: str = "",
        on_error: Callable[[str, Error], None] | None = None,
    ) -> None: ...
    @property
    def number(self) -> int: ...
    @property
    def path(self) -> str:
        """/dev/ublkbN."""

    @property
    def queues(self) -> int: ...
    @property
    def depth(self) -> int: ...
    def stats(self) -> dict[str, int]:
        """Counters: serving (queues), active, requests, read_bytes, written_bytes, errors, refused, turns."""

    def oldest(self) -> tuple[float, str] | None:
        """The request that workers have been at for longest: seconds, and what it is."""

    def wait(self) -> None:
        """Returns when no queue is served any more: somebody stopped the disk, or this server."""

    def update_size(self) -> None:
        """Tells the kernel how large the image is by now. Errors: unsupported before Linux 6.16."""

    def stop(self) -> None:
        """Takes no more requests, answers those that it has, lets go of the image. The disk stays."""

    def remove(self) -> None:
        """Takes the disk away, whoever uses it, and stops."""

def ublk_numbers() -> list[int]:
    """The numbers of all ublk devices, whoever made them; none without the driver."""

def ublk_info(number: int) -> dict[str, Any]:
    """number, path, state, pid (0 or less: none), queues, depth, flags, size in bytes (or None), read_only.

    state: dead (no disk), live, quiesced (waits for a server), failing. Errors: not-found.
    """

def ublk_features() -> int:
    """What the driver can do, as flags UBLK_F_*. Errors: not-found without the driver."""

def ublk_stop(number: int) -> None:
    """Takes the disk away, whoever uses it."""

def ublk_delete(number: int) -> None:
    """Removes a device, with its disk. Who has that open keeps the number in use until it is closed."""

class FuseMount:
    """A FUSE directory with one regular file per image: for losetup, mount -o loop, cp.

    A read-only image's file is kept in the page cache; `losetup --direct-io=on` avoids a second copy in the loop
    device's. A writable one's is not cached. Holes can be seen (SEEK_HOLE) and punched. With `allow_other` all users
    may read (modes 0444 and 0644). `workers` and `on_error(file, error)` are as for `NbdServer`. Mounting needs root
    or fusermount3. The object unmounts by force when it goes.

    `connection` (None or less than 0: a new one) is a descriptor of /dev/fuse to mount by, of which a copy is taken. As
    long as another process has it too, requests outlive this one: there the same call with `resume` serves what is
    mounted on the directory further, and the kernel asks again what had no answer (Linux 6.9; else "unsupported").
    """

    def __init__(
        self,
        files: Mapping[str, Image],
        directory: str,
        *,
        workers: int = 16,
        allow_other: bool = False,
        connection: int | None = None,
        resume: bool = False,
        on_error: Callable[[str, Error], None] | None = None,
    ) -> None: ...
    def grown(self) -> None:
        """Has the kernel ask for the sizes of the images anew, which it does not by itself: after they have grown."""

    def wait(self) -> None:
        """Returns when the file system has been unmounted, by `stop` or from outside."""

    def stop(self, force: bool = False) -> None:
        """Unmounts. A file in use is an error with errno EBUSY; by force, its users get errors from then on."""
