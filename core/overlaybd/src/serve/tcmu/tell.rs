//! Telling the kernel of completions: once for all that come while a thread is at it.

use super::server::Link;
use crate::error::Result;
use crate::serve::stats::Counters;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Who tells, and of how many.
pub struct Teller {
    /// As many are told of together, at most.
    most: usize,
    untold: AtomicUsize,
    /// A thread is at it.
    telling: AtomicBool,
}

impl Teller {
    /// One that tells of up to `most` completions together.
    pub fn new(most: usize) -> Self {
        Teller { most, untold: AtomicUsize::new(0), telling: AtomicBool::new(false) }
    }

    /// There is one more. Whether it is time to tell.
    pub fn completed(&self) -> bool {
        self.untold.fetch_add(1, Ordering::SeqCst) + 1 >= self.most
    }

    /// Tells of all that there are, unless another thread does.
    ///
    /// Errors: those of [`Link::kick`].
    pub fn tell(&self, link: &dyn Link, stats: &Counters) -> Result<()> {
        while self.untold.load(Ordering::SeqCst) > 0 {
            if self.telling.swap(true, Ordering::SeqCst) {
                return Ok(()); // that thread looks again when it has done
            }
            let told = if self.untold.swap(0, Ordering::SeqCst) > 0 { link.kick() } else { Ok(()) };
            self.telling.store(false, Ordering::SeqCst);
            Counters::add(&stats.turns, 1);
            told?;
        }
        Ok(())
    }
}
