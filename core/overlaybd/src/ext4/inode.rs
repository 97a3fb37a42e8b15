//! An inode as it lies on disk.

use crate::tar::Time;

/// Type bits of a mode.
pub(crate) const TYPE: u16 = 0xF000;
pub(crate) const FIFO: u16 = 0x1000;
pub(crate) const CHAR: u16 = 0x2000;
pub(crate) const DIR: u16 = 0x4000;
pub(crate) const BLOCK: u16 = 0x6000;
pub(crate) const FILE: u16 = 0x8000;
pub(crate) const LINK: u16 = 0xA000;

pub(super) const EXTENTS: u32 = 0x8_0000;
pub(super) const INDEX: u32 = 0x1000;
const HUGE_FILE: u32 = 0x4_0000;

/// Where content or its map begins, and how much room is there.
const MAP: usize = 0x28;
pub(super) const MAP_BYTES: usize = 60;
/// Bytes behind the first 128 that we know.
const EXTRA: u16 = 32;
/// Extents that fit the inode, and the blocks of the longest.
pub(super) const OWN_EXTENTS: usize = 4;
pub(super) const EXTENT_BLOCKS: u32 = 32768;

/// Seconds that can be said: 34 bits from 1901 on.
const SECONDS: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 31) - 1 + 3 * (1 << 32);

/// All bytes of an inode: 128, or more where the file system has larger ones.
#[derive(Clone, Debug)]
pub(crate) struct Inode(pub Vec<u8>);

impl Inode {
    /// One of `size` bytes for something new.
    pub fn new(size: usize, mode: u16) -> Self {
        let mut inode = Inode(vec![0; size]);
        inode.put16(0, mode);
        inode.put16(0x1A, 1);
        if size > 128 {
            inode.put16(0x80, EXTRA);
        }
        inode
    }

    pub fn mode(&self) -> u16 {
        self.get16(0)
    }

    pub fn kind(&self) -> u16 {
        self.mode() & TYPE
    }

    /// Sets permissions; the type stays.
    pub fn set_permissions(&mut self, permissions: u16) {
        self.put16(0, self.kind() | permissions & !TYPE);
    }

    pub fn set_owner(&mut self, uid: u32, gid: u32) {
        for (id, low, high) in [(uid, 2, 0x78), (gid, 0x18, 0x7A)] {
            self.put16(low, id as u16);
            self.put16(high, (id >> 16) as u16);
        }
    }

    /// Sets times; what cannot be said becomes the nearest that can. The time of change is that of the content.
    pub fn set_times(&mut self, mtime: Time, atime: Time) {
        for (time, at, extra) in [(atime, 0x8, 0x8C), (mtime, 0xC, 0x84), (mtime, 0x10, 0x88)] {
            let seconds = time.seconds.clamp(*SECONDS.start(), *SECONDS.end());
            let nanos = if seconds == time.seconds { time.nanos } else { 0 };
            let epoch = ((seconds - i64::from(seconds as i32)) >> 32) as u32;
            self.put32(at, seconds as u32);
            if self.has(extra + 4) {
                self.put32(extra, nanos << 2 | epoch & 3);
            } else if epoch != 0 {
                self.put32(at, i32::MAX as u32);
            }
        }
    }

    pub fn links(&self) -> u16 {
        self.get16(0x1A)
    }

    pub fn set_links(&mut self, links: u16) {
        self.put16(0x1A, links);
    }

    pub fn size(&self) -> u64 {
        u64::from(self.get32(4)) | u64::from(self.get32(0x6C)) << 32
    }

    pub fn set_size(&mut self, size: u64) {
        self.put32(4, size as u32);
        self.put32(0x6C, (size >> 32) as u32);
    }

    /// Blocks of 512 bytes that it takes.
    pub fn sectors(&self) -> u64 {
        u64::from(self.get32(0x1C)) | u64::from(self.get16(0x74)) << 32
    }

    /// Counts blocks, of `sectors` times 512 bytes, as its own.
    pub fn add_sectors(&mut self, sectors: u64) {
        // Where the unit is a block, files are beyond all that is made here.
        if self.flags() & HUGE_FILE == 0 {
            let sectors = self.sectors() + sectors;
            self.put32(0x1C, sectors as u32);
            self.put16(0x74, (sectors >> 32) as u16);
        }
    }

