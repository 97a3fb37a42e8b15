//! A file system that libext2fs has open: each of its calls that is used, made safe.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr::{null, null_mut};
use std::rc::Rc;

use super::channel::{offering, Shared, MANAGER};
use super::inode::Inode;
use super::library::{self, Code, Extent, Fs, Library, CHANGED, OPEN_64BIT, OPEN_WRITE};
use crate::error::{Error, Kind, Result};

/// Inserts behind the present extent.
const AFTER: c_int = 1;
/// Sets what a block of a file is mapped to, instead of asking.
const SET: c_int = 2;
/// What the library takes for the present time, where it stores one: not 0, which it takes for "ask the clock".
const NOW: i64 = 1;

/// An open file system. Without [`Handle::close`] nothing that the library keeps in memory is written.
pub(super) struct Handle {
    pub(super) fs: Fs,
    pub(super) library: &'static Library,
    pub pages: Shared,
}

impl Handle {
    /// Opens the file system on `pages`.
    ///
    /// # Errors
    /// `Unsupported` if there is none, or without the library; `Corrupt`; those of the device.
    pub fn open(pages: Shared) -> Result<Self> {
        let library = library::get()?;
        // Forgets what was said of another file system, of which nobody asked any more.
        library::complained();
        let mut fs = null_mut();
        let flags = OPEN_WRITE | OPEN_64BIT;
        let name = c"device".as_ptr();
        // SAFETY: strings that end in NUL, a manager that stays, and a place for the result.
        let code = offering(&pages, || unsafe { (library.open)(name, null(), flags, 0, 0, &MANAGER.0, &mut fs) });
        let handle = Self::opened(library, fs, pages, code, "opening the ext4 file system")?;
        // SAFETY: an open file system.
        handle.check(unsafe { (library.read_bitmaps)(handle.fs) }, "reading the ext4 bitmaps")?;
        handle.check_taken()?;
        Ok(handle)
    }

    /// Makes a file system of the size and features that the super block `wanted` has, without any file.
    ///
    /// # Errors
    /// `Unsupported` without the library; `Invalid` if that cannot be made; those of the device.
    pub fn create(pages: Shared, mut wanted: [u8; 1024]) -> Result<Self> {
        let library = library::get()?;
        library::complained();
        let mut fs = null_mut();
        let name = c"device".as_ptr();
        // SAFETY: as above; the super block is read only during the call.
        let call = || unsafe { (library.initialize)(name, OPEN_64BIT, &mut wanted, &MANAGER.0, &mut fs) };
        let code = offering(&pages, call);
        let handle = Self::opened(library, fs, pages, code, "making an ext4 file system")?;
        // SAFETY: an open file system.
        handle.check(unsafe { (library.allocate_tables)(handle.fs) }, "making the ext4 tables")?;
        Ok(handle)
    }

    fn opened(library: &'static Library, fs: Fs, pages: Shared, code: Code, doing: &str) -> Result<Self> {
        if code != 0 || fs.is_null() {
            let known = pages.borrow_mut().failed.take();
            return Err(known.map_or_else(|| library.error(code, doing), |e| e.context(doing)));
        }
        // SAFETY: an open file system, which nobody else has.
        unsafe { (*fs).now = NOW };
        Ok(Handle { fs, library, pages })
    }

    /// Writes what is in memory, and closes.
    ///
    /// # Errors
    /// Those of the device.
    pub fn close(mut self) -> Result<()> {
        // SAFETY: an open file system; if closing fails it stays open, and is freed when `self` goes.
        let code = unsafe { (self.library.close)(self.fs, 0) };
        if code == 0 {
            self.fs = null_mut();
        }
        self.check(code, "closing the ext4 file system")
    }

    /// The super block as it is now.
    pub fn super_block(&self) -> [u8; 1024] {
        // SAFETY: an open file system has one.
        unsafe { *(*self.fs).super_block }
    }

