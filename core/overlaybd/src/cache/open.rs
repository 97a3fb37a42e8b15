//! Opens a blob's files: whose they are, whether they fit, and what to make of them if not.
//!
//! While a blob is open its media carries a shared lock. Who can take the lock exclusively is alone with the
//! blob, and only that one repairs, shrinks or removes its files.

use std::sync::Arc;
use std::time::Duration;

use super::evict::set_lock;
use super::map::{Map, Shape};
use super::{import, is_digest, Shared, Store};
use crate::error::{Error, Kind, Result};
use crate::sys::{File, Mode};

/// How long to wait for another process that is making room in the blob just now: attempts, and pauses between.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

impl Store {
    /// The store of `digest` in this process: the one that is open, or a newly opened one. `len` is the length
    /// of the blob; None takes that of the map.
    ///
    /// Errors: `NotFound` without `len`, if there is neither a valid map nor the whole blob; `Busy` if another
    /// process keeps the files locked, or has them open with another shape; `Limit` for too many chunks; those
    /// of the disk.
    pub fn shared(shared: &Arc<Shared>, digest: &str, len: Option<u64>) -> Result<Arc<Self>> {
        // Held while opening, so that nobody opens the same files twice. An open takes a few system calls.
        let mut stores = shared.stores.lock();
        stores.retain(|_, store| store.strong_count() > 0);
        let store = match stores.get(digest).and_then(|store| store.upgrade()) {
            Some(store) => store,
            None => {
                let store = Arc::new(Store::open(shared, digest, len)?);
                stores.insert(digest.to_owned(), Arc::downgrade(&store));
                store
            }
        };
        if len.is_some_and(|len| len != store.shape.len) {
            let what = format!("cached with {} bytes, asked for with {}", store.shape.len, len.unwrap_or(0));
            return Err(Error::new(Kind::Busy, what).in_file(digest));
        }
        Ok(store)
    }

    /// Opens a store that is in nobody's table.
    pub fn open(shared: &Arc<Shared>, digest: &str, len: Option<u64>) -> Result<Self> {
        if !is_digest(digest) {
            return Err(Error::new(Kind::Invalid, format!("not a digest: {digest:.80?}")));
        }
        let mode = if len.is_some() { Mode::Create } else { Mode::Write };
        let (media, alone) = lock_media(shared, digest, mode)?;
        let path = shared.map_path(digest);
        let map = shared.disk.open(&path, Mode::Create)?;
        let held = media.allocated_bytes().unwrap_or(0) + map.allocated_bytes().unwrap_or(0);
        let known = Map::probe(&*map, digest).filter(|(shape, _)| len.is_none_or(|len| len == shape.len));
        let (map, shape, tick) = match known {
            Some((shape, tick)) => (Map::existing(map, shape), shape, tick),
            None if !alone => {
                return Err(Error::new(Kind::Busy, "another process has it open with another shape").in_file(path));
            }
            None => {
                let proven = import::proven_len(&*media, digest, len)?;
                let Some(len) = proven.or(len) else {
                    return Err(Error::new(Kind::NotFound, "not a map").in_file(path));
                };
                let Some(shape) = Shape::new(shared.options.chunk_bytes, len) else {
                    return Err(Error::new(Kind::Limit, format!("{len} bytes are too many chunks")).in_file(digest));
                };
                let map = Map::create(map, digest, shape)?;
                if proven.is_some() {
                    import::record_all(&*media, &map, shape)?;
                } else {
                    // Whatever the media holds, nothing vouches for it: its room is given back.
                    media.set_len(0).map_err(|e| Error::io("empty", e).in_file(media.path()))?;
                }
                (map, shape, shared.space.tick())
            }
        };
        // Lengthening hurts nobody; what a file that was cut short has lost shows by the checksums.
        if media.len().map_err(|e| Error::io("length", e).in_file(media.path()))? < shape.len {
            media.set_len(shape.len).map_err(|e| Error::io("lengthen", e).in_file(media.path()))?;
        }
        let store = Store::new(Arc::clone(shared), shape, Arc::clone(&media), map, tick, held);
        if alone {
            set_lock(&*media, false)?;
        }
        Ok(store)
    }
}

/// Opens and locks a media file; true if this handle holds the lock exclusively.
fn lock_media(shared: &Shared, digest: &str, mode: Mode) -> Result<(Arc<dyn File>, bool)> {
    let path = shared.media_path(digest);
    for _ in 0..ATTEMPTS {
        let media = shared.disk.open(&path, mode)?;
        let alone = set_lock(&*media, true)?;
        if !alone && !set_lock(&*media, false)? {
            shared.clock.sleep(PAUSE);
            continue;
        }
        // Who removes the file holds its lock: it may be gone since it was opened, but not from now on.
        if media.links().map_err(|e| Error::io("stat", e).in_file(&path))? > 0 {
            return Ok((media, alone));
        }
    }
    Err(Error::new(Kind::Busy, "locked by another process").in_file(path))
}
