//! Serving on where another process left off: a connection that the kernel has agreed on already.
//!
//! Sources: the kernel's documentation of FUSE (`FUSE_NOTIFY_RESEND`, Linux 6.9) and `linux/fuse.h`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use fuser::{Config, Filesystem, Session, SessionACL};

use crate::error::{Error, Kind, Result};

/// `FUSE_INIT` and the version of the protocol that is spoken with ourselves.
const INIT: u32 = 26;
const VERSION: (u32, u32) = (7, 40);
/// Bytes of a request's header, of `fuse_init_in`, and of an answer's header.
const HEADER: usize = 40;
const INIT_BODY: usize = 64;
const ANSWER: usize = 16;
/// The notification that has the kernel send again what was sent and not answered.
const RESEND: i32 = 7;

/// A session on a connection whose server died.
///
/// The library begins each session with the handshake, which the kernel makes once a connection. So it makes it with
/// this process at first, over a socket whose place the connection then takes.
pub fn session<F: Filesystem>(files: F, connection: OwnedFd, acl: SessionACL, config: Config) -> Result<Session<F>> {
    let failed = |e: io::Error| Error::io("resuming FUSE", e);
    let (ours, theirs) = UnixDatagram::pair().map_err(failed)?;
    ours.send(&greeting()).map_err(failed)?;
    let theirs = OwnedFd::from(theirs);
    let number = theirs.as_raw_fd();
    let session = Session::from_fd(files, theirs, acl, config).map_err(failed)?;
    // SAFETY: both descriptors are open; `number` is the session's, which has no threads yet.
    if unsafe { libc::dup3(connection.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    ask_again(connection)?;
    Ok(session)
}

/// The request by which the kernel would begin.
fn greeting() -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + INIT_BODY);
    request.extend(((HEADER + INIT_BODY) as u32).to_ne_bytes());
    request.extend(INIT.to_ne_bytes());
    request.extend(1u64.to_ne_bytes());
    request.resize(HEADER, 0);
    for word in [VERSION.0, VERSION.1, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    request.resize(HEADER + INIT_BODY, 0);
    request
}

/// Has the kernel send again what the server that died had taken.
fn ask_again(connection: OwnedFd) -> Result<()> {
    let mut notice = Vec::with_capacity(ANSWER);
    notice.extend((ANSWER as u32).to_ne_bytes());
    notice.extend(RESEND.to_ne_bytes());
    notice.resize(ANSWER, 0);
    File::from(connection).write_all(&notice).map_err(|e| match e.raw_os_error() {
        Some(libc::EINVAL) => Error::new(Kind::Unsupported, "a FUSE server that died is replaced from Linux 6.9 on"),
        _ => Error::io("resuming FUSE", e),
    })
}
