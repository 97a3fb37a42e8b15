//! Open files that Python hands over by descriptor, and reading them to their end.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use overlaybd::progress::Progress;
use overlaybd::sys::os::OsFile;
use overlaybd::{Error, Result};

/// Longest wait for a pipe before signals are looked at again, in milliseconds.
const WAIT_MS: i32 = 200;

/// A second handle of the open file `fd`, so that Python may close its own at any time. Messages name the file
/// as the system knows it.
pub fn duplicate(fd: RawFd) -> Result<(File, PathBuf)> {
    let bad = || Error::io(format!("descriptor {fd}"), std::io::Error::from_raw_os_error(libc::EBADF));
    if fd < 0 {
        return Err(bad());
    }
    // SAFETY: not -1, and used only to be duplicated, which fails for one that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let file = borrowed.try_clone_to_owned().map_err(|e| Error::io(format!("descriptor {fd}"), e))?;
    let name = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_else(|_| format!("descriptor {fd}").into());
    Ok((file.into(), name))
}

/// The file `fd`, to write a layer into.
pub fn output(fd: RawFd) -> Result<Arc<OsFile>> {
    let (file, name) = duplicate(fd)?;
    Ok(Arc::new(OsFile::new(file, name)))
}

/// Reads from the present position to the end, a pipe as well, and hands all to `take`. `progress` counts what
/// was read, of the file's length where it has one; it is called while a pipe has nothing to say, too.
pub fn read_to_end(fd: RawFd, progress: &mut Progress<'_>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
    let (mut file, name) = duplicate(fd)?;
    let total = file.metadata().map_err(|e| Error::io("stat", e).in_file(&name))?.len();
    let mut piece = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        if wait(file.as_raw_fd()) {
            match file.read(&mut piece) {
                Ok(0) => return Ok(done),
                Ok(n) => {
                    take(&piece[..n])?;
                    done += n as u64;
                }
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(e) => return Err(Error::io("read", e).in_file(&name).at(done)),
            }
        }
        progress(done, total)?;
    }
}

/// Whether a read would return at once, with bytes, the end or an error; waits for that a moment.
fn wait(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` outlives the call, which is told of one entry.
    let ready = unsafe { libc::poll(&mut poll, 1, WAIT_MS) };
    ready > 0
}
