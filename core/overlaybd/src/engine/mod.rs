//! How the bytes of local layer files are read: four ways, one result.
//!
//! An engine that the kernel or the file system refuses (a seccomp filter, a sysctl, no `O_DIRECT`) is replaced by
//! `pread`, at open or for a single read, and says so once.

mod aligned;
mod context;
mod libaio;
mod posix_aio;
mod psync;
mod uring;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::sys::File;

/// Reads one open file. One object serves any number of threads.
pub trait Engine: Send + Sync + Debug {
    /// As `pread(2)`: up to `buf.len()` bytes, 0 only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Whether it is the file's own `read_at`.
    fn is_plain(&self) -> bool {
        false
    }
}

/// The engines, with the numbers that `ioEngine` has for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// `pread`. The fastest for what the page cache holds, and so the default: see the decision on engines.
    #[default]
    Psync = 0,
    /// Linux AIO past the page cache (`O_DIRECT`).
    Libaio = 1,
    /// POSIX AIO of the C library.
    PosixAio = 2,
    /// io_uring.
    Uring = 3,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Psync, Kind::Libaio, Kind::PosixAio, Kind::Uring];

    /// The engine of a number; None if there is none.
    pub fn from_number(number: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Psync => "psync",
            Kind::Libaio => "libaio",
            Kind::PosixAio => "posix aio",
            Kind::Uring => "io_uring",
        }
    }
}

/// The engine `kind` for `file`, or `pread` if that engine cannot work here or the file has no descriptor.
pub fn open(kind: Kind, file: &Arc<dyn File>) -> Arc<dyn Engine> {
    let opened = match (kind, file.fd()) {
        (Kind::Psync, _) | (_, None) => None,
        (Kind::Libaio, Some(fd)) => libaio::Libaio::open(file, fd).map(|e| Arc::new(e) as _).into(),
        (Kind::PosixAio, Some(fd)) => Some(Ok(Arc::new(posix_aio::PosixAio::new(file, fd)) as _)),
        (Kind::Uring, Some(fd)) => uring::Uring::open(file, fd).map(|e| Arc::new(e) as _).into(),
    };
    match opened {
        Some(Ok(engine)) => return engine,
        Some(Err(e)) => refused(kind, &e, &**file),
        None => {}
    }
    Arc::new(psync::Psync(Arc::clone(file)))
}

/// What engines had to say since the last call; each of them speaks at most once.
pub fn notices() -> Vec<String> {
    std::mem::take(&mut *NOTICES.lock())
}

static NOTICES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static SAID: [AtomicBool; Kind::ALL.len()] = [const { AtomicBool::new(false) }; Kind::ALL.len()];

/// Says once that files are read by `pread` instead.
fn refused(kind: Kind, why: &io::Error, file: &dyn File) {
    if !SAID[kind as usize].swap(true, Relaxed) {
        let (number, name, path) = (kind as u32, kind.name(), file.path().display());
        NOTICES.lock().push(format!("ioEngine {number} ({name}) cannot read {path} ({why}): pread is used instead"));
    }
}

/// Whether an error says that the kernel will not do it this way, rather than that the disk failed.
fn is_refusal(error: &io::Error) -> bool {
    let raw = error.raw_os_error();
    matches!(raw, Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EAGAIN | libc::EOPNOTSUPP))
        || matches!(raw, Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE))
}

/// A descriptor of a file that is kept open with it.
#[derive(Debug)]
struct Descriptor {
    file: Arc<dyn File>,
    fd: RawFd,
}
