//! A registry blob read through the cache: from the media if it is there, else by one fetch for all who wait.

use std::sync::Arc;

use super::flight::Flight;
use super::sequence::Sequence;
use super::store::{Step, Store};
use super::writer::Job;
use super::{count, ChunkCache};
use crate::audit::{self, Access};
use crate::blob::{check_range, Blob};
use crate::error::{Error, Kind, Result};
use crate::fetch::{RemoteBlob, Source, Stream, LANE};
use crate::limits::{MAX_FETCH_BYTES, MAX_PREFETCH_BYTES, MAX_PREFETCH_YIELD, MAX_YIELD};
use crate::metrics;

/// Times that a read starts over at one place because chunks were taken away under it (eviction, damage) or
/// another reader's fetch failed; then it fetches past the cache.
const MAX_TURNS: u32 = 4;

/// A blob with a [`Source`] to fetch from and a place in a [`ChunkCache`].
pub struct CachedBlob {
    cache: Arc<ChunkCache>,
    store: Arc<Store>,
    source: Source,
    /// Tells this blob's source from those of others that share store and cache.
    id: usize,
    sequence: Sequence,
}

impl CachedBlob {
    /// Opens the blob `digest` through `cache`. `len` is its length, if known; else the cache or the registry
    /// tells (by the first fetch, whose bytes are kept). A blob that cannot be cached (too many chunks, files
    /// locked or unusable) is read uncached, with a notice.
    ///
    /// Errors: `Invalid` for a bad digest; those of [`Source::fetch`] if the registry has to be asked.
    pub fn open(cache: &Arc<ChunkCache>, digest: &str, source: Source, len: Option<u64>) -> Result<Arc<dyn Blob>> {
        if !super::is_digest(digest) {
            return Err(Error::new(Kind::Invalid, format!("not a digest: {digest:.80?}")).in_file(source.name()));
        }
        let shared = &cache.shared;
        let known = match len {
            Some(_) => None,
            None => Store::shared(shared, digest, None).ok(),
        };
        let (len, first) = match (len, &known) {
            (Some(len), _) => (len, None),
            (None, Some(store)) => (store.shape.len, None),
            (None, None) => learn(&source, shared.options.chunk_bytes)?,
        };
        if len == 0 {
            return Ok(Arc::new(RemoteBlob::open(source, Some(0))?));
        }
        let store = match known.map_or_else(|| Store::shared(shared, digest, Some(len)), Ok) {
            Ok(store) => store,
            Err(e) => {
                shared.notice(format!("cache: {} is read uncached: {e}", source.name()));
                return Ok(Arc::new(RemoteBlob::open(source, Some(len))?));
            }
        };
        let (id, sequence) = (cache.parked.new_id(), Sequence::default());
        let blob = CachedBlob { cache: Arc::clone(cache), store, source, id, sequence };
        if let Some(bytes) = first {
            blob.adopt(bytes);
        }
        Ok(Arc::new(blob))
    }

    /// Keeps the first bytes of the blob, which came with its length.
    fn adopt(&self, bytes: Vec<u8>) {
        let shape = self.store.shape;
        if bytes.len() == shape.bytes(0, 1) {
            if let Step::Lead(flight) = self.store.step(0, 1, bytes.len(), self.id) {
                self.landed(&flight, Arc::new(bytes));
            }
        }
    }

    /// Carries out a fetch, whose bytes the media gets later. `wanted`: somebody waits for them.
    fn lead(&self, flight: &Arc<Flight>, wanted: bool) -> Result<Arc<Vec<u8>>> {
        let shape = self.store.shape;
        // Also if the source panics: others wait for this fetch.
        let mut abandoned = Abandoned { store: &self.store, flight, why: None };
        let mut bytes = self.store.shared.buffers.take(shape.bytes(flight.first, flight.end));
        let at = shape.start(flight.first);
        let fetched = if wanted { self.fetch(at, &mut bytes) } else { self.take(at, &mut bytes, 0, None).map(drop) };
        match fetched {
            Ok(()) => std::mem::forget(abandoned),
            Err(e) => {
                abandoned.why = Some(e.again());
                return Err(e);
            }
        }
        let bytes = Arc::new(bytes);
        self.landed(flight, Arc::clone(&bytes));
        Ok(bytes)
    }

    fn fetch(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let _urgent = LANE.urgent();
        let ahead = self.sequence.ahead(offset, buf.len() as u64);
        let stream = self.cache.parked.take(self.id, offset);
        if let Some(rest) = self.take(offset, buf, ahead, stream)? {
            self.cache.parked.put(self.id, rest);
        }
        Ok(())
    }

    /// Fills `buf` from the network; the rest of the answer if there was `ahead` asked for.
    fn take(&self, offset: u64, buf: &mut [u8], ahead: u64, stream: Option<Stream>) -> Result<Option<Stream>> {
        let (name, len, total) = (self.source.name(), buf.len(), Some(self.store.shape.len));
        let fetch = || self.source.fetch_ahead(offset, buf, total, ahead, stream);
        let (got, rest) = audit::remote(Access::Download, name, offset, len, fetch)?;
        if got.len != len {
            return Err(Error::corrupt("answer too short").in_file(self.source.name()).at(offset));
        }
        let stats = self.cache.stats();
        count(&stats.fetches, 1);
        count(&stats.fetched_bytes, len as u64);
        Ok(rest)
    }

    fn landed(&self, flight: &Arc<Flight>, bytes: Arc<Vec<u8>>) {
        flight.finish(Ok(Arc::clone(&bytes)));
        self.cache.writer.run(Job { store: Arc::clone(&self.store), flight: Arc::clone(flight), bytes });
    }

