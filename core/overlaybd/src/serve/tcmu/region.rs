//! Memory shared with the kernel: every access is checked against its length, and their order is explicit.

use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error, Layout};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Kind, Result};
use crate::sync::point;

/// A page: what a mapping is aligned to, and what memory in its place is.
const PAGE: usize = 4096;

/// A run of memory that others change too. Nothing here keeps a reference into it, [`Region::slice`] excepted.
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    /// How memory that is not a mapping was allocated.
    owned: Option<Layout>,
}

// SAFETY: the memory is reached by raw pointers and atomics only, and lives as long as the region.
unsafe impl Send for Region {}
// SAFETY: as above; `slice` leaves exclusion to its caller.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes of a device, shared.
    ///
    /// Errors: those of mmap.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> Result<Region> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        match NonNull::new(base.cast::<u8>()) {
            Some(start) if base != libc::MAP_FAILED => Ok(Region { base: start, len, owned: None }),
            _ => Err(Error::io(format!("mapping {len} bytes"), io::Error::last_os_error())),
        }
    }

    /// Zeros in memory of this process, in the place of a device: for tests and fuzzing.
    ///
    /// Errors: `Limit` for no length, or one that cannot be addressed.
    pub fn in_memory(len: usize) -> Result<Region> {
        let layout = Layout::from_size_align(len, PAGE).ok().filter(|_| len > 0);
        let layout = layout.ok_or_else(|| Error::new(Kind::Limit, format!("a region of {len} bytes")))?;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        Ok(Region { base, len, owned: Some(layout) })
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// The address of `len` bytes from `offset` on.
    fn address(&self, offset: usize, len: usize, align: usize) -> Result<*mut u8> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if !fits || !offset.is_multiple_of(align) {
            let what = format!("{len} bytes of shared memory of {}", self.len);
            return Err(Error::new(Kind::OutOfBounds, what).at(offset as u64));
        }
        // SAFETY: the range lies inside the memory.
        Ok(unsafe { self.base.as_ptr().add(offset) })
    }

    /// A 16 bit number at an even place.
    pub fn get_u16(&self, offset: usize) -> Result<u16> {
        // SAFETY: `address` checks range and alignment; the memory is the kernel's too, hence volatile.
        self.address(offset, 2, 2).map(|at| unsafe { at.cast::<u16>().read_volatile() })
    }

    /// A 32 bit number at a multiple of 4.
    pub fn get_u32(&self, offset: usize) -> Result<u32> {
        // SAFETY: as in `get_u16`.
        self.address(offset, 4, 4).map(|at| unsafe { at.cast::<u32>().read_volatile() })
    }

    /// A 64 bit number at a multiple of 8.
    pub fn get_u64(&self, offset: usize) -> Result<u64> {
        // SAFETY: as in `get_u16`.
        self.address(offset, 8, 8).map(|at| unsafe { at.cast::<u64>().read_volatile() })
    }

    /// Copies bytes out.
    pub fn get(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let at = self.address(offset, to.len(), 1)?;
        // SAFETY: the range lies inside the memory; `to` is memory of this process alone.
        unsafe { std::ptr::copy_nonoverlapping(at, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies bytes in.
    pub fn put(&self, offset: usize, from: &[u8]) -> Result<()> {
        point();
        let at = self.address(offset, from.len(), 1)?;
        // SAFETY: as in `get`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), at, from.len()) };
        Ok(())
    }

    /// The number at a multiple of 4 that another writes after all that it announces: what was written before it
    /// can be read after this.
    pub fn load_acquire(&self, offset: usize) -> Result<u32> {
        point();
        self.atomic(offset).map(|number| number.load(Ordering::Acquire))
    }

    /// Writes a number at a multiple of 4 that announces to another all that was written before.
    pub fn store_release(&self, offset: usize, value: u32) -> Result<()> {
        point();
        self.atomic(offset).map(|number| number.store(value, Ordering::Release))
    }

    fn atomic(&self, offset: usize) -> Result<&AtomicU32> {
        // SAFETY: `address` checks range and alignment; others access it atomically or not at all.
        self.address(offset, 4, 4).map(|at| unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    /// A range as a slice, to fill it or read it without a copy.
    ///
    /// # Safety
    ///
    /// Until the slice goes nobody else may touch the range: it is part of the data of a command that has been taken
    /// from the ring and not been completed, and the caller is who serves that command.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> Result<&mut [u8]> {
        let len = range.end.saturating_sub(range.start);
        // SAFETY: the range lies inside the memory, and the caller answers for who else touches it.
        self.address(range.start, len, 1).map(|at| unsafe { std::slice::from_raw_parts_mut(at, len) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match self.owned {
            // SAFETY: allocated with this layout, and nobody refers to it any more.
            Some(layout) => unsafe { dealloc(self.base.as_ptr(), layout) },
            // SAFETY: a mapping of this object alone.
            None => unsafe {
                libc::munmap(self.base.as_ptr().cast(), self.len);
            },
        }
    }
}
