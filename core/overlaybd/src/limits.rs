//! Every bound of the crate in one place, each with its reason.

/// Bytes of a sector: the unit of every LSMT offset and length.
pub const SECTOR: u64 = 512;

/// Read-only layers in one stack: layer tags are 8 bits, and one value is the writable layer's.
pub const MAX_LAYERS: usize = 255;

/// Bytes of a device: up to the sector that index entries keep for padding.
pub const MAX_DEVICE_BYTES: u64 = ((1 << 50) - 1) * SECTOR;

/// Index entries of one read-only file, padding included (upstream refuses more).
pub const MAX_RO_ENTRIES: u64 = 1_000_000;

/// Real entries that fit a committed file once padded to a multiple of 256.
pub const MAX_COMMITTED_ENTRIES: u64 = 999_936;

/// Index entries of a writable layer's index file, and of a merged index.
pub const MAX_RW_ENTRIES: u64 = 128_000_000;

/// Blocks of one zfile (upstream refuses more).
pub const MAX_ZFILE_BLOCKS: u64 = 1_000_000_000;

/// Block sizes of a zfile: powers of two in this range (a jump table groups blocks by 64 KiB).
pub const ZFILE_BLOCK_BYTES: std::ops::RangeInclusive<u32> = 512..=65536;

/// A stored block of a zfile, checksum included, that every reader accepts (upstream's read buffer).
pub const MAX_ZFILE_STORED_BLOCK: usize = 65536;

/// Times that a block of a zfile which proves wrong is fetched again within one read.
pub const MAX_BLOCK_RELOADS: u32 = 3;

/// Attempts at the header, trailer and jump table of a zfile whose source can fetch them again.
pub const MAX_OPEN_ATTEMPTS: u32 = 3;

/// Compressed bytes read from below in one go, unless a single block is larger: enough to make the
/// call cheap, and still inside a processor's own cache when the blocks are decoded.
pub const ZFILE_READ_BATCH: u64 = 256 << 10;

/// Plain bytes handed to a compressing thread in one go.
pub const ZFILE_BUILD_BATCH: usize = 256 << 10;

/// Threads of one zfile builder; for each, four batches are in memory at most.
pub const MAX_BUILD_THREADS: usize = 64;

/// Headers before a member of a tar (a wrapped layer has one, an archive for one file three).
pub const MAX_TAR_HEADERS: usize = 8;

/// Body of one PAX header (that of a wrapped layer is 512 bytes; attributes of a file are 64 KiB each at most).
pub const MAX_PAX_BYTES: u64 = 1 << 20;

/// Distances of the points of a gzip index: upstream refuses less, and its number is 32 bits with a sign.
pub const GZIP_SPAN_BYTES: std::ops::RangeInclusive<u32> = 64 << 10..=1 << 30;

/// Points of one gzip index: 4 TiB with the usual distance, 160 MiB of memory.
pub const MAX_GZIP_POINTS: u64 = 1 << 22;

/// Bytes that a window of 32 KiB may take in a gzip index: what zlib adds to what it cannot compress, and to spare.
pub const MAX_GZIP_WINDOW_BYTES: u32 = 40 << 10;

/// Inflaters kept for one gzip layer, each some 110 KiB: as many sequential readers do not disturb each other.
pub const MAX_GZIP_CURSORS: usize = 4;

/// Time that a snapshot has new writes wait for those under way, at most: half of the pause that it may make.
pub const CUT_WAIT: std::time::Duration = std::time::Duration::from_millis(50);

/// Time after which what was written to a log-structured upper is flushed, asked or not: what Linux takes for its page
/// cache (`dirty_expire_centisecs`).
pub const UNFLUSHED: std::time::Duration = std::time::Duration::from_secs(30);

/// Threads of a process that do so: one less may wait for disks that hang while the others are still flushed.
pub const MAX_FLUSHERS: usize = 8;

/// Time between two tries of a snapshot, in which writes go on as if there were none.
pub const CUT_REST: std::time::Duration = std::time::Duration::from_millis(200);

/// Time after which a snapshot gives up looking for a moment without a write: those that wait for a registry end
/// before, or fail.
pub const CUT_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// A GNU long name: what a path can be at most, many times over.
pub const MAX_TAR_NAME_BYTES: u64 = 64 << 10;

