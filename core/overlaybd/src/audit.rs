//! What the audit log is made of: every access to a registry, slow accesses to local files, evictions.
//!
//! Whoever reads or writes pushes an event into one bounded queue, which somebody empties a few times a second. When
//! it is full events are counted, not waited with. Nothing is recorded until [`start`].

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::error::Result;
use crate::limits::MAX_AUDIT_EVENTS;
use crate::metrics;
use crate::sys::File;

/// Kinds of accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read from a registry or a proxy that a reader or the cache asked for.
    Download,
    /// A step of a background download.
    BackgroundDownload,
    /// A slow read of a cache file.
    CacheRead,
    /// A slow write to a cache file.
    CacheWrite,
    /// A slow read of a local layer.
    LayerRead,
}

impl Access {
    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Access::Download => "download",
            Access::BackgroundDownload => "bk_download",
            Access::CacheRead => "file:read",
            Access::CacheWrite => "file:write",
            Access::LayerRead => "file:pread",
        }
    }

    /// From when on it counts as slow.
    fn slow(self) -> Duration {
        match self {
            Access::Download | Access::BackgroundDownload => Duration::ZERO,
            Access::CacheRead => Duration::from_millis(1),
            Access::CacheWrite | Access::LayerRead => Duration::from_millis(10),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Bytes were read or written.
    Access {
        /// By whom and where.
        access: Access,
        /// URL without secrets, or path; empty for cache files.
        path: String,
        /// Where in blob or file.
        offset: u64,
        /// Bytes moved (for a layer: asked for), -1 after a failure.
        size: i64,
        /// How long it took.
        latency: Duration,
    },
    /// Room was made in a cache. All numbers are bytes.
    Eviction {
        /// Freed.
        actual: u64,
        /// To be freed because the cache is full.
        by_cache: u64,
        /// To be freed because the disk is full.
        by_disk: u64,
        /// Taken by the cache before.
        used: u64,
    },
}

/// One line of the log.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it ended, since 1970.
    pub time: Duration,
    /// The thread that did it.
    pub thread: u64,
    /// What it did.
    pub what: What,
}

static STARTED: AtomicBool = AtomicBool::new(false);
static EVENTS: Mutex<VecDeque<Event>> = Mutex::new(VecDeque::new());
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Begins to record.
pub fn start() {
    STARTED.store(true, Relaxed);
}

/// Records nothing from now on; what has been recorded can still be taken.
pub fn stop() {
    STARTED.store(false, Relaxed);
}

/// Whether events are recorded.
#[inline]
pub fn is_started() -> bool {
    STARTED.load(Relaxed)
}

/// The events since the last call, oldest first, and how many were lost because there were too many.
pub fn take() -> (Vec<Event>, u64) {
    let events = std::mem::take(&mut *EVENTS.lock());
    (events.into(), DROPPED.swap(0, Relaxed))
}

/// Records an event of the calling thread, which ended now.
pub fn record(what: What) {
    if !is_started() {
        return;
    }
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // SAFETY: cannot fail and touches no memory.
    let thread = unsafe { libc::pthread_self() } as u64;
    let mut events = EVENTS.lock();
    if events.len() < MAX_AUDIT_EVENTS {
        events.push_back(Event { time, thread, what });
    } else {
        drop(events);
        DROPPED.fetch_add(1, Relaxed);
    }
}

/// Carries out a fetch of `len` bytes of the blob `name` from the network: enters it in the metrics, and in the audit
/// log. `name` must hold no secrets.
pub fn remote<T>(access: Access, name: &str, offset: u64, len: usize, fetch: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let done = metrics::network(fetch);
    let latency = started.elapsed();
    metrics::REMOTE.record(latency, if done.is_ok() { Some(len as u64) } else { None });
    if is_started() {
        let size = if done.is_ok() { len as i64 } else { -1 };
        record(What::Access { access, path: name.to_owned(), offset, size, latency });
    }
    done
}

/// Reads a local file as its `read_at` does, and records a read that is slow. One that the page cache answers cannot
/// be, and so costs no look at the clock.
pub fn read_file(access: Access, file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    if !is_started() {
        return file.read_at(buf, offset);
    }
    if let Some(n) = read_cached(file, buf, offset) {
        return Ok(n);
    }
    let len = buf.len();
    timed(access, file, offset, len, || file.read_at(buf, offset))
}

