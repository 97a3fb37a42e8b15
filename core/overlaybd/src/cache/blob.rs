//! A blob read through the cache: from the media if it is there, else by one fetch for all who wait.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::fill::Fill;
use super::flight::{Abandoned, Flight};
use super::open::Place;
use super::origin::Origin;
use super::sequence::Sequence;
use super::store::{Read, Step, Store};
use super::writer::Job;
use super::{count, late, ChunkCache};
use crate::audit::Access;
use crate::blob::{check_range, Blob};
use crate::error::{Error, Kind, Result};
use crate::fetch::{Source, Stream, LANE};
use crate::limits::{MAX_FETCH_BYTES, MAX_YIELD};
use crate::metrics;

/// Times that a read starts over at one place because chunks were taken away under it (eviction, damage) or
/// another reader's fetch failed; then it fetches past the cache.
pub(super) const MAX_TURNS: u32 = 4;

/// A blob with a source to fetch from and a place in a [`ChunkCache`].
pub struct CachedBlob {
    /// Itself, for what it does in other threads.
    pub(super) me: Weak<CachedBlob>,
    pub(super) cache: Arc<ChunkCache>,
    pub(super) store: Arc<Store>,
    origin: Origin,
    /// Whether nobody but the cache or the registry has said how long it is.
    guessed: bool,
    /// Tells this blob's source from those of others that share store and cache.
    pub(super) id: usize,
    pub(super) sequence: Sequence,
}

/// What [`CachedBlob::open`] and its like give.
pub struct Opened {
    /// What to read.
    pub blob: Arc<dyn Blob>,
    /// The same, if it could be cached at once.
    pub cached: Option<Arc<CachedBlob>>,
}

impl CachedBlob {
    /// Opens the blob `digest` through `cache`. `len` is its length, if known; else the cache or the registry
    /// tells (by the first fetch, whose bytes are kept). A blob that cannot be cached (too many chunks, files
    /// locked or unusable) is read uncached, with a notice; where that may pass, it is tried again now and then.
    ///
    /// Errors: `Invalid` for a bad digest; those of [`Source::fetch`] if the registry has to be asked.
    pub fn open(cache: &Arc<ChunkCache>, digest: &str, source: Source, len: Option<u64>) -> Result<Opened> {
        Self::start(cache, digest, None, Origin::Registry(source.into()), len)
    }

    /// As [`CachedBlob::open`], but kept in the file `media` of a layer directory, with a map beside it: no limit
    /// holds there, nothing is evicted, and the file may be renamed once it is complete.
    ///
    /// Errors: those of `open`.
    pub fn open_in_layer(
        cache: &Arc<ChunkCache>,
        media: &Path,
        digest: &str,
        source: Source,
        len: Option<u64>,
    ) -> Result<Opened> {
        Self::start(cache, digest, Some(media), Origin::Registry(source.into()), len)
    }

    /// Puts the cache in front of any blob that is slower than the disk. `key` has the form of a digest and stands
    /// for the blob's content.
    ///
    /// Errors: `Invalid` for a bad key.
    pub fn over(cache: &Arc<ChunkCache>, key: &str, blob: Arc<dyn Blob>) -> Result<Opened> {
        let len = blob.len();
        Self::start(cache, key, None, Origin::Blob(blob), Some(len))
    }

    fn start(
        cache: &Arc<ChunkCache>,
        digest: &str,
        layer: Option<&Path>,
        origin: Origin,
        len: Option<u64>,
    ) -> Result<Opened> {
        if !super::is_digest(digest) {
            let what = format!("not a digest: {digest:.80?}");
            return Err(Error::new(Kind::Invalid, what).in_file(origin.name()));
        }
        let len = origin.known_len(len)?;
        let tree = origin.tree().cloned();
        // What was not held against this very tree has no place among what was.
        let name = tree.as_ref().map_or_else(|| digest.to_owned(), |tree| tree.cache_name(digest));
        let place = Place { digest: &name, layer, tree: tree.as_ref() };
        let (shared, guessed) = (&cache.shared, len.is_none());
        let known = match len {
            Some(_) => None,
            None => Store::shared(shared, place, None).ok(),
        };
        let (len, first) = match (len, &known) {
            (Some(len), _) => (len, None),
            (None, Some(store)) => (store.shape.len, None),
            (None, None) => origin.learn(shared.options.chunk_bytes)?,
        };
        if len == 0 {
            return Ok(Opened { blob: origin.uncached(0)?, cached: None });
        }
        let store = match known.map_or_else(|| Store::shared(shared, place, Some(len)), Ok) {
            Ok(store) => store,
            Err(e) => {
                let blob = late::instead(cache, place, origin, len, &e)?;
                return Ok(Opened { blob, cached: None });
            }
        };
        let blob = Self::of(cache, store, origin, guessed);
        if let Some(bytes) = first {
            blob.adopt(bytes);
        }
        Ok(Opened { blob: Arc::clone(&blob) as Arc<dyn Blob>, cached: Some(blob) })
    }

