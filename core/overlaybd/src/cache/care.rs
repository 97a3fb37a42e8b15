//! Looking after a cache directory, beside the processes that use it: what is there, whether it is right, out with it.

use std::path::PathBuf;
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use super::map::{checksum, Map, Shape};
use super::media::read_full;
use super::open::{set_lock, Place};
use super::{import, is_digest, ChunkCache, Shared};
use crate::error::{Error, Kind, Result};
use crate::sys::{File, Mode};

/// What the cache has of a blob.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its digest.
    pub digest: String,
    /// Length of the blob in bytes; 0 if no map tells.
    pub len: u64,
    /// Size of a chunk in bytes; 0 if no map tells.
    pub chunk_bytes: u32,
    /// Chunks that the blob has, and that are recorded.
    pub chunks: usize,
    /// Chunks that are recorded.
    pub present: usize,
    /// Bytes that its files take on disk.
    pub bytes: u64,
    /// Last use, as a number that is larger the later it was.
    pub tick: u32,
    /// Never evicted.
    pub pinned: bool,
    /// Open in a process.
    pub in_use: bool,
}

/// What a check of a blob found.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// Chunks that were read and compared with their checksums.
    pub checked: usize,
    /// Those that were wrong.
    pub bad: Vec<usize>,
    /// Whether the whole blob has its digest; None if chunks are missing or wrong, or the digest is no SHA-256.
    pub digest_matches: Option<bool>,
    /// Another process has it open: what that one checked before it goes on to use until it ends.
    pub in_use: bool,
}

impl Check {
    /// Whether nothing was found wrong.
    pub fn is_right(&self) -> bool {
        self.bad.is_empty() && self.digest_matches != Some(false)
    }
}