    /// Changes bytes of the super block.
    pub fn set_super_block(&mut self, at: usize, bytes: &[u8]) {
        // SAFETY: as above; the borrow ends here.
        let block = unsafe { &mut *(*self.fs).super_block };
        block[at..at + bytes.len()].copy_from_slice(bytes);
        // SAFETY: as above.
        unsafe { (*self.fs).flags |= CHANGED };
    }

    /// Free blocks and inodes of all groups together.
    pub fn free(&self) -> (u64, u64) {
        // SAFETY: an open file system.
        let groups = unsafe { (*self.fs).groups };
        let (mut blocks, mut inodes) = (0, 0);
        for group in 0..groups {
            // SAFETY: a group that there is.
            unsafe {
                blocks += u64::from((self.library.free_blocks)(self.fs, group));
                inodes += u64::from((self.library.free_inodes)(self.fs, group));
            }
        }
        (blocks, inodes)
    }

    pub fn create_resize_inode(&mut self) -> Result<()> {
        // SAFETY: an open file system.
        self.check(unsafe { (self.library.create_resize_inode)(self.fs) }, "making the resize inode")
    }

    /// Reads an inode of `size` bytes.
    pub fn read_inode(&self, number: u32, size: usize) -> Result<Inode> {
        let mut bytes = vec![0; size];
        // SAFETY: the buffer has the length that is told.
        let code = unsafe { (self.library.read_inode)(self.fs, number, bytes.as_mut_ptr(), size as c_int) };
        self.check(code, "reading an inode").map_err(|e| e.note(format!("inode {number}")))?;
        Ok(Inode(bytes))
    }

    pub fn write_inode(&mut self, number: u32, inode: &mut Inode) -> Result<()> {
        let len = inode.0.len() as c_int;
        // SAFETY: the buffer has the length that is told.
        let code = unsafe { (self.library.write_inode)(self.fs, number, inode.0.as_mut_ptr(), len) };
        self.check(code, "writing an inode")
    }

    /// A free inode, at or after the group of the inode `near`, which is marked as used.
    pub fn take_inode(&mut self, near: u32, is_directory: bool) -> Result<u32> {
        let mut number = 0;
        // SAFETY: no map means the file system's own.
        let code = unsafe { (self.library.new_inode)(self.fs, near, 0, null_mut(), &mut number) };
        self.check(code, "looking for a free inode")?;
        self.count_inode(number, 1, is_directory);
        Ok(number)
    }

    /// Marks an inode as used (1) or free (-1).
    pub fn count_inode(&mut self, number: u32, change: c_int, is_directory: bool) {
        // SAFETY: the library checks the number.
        unsafe { (self.library.count_inode)(self.fs, number, change, is_directory.into()) };
    }

    /// Free blocks at or after `goal`, at least one and at most `wanted`, which are marked as used.
    pub fn take_blocks(&mut self, goal: u64, wanted: u32) -> Result<(u64, u32)> {
        let (mut start, mut len) = (0, 0);
        // SAFETY: no map means the file system's own.
        let code =
            unsafe { (self.library.new_range)(self.fs, 0, goal, wanted.into(), null_mut(), &mut start, &mut len) };
        self.check(code, "looking for free blocks")?;
        let len = u32::try_from(len).unwrap_or(wanted).min(wanted);
        // SAFETY: blocks that the library has just named.
        unsafe { (self.library.count_range)(self.fs, start, len, 1) };
        Ok((start, len))
    }

    /// The block of the device that block `block` of a file is in; 0 for a hole.
    pub fn block_of(&self, number: u32, inode: &mut Inode, block: u64) -> Result<u64> {
        let mut place = 0;
        // SAFETY: an inode of at least 128 bytes; the library finds a buffer of its own.
        let code = unsafe {
            let inode = inode.0.as_mut_ptr();
            (self.library.map_block)(self.fs, number, inode, null_mut(), 0, block, null_mut(), &mut place)
        };
        self.check(code, "finding a block of a file")?;
        Ok(place)
    }