/// Carries out a read or a write of `len` bytes of a file, and records it if it is slow.
pub fn timed<T, E>(
    access: Access,
    file: &dyn File,
    offset: u64,
    len: usize,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    if !is_started() {
        return work();
    }
    let started = Instant::now();
    let done = work();
    let latency = started.elapsed();
    if latency >= access.slow() {
        let path = if access == Access::LayerRead { file.path().display().to_string() } else { String::new() };
        let size = if done.is_ok() { len as i64 } else { -1 };
        record(What::Access { access, path, offset, size, latency });
    }
    done
}

/// Set where a read that does not wait is not to be had: by the kernel, or by the file system of one file.
static NO_NOWAIT: AtomicBool = AtomicBool::new(false);

/// What the page cache holds of a range; None if the disk is needed, or nobody can tell.
fn read_cached(file: &dyn File, buf: &mut [u8], offset: u64) -> Option<usize> {
    let (fd, offset) = (file.fd()?, i64::try_from(offset).ok()?);
    if NO_NOWAIT.load(Relaxed) {
        return None;
    }
    let vector = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: one vector, of memory that may be written to; the descriptor is open as long as the file is.
    let n = unsafe { libc::preadv2(fd, &vector, 1, offset, libc::RWF_NOWAIT) };
    if n >= 0 {
        return Some(n as usize);
    }
    let unknown = [libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL];
    if io::Error::last_os_error().raw_os_error().is_some_and(|errno| unknown.contains(&errno)) {
        NO_NOWAIT.store(true, Relaxed);
    }
    None
}

/// Who reads layers that lie in a file, by whatever engine.
pub fn layer_read(
    engine: &dyn crate::engine::Engine,
    file: &Arc<dyn File>,
    buf: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    if !is_started() || !engine.is_plain() {
        let len = buf.len();
        return timed(Access::LayerRead, &**file, offset, len, || engine.read_at(buf, offset));
    }
    read_file(Access::LayerRead, &**file, buf, offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::os::OsDisk;
    use crate::sys::{Disk, Mode};

    /// One test, since there is one queue.
    #[test]
    fn events_are_kept_in_order_within_bounds_and_only_when_asked_for() {
        record(What::Eviction { actual: 1, by_cache: 1, by_disk: 0, used: 1 });
        assert!(take().0.iter().all(|e| e.what != What::Eviction { actual: 1, by_cache: 1, by_disk: 0, used: 1 }));
        start();
        let name = "https://r.example/v2/a/blobs/x";
        remote(Access::Download, name, 4096, 512, || Ok(())).unwrap();
        remote(Access::BackgroundDownload, name, 0, 10, || Err::<(), _>(crate::Error::corrupt("x"))).unwrap_err();

        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.open(&dir.path().join("layer"), Mode::New).unwrap();
        file.write_at(b"bytes", 0).unwrap();
        let slow = |access, pause| {
            timed(access, &*file, 3, 5, || {
                std::thread::sleep(Duration::from_millis(pause));
                Ok::<_, io::Error>(5)
            })
        };
        slow(Access::CacheRead, 2).unwrap();
        slow(Access::LayerRead, 12).unwrap();
        let mut buf = [0; 8];
        assert_eq!(read_file(Access::LayerRead, &*file, &mut buf, 1).unwrap(), 4);
        assert_eq!(&buf[..4], b"ytes");

        let (events, dropped) = take();
        let seen: Vec<_> = events
            .iter()
            .filter_map(|event| match &event.what {
                What::Access { access, path, offset, size, .. } => {
                    Some((access.name(), path.as_str(), *offset, *size)).filter(|_| !path.contains("tmp"))
                }
                What::Eviction { .. } => None,
            })
            .filter(|seen| seen.1 == name || seen.2 == 3)
            .collect();
        let expected = [("download", name, 4096, 512), ("bk_download", name, 0, -1), ("file:read", "", 3, 5)];
        assert_eq!(seen, expected);
        let layer = file.path().display().to_string();
        assert!(events.iter().any(|e| matches!(&e.what, What::Access { path, size: 5, .. } if *path == layer)));
        assert_eq!(dropped, 0);

        for _ in 0..MAX_AUDIT_EVENTS + 7 {
            record(What::Eviction { actual: 2, by_cache: 2, by_disk: 0, used: 2 });
        }
        let (events, dropped) = take();
        assert_eq!(events.len(), MAX_AUDIT_EVENTS);
        assert!(dropped >= 7, "{dropped}");
        stop();
    }
}