    /// A read that the media alone cannot answer.
    fn read_missing(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let shape = self.store.shape;
        let stop = offset + buf.len() as u64;
        let end = shape.chunk_of(stop - 1) + 1;
        let (mut at, mut turns) = (offset, 0);
        while at < stop {
            let chunk = shape.chunk_of(at);
            let out = &mut buf[(at - offset) as usize..];
            turns += 1;
            if turns > MAX_TURNS {
                // Somebody takes away what is fetched as fast as it comes.
                count(&self.cache.stats().uncached, 1);
                let n = out.len().min(MAX_FETCH_BYTES);
                self.fetch(at, &mut out[..n])?;
                (at, turns) = (at + n as u64, 0);
                continue;
            }
            let (bytes, first) = match self.store.step(chunk, end, MAX_FETCH_BYTES, self.id) {
                Step::Ready(until) => {
                    let n = (shape.start(until).min(stop) - at) as usize;
                    if self.store.read_ready(&mut out[..n], at) {
                        (at, turns) = (at + n as u64, 0);
                    }
                    continue;
                }
                Step::Verify => match self.store.verify(chunk) {
                    Some(bytes) => (Arc::new(bytes), chunk),
                    None => continue,
                },
                Step::Join(flight) => match metrics::network(|| flight.wait()) {
                    Ok(bytes) => (bytes, flight.first),
                    // Another source may be refused where this one is not.
                    Err(_) if flight.owner != self.id => continue,
                    Err(e) => return Err(e),
                },
                Step::Lead(flight) => (self.lead(&flight, true)?, flight.first),
            };
            let skip = (at - shape.start(first)) as usize;
            let n = (bytes.len() - skip).min(out.len());
            out[..n].copy_from_slice(&bytes[skip..skip + n]);
            (at, turns) = (at + n as u64, 0);
        }
        Ok(())
    }
}

impl Drop for CachedBlob {
    fn drop(&mut self) {
        self.cache.parked.forget(self.id);
    }
}

/// Ends a fetch that brought nothing, when dropped.
struct Abandoned<'a> {
    store: &'a Store,
    flight: &'a Arc<Flight>,
    why: Option<Error>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.store.land(self.flight);
        self.flight.finish(Err(self.why.take().unwrap_or_else(|| Error::new(Kind::Io, "the fetch was abandoned"))));
    }
}

/// Length and first bytes of a blob, by one fetch.
fn learn(source: &Source, chunk: u32) -> Result<(u64, Option<Vec<u8>>)> {
    let mut bytes = vec![0; chunk as usize];
    let len = bytes.len();
    let got = audit::remote(Access::Download, source.name(), 0, len, || source.fetch(0, &mut bytes, None))?;
    bytes.truncate(got.len);
    Ok((got.total, Some(bytes)))
}

impl Blob for CachedBlob {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn len(&self) -> u64 {
        self.store.shape.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        if buf.is_empty() || self.store.read_ready(buf, offset) {
            count(&self.cache.stats().hits, 1);
            return Ok(());
        }
        count(&self.cache.stats().misses, 1);
        self.read_missing(buf, offset)
    }

    fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        let (shape, stop) = (self.store.shape, offset + buf.len() as u64);
        let mut at = offset;
        while at < stop {
            // As far as all chunks are there, or none is.
            let here = self.store.is_present(at, 1);
            let mut end = shape.start(shape.chunk_of(at) + 1);
            while end < stop && self.store.is_present(end, 1) == here {
                end = shape.start(shape.chunk_of(end) + 1);
            }
            let n = (end.min(stop) - at).min(MAX_FETCH_BYTES as u64) as usize;
            let part = &mut buf[(at - offset) as usize..][..n];
            if here {
                self.read_at(part, at)?;
            } else {
                LANE.give_way(MAX_YIELD);
                let fetch = || self.source.fetch(at, part, Some(shape.len));
                if audit::remote(Access::BackgroundDownload, self.name(), at, n, fetch)?.len != n {
                    return Err(Error::corrupt("answer too short").in_file(self.name()).at(at));
                }
            }
            at += n as u64;
        }
        Ok(())
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len).min(self.len());
        offset >= end || self.store.is_present(offset, end - offset)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        check_range(self, offset, len as usize)?;
        let shape = self.store.shape;
        let (mut chunk, mut fetched) = (shape.chunk_of(offset), 0);
        let end = if len == 0 { chunk } else { shape.chunk_of(offset + len - 1) + 1 };
        while chunk < end {
            if !self.store.is_present(shape.start(chunk), 1) {
                // Before the chunk is this fetch's: who wants it meanwhile must not wait for those who go first.
                LANE.give_way(MAX_PREFETCH_YIELD);
            }
            chunk = match self.store.step(chunk, end, MAX_PREFETCH_BYTES, self.id) {
                Step::Ready(until) => until,
                // Its checksum is compared when it is read.
                Step::Verify => chunk + 1,
                Step::Join(flight) => flight.end,
                Step::Lead(flight) => {
                    fetched += self.lead(&flight, false)?.len() as u64;
                    flight.end
                }
            };
        }
        Ok(fetched)
    }

    /// Drops every chunk that the range touches, so that it is fetched again. False once a chunk was dropped too
    /// often: then the registry's own copy must be wrong.
    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        let end = offset.saturating_add(len).min(self.len());
        if offset >= end {
            return Ok(true);
        }
        let shape = self.store.shape;
        Ok(self.store.forget(shape.chunk_of(offset), shape.chunk_of(end - 1) + 1, true))
    }
}
