//! Opens a blob's files: whose they are, whether they fit, and what to make of them if not.
//!
//! While a blob is open its media carries a shared lock. Who can take the lock exclusively is alone with the
//! blob, and only that one repairs, shrinks or removes its files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::sync::atomic::AtomicU64;
use crate::sync::Mutex;

use super::map::{Map, Shape};
use super::media::{Media, SparseMedia};
use super::pool::{Pool, PoolMedia};
use super::store::Home;
use super::{import, is_digest, Shared, Store};
use crate::error::{Error, Kind, Result};
use crate::merkle::Tree;
use crate::sys::{File, Mode};

/// How long to wait for another process that is making room in the blob just now: attempts, and pauses between.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// A blob that is open in this process, or about to be: whoever opens it holds the lock, so that it is opened once
/// and the opening of others does not wait for it.
pub(super) type Cell = Arc<Mutex<Weak<Store>>>;

/// Which blob, and where it is to be kept.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub digest: &'a str,
    /// A media file outside of the cache directory, which the cache does not limit.
    pub layer: Option<&'a Path>,
    /// What the bytes kept there are held against.
    pub tree: Option<&'a Arc<Tree>>,
}

impl Place<'_> {
    fn paths(&self, shared: &Shared) -> (PathBuf, PathBuf) {
        match self.layer {
            None => (shared.media_path(self.digest), shared.map_path(self.digest)),
            Some(media) => {
                let mut map = media.as_os_str().to_owned();
                map.push(".map");
                (media.to_owned(), map.into())
            }
        }
    }
}

impl Shared {
    /// The cell of a blob.
    pub fn cell(&self, place: Place<'_>) -> Cell {
        let key = match (place.layer, place.tree) {
            (None, _) => place.digest.to_owned(),
            (Some(path), None) => path.to_string_lossy().into_owned(),
            (Some(path), Some(_)) => format!("{} {}", place.digest, path.display()),
        };
        let mut stores = self.stores.lock();
        stores.retain(|_, cell| Arc::strong_count(cell) > 1 || cell.lock().strong_count() > 0);
        Arc::clone(stores.entry(key).or_default())
    }
}

impl Store {
    /// The store of a blob in this process: the one that is open, or a newly opened one. `len` is the length
    /// of the blob; None takes that of the map.
    ///
    /// Errors: `NotFound` without `len`, if there is neither a valid map nor the whole blob; `Busy` if another
    /// process keeps the files locked, or has them open with another shape; `Limit` for too many chunks; those
    /// of the disk.
    pub fn shared(shared: &Arc<Shared>, place: Place<'_>, len: Option<u64>) -> Result<Arc<Self>> {
        let cell = shared.cell(place);
        let mut cell = cell.lock();
        let store = match cell.upgrade() {
            Some(store) => store,
            None => {
                let store = Arc::new(Store::open(shared, place, len)?);
                *cell = Arc::downgrade(&store);
                store
            }
        };
        if len.is_some_and(|len| len != store.shape.len) {
            let what = format!("cached with {} bytes, asked for with {}", store.shape.len, len.unwrap_or(0));
            return Err(Error::new(Kind::Busy, what).in_file(place.digest));
        }
        Ok(store)
    }

