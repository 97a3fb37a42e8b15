//! A blob whose place in the cache could not be opened: read past the cache until it can be.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::blob::CachedBlob;
use super::open::Place;
use super::origin::Origin;
use super::{ChunkCache, Store};
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};
use crate::sync::{Mutex, OnceLock};

/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(10);

/// What was in the way (another process that works on the files, a lack of descriptors) passes sooner than a device is
/// closed.
pub(super) struct LateBlob {
    /// Itself, for what it does in other threads.
    me: Weak<LateBlob>,
    cache: Arc<ChunkCache>,
    origin: Origin,
    digest: String,
    uncached: Arc<dyn Blob>,
    cached: OnceLock<Arc<CachedBlob>>,
    /// When to try again, by the clock.
    due: Mutex<Duration>,
}

/// What is to be read for a blob of `len` bytes whose place could not be opened, with a notice `why`.
///
/// Errors: those of [`Origin::uncached`].
pub(super) fn instead(
    cache: &Arc<ChunkCache>,
    place: Place<'_>,
    origin: Origin,
    len: u64,
    why: &Error,
) -> Result<Arc<dyn Blob>> {
    cache.shared.notice(format!("cache: {} is read uncached: {why}", origin.name()));
    match why.kind() {
        // It has too many chunks, or there is no directory: neither passes.
        Kind::Limit | Kind::NotFound => origin.uncached(len),
        // A download may have put the layer in place by then, and wants no new file beside it.
        _ if place.layer.is_some() => origin.uncached(len),
        _ => Ok(LateBlob::start(cache, place, origin, len)?),
    }
}

impl LateBlob {
    fn start(cache: &Arc<ChunkCache>, place: Place<'_>, origin: Origin, len: u64) -> Result<Arc<Self>> {
        let uncached = origin.clone().uncached(len)?;
        let due = Mutex::new(cache.shared.clock.now() + PAUSE);
        Ok(Arc::new_cyclic(|me| LateBlob {
            me: Weak::clone(me),
            cache: Arc::clone(cache),
            origin,
            digest: place.digest.to_owned(),
            uncached,
            cached: OnceLock::new(),
            due,
        }))
    }

    /// What is to be read now.
    fn now(&self) -> &dyn Blob {
        if let Some(cached) = self.cached.get() {
            return &**cached;
        }
        let now = self.cache.shared.clock.now();
        let mut due = self.due.lock();
        if now >= *due {
            *due = now + PAUSE;
            if let Some(me) = self.me.upgrade() {
                // Opening may wait for others, which is nothing for a reader.
                self.cache.ahead.try_submit(move || me.try_again());
            }
        }
        &*self.uncached
    }

    fn try_again(&self) {
        let shared = &self.cache.shared;
        let place = Place { digest: &self.digest, layer: None, tree: self.origin.tree() };
        // Why it cannot be has been said.
        let Ok(store) = Store::shared(shared, place, Some(self.len())) else { return };
        if self.cached.set(CachedBlob::of(&self.cache, store, self.origin.clone(), false)).is_ok() {
            shared.notice(format!("cache: {} is cached from now on", self.name()));
        }
    }
}

impl Blob for LateBlob {
    fn name(&self) -> &str {
        self.origin.name()
    }

    fn len(&self) -> u64 {
        self.uncached.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.now().read_at(buf, offset)
    }

    fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.now().copy_at(buf, offset)
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.now().is_ready(offset, len)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        self.now().prefetch(offset, len)
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        self.now().distrust(offset, len)
    }
}