impl ChunkCache {
    /// The blobs in the directory.
    ///
    /// Errors: those of the disk.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let shared = &self.shared;
        let mut entries = Vec::new();
        for found in shared.scan()? {
            let mut entry = Entry {
                len: 0,
                chunk_bytes: 0,
                chunks: 0,
                present: 0,
                bytes: found.bytes,
                tick: found.tick.unwrap_or(0),
                pinned: shared.is_pinned(&found.digest)?,
                in_use: shared.in_use(&found.digest),
                digest: found.digest,
            };
            if let Ok(file) = shared.disk.open(&shared.map_path(&entry.digest), Mode::Read) {
                if let Ok(Some((shape, _))) = Map::probe(&*file, &entry.digest) {
                    (entry.len, entry.chunk_bytes, entry.chunks) = (shape.len, shape.chunk, shape.chunks());
                    Map::existing(file, shape).load(0, shape.chunks(), &mut |_, _| entry.present += 1);
                }
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Reads every recorded chunk of a blob and compares it with its checksum, and all of it with the digest if all
    /// of it is there. With `repair` what is wrong is dropped, to be fetched again.
    ///
    /// Errors: `NotFound` if the cache does not have it; `Busy` if it is locked for a moment; those of the disk.
    pub fn check(&self, digest: &str, repair: bool) -> Result<Check> {
        let shared = &self.shared;
        let (media, map, shape) = shared.open_for_care(digest)?;
        // Not exclusively while all of it is read: whoever opens it meanwhile would have to do without the cache.
        if !set_lock(&*media, false)? {
            return Err(Error::new(Kind::Busy, "another process makes room in it just now").in_file(media.path()));
        }
        let mut recorded = Vec::new();
        map.load(0, shape.chunks(), &mut |chunk, crc| recorded.push((chunk, crc)));
        let mut check = Check { checked: recorded.len(), ..Check::default() };
        let whole = import::hex_of(digest).filter(|_| recorded.len() == shape.chunks());
        let (mut sha256, mut buf) = (Context::new(&SHA256), vec![0; shape.chunk as usize]);
        for (chunk, crc) in &recorded {
            let bytes = &mut buf[..shape.bytes(*chunk, chunk + 1)];
            if read_full(&*media, bytes, shape.start(*chunk)).is_err() || checksum(bytes) != *crc {
                check.bad.push(*chunk);
            } else if whole.is_some() {
                sha256.update(bytes);
            }
        }
        if let Some(hex) = whole.filter(|_| check.bad.is_empty()) {
            check.digest_matches = Some(import::to_hex(sha256) == hex);
        }
        let alone = set_lock(&*media, true)?;
        check.in_use = !alone;
        if repair && check.digest_matches == Some(false) {
            // Its checksums are right, so it came like that: all of it is in doubt.
            drop_chunks(&*media, &map, shape, 0..shape.chunks(), alone)?;
        }
        for &chunk in check.bad.iter().filter(|_| repair) {
            drop_chunks(&*media, &map, shape, chunk..chunk + 1, alone)?;
        }
        Ok(check)
    }

    /// Removes a blob, whatever its last use; the bytes that this freed, None if a process has it open.
    ///
    /// Errors: `NotFound`; `Busy` for a pinned one; those of the disk.
    pub fn evict(&self, digest: &str) -> Result<Option<u64>> {
        let shared = &self.shared;
        shared.name(digest)?;
        if shared.is_pinned(digest)? {
            return Err(Error::new(Kind::Busy, "it is pinned").in_file(digest));
        }
        let cell = shared.cell(Place { digest, layer: None, tree: None });
        let Some(cell) = cell.try_lock().filter(|cell| cell.strong_count() == 0) else { return Ok(None) };
        let media = shared.disk.open(&shared.media_path(digest), Mode::Write)?;
        let map = shared.disk.open(&shared.map_path(digest), Mode::Read).ok();
        let bytes = [Some(&media), map.as_ref()].into_iter().flatten().map(|file| file.allocated_bytes().unwrap_or(0));
        let bytes = bytes.sum();
        let removed = shared.remove(digest, &*media)?;
        drop(cell);
        Ok(removed.then_some(bytes))
    }

    /// Makes room until the directory takes at most `bytes`, oldest last use first; the bytes that it takes then,
    /// which are more if processes have blobs open or blobs are pinned.
    ///
    /// Errors: those of the disk.
    pub fn shrink(&self, bytes: u64) -> Result<u64> {
        self.shared.make_room(|shared| shared.space.used().saturating_sub(bytes));
        self.shared.scan()?;
        Ok(self.used_bytes())
    }

    /// Pins a blob, there or not, so that no process evicts it, or unpins it. Whether that changed anything.
    ///
    /// Errors: `Invalid` for a bad digest; those of the disk.
    pub fn pin(&self, digest: &str, pinned: bool) -> Result<bool> {
        let shared = &self.shared;
        shared.name(digest)?;
        let before = shared.is_pinned(digest)?;
        match (before, pinned) {
            (false, true) => drop(shared.disk.open(&shared.pin_path(digest), Mode::Create)?),
            (true, false) => shared.disk.remove(&shared.pin_path(digest))?,
            _ => {}
        }
        Ok(before != pinned)
    }
}

impl Shared {
    /// The empty file whose presence pins a blob.
    fn pin_path(&self, digest: &str) -> PathBuf {
        self.options.directory.join(format!("{digest}.pin"))
    }

    pub fn is_pinned(&self, digest: &str) -> Result<bool> {
        Ok(self.open_if_there(&self.pin_path(digest))?.is_some())
    }

    fn name(&self, digest: &str) -> Result<()> {
        if is_digest(digest) {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, format!("not a digest: {digest:.80?}")))
    }

    fn in_use(&self, digest: &str) -> bool {
        let Ok(media) = self.disk.open(&self.media_path(digest), Mode::Write) else { return false };
        !set_lock(&*media, true).unwrap_or(false)
    }

    fn open_for_care(&self, digest: &str) -> Result<(Arc<dyn File>, Map, Shape)> {
        self.name(digest)?;
        let media = self.disk.open(&self.media_path(digest), Mode::Write)?;
        let map = self.disk.open(&self.map_path(digest), Mode::Write)?;
        let Some((shape, _)) = Map::probe(&*map, digest)? else {
            return Err(Error::corrupt("not a map: nothing of the blob is used").in_file(map.path()));
        };
        Ok((media, Map::existing(map, shape), shape))
    }
}

fn drop_chunks(media: &dyn File, map: &Map, shape: Shape, chunks: std::ops::Range<usize>, alone: bool) -> Result<()> {
    if alone {
        let (start, end) = (shape.start(chunks.start), shape.start(chunks.end));
        media.punch_hole(start, end - start).map_err(|e| Error::io("punch hole", e).in_file(media.path()))?;
    }
    map.erase(chunks.start, chunks.end)
}
