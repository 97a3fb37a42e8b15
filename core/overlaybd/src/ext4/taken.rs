//! What the block bitmaps of an ext4 say: which blocks are free, and whether that can be.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;

use super::handle::Handle;
use super::library::Code;
use crate::error::{Error, Result};

/// Finds the next block in a map, free or used, between two.
type Find = unsafe extern "C" fn(*mut c_void, u64, u64, *mut u64) -> Code;

impl Handle {
    /// Parts of `blocks` that nothing uses.
    pub fn unused(&self, blocks: Range<u64>) -> Vec<Range<u64>> {
        // SAFETY: an open file system, whose bitmaps were read when it was opened.
        let map = unsafe { (*self.fs).block_map };
        self.runs(map, blocks, [self.library.first_free, self.library.first_used])
    }

    /// Parts of `blocks` that `map` has, with how their starts and their ends are found.
    fn runs(&self, map: *mut c_void, blocks: Range<u64>, find: [Find; 2]) -> Vec<Range<u64>> {
        let next = |at: u64, find: Find| {
            let mut found = 0;
            // SAFETY: a bitmap; the library checks the range.
            match unsafe { find(map, at, blocks.end - 1, &mut found) } {
                0 => found,
                _ => blocks.end,
            }
        };
        let (mut found, mut at) = (Vec::new(), blocks.start);
        while at < blocks.end {
            let start = next(at, find[0]);
            if start < blocks.end {
                at = next(start, find[1]);
                found.push(start..at);
            } else {
                at = blocks.end;
            }
        }
        found
    }

    /// Makes sure that the bitmaps know of what holds the file system together, since content would be written over it,
    /// and that no part of that lies in another, since each would be written over the other.
    pub(super) fn check_taken(&self) -> Result<()> {
        let (library, mut map) = (self.library, null_mut());
        // SAFETY: an open file system, a name that ends in NUL, and a place for the result.
        let code = unsafe { (library.new_map)(self.fs, c"metadata".as_ptr(), &mut map) };
        self.check(code, "making a map of the ext4 metadata")?;
        // SAFETY: an open file system has a super block; its fields are plain numbers.
        let (groups, tables) = unsafe { ((*self.fs).groups, u64::from((*self.fs).inode_blocks_per_group)) };
        let mut places = Vec::new();
        for group in 0..groups {
            // SAFETY: a group that there is, and the map made above.
            unsafe {
                (library.mark_descriptors)(self.fs, group, map);
                let singles = [(library.block_map_at)(self.fs, group), (library.inode_map_at)(self.fs, group)];
                places.extend(singles.map(|at| at..at.saturating_add(1)));
                let at = (library.inodes_at)(self.fs, group);
                places.push(at..at.saturating_add(tables));
            }
        }
        let block = self.super_block();
        let word = |at: usize| u64::from(u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
        // The high half counts only in a file system of 64 bits.
        let blocks = word(0x04) | if word(0x60) & 0x80 != 0 { word(0x150) << 32 } else { 0 };
        places.extend(self.runs(map, word(0x14)..blocks, [library.first_used, library.first_free]));
        // SAFETY: made above, and not used any more.
        unsafe { (library.free_map)(map) };
        places.sort_by_key(|place| place.start);
        if let Some(pair) = places.windows(2).find(|pair| pair[1].start < pair[0].end) {
            let what = format!("an ext4 of which two pieces of metadata are in the same block: {}", pair[1].start);
            return Err(Error::corrupt(what));
        }
        match places.into_iter().flat_map(|place| self.unused(place)).next() {
            None => self.check(0, "looking for the ext4 metadata"),
            Some(free) => {
                let what = format!("an ext4 whose bitmaps call blocks free that hold its metadata: {}", free.start);
                Err(Error::corrupt(what))
            }
        }
    }
}