    /// Makes `place` the block `block` of a file.
    pub fn set_block(&mut self, number: u32, inode: &mut Inode, block: u64, mut place: u64) -> Result<()> {
        // SAFETY: as above.
        let code = unsafe {
            let inode = inode.0.as_mut_ptr();
            (self.library.map_block)(self.fs, number, inode, null_mut(), SET, block, null_mut(), &mut place)
        };
        self.check(code, "adding a block to a directory")
    }

    /// Frees the blocks of a file from `block` on.
    pub fn punch(&mut self, number: u32, inode: &mut Inode, block: u64) -> Result<()> {
        // SAFETY: as above.
        let code = unsafe { (self.library.punch)(self.fs, number, inode.0.as_mut_ptr(), null_mut(), block, u64::MAX) };
        self.check(code, "freeing blocks of a file")
    }

    /// Gives a file without content its extents: block of the file, block of the device, blocks; ascending.
    pub fn insert_extents(&mut self, number: u32, inode: &mut Inode, extents: &[(u32, u64, u32)]) -> Result<()> {
        let mut tree = null_mut();
        // SAFETY: an inode of at least 128 bytes, which outlives the handle of its extents: that is freed below.
        let code = unsafe { (self.library.open_extents)(self.fs, number, inode.0.as_mut_ptr(), &mut tree) };
        self.check(code, "opening the extents of a file")?;
        let mut code = 0;
        for (file, device, len) in extents {
            let mut extent = Extent { device: *device, file: u64::from(*file), len: *len, flags: 0 };
            // SAFETY: an open tree, and an extent that is only read.
            code = unsafe { (self.library.insert_extent)(tree, AFTER, &mut extent) };
            if code == 0 {
                // SAFETY: as above.
                code = unsafe { (self.library.fix_parents)(tree) };
            }
            if code != 0 {
                break;
            }
        }
        // SAFETY: opened above, and not used any more.
        unsafe { (self.library.free_extents)(tree) };
        self.check(code, "adding extents to a file")
    }

    /// Reads a block of a directory into `buf`, which is one block long.
    pub fn read_directory(&self, number: u32, place: u64, buf: &mut [u8]) -> Result<()> {
        self.is_block(buf)?;
        // SAFETY: the buffer is one block long.
        let code = unsafe { (self.library.read_directory)(self.fs, place, buf.as_mut_ptr(), 0, number) };
        self.check(code, "reading a directory").map_err(|e| e.note(format!("inode {number}")))
    }

    /// Writes a block of a directory, with its checksum where there are any.
    pub fn write_directory(&mut self, number: u32, place: u64, buf: &mut [u8]) -> Result<()> {
        self.is_block(buf)?;
        // SAFETY: the buffer is one block long.
        let code = unsafe { (self.library.write_directory)(self.fs, place, buf.as_mut_ptr(), 0, number) };
        self.check(code, "writing a directory")
    }

    /// The hash of a name in a directory; None if that way of hashing is not known.
    pub fn hash(&self, version: u8, name: &[u8], seed: &[u32; 4]) -> Option<u32> {
        let mut hash = 0;
        // SAFETY: the name has the length that is told, the seed four words.
        let code = unsafe {
            let len = name.len() as c_int;
            (self.library.hash)(version.into(), name.as_ptr(), len, seed.as_ptr(), &mut hash, null_mut())
        };
        (code == 0).then_some(hash)
    }

    /// Sets extended attributes of a file; those not named stay.
    ///
    /// # Errors
    /// `NoSpace` if they do not fit; `Invalid` for a name with a NUL in it.
    pub fn set_attributes(&mut self, number: u32, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.with_attributes(number, |list| {
            for (name, value) in attributes {
                let shown = || crate::tar::shown(name);
                let name = CString::new(name.as_slice())
                    .map_err(|_| Error::new(Kind::Invalid, format!("attribute {}: a NUL in its name", shown())))?;
                // SAFETY: an open list, a name that ends in NUL, a value of the length that is told.
                let code = unsafe { (self.library.set_attribute)(list, name.as_ptr(), value.as_ptr(), value.len()) };
                self.check(code, "setting an attribute")
                    .map_err(|e| e.note(format!("{}, {} bytes", shown(), value.len())))?;
            }
            Ok(())
        })
    }

