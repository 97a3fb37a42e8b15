//! The UIO device of a TCMU ring: its memory, and the descriptor by which both sides wake each other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::region::Region;
use super::ring::Ring;
use super::server::{Link, Options, Server};
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::limits::TCMU_MAX_REGION_BYTES;

/// Serves `device` on the ring of the UIO device `path`, such as `/dev/uio0`.
///
/// Errors: `NotFound`, `Denied`, `Io` with EBUSY if another process has it open; those of [`Ring::new`] and
/// [`Server::start`].
pub fn start(device: Arc<dyn BlockDevice>, path: &Path, options: Options) -> Result<Server> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = file.map_err(|e| Error::io("opening the TCMU ring", e).in_file(path))?;
    let region = Region::map(file.as_fd(), region_bytes(path)?).map_err(|e| e.in_file(path))?;
    let ring = Ring::new(Arc::new(region)).map_err(|e| e.in_file(path))?;
    let link = Uio::new(file).map_err(|e| Error::io("waiting for the TCMU ring", e).in_file(path))?;
    Server::start(device, ring, Arc::new(link), options)
}

/// How much memory there is to map: it must be mapped whole.
fn region_bytes(path: &Path) -> Result<usize> {
    let name = path.file_name().unwrap_or_default();
    let size = Path::new("/sys/class/uio").join(name).join("maps/map0/size");
    let text = fs::read_to_string(&size).map_err(|e| Error::io("size of the TCMU ring", e).in_file(&size))?;
    let bytes = text.trim().strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    match bytes {
        Some(bytes) if bytes <= TCMU_MAX_REGION_BYTES => Ok(bytes as usize),
        _ => Err(Error::new(Kind::Limit, format!("a TCMU ring of {} bytes", text.trim())).in_file(&size)),
    }
}

struct Uio {
    file: File,
    events: OwnedFd,
    woken: PipeReader,
    waker: PipeWriter,
}

impl Uio {
    fn new(file: File) -> io::Result<Uio> {
        let (woken, waker) = io::pipe()?;
        // SAFETY: plain system call; the descriptor it returns is owned by nobody else.
        let events = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if events < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        let events = unsafe { OwnedFd::from_raw_fd(events) };
        // The edge says that the kernel has added commands since the last time. So the device's counter of events
        // need not be read, which saves a system call for each batch.
        watch(&events, file.as_raw_fd(), libc::EPOLLIN | libc::EPOLLET)?;
        watch(&events, woken.as_raw_fd(), libc::EPOLLIN)?;
        Ok(Uio { file, events, woken, waker })
    }
}

fn watch(events: &OwnedFd, fd: RawFd, wanted: i32) -> io::Result<()> {
    let mut event = libc::epoll_event { events: wanted as u32, u64: fd as u64 };
    // SAFETY: passes the address of one structure.
    match unsafe { libc::epoll_ctl(events.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Link for Uio {
    fn wait(&self) -> Result<()> {
        let mut found = [libc::epoll_event { events: 0, u64: 0 }; 2];
        let count = loop {
            // SAFETY: `found` has room for two structures.
            match unsafe { libc::epoll_wait(self.events.as_raw_fd(), found.as_mut_ptr(), 2, -1) } {
                count if count >= 0 => break count as usize,
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(Error::io("waiting for commands", io::Error::last_os_error())),
            }
        };
        for event in &found[..count] {
            let (fd, events) = (event.u64, event.events as i32);
            if fd == self.woken.as_raw_fd() as u64 {
                let mut byte = [0];
                (&self.woken).read_exact(&mut byte).map_err(|e| Error::io("waiting for commands", e))?;
            } else if events & (libc::EPOLLERR | libc::EPOLLHUP) != 0 {
                return Err(Error::new(Kind::NotFound, "the kernel has removed the device"));
            }
        }
        Ok(())
    }

    fn wake(&self) {
        // One byte for each stop finds room.
        let _ = (&self.waker).write_all(&[0]);
    }

    fn kick(&self) -> Result<()> {
        (&self.file).write_all(&[0; 4]).map_err(|e| Error::io("telling the kernel of completions", e))
    }
}
