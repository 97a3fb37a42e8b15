//! How often readers found chunks of one blob wrong: bounds what is fetched again for their sake.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Strikes that a blob may have, beyond one for each of its chunks: a blob that is wrong all over is not fetched more
/// than about twice.
const MOST: u32 = 256;
/// So long after the first strike all of them lapse: the registry may have got better meanwhile, and a blob that
/// stays wrong is still fetched a few times a minute at most.
const LAPSE: Duration = Duration::from_secs(60);

/// The strikes of a blob. Changed by one thread at a time.
#[derive(Default)]
pub(super) struct Strikes {
    count: AtomicU32,
    /// When the first was, in nanoseconds of the clock.
    since: AtomicU64,
}

impl Strikes {
    /// Called before a strike; true if those before have lapsed.
    pub fn lapse(&self, now: Duration) -> bool {
        let since = Duration::from_nanos(self.since.load(Ordering::Relaxed));
        if self.count.load(Ordering::Relaxed) > 0 && now.saturating_sub(since) < LAPSE {
            return false;
        }
        self.since.store(now.as_nanos() as u64, Ordering::Relaxed);
        self.count.swap(0, Ordering::Relaxed) > 0
    }

    /// Counts some.
    pub fn add(&self, n: u32) {
        self.count.fetch_add(n, Ordering::Relaxed);
    }

    /// Whether a blob of so many chunks had its share.
    pub fn are_too_many(&self, chunks: usize) -> bool {
        self.count.load(Ordering::Relaxed) >= MOST.saturating_add(chunks as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_lapse_a_minute_after_the_first_of_them() {
        let strikes = Strikes::default();
        let seconds = Duration::from_secs_f64;
        assert!(!strikes.lapse(seconds(100.0)), "there were none that could");
        strikes.add(3);
        assert!(!strikes.lapse(seconds(130.0)));
        strikes.add(1);
        assert!(!strikes.lapse(seconds(159.9)), "the last do not prolong it");
        assert!(strikes.lapse(seconds(160.0)));
        strikes.add(1);
        assert!(!strikes.lapse(seconds(219.9)));
        assert!(strikes.lapse(seconds(220.0)));
    }

    #[test]
    fn a_blob_may_have_a_strike_for_each_chunk_and_some_more() {
        let strikes = Strikes::default();
        strikes.add(MOST + 9);
        assert!(!strikes.are_too_many(10));
        strikes.add(1);
        assert!(strikes.are_too_many(10));
    }
}
