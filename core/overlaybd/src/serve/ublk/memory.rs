//! Memory that a queue has with the kernel: its descriptors, which the kernel writes, and the buffers of its tags.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use super::abi::{descriptors_offset, Descriptor, DESCRIPTOR_BYTES};
use crate::error::{Error, Result};

/// A page: what mappings are made of.
const PAGE: usize = 4096;

/// A mapping, which ends with it.
struct Map {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process; it is reached through `base` by the rules of those who own it.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn new(len: usize, access: i32, flags: i32, fd: i32, offset: u64) -> Result<Map> {
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, fd, offset as libc::off_t) };
        match NonNull::new(base.cast::<u8>()) {
            Some(start) if base != libc::MAP_FAILED => Ok(Map { base: start, len }),
            _ => Err(Error::io(format!("mapping {len} bytes"), io::Error::last_os_error())),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's own.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The descriptors of a queue.
pub struct Descriptors {
    map: Map,
    depth: u16,
}

impl Descriptors {
    /// Maps those of a queue with so many tags.
    ///
    /// Errors: those of mmap; `Invalid` if another process has mapped them.
    pub fn map(fd: BorrowedFd<'_>, queue: u16, depth: u16) -> Result<Descriptors> {
        let len = (usize::from(depth) * DESCRIPTOR_BYTES).next_multiple_of(PAGE);
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let map = Map::new(len, libc::PROT_READ, flags, fd.as_raw_fd(), descriptors_offset(queue))?;
        Ok(Descriptors { map, depth })
    }

    /// That of a tag, which must be below the depth.
    pub fn get(&self, tag: u16) -> Descriptor {
        assert!(tag < self.depth, "tag {tag} of {}", self.depth);
        // SAFETY: the mapping has a descriptor for each tag, aligned as the numbers in it must be; the kernel wrote
        // it before it told of the request and leaves it alone until that is answered, but it is not ours.
        unsafe {
            let at = self.map.base.as_ptr().add(usize::from(tag) * DESCRIPTOR_BYTES);
            let (op_flags, sectors) = (at.cast::<u32>(), at.add(4).cast::<u32>());
            let start = at.add(8).cast::<u64>();
            Descriptor::new(op_flags.read_volatile(), sectors.read_volatile(), start.read_volatile())
        }
    }
}

/// A buffer for each tag of a queue. Memory is taken as it is used.
pub struct Buffers {
    map: Map,
    each: usize,
}

impl Buffers {
    /// So many buffers of so many bytes.
    ///
    /// Errors: those of mmap.
    pub fn new(count: u16, each: usize) -> Result<Buffers> {
        let each = each.next_multiple_of(PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let map = Map::new(usize::from(count) * each, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)?;
        Ok(Buffers { map, each })
    }

    /// Bytes of one buffer.
    pub fn each(&self) -> usize {
        self.each
    }

    /// Where the buffer of a tag is, for the kernel.
    pub fn address(&self, tag: u16) -> u64 {
        self.place(tag, 0) as u64
    }

    fn place(&self, tag: u16, len: usize) -> *mut u8 {
        let start = usize::from(tag) * self.each;
        assert!(len <= self.each && start + self.each <= self.map.len, "buffer {tag}, {len} bytes");
        // SAFETY: inside the mapping.
        unsafe { self.map.base.as_ptr().add(start) }
    }

    /// The first `len` bytes of a tag's buffer.
    ///
    /// # Safety
    ///
    /// The request of that tag must have been handed out and not be answered while the slice lives, and be borrowed
    /// from here once at a time: else it is the kernel's.
    // Distinct tags are distinct memory, whose owner is told by the protocol.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, tag: u16, len: usize) -> &mut [u8] {
        // SAFETY: inside the mapping; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.place(tag, len), len) }
    }

    /// Gives the memory back to the system; buffers read as zeros then.
    ///
    /// # Safety
    ///
    /// No slice may live.
    pub unsafe fn release(&self) {
        // SAFETY: the mapping is private and nobody looks at it. Should it fail, memory stays in use.
        unsafe { libc::madvise(self.map.base.as_ptr().cast(), self.map.len, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tag_has_its_own_buffer() {
        let buffers = Buffers::new(3, 5000).unwrap();
        assert_eq!(buffers.each(), 8192);
        for tag in 0..3 {
            // SAFETY: one slice at a time.
            unsafe { buffers.slice(tag, 8192) }.fill(tag as u8 + 1);
        }
        for tag in 0..3 {
            // SAFETY: as above.
            assert!(unsafe { buffers.slice(tag, 8192) }.iter().all(|byte| *byte == tag as u8 + 1));
            assert_eq!(buffers.address(tag), buffers.address(0) + u64::from(tag) * 8192);
        }
        // SAFETY: no slice lives.
        unsafe { buffers.release() };
        // SAFETY: as above.
        assert_eq!(unsafe { buffers.slice(1, 1) }, [0]);
    }

    #[test]
    #[should_panic(expected = "buffer 3")]
    fn no_buffer_is_beyond_the_last() {
        Buffers::new(3, 4096).unwrap().address(3);
    }
}
