//! POSIX AIO: the C library's own threads read.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{is_refusal, refused, Descriptor, Engine, Kind};
use crate::sys::File;

/// A file read by `aio_read(3)`. The C library bounds its threads (20).
#[derive(Debug)]
pub struct PosixAio(Descriptor);

impl PosixAio {
    /// Wraps an open file; `fd` is its descriptor.
    pub fn new(file: &Arc<dyn File>, fd: RawFd) -> Self {
        PosixAio(Descriptor { file: Arc::clone(file), fd })
    }
}

impl Engine for PosixAio {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match read(self.0.fd, buf, offset) {
            // No thread could be started, or too many requests wait.
            Err(e) if is_refusal(&e) => {
                refused(Kind::PosixAio, &e, &*self.0.file);
                self.0.file.read_at(buf, offset)
            }
            done => done,
        }
    }
}

fn read(fd: RawFd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    // SAFETY: an all-zero aiocb is valid: no priority, no notification that is not overwritten below.
    let mut request: libc::aiocb = unsafe { std::mem::zeroed() };
    request.aio_fildes = fd;
    request.aio_buf = buf.as_mut_ptr().cast();
    request.aio_nbytes = buf.len();
    request.aio_offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    request.aio_sigevent.sigev_notify = libc::SIGEV_NONE;
    // SAFETY: request and buffer are valid, and outlive the read: it is waited for below, without an end.
    if unsafe { libc::aio_read(&mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let error = loop {
        // SAFETY: the request has been submitted, and its result not been taken.
        let error = unsafe { libc::aio_error(&request) };
        if error != libc::EINPROGRESS {
            break error;
        }
        let list = [&raw const request];
        // SAFETY: one valid pointer. A signal ends the wait early, which the loop sees.
        unsafe { libc::aio_suspend(list.as_ptr(), 1, std::ptr::null()) };
    };
    // SAFETY: the request is complete; its result is taken once.
    let n = unsafe { libc::aio_return(&mut request) };
    usize::try_from(n).map_err(|_| io::Error::from_raw_os_error(error))
}
