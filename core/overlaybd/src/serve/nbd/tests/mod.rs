//! The server against a client of its own, over socket pairs.

mod client;
mod commands;
mod handshake;
mod listening;
mod slow;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::server::{Options, Shared};
use crate::device::{BlockDevice, MemoryDevice};
use crate::error::{Kind, Result};
pub use crate::serve::test_device::{pattern, Device, SIZE};

/// A server of `device` as "disk", of a small read-only one as "fixed", with a short handshake time.
pub fn server(device: &Arc<Device>) -> Arc<Shared> {
    let fixed: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::read_only(vec![7; 1000]));
    let exports = vec![("disk".to_string(), Arc::clone(device) as Arc<dyn BlockDevice>), ("fixed".to_string(), fixed)];
    let options = Options { workers: 4, max_connections: 4, handshake: Duration::from_secs(20), report: None };
    Arc::new(Shared::new(exports, options).unwrap())
}

/// A connection to `server`, and the thread that serves it.
pub fn connect(server: &Arc<Shared>) -> (UnixStream, JoinHandle<Result<()>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    // A test that would wait for ever fails instead.
    ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let server = Arc::clone(server);
    (ours, std::thread::spawn(move || server.serve(theirs.into())))
}

/// The kind of the error that a connection ended with.
pub fn ended(thread: JoinHandle<Result<()>>) -> Option<Kind> {
    thread.join().expect("the connection's thread panicked").err().map(|e| e.kind())
}
