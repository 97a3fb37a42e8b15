//! Who goes first on the network: fetches that somebody waits for, before those made in advance.

use std::time::Duration;

use crate::sync::{Condvar, Mutex};

/// The fetches of this process: all its images share one network.
pub static LANE: Lane = Lane::new();

/// Counts the fetches that somebody waits for, so that others can let them pass.
pub struct Lane {
    busy: Mutex<usize>,
    idle: Condvar,
}

/// A fetch that somebody waits for is under way while this lives.
pub struct Urgent<'a>(&'a Lane);

impl Lane {
    const fn new() -> Self {
        Lane { busy: Mutex::new(0), idle: Condvar::new() }
    }

    /// Announces an urgent fetch.
    pub fn urgent(&self) -> Urgent<'_> {
        *self.busy.lock() += 1;
        Urgent(self)
    }

    /// Returns when no urgent fetch is under way, or after `limit` (false): what is not urgent gets its turn too.
    pub fn give_way(&self, limit: Duration) -> bool {
        let mut busy = self.busy.lock();
        !self.idle.wait_while_for(&mut busy, |busy| *busy > 0, limit).timed_out()
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        let mut busy = self.0.busy.lock();
        *busy -= 1;
        if *busy == 0 {
            self.0.idle.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_all_that_is_urgent_and_not_for_ever() {
        let lane = Lane::new();
        lane.give_way(Duration::from_secs(600));
        let (first, second) = (lane.urgent(), lane.urgent());
        lane.give_way(Duration::from_millis(1));
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lane.give_way(Duration::from_secs(600));
                order.lock().push("copy");
            });
            drop(first);
            order.lock().push("urgent");
            drop(second);
        });
        assert_eq!(*order.lock(), ["urgent", "copy"]);
    }
}