    pub fn flags(&self) -> u32 {
        self.get32(0x20)
    }

    pub fn set_flags(&mut self, flags: u32) {
        self.put32(0x20, flags);
    }

    /// Whether it has a block of attributes.
    pub fn has_attribute_block(&self) -> bool {
        self.get32(0x68) != 0 || self.get16(0x76) != 0
    }

    /// Whether it may have attributes: in a block, or behind what we know of the inode.
    pub fn has_attributes(&self) -> bool {
        let own = if self.0.len() > 128 { self.0.get(128 + usize::from(self.get16(0x80))..) } else { None };
        self.has_attribute_block() || own.is_some_and(|own| own.iter().any(|b| *b != 0))
    }

    /// A symbolic link whose target is in the inode.
    pub fn is_short_link(&self) -> bool {
        self.kind() == LINK && self.size() < MAP_BYTES as u64 && self.flags() & EXTENTS == 0
    }

    /// The target of a short link.
    pub fn short_link(&self) -> &[u8] {
        &self.0[MAP..MAP + self.size().min(MAP_BYTES as u64) as usize]
    }

    pub fn set_short_link(&mut self, target: &[u8]) {
        self.0[MAP..MAP + target.len()].copy_from_slice(target);
        self.set_size(target.len() as u64);
    }

    /// Sets the number of a device; false if it has none in this file system.
    pub fn set_device(&mut self, major: u32, minor: u32) -> bool {
        if major < 256 && minor < 256 {
            self.put32(MAP, major << 8 | minor);
        } else if major < 1 << 12 && minor < 1 << 20 {
            self.put32(MAP + 4, minor & 0xFF | major << 8 | (minor & !0xFF) << 12);
        } else {
            return false;
        }
        true
    }

    /// Makes the content `extents`: block of the file, block of the device, blocks. At most [`OWN_EXTENTS`]; for more,
    /// none here, and the library inserts them.
    pub fn set_extents(&mut self, extents: &[(u32, u64, u32)]) {
        self.set_flags(self.flags() | EXTENTS);
        self.0[MAP..MAP + MAP_BYTES].fill(0);
        let extents = if extents.len() > OWN_EXTENTS { &[] } else { extents };
        self.put16(MAP, 0xF30A);
        self.put16(MAP + 2, extents.len() as u16);
        self.put16(MAP + 4, OWN_EXTENTS as u16);
        for (number, (file, device, len)) in extents.iter().enumerate() {
            let at = MAP + 12 * (number + 1);
            self.put32(at, *file);
            self.put16(at + 4, *len as u16);
            self.put16(at + 6, (device >> 32) as u16);
            self.put32(at + 8, *device as u32);
        }
    }

    /// Whether the part before `end` is there.
    fn has(&self, end: usize) -> bool {
        self.0.len() > 128 && end <= 128 + usize::from(self.get16(0x80)) && end <= self.0.len()
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from(self.get16(at)) | u32::from(self.get16(at + 2)) << 16
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(seconds: i64, nanos: u32) -> (u32, u32) {
        let mut inode = Inode::new(256, FILE);
        inode.set_times(Time { seconds, nanos }, Time::default());
        (inode.get32(0x10), inode.get32(0x88))
    }

    #[test]
    fn times_have_34_bits() {
        assert_eq!(said(1, 5), (1, 20));
        assert_eq!(said(-1, 0), (u32::MAX, 0));
        assert_eq!(said(1 << 31, 0), (1 << 31, 1));
        assert_eq!(said((1 << 32) - 1, 0), (u32::MAX, 1));
        assert_eq!(said(9_223_372_036, 0), ((9_223_372_036u64 & 0xFFFF_FFFF) as u32, 2));
        assert_eq!(said(i64::MAX, 7), said(*SECONDS.end(), 0));
        assert_eq!(said(i64::MIN, 7), said(*SECONDS.start(), 0));
    }

    #[test]
    fn devices_in_both_encodings() {
        let mut inode = Inode::new(256, CHAR);
        assert!(inode.set_device(1, 3));
        assert_eq!(inode.get32(MAP), 0x103);
        assert!(inode.set_device(259, 70000));
        assert_eq!(inode.get32(MAP + 4), 70000 & 0xFF | 259 << 8 | (70000 & !0xFF) << 12);
        assert!(!inode.set_device(4096, 0) && !inode.set_device(0, 1 << 20));
    }
}
