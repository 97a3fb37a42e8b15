//! The content of files: where it lies, and its bytes.

use super::{Extent, FileSystem, Node, Type};
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_FILE_EXTENTS;

impl FileSystem {
    /// Where the content of a file lies, in ascending order, without what is zeros; cut at its size. At most
    /// [`MAX_FILE_EXTENTS`]: of a file in more pieces, the first ones.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for what is compressed or on another device; those of reading.
    pub fn extents(&self, node: &Node) -> Result<Vec<Extent>> {
        self.extents_from(node, 0, node.size, MAX_FILE_EXTENTS)
    }

    /// As [`FileSystem::extents`], of what lies between two bytes of the file, and at most `max`.
    ///
    /// # Errors
    /// As there.
    pub fn extents_from(&self, node: &Node, from: u64, to: u64, max: usize) -> Result<Vec<Extent>> {
        let mut found: Vec<Extent> = Vec::new();
        let to = to.min(node.size);
        let mut next = 0;
        let mut wrong = false;
        self.layout.extents(&self.device, node, from, &mut |mut extent| {
            wrong |= extent.offset < next || extent.offset.checked_add(extent.len).is_none();
            if wrong || extent.offset >= to {
                return false;
            }
            next = extent.offset + extent.len;
            if next <= from || extent.len == 0 {
                return true;
            }
            let before = from.saturating_sub(extent.offset);
            extent.offset += before;
            extent.len = next.min(to) - extent.offset;
            let place = extent.device.checked_add(before);
            let inside = place.and_then(|at| at.checked_add(extent.len)).is_some_and(|end| end <= self.device.len());
            wrong |= !inside;
            extent.device = extent.device.wrapping_add(before);
            match found.last_mut() {
                Some(last) if last.offset + last.len == extent.offset && last.device + last.len == extent.device => {
                    last.len += extent.len;
                }
                _ => found.push(extent),
            }
            !wrong && next < to && found.len() < max
        })?;
        if wrong {
            return Err(Error::corrupt(format!("file {}: its parts make no sense", node.number)));
        }
        Ok(found)
    }

    /// Fills `buf` from offset `offset` of a file on.
    ///
    /// # Errors
    /// `OutOfBounds` beyond the file's end; those of [`FileSystem::extents`].
    pub fn read_at(&self, node: &Node, buf: &mut [u8], offset: u64) -> Result<()> {
        self.fill(node, buf, offset, false)
    }

    /// Reads all of a directory or a link, from memory if it has been read before.
    pub(super) fn read_metadata(&self, node: &Node, buf: &mut [u8]) -> Result<()> {
        self.fill(node, buf, 0, true)
    }

    fn fill(&self, node: &Node, buf: &mut [u8], offset: u64, keep: bool) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= node.size);
        let Some(end) = end else {
            return Err(Error::new(Kind::OutOfBounds, format!("beyond the {} bytes of a file", node.size)).at(offset));
        };
        buf.fill(0);
        let mut at = offset;
        // A file in very many pieces: some of them at a time.
        while at < end {
            let extents = self.extents_from(node, at, end, MAX_FILE_EXTENTS)?;
            for extent in &extents {
                let part = &mut buf[(extent.offset - offset) as usize..][..extent.len as usize];
                match keep {
                    true => self.device.read(part, extent.device)?,
                    false => self.device.read_content(part, extent.device)?,
                }
                at = extent.offset + extent.len;
            }
            if extents.len() < MAX_FILE_EXTENTS {
                break;
            }
        }
        Ok(())
    }

    /// Refuses what is no regular file: only those have content that a reader may want.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check_regular(&self, node: &Node) -> Result<()> {
        match node.kind() {
            Type::File => Ok(()),
            Type::Directory => Err(Error::new(Kind::Invalid, "is a directory")),
            Type::Link => Err(Error::new(Kind::Invalid, "is a symbolic link")),
            Type::Other => Err(Error::new(Kind::Invalid, "is a device, a socket or a pipe")),
        }
    }
}
