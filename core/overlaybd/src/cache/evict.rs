//! Makes room: what was used longest ago goes first, chunk by chunk, never what another process may be reading.

use std::collections::HashSet;
use std::sync::Arc;

use super::map::Map;
use super::open::{set_lock, Place};
use super::store::Home;
use super::{is_digest, Shared, Store};
use crate::audit::{self, What};
use crate::error::{Kind, Result};
use crate::sys::{File, Mode};

/// Rounds in which room is looked for; one is enough unless files cannot be locked or punched.
const ROUNDS: usize = 3;
/// Chunks taken in one go while readers of the blob wait.
pub(super) const BATCH: usize = 64;

/// A blob in the directory.
pub(super) struct Found {
    pub digest: String,
    /// Last use, as the map has it; None without a valid map.
    pub tick: Option<u32>,
    /// Bytes that media and map take.
    pub bytes: u64,
    /// Whether it must stay: it is pinned, or nobody can tell just now what it is.
    pub stays: bool,
}

impl Shared {
    /// Looks at all files of the directory, and sets the account of used bytes right.
    pub fn scan(&self) -> Result<Vec<Found>> {
        // What is stored meanwhile must be in the sum once.
        let _account = self.space.account.lock();
        let mut found = Vec::new();
        for name in self.disk.list(self.directory())? {
            let digest = name.strip_suffix(".map").unwrap_or(&name);
            // A map without media is counted with the blob it belongs to, or removed when that is opened.
            let is_beside = || !matches!(self.open_if_there(&self.media_path(digest)), Ok(None));
            if !is_digest(digest) || (digest != name && is_beside()) {
                continue;
            }
            found.push(self.found(digest));
        }
        self.space.set_used(found.iter().map(|blob| blob.bytes).sum());
        Ok(found)
    }

    /// What there is of a blob. One whose files cannot be looked at is neither garbage nor free to go.
    fn found(&self, digest: &str) -> Found {
        let files = [self.media_path(digest), self.map_path(digest)].map(|path| self.open_if_there(&path));
        let bytes = match self.opened(digest) {
            Some(store) => store.measure(),
            None => files.iter().flatten().flatten().map(|file| file.allocated_bytes().unwrap_or(0)).sum(),
        };
        let look = |[media, map]: [Result<Option<Arc<dyn File>>>; 2]| -> Result<(Option<u32>, bool)> {
            media?;
            let known = map?.map(|map| Map::probe(&*map, digest)).transpose()?.flatten();
            Ok((known.map(|(_, tick)| tick), self.is_pinned(digest)?))
        };
        let (tick, stays) = look(files).unwrap_or_else(|e| {
            self.notice(format!("cache: left alone for now: {e}"));
            (None, true)
        });
        Found { digest: digest.to_owned(), tick, bytes, stays }
    }

    /// Frees what `amount` asks for, called anew after each look at the directory, until that is nothing. Does what
    /// it can: the caller looks at the outcome.
    pub fn make_room(self: &Arc<Self>, amount: impl Fn(&Self) -> u64) {
        let mut locked_elsewhere = HashSet::new();
        for _ in 0..ROUNDS {
            let found = match self.scan() {
                Ok(found) => found,
                Err(e) => return self.notice(format!("cache: {e}")),
            };
            let amount = amount(self);
            if amount == 0 {
                return;
            }
            let may_go = |blob: &&Found| !blob.stays && !locked_elsewhere.contains(&blob.digest);
            let candidates: Vec<_> = found.iter().filter(may_go).collect();
            let Some(cut) = self.cut(&candidates, amount) else { return };
            let (mut left, used, by_disk) = (amount, self.space.used(), self.shortage(0).1.min(amount));
            for blob in candidates {
                match self.shrink(blob, cut, left) {
                    Ok(Some(freed)) => left = left.saturating_sub(freed),
                    Ok(None) => drop(locked_elsewhere.insert(blob.digest.clone())),
                    Err(e) => {
                        self.notice(format!("cache: {e}"));
                        locked_elsewhere.insert(blob.digest.clone());
                    }
                }
                if left == 0 {
                    break;
                }
            }
            let by_cache = amount.saturating_sub(by_disk);
            audit::record(What::Eviction { actual: amount - left, by_cache, by_disk, used });
        }
        // The last round's work must show in the account, too.
        if let Err(e) = self.scan() {
            self.notice(format!("cache: {e}"));
        }
    }

