//! io_uring: a ring for each thread that reads.

use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use io_uring::{opcode, types, IoUring};

use super::context::{probe, with, Slot};
use super::{is_refusal, refused, Descriptor, Engine, Kind};
use crate::sys::File;

/// A file read through the calling thread's ring.
#[derive(Debug)]
pub struct Uring(Descriptor);

impl Uring {
    /// Errors: those of making a ring.
    pub fn open(file: &Arc<dyn File>, fd: RawFd) -> io::Result<Self> {
        probe(&RING, ring)?;
        Ok(Uring(Descriptor { file: Arc::clone(file), fd }))
    }
}

impl Engine for Uring {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match with(&RING, ring, |ring| read(ring, self.0.fd, buf, offset)) {
            Ok(Ok(n)) => Ok(n),
            Ok(Err(e)) if is_refusal(&e) => {
                refused(Kind::Uring, &e, &*self.0.file);
                self.0.file.read_at(buf, offset)
            }
            Ok(Err(e)) => Err(e),
            Err(_) => self.0.file.read_at(buf, offset),
        }
    }
}

thread_local! {
    static RING: RefCell<Slot<IoUring>> = const { RefCell::new(Slot::Empty) };
}

fn ring() -> io::Result<IoUring> {
    IoUring::builder().dontfork().build(1)
}

/// One read, waited for; and whether the ring can be used again.
fn read(ring: &mut IoUring, fd: RawFd, buf: &mut [u8], offset: u64) -> (io::Result<usize>, bool) {
    // A vector, since the plain read came later (Linux 5.6). The kernel takes it over at submission or keeps a
    // pointer to it on old versions; it lives as long as the buffer does.
    let vector = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let entry = opcode::Readv::new(types::Fd(fd), (&raw const vector).cast(), 1).offset(offset).build();
    // SAFETY: descriptor, vector and buffer outlive the read: it is waited for below, or never began.
    if unsafe { ring.submission().push(&entry) }.is_err() {
        return (Err(io::Error::from_raw_os_error(libc::EAGAIN)), false);
    }
    loop {
        let waited = ring.submit_and_wait(1);
        if let Some(done) = ring.completion().next() {
            let n = usize::try_from(done.result());
            return (n.map_err(|_| io::Error::from_raw_os_error(-done.result())), true);
        }
        match waited {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
            // The kernel never took the request, and will not once the ring is gone.
            Err(e) if !ring.submission().is_empty() => return (Err(e), false),
            // The buffer is the kernel's until the completion comes, so there is no way but to go on.
            Err(_) => std::thread::yield_now(),
        }
    }
}
