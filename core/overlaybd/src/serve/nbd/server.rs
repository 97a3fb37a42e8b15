//! The server: exports, the thread that accepts, the set of connections, the clean stop.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::conn;
use super::listen::Listener;
use super::net::{self, Wake};
use super::stats::{Counters, Stats};
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::limits::{NBD_MAX_IN_FLIGHT, NBD_MAX_NAME};
use crate::serve::buffers::Buffers;
use crate::serve::pool::Pool;
use crate::serve::pool_of;
use crate::serve::report::{Report, Reporter};

/// What can be set of a server.
#[derive(Clone)]
pub struct Options {
    /// The most threads that carry out slow requests of one export.
    pub workers: usize,
    /// The most connections at a time; further ones are closed at once.
    pub max_connections: usize,
    /// How long a client may take to choose an export.
    pub handshake: Duration,
    /// Told of requests that a device failed.
    pub report: Option<Report>,
}

impl Default for Options {
    fn default() -> Self {
        Options { workers: 16, max_connections: 64, handshake: Duration::from_secs(10), report: None }
    }
}

/// A device under a name.
pub struct Export {
    /// Name for clients.
    pub name: String,
    /// What is served.
    pub device: Arc<dyn BlockDevice>,
    /// Workers for its slow requests: its own, so that a device that hangs holds up no other.
    pub pool: Pool,
    /// Who is told of its failures.
    pub reporter: Reporter,
}

/// What all threads of a server share.
pub struct Shared {
    /// In the order given; the first is the default. Empty once stopped, so that the devices are free for others.
    exports: Mutex<Vec<Arc<Export>>>,
    /// Options.
    pub options: Options,
    /// Buffers of all connections.
    pub buffers: Arc<Buffers>,
    /// Counters.
    pub stats: Counters,
    /// Processors: more threads than that are of no use to decode one request.
    pub cpus: usize,
    stopping: AtomicBool,
    /// How to wake each connection's thread, by the connection's number.
    connections: Mutex<HashMap<u64, Arc<Wake>>>,
    /// Signalled when a connection has ended.
    ended: Condvar,
}

impl Shared {
    /// Checks the exports.
    ///
    /// Errors: `Invalid` if there is none, `Exists` for a name given twice, `Limit` for a name too long.
    pub fn new(exports: Vec<(String, Arc<dyn BlockDevice>)>, options: Options) -> Result<Shared> {
        if exports.is_empty() {
            return Err(Error::new(Kind::Invalid, "no image to export"));
        }
        let mut ready: Vec<Arc<Export>> = Vec::new();
        for (name, device) in exports {
            if name.len() > NBD_MAX_NAME {
                return Err(Error::new(Kind::Limit, format!("export name of {} bytes", name.len())));
            }
            if ready.iter().any(|e| e.name == name) {
                return Err(Error::new(Kind::Exists, format!("two exports are named {name:?}")));
            }
            let pool = pool_of(&device, "nbd-worker", options.workers, NBD_MAX_IN_FLIGHT);
            let reporter = Reporter::new(options.report.clone());
            ready.push(Arc::new(Export { name, device, pool, reporter }));
        }
        Ok(Shared {
            exports: Mutex::new(ready),
            options,
            buffers: Arc::default(),
            stats: Counters::default(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// The export that a client names; the empty name, unless an export has it, means the first.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Export>> {
        let exports = self.exports.lock();
        let named = exports.iter().find(|e| e.name.as_bytes() == name);
        named.or_else(|| exports.first().filter(|_| name.is_empty())).map(Arc::clone)
    }

    /// The names of all exports.
    pub fn names(&self) -> Vec<String> {
        self.exports.lock().iter().map(|e| e.name.clone()).collect()
    }

    /// Whether connections are to end.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Serves one client on the calling thread, until it leaves or the server stops. Any connected stream
    /// socket will do.
    ///
    /// Errors: `Limit` if there are too many connections, `Interrupted` if the server stops, and those of
    /// a failed handshake.
    pub fn serve(self: &Arc<Self>, socket: OwnedFd) -> Result<()> {
        let wake = Arc::new(Wake::new().map_err(|e| Error::io("eventfd", e))?);
        let number = self.stats.connections.fetch_add(1, Ordering::Relaxed);
        {
            let mut connections = self.connections.lock();
            if self.stopping() {
                return Err(Error::new(Kind::Interrupted, "the server stops"));
            }
            if connections.len() >= self.options.max_connections {
                return Err(Error::new(Kind::Limit, "too many connections"));
            }
            connections.insert(number, Arc::clone(&wake));
        }
        // Removed even if this thread panics, so that a stop cannot wait for ever.
        let _entry = Entry { server: self, number };
        conn::serve(self, socket, &wake)
    }

    /// Ends all connections, for good; returns when done.
    pub(super) fn end_connections(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let mut connections = self.connections.lock();
        for wake in connections.values() {
            wake.signal();
        }
        while !connections.is_empty() {
            self.ended.wait(&mut connections);
        }
        drop(connections);
        let exports = std::mem::take(&mut *self.exports.lock());
        for export in exports {
            export.pool.close();
        }
    }
}

struct Entry<'a> {
    server: &'a Shared,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.server.connections.lock().remove(&self.number);
        self.server.ended.notify_all();
    }
}

/// A running server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    address: String,
    accepting: Arc<Wake>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Serves `exports` (name, device; the first is the default) on `address`: `unix:PATH`, or
    /// `HOST:PORT` with port 0 for any free one and an empty host for this machine only.
    ///
    /// Errors: those of [`Shared::new`]; `Exists` if the address is in use; `Invalid` for no address.
    pub fn start(exports: Vec<(String, Arc<dyn BlockDevice>)>, address: &str, options: Options) -> Result<Server> {
        let shared = Arc::new(Shared::new(exports, options)?);
        let listener = Listener::bind(address)?;
        let accepting = Arc::new(Wake::new().map_err(|e| Error::io("eventfd", e))?);
        let address = listener.address().to_string();
        let thread = {
            let (shared, accepting) = (Arc::clone(&shared), Arc::clone(&accepting));
            std::thread::Builder::new()
                .name("nbd-accept".into())
                .spawn(move || accept(&shared, &listener, &accepting))
                .map_err(|e| Error::io("starting the accepting thread", e))?
        };
        Ok(Server { shared, address, accepting, thread: Mutex::new(Some(thread)) })
    }

    /// Where it listens, with the port that was chosen.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.shared.stats.get(self.shared.connections.lock().len() as u64)
    }

    /// Stops accepting, answers what is under way, closes all connections, lets go of the devices; returns
    /// when done. Requests that wait for a device are waited for.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.accepting.signal();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
        self.shared.end_connections();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(shared: &Arc<Shared>, listener: &Listener, wake: &Wake) {
    while !shared.stopping() {
        let fds = [(listener.as_raw_fd(), libc::POLLIN), (wake.as_raw_fd(), libc::POLLIN)];
        let Ok([ready, _]) = net::poll(fds, None) else { return };
        if ready == 0 {
            continue;
        }
        let Some(socket) = listener.accept() else { continue };
        let server = Arc::clone(shared);
        let serve = move || {
            if server.serve(socket).is_err() {
                Counters::add(&server.stats.refused, 1);
            }
        };
        if std::thread::Builder::new().name("nbd-connection".into()).spawn(serve).is_err() {
            Counters::add(&shared.stats.refused, 1);
        }
    }
}
