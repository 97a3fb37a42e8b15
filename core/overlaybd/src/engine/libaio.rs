//! Linux AIO past the page cache, by its system calls.

use std::cell::RefCell;
use std::fs::{File as OsFile, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;

use super::aligned::{self, Bounce};
use super::context::{probe, with, Slot};
use super::{is_refusal, refused, Engine, Kind};
use crate::sys::File;

/// A file with a second descriptor for direct reads.
#[derive(Debug)]
pub struct Libaio {
    file: Arc<dyn File>,
    direct: OsFile,
    /// Set once the file system has refused a direct read.
    buffered: AtomicBool,
}

impl Libaio {
    /// Errors: those of opening the file with `O_DIRECT` and of making an AIO context.
    pub fn open(file: &Arc<dyn File>, fd: RawFd) -> io::Result<Self> {
        // By its descriptor: the name may belong to another file by now.
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(format!("/proc/self/fd/{fd}"))?;
        probe(&CONTEXT, Context::new)?;
        Ok(Libaio { file: Arc::clone(file), direct, buffered: AtomicBool::new(false) })
    }
}

impl Engine for Libaio {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.buffered.load(Relaxed) {
            return self.file.read_at(buf, offset);
        }
        let direct = |context: &mut Context| {
            let Context { id, bounce } = context;
            let read = |pages: &mut [u8], at| id.read(self.direct.as_raw_fd(), pages, at);
            (aligned::read(buf, offset, bounce, read), true)
        };
        match with(&CONTEXT, Context::new, direct) {
            Ok(Ok(n)) => Ok(n),
            Ok(Err(e)) if is_refusal(&e) => {
                self.buffered.store(true, Relaxed);
                refused(Kind::Libaio, &e, &*self.file);
                self.file.read_at(buf, offset)
            }
            Ok(Err(e)) => Err(e),
            Err(_) => self.file.read_at(buf, offset),
        }
    }
}

thread_local! {
    static CONTEXT: RefCell<Slot<Context>> = const { RefCell::new(Slot::Empty) };
}

struct Context {
    id: Id,
    bounce: Bounce,
}

impl Context {
    fn new() -> io::Result<Self> {
        let mut id: libc::c_ulong = 0;
        // SAFETY: the kernel writes an id to a place of the type it wants, which outlives the call.
        let ret = unsafe { libc::syscall(libc::SYS_io_setup, 1 as libc::c_uint, &mut id) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Context { id: Id(id), bounce: Bounce::default() })
    }
}

/// An AIO context of the kernel, with room for one request.
struct Id(libc::c_ulong);

/// `struct iocb` of the kernel.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key_and_flags: u64,
    opcode: u16,
    priority: i16,
    fd: u32,
    buf: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event` of the kernel.
#[repr(C)]
#[derive(Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

const COMMAND_PREAD: u16 = 0;

impl Id {
    /// One read, waited for.
    fn read(&self, fd: RawFd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut request = Request {
            opcode: COMMAND_PREAD,
            fd: fd as u32,
            buf: buf.as_mut_ptr() as u64,
            bytes: buf.len() as u64,
            offset,
            ..Request::default()
        };
        let mut list = [&raw mut request];
        // SAFETY: request and buffer are valid, and outlive the read: it is waited for below, without an end.
        let ret = unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1 as libc::c_long, list.as_mut_ptr()) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        if ret == 0 {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        let mut event = Event::default();
        let nothing = std::ptr::null_mut::<libc::timespec>();
        loop {
            let one = 1 as libc::c_long;
            // SAFETY: there is room for the one event asked for.
            let ret = unsafe { libc::syscall(libc::SYS_io_getevents, self.0, one, one, &mut event, nothing) };
            if ret == 1 {
                break;
            }
            // Interrupted. The buffer is the kernel's until the event comes, so there is no way but to go on.
            std::thread::yield_now();
        }
        usize::try_from(event.result).map_err(|_| io::Error::from_raw_os_error(-event.result as i32))
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: the context is this object's own, and nothing is under way in it.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}
