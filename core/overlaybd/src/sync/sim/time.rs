//! Moments, simulated inside of a world.

use std::ops::Add;
use std::sync::OnceLock;
use std::time::Duration;

/// As `std::time::Instant`: since the world began, or outside of one since the first call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// This moment.
    pub fn now() -> Self {
        static BEGIN: OnceLock<std::time::Instant> = OnceLock::new();
        Instant(super::now().unwrap_or_else(|| BEGIN.get_or_init(std::time::Instant::now).elapsed()))
    }

    /// Time since then.
    pub fn elapsed(&self) -> Duration {
        Instant::now().saturating_duration_since(*self)
    }

    /// Time from `earlier` to this moment, 0 if that is later.
    pub fn saturating_duration_since(&self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, time: Duration) -> Instant {
        Instant(self.0 + time)
    }
}
