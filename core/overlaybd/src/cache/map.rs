//! The side file of a blob: which chunks are in the media file, and their checksums ("cache: Map").

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits::{CACHE_CHUNK_BYTES, MAX_BLOB_BYTES, MAX_CACHE_CHUNKS};
use crate::sys::{write_all, File};

const MAGIC: [u8; 8] = *b"OBDCACHE";
const VERSION: u32 = 1;
/// Records start on a page of their own, so that none lies across two pages.
const RECORDS_AT: u64 = 4096;
const RECORD: usize = 8;
/// Where the header keeps when the blob was last used.
const TICK_AT: u64 = 28;
/// Bytes of records read at a time.
const PIECE: usize = 1 << 20;

/// Geometry of a blob in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of a chunk, a power of two.
    pub chunk: u32,
    /// Bytes of the blob.
    pub len: u64,
}

impl Shape {
    /// None for an empty blob, or one of too many chunks.
    pub fn new(chunk: u32, len: u64) -> Option<Self> {
        let shape = Shape { chunk, len };
        let sane = chunk.is_power_of_two() && CACHE_CHUNK_BYTES.contains(&chunk) && (1..=MAX_BLOB_BYTES).contains(&len);
        (sane && len.div_ceil(u64::from(chunk)) <= MAX_CACHE_CHUNKS).then_some(shape)
    }

    /// Number of chunks.
    pub fn chunks(self) -> usize {
        self.len.div_ceil(u64::from(self.chunk)) as usize
    }

    /// The chunk that holds a byte.
    pub fn chunk_of(self, offset: u64) -> usize {
        (offset / u64::from(self.chunk)) as usize
    }

    /// Where a chunk begins; the length of the blob for the one behind the last.
    pub fn start(self, chunk: usize) -> u64 {
        (chunk as u64 * u64::from(self.chunk)).min(self.len)
    }

    /// Bytes of the chunks `first..end`.
    pub fn bytes(self, first: usize, end: usize) -> usize {
        (self.start(end) - self.start(first)) as usize
    }
}

/// An open side file.
#[derive(Debug)]
pub(super) struct Map {
    file: Arc<dyn File>,
    shape: Shape,
}

impl Map {
    /// The shape and last use that a file records for `digest`; None if it is not a valid map of that blob.
    ///
    /// Errors: those of the disk, which say nothing about the map.
    pub fn probe(file: &dyn File, digest: &str) -> Result<Option<(Shape, u32)>> {
        let mut head = [0; 32];
        let got = read_up_to(file, &mut head, 0).map_err(|e| Error::io("read map", e).in_file(file.path()))?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let sum = head_sum(&head[..24], digest);
        if got < head.len() || head[..8] != MAGIC || word(8) != VERSION || word(24) != sum {
            return Ok(None);
        }
        let len = u64::from(word(16)) | u64::from(word(20)) << 32;
        Ok(Shape::new(word(12), len).map(|shape| (shape, word(TICK_AT as usize))))
    }

    /// Uses a file that [`Map::probe`] accepted.
    pub fn existing(file: Arc<dyn File>, shape: Shape) -> Self {
        Map { file, shape }
    }

    /// Makes a file an empty map, whatever it was before.
    pub fn create(file: Arc<dyn File>, digest: &str, shape: Shape) -> Result<Self> {
        let fail = |e| Error::io("make map", e).in_file(file.path());
        file.set_len(0).map_err(fail)?;
        file.set_len(RECORDS_AT + (shape.chunks() * RECORD) as u64).map_err(fail)?;
        let mut head = [0; 32];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&shape.chunk.to_le_bytes());
        head[16..24].copy_from_slice(&shape.len.to_le_bytes());
        let sum = head_sum(&head[..24], digest);
        head[24..28].copy_from_slice(&sum.to_le_bytes());
        write_all(&*file, &head, 0)?;
        Ok(Map { file, shape })
    }

    /// Makes it no map any more: who opens the blob next makes a new one.
    pub fn spoil(&self) {
        // If this fails, nothing is worse than before.
        let _ = write_all(&*self.file, &[0; MAGIC.len()], 0);
    }

    /// Notes when the blob was last used.
    pub fn set_tick(&self, tick: u32) -> Result<()> {
        write_all(&*self.file, &tick.to_le_bytes(), TICK_AT)
    }

    /// Bytes that the file takes on disk.
    pub fn allocated_bytes(&self) -> u64 {
        self.file.allocated_bytes().unwrap_or(0)
    }

    /// Calls `each` with index and checksum of every chunk in `first..end` that the file has. What cannot
    /// be read (a file cut short) is not there.
    pub fn load(&self, first: usize, end: usize, each: &mut dyn FnMut(usize, u32)) {
        let mut buf = vec![0; PIECE.min((end - first) * RECORD)];
        let mut chunk = first;
        while chunk < end {
            let want = buf.len().min((end - chunk) * RECORD);
            let at = RECORDS_AT + (chunk * RECORD) as u64;
            let Ok(got) = read_up_to(&*self.file, &mut buf[..want], at) else { return };
            for record in buf[..got].chunks_exact(RECORD) {
                let crc = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
                let tag = u32::from_le_bytes([record[4], record[5], record[6], record[7]]);
                if tag != 0 && tag == self.tag(chunk, crc) {
                    each(chunk, crc);
                }
                chunk += 1;
            }
            if got < want {
                return;
            }
        }
    }

    /// Records the chunks from `first` on as present. Their data must have been written before.
    pub fn record(&self, first: usize, crcs: &[u32]) -> Result<()> {
        let mut buf = Vec::with_capacity(crcs.len() * RECORD);
        for (i, &crc) in crcs.iter().enumerate() {
            buf.extend_from_slice(&crc.to_le_bytes());
            buf.extend_from_slice(&self.tag(first + i, crc).to_le_bytes());
        }
        write_all(&*self.file, &buf, RECORDS_AT + (first * RECORD) as u64)
    }

    /// Records the chunks `first..end` as absent.
    pub fn erase(&self, first: usize, end: usize) -> Result<()> {
        let zeros = [0; 4096];
        let (mut at, end) = (RECORDS_AT + (first * RECORD) as u64, RECORDS_AT + (end * RECORD) as u64);
        while at < end {
            let n = (end - at).min(zeros.len() as u64) as usize;
            write_all(&*self.file, &zeros[..n], at)?;
            at += n as u64;
        }
        Ok(())
    }

    /// Ties a record to its place and its meaning; 0 is no tag.
    fn tag(&self, chunk: usize, crc: u32) -> u32 {
        let mut text = [0; 16];
        text[..8].copy_from_slice(&(chunk as u64).to_le_bytes());
        text[8..12].copy_from_slice(&self.shape.chunk.to_le_bytes());
        text[12..].copy_from_slice(&crc.to_le_bytes());
        checksum(&text).max(1)
    }
}

fn head_sum(head: &[u8], digest: &str) -> u32 {
    checksum(&[head, digest.as_bytes()].concat())
}

/// CRC-32C.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn read_up_to(file: &dyn File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
