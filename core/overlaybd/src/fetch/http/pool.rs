//! Connections kept for the next request, and a bound on the requests that one host gets at a time.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::conn::Conn;

/// Requests that one host gets at a time; more wait for their turn, within their own time. Twice what front ends
/// have workers, and less than what registries begin to refuse.
const MAX_BUSY: usize = 64;
/// Idle connections kept for one host: as many as front ends have workers.
const MAX_IDLE: usize = 32;
/// Idle connections older than this are not used again; servers close theirs after 60 s and more.
const IDLE_AGE: Duration = Duration::from_secs(50);
/// Hosts remembered; beyond it those that nobody uses are forgotten.
const MAX_HOSTS: usize = 256;

/// All connections of a client.
#[derive(Default)]
pub(super) struct Pool {
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

#[derive(Default)]
struct Host {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<(Instant, Conn)>,
    busy: usize,
}

/// The right to send one request; dropped, it lets the next one go.
pub(super) struct Slot(Arc<Host>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state.lock().busy -= 1;
        self.0.freed.notify_one();
    }
}

/// Where a connection goes back to. Does not keep the pool alive.
pub(super) struct Lease(Weak<Host>);

impl Lease {
    /// Keeps a connection for the next request.
    pub fn give_back(&self, conn: Conn) {
        let Some(host) = self.0.upgrade() else { return };
        let mut state = host.state.lock();
        state.idle.push((Instant::now(), conn));
        let surplus = (state.idle.len() > MAX_IDLE).then(|| state.idle.remove(0));
        // Closing a connection takes time; the lock need not.
        drop(state);
        drop(surplus);
    }
}

impl Pool {
    /// Waits until `key` (a host, and the way to it) may get another request; None if that is not before `end`.
    pub fn enter(&self, key: &str, end: Instant) -> Option<Slot> {
        let host = {
            let mut hosts = self.hosts.lock();
            if hosts.len() >= MAX_HOSTS {
                hosts.retain(|_, host| Arc::strong_count(host) > 1);
            }
            Arc::clone(hosts.entry(key.to_owned()).or_default())
        };
        let mut state = host.state.lock();
        while state.busy >= MAX_BUSY {
            if host.freed.wait_until(&mut state, end).timed_out() {
                return None;
            }
        }
        state.busy += 1;
        drop(state);
        Some(Slot(host))
    }
}

impl Slot {
    /// A connection that was kept, the youngest: the others may get old and go.
    pub fn idle(&self) -> Option<Conn> {
        loop {
            let (since, mut conn) = self.0.state.lock().idle.pop()?;
            if since.elapsed() < IDLE_AGE && conn.is_idle() {
                return Some(conn);
            }
        }
    }

    /// Where the connection goes back to.
    pub fn lease(&self) -> Lease {
        Lease(Arc::downgrade(&self.0))
    }
}