    /// Opens a store that is in nobody's table. The caller holds its cell.
    pub fn open(shared: &Arc<Shared>, place: Place<'_>, len: Option<u64>) -> Result<Self> {
        let digest = place.digest;
        if !is_digest(digest) {
            return Err(Error::new(Kind::Invalid, format!("not a digest: {digest:.80?}")));
        }
        match &shared.pool {
            _ if place.layer.is_some() => {}
            Some(pool) => return Store::open_in_pool(shared, pool, place, len),
            None if shared.directory().as_os_str().is_empty() => {
                return Err(Error::new(Kind::NotFound, "there is no directory to keep it in").in_file(digest));
            }
            None => {}
        }
        let mode = if len.is_some() { Mode::Create } else { Mode::Write };
        let (media_path, path) = place.paths(shared);
        let (file, alone) = lock_media(shared, &media_path, mode)?;
        let fail = |what| move |e| Error::io(what, e).in_file(&media_path);
        let map = shared.disk.open(&path, Mode::Create)?;
        let held = file.allocated_bytes().unwrap_or(0) + map.allocated_bytes().unwrap_or(0);
        let size = file.len().map_err(fail.clone()("length"))?;
        // A media file that has just been made has nothing of what a map may say.
        let known = Map::probe(&*map, digest)?.filter(|_| size > 0 || !alone);
        let known = known.filter(|(shape, _)| len.is_none_or(|len| len == shape.len));
        let (map, shape, tick) = match known {
            Some((shape, tick)) => (Map::existing(map, shape), shape, tick),
            None if !alone => {
                return Err(Error::new(Kind::Busy, "another process has it open with another shape").in_file(path));
            }
            None => {
                let proven = import::proven_len(&*file, digest, len)?;
                let Some(len) = proven.or(len) else {
                    return Err(Error::new(Kind::NotFound, "not a map").in_file(path));
                };
                let Some(shape) = Shape::new(shared.options.chunk_bytes, len) else {
                    return Err(Error::new(Kind::Limit, format!("{len} bytes are too many chunks")).in_file(digest));
                };
                let map = Map::create(map, digest, shape)?;
                if proven.is_some() {
                    import::record_all(&*file, &map, shape)?;
                } else {
                    // Whatever the media holds, nothing vouches for it: its room is given back.
                    file.set_len(0).map_err(fail.clone()("empty"))?;
                }
                (map, shape, shared.space.tick())
            }
        };
        // Lengthening hurts nobody; what a file that was cut short has lost shows by the checksums.
        if file.len().map_err(fail.clone()("length"))? < shape.len {
            file.set_len(shape.len).map_err(fail("lengthen"))?;
        }
        let home = match place.layer {
            None => Home::Directory(Arc::clone(&file)),
            Some(_) => Home::Layer(Arc::clone(&file), AtomicU64::new(0)),
        };
        let media = Box::new(SparseMedia { file, map, shape });
        let store = Store::new(Arc::clone(shared), shape, (media, home), place.tree, tick, held);
        if alone {
            store.lock(false)?;
        }
        Ok(store)
    }

    fn open_in_pool(shared: &Arc<Shared>, pool: &Arc<Pool>, place: Place<'_>, len: Option<u64>) -> Result<Self> {
        let digest = place.digest;
        let unknown = || Error::new(Kind::NotFound, "the pool does not know its length").in_file(digest);
        let len = len.ok_or_else(unknown)?;
        let too_many = || Error::new(Kind::Limit, format!("{len} bytes are too many lines")).in_file(digest);
        let shape = Shape::new(pool.line, len).ok_or_else(too_many)?;
        let media = PoolMedia::new(Arc::clone(pool), digest, shape);
        let tick = media.newest();
        let place_of_it = (Box::new(media) as Box<dyn Media>, Home::Pool(Arc::clone(pool)));
        Ok(Store::new(Arc::clone(shared), shape, place_of_it, place.tree, tick, 0))
    }

    /// Takes or converts the lock that tells other processes of this one; false if one of them is in the way.
    pub fn lock(&self, exclusive: bool) -> Result<bool> {
        match &self.home {
            Home::Directory(file) | Home::Layer(file, _) => set_lock(&**file, exclusive),
            Home::Pool(_) => Ok(true),
        }
    }
}

/// Opens and locks a media file; true if this handle holds the lock exclusively.
fn lock_media(shared: &Shared, path: &Path, mode: Mode) -> Result<(Arc<dyn File>, bool)> {
    for _ in 0..ATTEMPTS {
        let media = shared.disk.open(path, mode)?;
        let alone = set_lock(&*media, true)?;
        if !alone && !set_lock(&*media, false)? {
            shared.clock.sleep(PAUSE);
            continue;
        }
        // Who removes the file holds its lock: it may be gone since it was opened, but not from now on.
        if media.links().map_err(|e| Error::io("stat", e).in_file(path))? > 0 {
            return Ok((media, alone));
        }
    }
    Err(Error::new(Kind::Busy, "locked by another process").in_file(path))
}

/// Takes or converts the lock on a media file without waiting; false if another handle is in the way.
pub(super) fn set_lock(media: &dyn File, exclusive: bool) -> Result<bool> {
    media.try_lock(exclusive).map_err(|e| Error::io("lock", e).in_file(media.path()))
}
