//! One queue's way to the kernel: an io_uring of its thread, on which requests come and answers go.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{cqueue, opcode, squeue, IoUring};

use super::abi::{io as command, io_command, Descriptor};
use super::memory::{Buffers, Descriptors};
use crate::error::{Error, Kind, Result};

/// The kernel, as one queue has it. Used by one thread.
pub trait Port {
    /// What the request of a tag that has arrived asks for.
    fn descriptor(&self, tag: u16) -> Descriptor;
    /// Answers the request of a tag, with the next [`Port::wait`].
    fn answer(&mut self, tag: u16, result: i32);
    /// Hands in what was answered; returns when requests have arrived, somebody rang the bell or `patience` is over.
    /// Buffers are filled at no other time, and only those of requests that have arrived then.
    ///
    /// Errors: if the kernel cannot be spoken to any more.
    fn wait(&mut self, arrived: &mut Vec<u16>, patience: Patience) -> Result<()>;
    /// Whether the kernel will hand out requests. Once it will not, it never will again.
    fn is_open(&self) -> bool;
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all.
    None,
    /// Not longer than that.
    Limited(Duration),
    /// As long as it takes.
    Unlimited,
}

/// Wakes the thread of a queue.
pub struct Bell(OwnedFd);

impl Bell {
    /// Errors: no descriptor is left.
    pub fn new() -> Result<Bell> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(Error::io("making an eventfd", io::Error::last_os_error()));
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Bell(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes `wait` return, now or the next time.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes are read from an array of eight. The count would be full after 2⁶⁴ rings.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Waits until it is rung, in the place of a ring.
    #[cfg(any(test, fuzzing))]
    pub fn wait(&self) {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut count = [0u8; 8];
        // SAFETY: one structure to poll, and eight bytes to read into.
        unsafe {
            libc::poll(&mut poll, 1, -1);
            libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len());
        }
    }
}

/// What completions are of that are of no tag.
const BELL: u64 = u64::MAX;

/// Entries of a ring beside those of the tags.
const SPARE_ENTRIES: u32 = 8;

/// The port to the real kernel.
pub struct UblkPort {
    ring: IoUring,
    queue: u16,
    depth: u16,
    descriptors: Descriptors,
    buffers: Arc<Buffers>,
    bell: Arc<Bell>,
    /// Requests that the kernel may hand out, one for each tag that is not answered for.
    asked_for: usize,
    /// The kernel gives no more.
    closed: bool,
}

impl UblkPort {
    /// Asks for requests of all tags of a queue of `/dev/ublkcN`. To be called by the thread that serves it.
    ///
    /// Errors: those of making a ring, of mapping, and of the kernel.
    pub fn open(
        device: BorrowedFd<'_>,
        queue: u16,
        depth: u16,
        buffers: Arc<Buffers>,
        bell: Arc<Bell>,
    ) -> Result<UblkPort> {
        let ring = ring(u32::from(depth) + SPARE_ENTRIES).map_err(|e| Error::io("making an io_uring", e))?;
        let files = [device.as_raw_fd()];
        ring.submitter().register_files(&files).map_err(|e| Error::io("an io_uring's file", e))?;
        let descriptors = Descriptors::map(device, queue, depth)?;
        let (asked_for, closed) = (0, false);
        let mut port = UblkPort { ring, queue, depth, descriptors, buffers, bell, asked_for, closed };
        port.watch_bell();
        for tag in 0..depth {
            port.push(tag, command::FETCH, 0);
        }
        let mut arrived = Vec::new();
        // Not a request yet, since the device has not been started: only what the kernel refuses.
        port.wait(&mut arrived, Patience::None)?;
        match port.closed {
            false => Ok(port),
            true => Err(Error::new(Kind::Io, "the kernel hands out no requests")),
        }
    }

    fn push(&mut self, tag: u16, number: u32, result: i32) {
        let body = io_command(self.queue, tag, result, self.buffers.address(tag));
        let entry = opcode::UringCmd16::new(Fixed(0), number).cmd(body).build().user_data(tag.into());
        self.asked_for += 1;
        self.submit(&entry);
    }

    fn watch_bell(&mut self) {
        // A rung bell is never read: each ring is an event, whatever the count.
        let poll = opcode::PollAdd::new(Fd(self.bell.0.as_raw_fd()), libc::POLLIN as u32).multi(true);
        self.submit(&poll.build().user_data(BELL));
    }

    fn submit(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry names (file, bell, the tag's buffer) lives as long as the ring. There is an entry
        // for each tag, each of which is in the ring once at most.
        unsafe { self.ring.submission().push(entry) }.expect("an entry for each tag");
    }

    fn enter(&mut self, patience: Patience) -> io::Result<()> {
        let done = match patience {
            Patience::None => self.ring.submit(),
            Patience::Unlimited => self.ring.submit_and_wait(1),
            Patience::Limited(limit) => {
                let limit = Timespec::from(limit);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
        };
        match done {
            Ok(_) => Ok(()),
            // Signals, the end of patience, and a queue of completions that has to be looked at first.
            Err(e) if [libc::EINTR, libc::ETIME, libc::EBUSY, libc::EAGAIN].map(Some).contains(&e.raw_os_error()) => {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

impl Port for UblkPort {
    fn descriptor(&self, tag: u16) -> Descriptor {
        self.descriptors.get(tag)
    }

    fn answer(&mut self, tag: u16, result: i32) {
        self.push(tag, command::COMMIT_AND_FETCH, result);
    }

    fn wait(&mut self, arrived: &mut Vec<u16>, patience: Patience) -> Result<()> {
        self.enter(patience).map_err(|e| Error::io("waiting for requests", e))?;
        let mut bell_ended = false;
        let mut failed = None;
        for done in self.ring.completion() {
            if done.user_data() == BELL {
                bell_ended |= !cqueue::more(done.flags());
                continue;
            }
            let tag = u16::try_from(done.user_data()).ok().filter(|tag| *tag < self.depth);
            let Some(tag) = tag else {
                failed = Some(Error::corrupt(format!("a ublk completion for tag {}", done.user_data())));
                continue;
            };
            self.asked_for -= 1;
            match done.result() {
                0 => arrived.push(tag),
                result => {
                    self.closed = true;
                    // ENODEV: the device stops, or is left.
                    if result != -libc::ENODEV {
                        let cause = io::Error::from_raw_os_error(-result);
                        failed = Some(Error::io(format!("asking for requests of tag {tag}"), cause));
                    }
                }
            }
        }
        if bell_ended {
            self.watch_bell();
        }
        failed.map_or(Ok(()), Err)
    }

    fn is_open(&self) -> bool {
        !(self.closed && self.asked_for == 0)
    }
}

/// A ring for a thread of its own, whose kernel part does nothing behind its back: the data of requests comes during
/// [`Port::wait`] only (Linux 6.1, which is older than all that has what is needed of ublk).
fn ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder().dontfork().setup_single_issuer().setup_defer_taskrun().build(entries)
}
