//! The few system calls on sockets that the standard library lacks: never blocking except in `poll`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// Wakes a thread that polls.
pub struct Wake(OwnedFd);

impl Wake {
    /// A new one, not signalled.
    pub fn new() -> io::Result<Wake> {
        // SAFETY: plain system call; the descriptor it returns is owned by nobody else.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(Wake(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the next or current poll return.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes that are there. It fails only if the counter is full: signalled then.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Forgets signals.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: reads at most eight bytes into a buffer of eight. It fails only if not signalled.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits until one of `fds` (descriptor, events) has an event or `deadline` has passed; the events
/// that came, all zero on time-out.
pub fn poll<const N: usize>(fds: [(RawFd, i16); N], deadline: Option<Instant>) -> io::Result<[i16; N]> {
    let mut polled = fds.map(|(fd, events)| libc::pollfd { fd, events, revents: 0 });
    loop {
        let timeout = match deadline {
            None => -1,
            // Rounded up, so that a time-out means that the deadline has passed.
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
                i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
            }
        };
        // SAFETY: `polled` is an array of N structures.
        let n = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) };
        if n >= 0 {
            return Ok(polled.map(|p| p.revents));
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// Receives what is there; None if nothing is yet, 0 at the end of the stream.
pub fn receive(fd: RawFd, buf: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: receives at most `buf.len()` bytes into `buf`.
    outcome(|| unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) })
}

/// Sends what there is room for; None if there is none.
pub fn send(fd: RawFd, parts: &[io::IoSlice<'_>]) -> io::Result<Option<usize>> {
    // SAFETY: an all-zero msghdr is valid; the fields that matter are set below.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSlice` has the layout of iovec by its documentation; sendmsg does not write through it.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len();
    // SAFETY: `message` names `parts.len()` slices that outlive the call.
    outcome(|| unsafe { libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

fn outcome(mut call: impl FnMut() -> isize) -> io::Result<Option<usize>> {
    loop {
        let n = call();
        if n >= 0 {
            return Ok(Some(n as usize));
        }
        let e = io::Error::last_os_error();
        match e.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(None),
            _ => return Err(e),
        }
    }
}

/// Ends both directions, so that the peer sees the end even while this process still holds the socket.
pub fn shut_down(fd: RawFd) {
    // SAFETY: plain system call; failing means that the peer has gone.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Sets an integer socket option; false where the system refuses.
pub fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> bool {
    let size = std::mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: passes the address and the size of one integer.
    unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) == 0 }
}