    /// A blob whose place is open.
    pub(super) fn of(cache: &Arc<ChunkCache>, store: Arc<Store>, origin: Origin, guessed: bool) -> Arc<Self> {
        cache.writer.start();
        let (id, sequence) = (cache.ids.fetch_add(1, Ordering::Relaxed), Sequence::default());
        Arc::new_cyclic(|me| CachedBlob {
            me: Weak::clone(me),
            cache: Arc::clone(cache),
            store,
            origin,
            guessed,
            id,
            sequence,
        })
    }

    /// Keeps the first bytes of the blob, which came with its length.
    fn adopt(&self, bytes: Vec<u8>) {
        let end = self.store.shape.chunk_of(bytes.len() as u64 - 1) + 1;
        if bytes.len() == self.store.shape.bytes(0, end) {
            if let Step::Lead(flight) = self.store.step(0, end, bytes.len(), self.id, false) {
                if flight.end == end {
                    self.landed(&flight, Arc::new(bytes), false);
                } else {
                    self.store.land(&flight);
                    flight.finish(Err(Error::new(Kind::Io, "given up for another")));
                }
            }
        }
    }

    /// Carries out a fetch, whose bytes the media gets later; at once if nobody waits for what comes next.
    pub(super) fn lead(&self, flight: &Arc<Flight>, purpose: For<'_>) -> Result<Arc<Vec<u8>>> {
        let shape = self.store.shape;
        let filling = matches!(purpose, For::Fill(_));
        // Also if the source panics: others wait for this fetch.
        let mut abandoned = Abandoned { store: &self.store, flight, why: None };
        let mut bytes = self.store.shared.buffers.take(shape.bytes(flight.first, flight.end));
        match self.fetch(shape.start(flight.first), &mut bytes, purpose) {
            Ok(()) => std::mem::forget(abandoned),
            Err(e) => {
                abandoned.why = Some(e.again());
                return Err(e);
            }
        }
        let bytes = Arc::new(bytes);
        // Several fillings write at the same time, each what its own processor has just received.
        self.landed(flight, Arc::clone(&bytes), filling);
        Ok(bytes)
    }

    fn fetch(&self, offset: u64, buf: &mut [u8], purpose: For<'_>) -> Result<()> {
        match purpose {
            For::Reader => drop(self.take((Access::Download, true), offset, buf, 0, None)?),
            For::Prefetch(fill) => {
                let ahead = fill.stop.saturating_sub(offset + buf.len() as u64);
                // Whoever comes to want it waits for it, and is more patient then.
                fill.stream = self.take((Access::Download, false), offset, buf, ahead, fill.stream.take())?;
                count(&self.cache.stats().ahead_bytes, buf.len() as u64);
            }
            For::Fill(fill) => {
                let ahead = fill.stop.saturating_sub(offset + buf.len() as u64);
                fill.stream = self.take((Access::BackgroundDownload, false), offset, buf, ahead, fill.stream.take())?;
            }
        }
        Ok(())
    }

    /// Fills `buf` from the source; the rest of the answer if there was `ahead` asked for.
    fn take(
        &self,
        access: (Access, bool),
        offset: u64,
        buf: &mut [u8],
        ahead: u64,
        stream: Option<Stream>,
    ) -> Result<Option<Stream>> {
        let len = buf.len();
        let fetched = self.origin.fetch(access, offset, buf, Some(self.store.shape.len), ahead, stream);
        let (got, rest) = fetched.inspect_err(|e| {
            // Perhaps it is the first answer, the one that told the length, that was wrong: who opens the blob next is
            // to ask again.
            if self.guessed && e.kind() == Kind::Corrupt {
                self.store.media.forget_len();
            }
        })?;
        if got.len != len {
            return Err(Error::corrupt("answer too short").in_file(self.origin.name()).at(offset));
        }
        let stats = self.cache.stats();
        count(&stats.fetches, 1);
        count(&stats.fetched_bytes, len as u64);
        Ok(rest)
    }

    /// Answers who waits, then keeps the bytes: `here`, or behind their backs.
    fn landed(&self, flight: &Arc<Flight>, bytes: Arc<Vec<u8>>, here: bool) {
        let when = self.cache.writer.expect(bytes.len(), here);
        flight.finish(Ok(Arc::clone(&bytes)));
        let job = Job { store: Arc::clone(&self.store), flight: Arc::clone(flight), bytes };
        self.cache.writer.run(job, when);
    }