    /// Removes all extended attributes of a file that do not have the names of `wanted`.
    pub fn clear_attributes(&mut self, number: u32, wanted: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.with_attributes(number, |list| {
            let mut there: Vec<CString> = Vec::new();
            // SAFETY: an open list; `keep_name` gets the vector that it expects, which nobody else uses meanwhile.
            let code = unsafe { (self.library.each_attribute)(list, keep_name, (&raw mut there).cast()) };
            self.check(code, "listing the attributes of a file")?;
            there.retain(|name| wanted.iter().all(|(wanted, _)| wanted != name.as_bytes()));
            there.into_iter().try_for_each(|name| {
                // SAFETY: an open list, a name that ends in NUL.
                let code = unsafe { (self.library.remove_attribute)(list, name.as_ptr()) };
                self.check(code, "removing an attribute")
            })
        })
    }

    /// Does something with the extended attributes that a file has.
    fn with_attributes(&self, number: u32, work: impl FnOnce(*mut c_void) -> Result<()>) -> Result<()> {
        let mut list = null_mut();
        // SAFETY: a place for the result.
        let code = unsafe { (self.library.open_attributes)(self.fs, number, &mut list) };
        self.check(code, "opening the attributes of a file")?;
        // SAFETY: an open list.
        let read = unsafe { (self.library.read_attributes)(list) };
        let result = self.check(read, "reading the attributes of a file").and_then(|()| work(list));
        // SAFETY: opened above; it is closed whether or not something failed.
        unsafe { (self.library.close_attributes)(&mut list) };
        result
    }

    /// Frees the block of attributes of a file.
    pub fn free_attributes(&mut self, number: u32, inode: &mut Inode) -> Result<()> {
        // The library takes an inode of 160 bytes.
        let len = inode.0.len();
        inode.0.resize(len.max(160), 0);
        // SAFETY: see above.
        let code = unsafe { (self.library.free_attributes)(self.fs, number, inode.0.as_mut_ptr()) };
        inode.0.truncate(len);
        self.check(code, "freeing the attributes of a file")
    }

    fn is_block(&self, buf: &[u8]) -> Result<()> {
        // SAFETY: an open file system.
        let size = unsafe { (*self.fs).block_size } as usize;
        if buf.len() < size {
            return Err(Error::new(Kind::Invalid, "a buffer that is no block"));
        }
        Ok(())
    }

    /// The error of a call that failed: the device's, if that is why.
    pub(super) fn check(&self, code: Code, doing: &str) -> Result<()> {
        let known = self.pages.borrow_mut().failed.take();
        let complained = library::complained();
        if code == 0 && !complained {
            return Ok(());
        }
        if code == 0 {
            return Err(Error::corrupt(format!("{doing}: it names blocks or inodes that there are not")));
        }
        Err(known.map_or_else(|| self.library.error(code, doing), |e| e.context(doing)))
    }
}

/// Adds the name of an attribute to a vector.
extern "C" fn keep_name(name: *mut c_char, _value: *mut c_char, _len: usize, names: *mut c_void) -> c_int {
    // SAFETY: a name that ends in NUL, and the vector that `clear_attributes` has handed in.
    let (name, names) = unsafe { (CStr::from_ptr(name), &mut *names.cast::<Vec<CString>>()) };
    names.push(name.to_owned());
    0
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.fs.is_null() {
            // SAFETY: still open, and not used again. It writes nothing.
            unsafe { (self.library.free)(self.fs) };
        }
        debug_assert!(Rc::strong_count(&self.pages) >= 1);
    }
}