/// Pieces of one sparse file in an archive: 16 MiB of memory.
pub const MAX_TAR_SPARSE_PIECES: usize = 1 << 20;

/// Extended attributes of one file in an archive: as many names as the kernel would list.
pub const MAX_TAR_ATTRIBUTES: usize = 4096;

/// Bytes that a layer may unpack to beyond twice the device that it is for: what replaces itself over and over, or is
/// no file's content, is a bomb.
pub const MAX_APPLY_EXTRA_BYTES: u64 = 1 << 30;

/// Largest request a front end hands down in one piece; larger ones are cut.
pub const MAX_IO_BYTES: usize = 4 << 20;

/// Largest payload of one NBD request or reply: what the protocol asks every server to accept, and
/// what common clients never exceed.
pub const NBD_MAX_PAYLOAD: u32 = 32 << 20;

/// Largest payload of one NBD option; more is no option that any client sends.
pub const NBD_MAX_OPTION: u32 = 64 << 10;

/// Longest export name, by the protocol.
pub const NBD_MAX_NAME: usize = 4096;

/// Options that one client may send before it must have chosen an export.
pub const NBD_MAX_OPTIONS: usize = 256;

/// Bytes of requests and replies that one NBD connection may have under way, one request of the
/// largest size excepted: above it the server stops reading from that connection.
pub const NBD_MAX_IN_FLIGHT_BYTES: usize = 32 << 20;

/// Requests that one NBD connection may have with workers.
pub const NBD_MAX_IN_FLIGHT: usize = 1024;

/// Descriptors in one NBD block status reply.
pub const NBD_MAX_EXTENTS: usize = 1024;

/// Bytes of a layer's commit message: the room that header and trailer have for it.
pub const MAX_TAG_BYTES: usize = 256;

/// Largest allocation unit that a sparse layer believes a file system to have.
pub const MAX_GRANULE_BYTES: u64 = 1 << 20;

/// Largest file of certificate authorities (the system's own store has a quarter of that).
pub const MAX_PEM_BYTES: u64 = 1 << 20;

/// Longest blob read from a registry: far above any layer, far below where offsets could overflow.
pub const MAX_BLOB_BYTES: u64 = 1 << 50;

/// Leaves of one hash tree: a blob of 64 GiB, and 32 MiB of memory while it is open.
pub const MAX_TREE_LEAVES: u64 = 1 << 20;

/// Times that bytes which do not match the tree of their blob are fetched again within one fetch, as long as there is
/// somebody else to ask; the same one is asked twice.
pub const MAX_TREE_ATTEMPTS: u32 = 8;

/// Chunks of one cached blob: 4 TiB of the usual size, 192 MiB of memory at most.
pub const MAX_CACHE_CHUNKS: u64 = 1 << 24;

/// Chunk sizes of a cache: a page is the least that can be punched out, the rest bounds the memory of a miss.
pub const CACHE_CHUNK_BYTES: std::ops::RangeInclusive<u32> = 4096..=MAX_FETCH_BYTES as u32;

/// Bytes fetched by one GET at most: bounds the memory of a miss, and the loss when a transfer breaks.
pub const MAX_FETCH_BYTES: usize = 8 << 20;

/// Bytes fetched in advance by one GET at most: a reader that wants some of them meanwhile waits for all.
pub const MAX_PREFETCH_BYTES: usize = 1 << 20;

/// Time that a step of a copy lets urgent fetches pass, so that it goes on even if they never end.
pub const MAX_YIELD: std::time::Duration = std::time::Duration::from_secs(1);
/// Records of a trace that is read: 96 MiB of file.
pub const MAX_TRACE_RECORDS: usize = 4 << 20;

/// Records of one recording: 24 MiB of memory. Neighbours are one record, so that is hours of a busy image.
pub const MAX_RECORDED: usize = 1 << 20;

/// Bytes of one record that is written: upstream's readers have a buffer of this size and do not check.
pub const MAX_RECORD_BYTES: u64 = 1 << 20;

