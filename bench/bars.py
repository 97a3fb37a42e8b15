"""What every benchmark must reach: one table, one line for each promise about speed and memory."""

from typing import NamedTuple

MIB = 1 << 20


class Bar(NamedTuple):
    """The bar of one measurement: its `ratio` to the peer or its `value`, at least or at most `limit`."""

    of: str
    sense: str
    limit: float

    def met(self, value: float | None, ratio: float | None) -> bool | None:
        """Whether a measurement reaches the bar; None if this machine cannot measure it."""
        number = value if self.of == "value" else ratio
        if number is None:
            return None
        return number >= self.limit if self.sense == ">=" else number <= self.limit

    def __str__(self) -> str:
        return f"{self.sense} {self.limit:g}{' x' if self.of == 'ratio' else ''}"


def at_least(ratio: float) -> Bar:
    """The ratio to the peer, both as speeds (bigger is better)."""
    return Bar("ratio", ">=", ratio)


def at_most(ratio: float) -> Bar:
    """The ratio to the peer, both as times or sizes (smaller is better)."""
    return Bar("ratio", "<=", ratio)


def value_at_most(value: float) -> Bar:
    """The value itself, in the unit of the measurement."""
    return Bar("value", "<=", value)


# Benchmark (what `make bench ONLY=` takes) -> measurement -> bar.
BARS: dict[str, dict[str, Bar]] = {
    # Peers: the bare codec with CRC32C over the same blocks and threads; for `scale` one thread of our own.
    "zfile": {
        "zfile.build.lz4": at_least(0.85),
        "zfile.build.zstd": at_least(0.85),
        "zfile.scale.lz4": at_least(1.8),
        "zfile.scale.zstd": at_least(1.8),
        "zfile.decode.lz4": at_least(0.9),
        "zfile.decode.zstd": at_least(0.9),
        "zfile.random.lz4": at_least(0.7),
        "zfile.random.zstd": at_least(0.7),
        "zfile.random_scale.lz4": at_least(1.6),
    },
    # No peer: upstream waits for all of its disk. Milliseconds.
    "live": {
        "live.snapshot_log_longest_write": value_at_most(100),
        "live.snapshot_sparse_longest_write": value_at_most(100),
    },
    # Peer: a plain binary search over the same segments.
    "index": {
        "index.lookup.10k.avx512": at_least(12),
        "index.lookup.10k.scalar": at_least(3),
        "index.lookup.1m.avx512": at_least(8),
        "index.lookup.1m.scalar": at_least(2.5),
        "index.bytes_per_segment": value_at_most(16 * 1.15),
        "index.open_100x1000_ms": value_at_most(50),
    },
    # Peer: `cp` of the same bytes.
    "lsmt": {
        "lsmt.commit": at_least(0.8),
        "lsmt.merge": at_least(0.8),
        "lsmt.open_100_files_ms": value_at_most(50),
        "lsmt.bytes_per_segment": value_at_most(16 * 1.15),
        "lsmt.idle_image_bytes": value_at_most(MIB),
    },
    # Peers: qemu-nbd serving the same content as raw, or as compressed qcow2; writes: into qcow2.
    "nbd": {
        "nbd.randread_qd1.raw": at_least(1.0),
        "nbd.randread_qd32.raw": at_least(1.0),
        "nbd.seqread_1m.raw": at_least(1.0),
        "nbd.randread_qd1.qcow2": at_least(4.0),
        "nbd.randread_qd32.qcow2": at_least(4.0),
        "nbd.seqread_1m.qcow2": at_least(4.0),
        "nbd.randwrite.qcow2": at_least(1.0),
    },
    # Peer: pread of the same file; for `default` the engine that is the fastest here.
    "engine": {
        "engine.default": at_least(0.95),
    },
    # Peer: the same read of a layer file that nobody counts.
    "metrics": {
        "metrics.hit": at_most(1.02),
    },
    # Peer: the same reads of the same image, compressed or not, without a recording.
    "trace": {
        "trace.record_cost": at_most(1.02),
        "trace.record_cost_plain": at_most(1.02),
    },
    # Peer: curl -o /dev/null of the same URL.
    "fetch": {
        "fetch.cold_sequential": at_least(0.8),
        "fetch.requests_per_cold_read": value_at_most(1),
    },
    # A server 20 ms away. Peers: what the delay alone takes; the same reader without readahead.
    "latency": {
        "latency.cold_random_32": at_most(1.15),
        "latency.crowd_requests": value_at_most(1),
        "latency.sequential": at_least(5),
    },
    # Peer: as many curls at once as there are layers, writing files.
    "pull": {
        "pull.full": at_least(0.9),
    },
    # No peer. MiB.
    "cat": {
        "cat.fetched": value_at_most(2),
    },
    # Peer: random 4 KiB reads of the same bytes in a local file.
    "cache": {
        "cache.hit_4k": at_most(1.10),
        "cache.open_1m_chunks_s": value_at_most(1),
        "cache.bytes_per_chunk": value_at_most(32),
    },
    # Peer: the same reads of the same blob with `verifyChunks` off.
    "merkle": {
        "merkle.warm_4k": at_least(0.87),
        "merkle.warm_1m": at_least(0.87),
    },
    # Peer: `tar x` of the same archive onto ext4 on a loop device, with a sync.
    "apply": {
        "apply.speed": at_least(1.0),
        "apply.memory": value_at_most(200),
    },
    # Peers: pull, create, apply, commit and push one after another; what LZ4 makes of the archives by blocks;
    # the original layers, compressed with gzip.
    "convert": {
        "convert.whole": at_most(0.7),
        "convert.memory": value_at_most(256),
        "convert.again": value_at_most(1),
        "convert.again_moved": value_at_most(0),
        "convert.size": at_most(1.05),
        "convert.turbo_metadata": at_most(0.05),
    },
    # Peer: the same interpreter doing nothing.
    "start": {
        "start.create": at_most(3),
        "start.commit": at_most(3),
    },
    # Peer: containerd's own overlayfs, with a full pull where it is cold; of `together` the median.
    "containerd": {
        "containerd.cold_start": at_most(0.35),
        "containerd.cold_bytes": at_most(0.2),
        "containerd.traced_start": at_most(0.7),
        "containerd.warm_start": at_most(1.1),
        "containerd.call_p99_ms": value_at_most(50),
        "containerd.together_slowest": at_most(3),
    },
}
