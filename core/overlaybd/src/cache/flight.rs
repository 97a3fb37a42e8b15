//! One fetch under way: whoever else wants its chunks waits for it, and reads its bytes from memory.

use std::sync::Arc;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};

use super::store::Store;
use crate::error::{Error, Kind, Result};

/// The fetch of the chunks `first..end`. It stays in its store's list until the bytes are on disk.
pub(super) struct Flight {
    pub first: usize,
    pub end: usize,
    /// Tells sources apart: another one may succeed where this one's credentials did not.
    pub owner: usize,
    /// Made in advance: nobody waited for it when it began.
    pub ahead: bool,
    used: AtomicBool,
    outcome: Mutex<Option<std::result::Result<Arc<Vec<u8>>, Error>>>,
    done: Condvar,
    /// Whether the bytes proved wrong. Held while they are written.
    disowned: Mutex<bool>,
    landed: Mutex<bool>,
    gone: Condvar,
}

impl Flight {
    pub fn new(first: usize, end: usize, owner: usize, ahead: bool) -> Arc<Self> {
        Arc::new(Flight {
            first,
            end,
            owner,
            ahead,
            used: AtomicBool::new(false),
            outcome: Mutex::default(),
            done: Condvar::new(),
            disowned: Mutex::new(false),
            landed: Mutex::new(false),
            gone: Condvar::new(),
        })
    }

    pub fn covers(&self, chunk: usize) -> bool {
        (self.first..self.end).contains(&chunk)
    }

    /// Ends the fetch; wakes all who wait. Only the first call counts.
    pub fn finish(&self, outcome: std::result::Result<Arc<Vec<u8>>, Error>) {
        self.outcome.lock().get_or_insert(outcome);
        self.done.notify_all();
    }

    /// The bytes, once they are there.
    ///
    /// Errors: that of the fetch, the same for all who wait.
    pub fn wait(&self) -> Result<Arc<Vec<u8>>> {
        let mut outcome = self.outcome.lock();
        self.done.wait_while(&mut outcome, |outcome| outcome.is_none());
        match outcome.as_ref() {
            Some(Ok(bytes)) => Ok(Arc::clone(bytes)),
            Some(Err(e)) => Err(e.again()),
            None => Err(Error::new(Kind::Io, "the fetch was given up")),
        }
    }

    /// The bytes, if they have arrived.
    pub fn bytes(&self) -> Option<Arc<Vec<u8>>> {
        self.outcome.lock().as_ref()?.as_ref().ok().cloned()
    }

    /// Says that somebody waits for it.
    pub fn mark_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Says that it has been taken off its store's list: the bytes are on disk, or were given up.
    pub fn land(&self) {
        *self.landed.lock() = true;
        self.gone.notify_all();
    }

    /// Returns once it has landed.
    pub fn wait_landed(&self) {
        self.gone.wait_while(&mut self.landed.lock(), |landed| !*landed);
    }

    /// Says that the bytes proved wrong: they must be neither written nor recorded from now on. Waits for a write
    /// that is under way, whose place others may get next.
    pub fn disown(&self) {
        *self.disowned.lock() = true;
    }

    pub fn is_disowned(&self) -> bool {
        *self.disowned.lock()
    }

    /// Has `write` write the bytes, unless they have been disowned.
    pub fn write(&self, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let disowned = self.disowned.lock();
        if *disowned {
            return Ok(());
        }
        write()
    }
}

/// Ends a fetch that brought nothing, when dropped.
pub(super) struct Abandoned<'a> {
    pub store: &'a Store,
    pub flight: &'a Arc<Flight>,
    pub why: Option<Error>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.store.land(self.flight);
        self.flight.finish(Err(self.why.take().unwrap_or_else(|| Error::new(Kind::Io, "the fetch was abandoned"))));
    }
}
