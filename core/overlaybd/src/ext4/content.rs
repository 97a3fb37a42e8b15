//! The content of a new file: blocks are found as its bytes come, and go to the device in long runs.

use super::inode::{Inode, EXTENT_BLOCKS, OWN_EXTENTS};
use super::Ext4;
use crate::error::{Error, Kind, Result};

/// Bytes gathered before room is looked for.
const GATHER: usize = 1 << 20;

/// What a new file holds so far.
#[derive(Default)]
pub(crate) struct Content {
    /// Where `bytes` belong: at the start of a block.
    at: u64,
    bytes: Vec<u8>,
    /// Block of the file, block of the device, blocks.
    extents: Vec<(u32, u64, u32)>,
    blocks: u64,
}

impl Content {
    /// Adds bytes at `offset`, which is not before the end of what was added. What lies between is a hole.
    ///
    /// # Errors
    /// `NoSpace`; `Limit` for a file too large; those of the device.
    pub fn add(&mut self, ext4: &mut Ext4, bytes: &[u8], offset: u64) -> Result<()> {
        let block_bytes = ext4.block_bytes as u64;
        let end = self.at + self.bytes.len() as u64;
        if offset < end.next_multiple_of(block_bytes) {
            self.bytes.resize((offset - self.at) as usize, 0);
        } else {
            self.write(ext4, 0)?;
            self.at = offset - offset % block_bytes;
            self.bytes.resize((offset - self.at) as usize, 0);
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= GATHER {
            self.write(ext4, GATHER)?;
        }
        Ok(())
    }

    /// All of the content, `size` bytes: not written, but mapped to where it lies in a target.
    ///
    /// # Errors
    /// As above; those of mapping.
    pub fn map_to(&mut self, ext4: &mut Ext4, size: u64, target: u64) -> Result<()> {
        let block_bytes = ext4.block_bytes as u64;
        let blocks = size.div_ceil(block_bytes);
        let blocks = u32::try_from(blocks).map_err(|_| Error::new(Kind::Limit, "a file too large for ext4"))?;
        let mut block = 0;
        while block < blocks {
            let (place, count) = ext4.take_blocks((blocks - block).min(EXTENT_BLOCKS))?;
            let at = u64::from(block) * block_bytes;
            let len = (u64::from(count) * block_bytes).min(size - at);
            ext4.handle.pages.borrow_mut().map(place * block_bytes, len, target + at)?;
            self.map(block, place, count);
            block += count;
        }
        Ok(())
    }

    /// Makes it the content of a file of `size` bytes, and writes its inode.
    ///
    /// # Errors
    /// As above.
    pub fn finish(mut self, ext4: &mut Ext4, number: u32, inode: &mut Inode, size: u64) -> Result<()> {
        self.write(ext4, 0)?;
        if size > u64::from(u32::MAX) * ext4.block_bytes as u64 {
            return Err(Error::new(Kind::Limit, format!("a file of {size} bytes: too large for ext4")));
        }
        inode.set_size(size);
        inode.add_sectors(self.blocks * (ext4.block_bytes as u64 / 512));
        inode.set_extents(&self.extents);
        if self.extents.len() > OWN_EXTENTS {
            ext4.handle.insert_extents(number, inode, &self.extents)?;
        }
        ext4.set_inode(number, inode)
    }

    /// Writes whole blocks, in multiples of `unit` bytes; all, the last one filled with zeros, if that is 0.
    fn write(&mut self, ext4: &mut Ext4, unit: usize) -> Result<()> {
        let block_bytes = ext4.block_bytes;
        let len = match unit {
            0 => self.bytes.len().next_multiple_of(block_bytes),
            unit => self.bytes.len() / unit * unit,
        };
        if len > self.bytes.len() {
            self.bytes.resize(len, 0);
        }
        let mut done = 0;
        while done < len {
            let block = (self.at + done as u64) / block_bytes as u64;
            let wanted = (len - done) / block_bytes;
            let last = block + wanted as u64;
            let block = u32::try_from(block).ok().filter(|_| last <= u64::from(u32::MAX));
            let block = block.ok_or_else(|| Error::new(Kind::Limit, "a file too large for ext4"))?;
            let (place, count) = ext4.take_blocks(wanted as u32)?;
            let end = done + count as usize * block_bytes;
            ext4.handle.pages.borrow_mut().content(&self.bytes[done..end], place * block_bytes as u64)?;
            self.map(block, place, count);
            done = end;
        }
        self.bytes.drain(..len);
        self.at += len as u64;
        Ok(())
    }

    fn map(&mut self, block: u32, place: u64, count: u32) {
        self.blocks += u64::from(count);
        if let Some((file, device, len)) = self.extents.last_mut() {
            let follows = *file + *len == block && *device + u64::from(*len) == place;
            if follows && *len + count <= EXTENT_BLOCKS {
                *len += count;
                return;
            }
        }
        self.extents.push((block, place, count));
    }
}
