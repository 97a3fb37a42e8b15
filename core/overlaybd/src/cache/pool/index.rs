//! The side file of a pool: which line of which blob each slot holds, and its checksum ("cache: Pool").

use std::sync::Arc;

use crate::cache::map::checksum;
use crate::error::{Error, Result};
use crate::limits::{CACHE_CHUNK_BYTES, MAX_CACHE_CHUNKS};
use crate::sys::{write_all, File};

const MAGIC: [u8; 8] = *b"OBDPOOL1";
/// Records start on a page of their own.
const RECORDS_AT: u64 = 4096;
const RECORD: usize = 32;
const HEADER: usize = 24;
/// Where a record keeps when the line was last used.
const TICK_AT: u64 = 28;
/// Bytes of records read at a time.
const PIECE: usize = 1 << 20;

/// Names a blob.
pub type Key = [u8; 16];

/// What a slot holds.
pub struct Record {
    pub key: Key,
    /// Line of the blob.
    pub number: u32,
    /// Checksum of its bytes.
    pub crc: u32,
    /// Last use.
    pub tick: u32,
}

/// The open side file.
pub struct Index {
    file: Arc<dyn File>,
    /// Bytes of a line.
    pub line: u32,
    /// How many there are.
    pub lines: usize,
}

impl Index {
    /// The index in a file; None if it is not a valid one.
    pub fn probe(file: Arc<dyn File>) -> Option<Self> {
        let mut head = [0; HEADER];
        let mut at = 0;
        while at < head.len() {
            at += file.read_at(&mut head[at..], at as u64).ok().filter(|n| *n > 0)?;
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (line, lines) = (word(8), u64::from(word(12)));
        let sane =
            line.is_power_of_two() && CACHE_CHUNK_BYTES.contains(&line) && (1..=MAX_CACHE_CHUNKS).contains(&lines);
        (sane && head[..8] == MAGIC && word(16) == checksum(&head[..16])).then(|| Index {
            file,
            line,
            lines: lines as usize,
        })
    }

    /// Makes a file an empty index.
    pub fn create(file: Arc<dyn File>, line: u32, lines: usize) -> Result<Self> {
        let fail = |e| Error::io("make index", e).in_file(file.path());
        file.set_len(0).map_err(fail)?;
        file.set_len(RECORDS_AT + (lines * RECORD) as u64).map_err(fail)?;
        let mut head = [0; HEADER];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&line.to_le_bytes());
        head[12..16].copy_from_slice(&(lines as u32).to_le_bytes());
        let sum = checksum(&head[..16]);
        head[16..20].copy_from_slice(&sum.to_le_bytes());
        write_all(&*file, &head, 0)?;
        Ok(Index { file, line, lines })
    }

    /// Calls `each` with every valid record.
    ///
    /// Errors: those of the disk; what is missing of a file cut short is not there.
    pub fn load(&self, each: &mut dyn FnMut(usize, Record)) -> Result<()> {
        let mut buf = vec![0; PIECE];
        for first in (0..self.lines).step_by(PIECE / RECORD) {
            let want = (self.lines - first).min(PIECE / RECORD) * RECORD;
            let mut got = 0;
            while got < want {
                let at = RECORDS_AT + (first * RECORD + got) as u64;
                match self.file.read_at(&mut buf[got..want], at) {
                    Ok(0) => break,
                    Ok(n) => got += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Error::io("read", e).in_file(self.file.path()).at(at)),
                }
            }
            for (i, bytes) in buf[..got].chunks_exact(RECORD).enumerate() {
                let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
                if word(24) != 0 && word(24) == self.tag(first + i, &bytes[..24]) {
                    let mut key = Key::default();
                    key.copy_from_slice(&bytes[..16]);
                    each(first + i, Record { key, number: word(16), crc: word(20), tick: word(28) });
                }
            }
        }
        Ok(())
    }

    /// Records what a slot holds. Its data must have been written before.
    pub fn record(&self, slot: usize, record: &Record) -> Result<()> {
        let mut bytes = [0; RECORD];
        bytes[..16].copy_from_slice(&record.key);
        bytes[16..20].copy_from_slice(&record.number.to_le_bytes());
        bytes[20..24].copy_from_slice(&record.crc.to_le_bytes());
        let tag = self.tag(slot, &bytes[..24]);
        bytes[24..28].copy_from_slice(&tag.to_le_bytes());
        bytes[28..].copy_from_slice(&record.tick.to_le_bytes());
        write_all(&*self.file, &bytes, place(slot))
    }

    /// Records that a slot holds nothing.
    pub fn erase(&self, slot: usize) -> Result<()> {
        write_all(&*self.file, &[0; RECORD], place(slot))
    }

    /// Notes when a slot was last used.
    pub fn set_tick(&self, slot: usize, tick: u32) -> Result<()> {
        write_all(&*self.file, &tick.to_le_bytes(), place(slot) + TICK_AT)
    }

    /// Ties a record to its place and its meaning; 0 is no tag.
    fn tag(&self, slot: usize, record: &[u8]) -> u32 {
        let text = [&(slot as u64).to_le_bytes()[..], &self.line.to_le_bytes(), record].concat();
        checksum(&text).max(1)
    }
}

fn place(slot: usize) -> u64 {
    RECORDS_AT + (slot * RECORD) as u64
}