    /// The last use up to which things must go to free `amount`; None if there is nothing to free.
    fn cut(&self, blobs: &[&Found], amount: u64) -> Option<u32> {
        let mut ages = Vec::new();
        for blob in blobs {
            match self.opened(&blob.digest) {
                Some(store) => store.ages(|tick, bytes| ages.push((tick, bytes))),
                None => ages.push((blob.tick.unwrap_or(0), blob.bytes)),
            }
        }
        cut(ages, amount)
    }

    /// The blobs that this process has open.
    pub fn open_stores(&self) -> Vec<Arc<Store>> {
        let cells: Vec<_> = self.stores.lock().values().cloned().collect();
        // Who holds a cell is about to open the blob: nothing of it is in use yet.
        cells.iter().filter_map(|cell| cell.try_lock()?.upgrade()).collect()
    }

    /// The blob's store, if this process has it open.
    fn opened(&self, digest: &str) -> Option<Arc<Store>> {
        let cell = self.stores.lock().get(digest).cloned()?;
        let store = cell.try_lock()?.upgrade();
        store
    }

    /// Frees about `amount` bytes of one blob; None if another process has it open.
    fn shrink(self: &Arc<Self>, blob: &Found, cut: u32, amount: u64) -> Result<Option<u64>> {
        let place = Place { digest: &blob.digest, layer: None, tree: None };
        let cell = self.cell(place);
        // Somebody of this process is opening it: as good as another process.
        let Some(cell) = cell.try_lock() else { return Ok(None) };
        if let Some(store) = cell.upgrade() {
            if !store.lock(true)? {
                return Ok(None);
            }
            let taken = store.take_away(cut, amount, BATCH);
            store.lock(false)?;
            return Ok(Some(taken?.0));
        }
        let Some(tick) = blob.tick else {
            // Nothing of it is known: it is only in the way.
            let media = self.disk.open(&self.media_path(&blob.digest), Mode::Create)?;
            return Ok(if self.remove(&blob.digest, &*media)? { Some(blob.bytes) } else { None });
        };
        if tick > cut {
            return Ok(Some(0));
        }
        // Asked for first, so as not to wait for another process that works on it.
        if !set_lock(&*self.disk.open(&self.media_path(&blob.digest), Mode::Write)?, true)? {
            return Ok(None);
        }
        let store = match Store::open(self, place, None) {
            Err(e) if e.kind() == Kind::Busy => return Ok(None),
            other => other?,
        };
        if !store.lock(true)? {
            return Ok(None);
        }
        let outcome = store.take_away(cut, amount, BATCH);
        match (&store.home, outcome) {
            // Where no holes can be punched, files that nobody uses go as a whole.
            (Home::Directory(media), Ok((_, true)) | Err(_)) => {
                self.remove(&blob.digest, &**media)?;
                Ok(Some(blob.bytes))
            }
            (_, outcome) => Ok(Some(outcome?.0)),
        }
    }

    /// Removes a blob's files, unless another handle holds a lock on the media.
    pub fn remove(&self, digest: &str, media: &dyn File) -> Result<bool> {
        if !set_lock(media, true)? {
            return Ok(false);
        }
        // The map goes first: a media file without a map is only room, a map without media only misleads.
        for path in [self.map_path(digest), self.media_path(digest)] {
            match self.disk.remove(&path) {
                Err(e) if e.kind() != Kind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(true)
    }
}

/// The last use up to which things must go to free `amount`, of things that were used then and take so many bytes.
pub(super) fn cut(mut ages: Vec<(u32, u64)>, amount: u64) -> Option<u32> {
    ages.sort_unstable();
    let mut sum = 0u64;
    let enough = ages.iter().find(|(_, bytes)| {
        sum += bytes;
        sum >= amount
    });
    enough.or(ages.last()).map(|(tick, _)| *tick)
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn no_more_is_cut_than_it_takes() {
        let ages = vec![(5, 10), (1, 10), (3, 10)];
        for (amount, last) in [(1, 1), (10, 1), (11, 3), (20, 3), (21, 5), (30, 5), (99, 5)] {
            assert_eq!(cut(ages.clone(), amount), Some(last), "{amount}");
        }
        assert_eq!(cut(Vec::new(), 1), None);
    }
}
