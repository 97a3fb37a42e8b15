//! Tells the owner of a front end about failed requests, at a bounded rate.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Instant, Mutex};

use crate::error::Error;

/// Called with the name of the image concerned and its failure, by any thread.
pub type Report = Arc<dyn Fn(&str, Error) + Send + Sync>;

/// Reports let through in each window of time: a broken image may fail a thousand times a second.
const MAX_REPORTS: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Passes reports on.
pub struct Reporter {
    report: Option<Report>,
    window: Mutex<(Option<Instant>, u32)>,
}

impl Reporter {
    /// Passes them to `report`, or drops them.
    pub fn new(report: Option<Report>) -> Self {
        Reporter { report, window: Mutex::new((None, 0)) }
    }

    /// A request to `image` failed.
    pub fn report(&self, image: &str, error: Error) {
        let Some(report) = &self.report else { return };
        {
            let (start, count) = &mut *self.window.lock();
            let now = Instant::now();
            if start.is_none_or(|at| now.saturating_duration_since(at) >= WINDOW) {
                (*start, *count) = (Some(now), 0);
            }
            *count += 1;
            if *count > MAX_REPORTS {
                return;
            }
        }
        report(image, error);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_flood_is_cut() {
        let count = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&count);
        let report: Report = Arc::new(move |image, error| {
            assert_eq!((image, error.what()), ("a", "x"));
            seen.fetch_add(1, Ordering::Relaxed);
        });
        let reporter = Reporter::new(Some(report));
        for _ in 0..1000 {
            reporter.report("a", Error::corrupt("x"));
        }
        assert_eq!(count.load(Ordering::Relaxed), MAX_REPORTS);
    }
}