/// Bytes of a layer of which is recorded what is read: the table of a larger one would be too large.
pub const MAX_TRACED_BYTES: u64 = 4 << 40;

/// Fetches that one trace may amount to: 1 TiB.
pub const MAX_PREFETCH_PIECES: usize = 1 << 20;

/// Bytes fetched ahead of one sequential reader, half of them by one request: what a line of 10 Gbit/s carries in
/// 25 ms, and enough for the cost of a request not to count.
pub const MAX_READAHEAD_BYTES: u64 = 32 << 20;

/// Fetches for sequential readers of one cache at a time.
pub const READAHEAD_THREADS: usize = 8;

/// Time that a fetch made in advance lets urgent ones pass: short, since what it brings is wanted soon.
pub const MAX_PREFETCH_YIELD: std::time::Duration = std::time::Duration::from_millis(100);

/// Threads that fetch in advance for one image.
pub const MAX_PREFETCH_THREADS: usize = 64;

/// Pieces found but not fetched yet: whoever looks for more waits.
pub const MAX_PREFETCH_QUEUE: usize = 4096;

/// Content of one directory inside an image: a million short names.
pub const MAX_DIR_BYTES: u64 = 64 << 20;

/// Extents of one file inside an image (upstream's number too).
pub const MAX_FILE_EXTENTS: usize = 8192;

/// Units that a blob which is read sparingly keeps in memory: 16 MiB.
pub const MAX_SPARING_UNITS: usize = 512;

/// Pages of metadata that are kept of a file system being read: 16 MiB.
pub const MAX_FS_PAGES: usize = 4096;

/// Attributes of one file inside an image, with their names: what the kernel lets `listxattr` and all values fill.
pub const MAX_XATTR_BYTES: usize = 1 << 20;

/// Partitions of one disk: those of the usual GPT, four times over.
pub const MAX_PARTITIONS: usize = 512;

/// Symbolic links on the way to one file, as in the kernel.
pub const MAX_LINKS: usize = 40;

/// Parts of one path, those of the links on its way included.
pub const MAX_PATH_PARTS: usize = 8192;

/// Entries looked at for one list of paths.
pub const MAX_LISTED_ENTRIES: usize = 4 << 20;

/// Lines of a list of paths that are passed over and said one by one.
pub const MAX_LIST_NOTES: usize = 20;

/// Threads that open the layers of one image: opening waits for the network, not for the processor.
pub const OPEN_THREADS: usize = 32;

/// Largest read, write and read-ahead asked of the kernel over FUSE: its own limit with 4 KiB pages.
pub const FUSE_MAX_IO: u32 = 1 << 20;

/// Read-ahead and asynchronous requests that the kernel may have under way over FUSE.
pub const FUSE_MAX_BACKGROUND: u16 = 128;

/// Slow requests of one file that may wait for a worker; beyond that no request of the mount is taken.
pub const FUSE_MAX_QUEUE: usize = 4096;

/// Threads that take FUSE requests.
pub const FUSE_MAX_THREADS: usize = 4;

/// Commands of one TCMU device that may wait for a worker; beyond that none is taken from its ring.
pub const TCMU_MAX_QUEUE: usize = 4096;

/// Largest transfer that a TCMU device asks initiators for: more brings no speed, and keeps others waiting.
pub const TCMU_MAX_TRANSFER_BYTES: usize = 1 << 20;

/// Bytes that one UNMAP may discard: holes in the file of a sparse layer take time.
pub const TCMU_MAX_UNMAP_BYTES: u64 = 1 << 30;

/// Ranges of one UNMAP: initiators use one; the list fits a page.
pub const TCMU_MAX_UNMAP_RANGES: usize = 64;

/// Bytes that one GET LBA STATUS looks at: initiators ask again from where it ended.
pub const TCMU_MAX_STATUS_BYTES: u64 = 1 << 30;

/// Runs that one GET LBA STATUS tells of: the answer fits four pages.
pub const TCMU_MAX_STATUS_RUNS: usize = 1000;

/// Bytes that one WRITE SAME may write: some tens of milliseconds.
pub const TCMU_MAX_WRITE_SAME_BYTES: u64 = 32 << 20;

/// Characters of a serial number: the designator around it has a length of 8 bits.
pub const TCMU_MAX_SERIAL: usize = 128;

