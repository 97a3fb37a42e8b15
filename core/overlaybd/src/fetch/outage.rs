//! How long a registry that is away is waited for by those who read a device in use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sys::Clock;

/// Pause between two attempts while a registry is away: so soon after its return readers go on.
const PAUSE: Duration = Duration::from_secs(1);

/// The patience of a source beyond its usual attempts. At first there is none, so that what cannot be opened fails
/// soon; a device in use may be given some, since an error would take down what runs on it.
#[derive(Debug, Default)]
pub struct Outage {
    limit_ms: AtomicU64,
}

impl Outage {
    /// Waits for so long from now on; zero ends the wait of those who wait, within a pause and an attempt.
    pub fn endure(&self, limit: Duration) {
        self.limit_ms.store(limit.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Lets a pause pass. False, and before its end, if nobody is to wait any more.
    pub(super) fn wait(&self, clock: &dyn Clock, pause: Duration) -> bool {
        let end = clock.now() + pause;
        while let Some(left) = end.checked_sub(clock.now()).filter(|left| !left.is_zero()) {
            if self.limit_ms.load(Ordering::Relaxed) == 0 {
                return false;
            }
            clock.sleep(left.min(PAUSE));
        }
        true
    }

    /// The pause before another attempt of a fetch that has failed since `since`, at least `wanted`; None if it is time
    /// to give up.
    pub(super) fn pause(&self, since: Duration, now: Duration, wanted: Duration) -> Option<Duration> {
        let limit = Duration::from_millis(self.limit_ms.load(Ordering::Relaxed));
        let pause = wanted.max(PAUSE);
        (now.saturating_sub(since).saturating_add(pause) <= limit).then_some(pause)
    }
}