    /// A read that the media alone cannot answer.
    fn read_missing(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let stop = offset + buf.len() as u64;
        let end = self.store.fetch_end(self.store.shape.chunk_of(stop - 1) + 1);
        // What an earlier run left is as good as a hit: nothing more is fetched than was wanted then.
        self.read_ahead(offset, stop, self.store.is_present(offset, buf.len() as u64));
        let (mut at, mut turns) = (offset, 0);
        while at < stop {
            let out = &mut buf[(at - offset) as usize..];
            turns += 1;
            if turns > MAX_TURNS {
                // Somebody takes away what is fetched as fast as it comes.
                count(&self.cache.stats().uncached, 1);
                let n = out.len().min(MAX_FETCH_BYTES);
                self.fetch(at, &mut out[..n], For::Reader)?;
                (at, turns) = (at + n as u64, 0);
                continue;
            }
            let n = match self.turn(at, end, MAX_FETCH_BYTES, For::Reader)? {
                Turn::Ready(until) => {
                    let n = (until.min(stop) - at) as usize;
                    if self.store.read_ready(&mut out[..n], at) == Read::Missing {
                        continue;
                    }
                    n
                }
                Turn::Bytes(bytes, start) => {
                    let skip = (at - start) as usize;
                    let n = (bytes.len() - skip).min(out.len());
                    out[..n].copy_from_slice(&bytes[skip..skip + n]);
                    n
                }
                Turn::Again => continue,
            };
            (at, turns) = (at + n as u64, 0);
        }
        Ok(())
    }

    /// Gets hold of the bytes at `at`, as part of something that ends before chunk `end`, by at most one fetch.
    pub(super) fn turn(&self, at: u64, end: usize, max_bytes: usize, purpose: For<'_>) -> Result<Turn> {
        let shape = self.store.shape;
        let chunk = shape.chunk_of(at);
        let counted_on = matches!(purpose, For::Reader);
        let (bytes, first) = match self.store.step(chunk, end, max_bytes, self.id, !counted_on) {
            Step::Ready(until) => return Ok(Turn::Ready(shape.start(until))),
            Step::Verify => match self.store.verify(chunk) {
                Some(bytes) => (Arc::new(bytes), chunk),
                None => return Ok(Turn::Again),
            },
            Step::Join(flight) => {
                // A fetch that was begun for a reader goes first by itself, whenever there is something to send.
                let _urgent = flight.ahead.then(|| LANE.urgent());
                match metrics::network(|| flight.wait()) {
                    Ok(bytes) => (bytes, flight.first),
                    // Another source may be refused where this one is not; and nobody counted on this one.
                    Err(_) if flight.owner != self.id || flight.ahead => return Ok(Turn::Again),
                    Err(e) => return Err(e),
                }
            }
            Step::Lead(flight) => (self.lead(&flight, purpose)?, flight.first),
        };
        Ok(Turn::Bytes(bytes, shape.start(first)))
    }

    /// The chunks that a range touches; None if it touches none.
    pub(super) fn chunks(&self, offset: u64, len: u64) -> Option<(usize, usize)> {
        let shape = self.store.shape;
        let end = offset.saturating_add(len).min(shape.len);
        (offset < end).then(|| (shape.chunk_of(offset), shape.chunk_of(end - 1) + 1))
    }
}

/// What a fetch is for.
pub(super) enum For<'a> {
    /// Somebody waits for it.
    Reader,
    /// Somebody may want it soon, and perhaps what follows.
    Prefetch(&'a mut Fill),
    /// The media is to be filled, which knows itself what it wants next.
    Fill(&'a mut Fill),
}

/// How the next bytes of a read were had.
pub(super) enum Turn {
    /// They are in the media, up to this offset.
    Ready(u64),
    /// They are here, and this is where they begin.
    Bytes(Arc<Vec<u8>>, u64),
    /// Something came between.
    Again,
}

impl Drop for CachedBlob {
    fn drop(&mut self) {
        // When it was used last counts beside when the others were.
        self.cache.shared.look();
    }
}

impl Blob for CachedBlob {
    fn name(&self) -> &str {
        self.origin.name()
    }

    fn len(&self) -> u64 {
        self.store.shape.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        let read = if buf.is_empty() { Read::Done } else { self.store.read_ready(buf, offset) };
        if read != Read::Missing {
            count(&self.cache.stats().hits, 1);
            if read == Read::Fresh {
                self.read_ahead(offset, offset + buf.len() as u64, true);
            }
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
                let access = (Access::BackgroundDownload, false);
                if self.origin.fetch(access, at, part, Some(shape.len), 0, None)?.0.len != n {
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
        self.fetch_ahead(offset, len)
    }

    /// Drops every chunk that the range touches, so that it is fetched again. False once a chunk was dropped too
    /// often: then the registry's own copy must be wrong.
    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        self.origin.distrusted(offset, len);
        Ok(self.chunks(offset, len).is_none_or(|(first, end)| self.store.forget(first, end, true)))
    }
}
