//! The header of a qcow2 file: what it says, checked before anything depends on it.

use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_QCOW2_BYTES, MAX_QCOW2_L1_BYTES, QCOW2_CLUSTER_BITS, SECTOR};

/// How such a file begins.
pub const MAGIC: &[u8; 4] = b"QFI\xFB";
/// Bytes of a header that mean something here; a file that has fewer may still have the 72 of version 2.
pub const HEADER_BYTES: usize = 112;

const V2_BYTES: usize = 72;
const V3_BYTES: u32 = 104;
/// Bits of the incompatible features.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// That reference counts may be wrong; they are not used for reading.
const DIRTY: u64 = 1 << 0;
/// Smallest clusters that can have parts.
const MIN_EXTENDED_BITS: u32 = 14;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Deflate without any wrapping.
    Zlib,
    /// One zstd frame for a cluster.
    Zstd,
}

/// A header that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Clusters are 2 to the power of this.
    pub cluster_bits: u32,
    /// Bytes of the disk, rounded up to whole sectors.
    pub size: u64,
    /// Entries of the first table that the disk needs; there may be more of them.
    pub l1_entries: usize,
    /// Where the first table is.
    pub l1_offset: u64,
    /// How clusters are compressed.
    pub compression: Compression,
    /// Whether clusters have 32 parts each, allocated by themselves.
    pub extended: bool,
    /// Whether unallocated clusters are those of another file.
    pub backed: bool,
}

impl Header {
    /// Parses the first bytes of a file of `file_len` bytes: [`HEADER_BYTES`] of them, or all that there are.
    ///
    /// # Errors
    /// `Unsupported` for what is no qcow2, and for features that change what is where; `Corrupt`; `Limit`.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Header> {
        if bytes.len() < V2_BYTES {
            return Err(Error::corrupt("a qcow2 file that ends within its header"));
        }
        if bytes[..4] != *MAGIC {
            return Err(Error::new(Kind::Unsupported, "not a qcow2 file"));
        }
        let version = u32_at(bytes, 4);
        if !(2..=3).contains(&version) {
            return Err(Error::new(Kind::Unsupported, format!("version {version} of qcow2; 2 and 3 are read")));
        }
        let cluster_bits = u32_at(bytes, 20);
        if !QCOW2_CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Error::new(Kind::Unsupported, format!("clusters of 2^{cluster_bits} bytes in a qcow2 file")));
        }
        if u32_at(bytes, 32) != 0 {
            let what = "an encrypted qcow2 image: `qemu-img convert` with its key makes one that can be read";
            return Err(Error::new(Kind::Unsupported, what));
        }
        let (compression, extended) = if version == 2 { (Compression::Zlib, false) } else { features(bytes)? };
        if extended && cluster_bits < MIN_EXTENDED_BITS {
            return Err(Error::corrupt(format!("clusters of 2^{cluster_bits} bytes are too small to have parts")));
        }
        let size = u64_at(bytes, 24);
        if size == 0 || size > MAX_QCOW2_BYTES {
            let what = format!("a qcow2 disk of {size} bytes; from 1 to {MAX_QCOW2_BYTES} are read");
            return Err(Error::new(Kind::Limit, what));
        }
        let size = size.next_multiple_of(SECTOR);
        let header = Header {
            version,
            cluster_bits,
            size,
            l1_entries: 0,
            l1_offset: u64_at(bytes, 40),
            compression,
            extended,
            backed: u64_at(bytes, 8) != 0,
        };
        let needed = size.div_ceil(header.table_covers());
        if needed > MAX_QCOW2_L1_BYTES / 8 {
            return Err(Error::new(Kind::Limit, format!("a first table of {needed} entries in a qcow2 file")));
        }
        let inside = header.l1_offset.checked_add(needed * 8).is_some_and(|end| end <= file_len);
        let entries = u64::from(u32_at(bytes, 36));
        if entries < needed || !inside || !header.l1_offset.is_multiple_of(header.cluster_bytes()) {
            let what = format!(
                "a first table of {entries} entries at {}, of which {needed} are needed, in a qcow2 file of {file_len} \
                 bytes",
                header.l1_offset
            );
            return Err(Error::corrupt(what));
        }
        Ok(Header { l1_entries: needed as usize, ..header })
    }

    /// Bytes of a cluster, of the disk and of the file.
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of a second table, which fills a cluster.
    pub fn table_entries(&self) -> usize {
        (self.cluster_bytes() / if self.extended { 16 } else { 8 }) as usize
    }

    /// Bytes of the disk that one second table is about.
    pub fn table_covers(&self) -> u64 {
        self.table_entries() as u64 * self.cluster_bytes()
    }
}

/// What version 3 says besides.
fn features(bytes: &[u8]) -> Result<(Compression, bool)> {
    if bytes.len() < V3_BYTES as usize {
        return Err(Error::corrupt("a qcow2 file that ends within its header"));
    }
    let incompatible = u64_at(bytes, 72);
    if incompatible & CORRUPT != 0 {
        let what = "marked as corrupt by who wrote it: `qemu-img check -r all` may repair it";
        return Err(Error::corrupt(what));
    }
    if incompatible & EXTERNAL_DATA != 0 {
        let what =
            "a qcow2 image whose data is in another file, which is not opened: `qemu-img convert -O qcow2` makes \
                    one file of both";
        return Err(Error::new(Kind::Unsupported, what));
    }
    let unknown = incompatible & !(DIRTY | COMPRESSION | EXTENDED_L2);
    if unknown != 0 {
        return Err(Error::new(Kind::Unsupported, format!("a qcow2 image with the unknown features {unknown:#x}")));
    }
    let header_bytes = u32_at(bytes, 100);
    if header_bytes < V3_BYTES || !header_bytes.is_multiple_of(8) {
        return Err(Error::corrupt(format!("a qcow2 header of {header_bytes} bytes")));
    }
    let method = if header_bytes > V3_BYTES { bytes.get(104).copied().unwrap_or(0) } else { 0 };
    if (incompatible & COMPRESSION != 0) != (method != 0) {
        return Err(Error::corrupt(format!("a qcow2 header that contradicts itself: compression {method}")));
    }
    let compression = match method {
        0 => Compression::Zlib,
        1 => Compression::Zstd,
        _ => return Err(Error::new(Kind::Unsupported, format!("compression {method} in a qcow2 image"))),
    };
    Ok((compression, incompatible & EXTENDED_L2 != 0))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}