/// Characters of a device's name that initiators are told, likewise.
pub const TCMU_MAX_NAME: usize = 240;

/// Memory that a TCMU device shares with the kernel: its largest ring and data area.
pub const TCMU_MAX_REGION_BYTES: u64 = 8 << 30;

/// Hardware queues that a ublk device gets at most unless asked otherwise: each has a thread, and memory.
pub const UBLK_QUEUES: usize = 4;

/// Hardware queues that a ublk device can have.
pub const UBLK_MAX_QUEUES: usize = 64;

/// Requests of one queue of a ublk device unless asked otherwise.
pub const UBLK_DEPTH: usize = 128;

/// Requests that one queue of a ublk device can have.
pub const UBLK_MAX_DEPTH: usize = 1024;

/// Largest request that a ublk device asks the kernel for; each has a buffer of that size, of which is used what is
/// needed.
pub const UBLK_IO_BYTES: u32 = 512 << 10;

/// Largest request of a ublk device that is served, whoever made it: the kernel has no larger ones.
pub const UBLK_MAX_IO_BYTES: usize = 32 << 20;

/// Bytes that one request to a ublk device may discard: holes in the file of a sparse layer take time.
pub const UBLK_MAX_DISCARD_BYTES: u64 = 1 << 30;

/// Bytes that one request to a ublk device may write zeros to: some tens of milliseconds.
pub const UBLK_MAX_ZERO_BYTES: u64 = 32 << 20;

/// Kernel contexts that threads hold for reading local files: AIO contexts are scarce on the whole machine
/// (`fs.aio-max-nr`, of which each takes many times the processors). Further threads read without.
pub const MAX_ENGINE_CONTEXTS: usize = 64;

/// Page-aligned memory that a thread keeps for direct reads: what is read at a time of larger ranges.
pub const MAX_BOUNCE_BYTES: usize = 512 << 10;

/// Events that wait for the audit log: what the fastest network brings in a second, in a few MiB.
pub const MAX_AUDIT_EVENTS: usize = 16 << 10;

/// Pages of metadata that are kept of an ext4 file system being written: 32 MiB.
pub const MAX_EXT4_PAGES: usize = 8192;

/// Groups of an ext4 file system being written, each of which takes memory: 64 TiB of them, as they usually are.
pub const MAX_EXT4_GROUPS: u64 = 1 << 19;

/// Names in directories that are kept of an ext4 file system being written: some 60 MiB.
pub const MAX_EXT4_ENTRIES: usize = 1 << 19;

/// Longest path of a member of an archive: that of the kernel, many times over.
pub const MAX_PATH_BYTES: usize = 64 << 10;

/// Names that are looked at while a layer removes what it hides or replaces: each goes but once, but what the layer has
/// itself stays and is looked at again. Some minutes' work at most.
pub const MAX_APPLY_LISTED: u64 = 1 << 27;

/// Things passed over while a layer is applied that are said one by one.
pub const MAX_APPLY_NOTES: usize = 20;

/// Sizes of clusters of a qcow2 image, as powers of two: those of QEMU.
pub const QCOW2_CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// Disk in a qcow2 image: as much as an ext4 file system is written to.
pub const MAX_QCOW2_BYTES: u64 = 1 << 46;

/// First table of a qcow2 image, which is in memory: that of QEMU.
pub const MAX_QCOW2_L1_BYTES: u64 = 32 << 20;

/// Second tables of a qcow2 image that are kept in memory, and as much again of decoded clusters; one of each at
/// least, which is up to 2 MiB.
pub const MAX_QCOW2_KEPT_BYTES: u64 = 4 << 20;

/// Files that a layer on an EROFS adds or changes: some 500 MiB of memory, and what follows.
pub const MAX_EROFS_FILES: usize = 4 << 20;

/// Bytes of memory for attributes and targets of symbolic links that a layer on an EROFS adds or changes.
pub const MAX_EROFS_HELD_BYTES: usize = 512 << 20;

/// Names in directories of an EROFS that a layer changes, or that are kept: some 600 MiB.
pub const MAX_EROFS_ENTRIES: usize = 8 << 20;
