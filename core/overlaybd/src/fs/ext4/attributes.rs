//! Extended attributes of ext4: in the inode, in a block of their own, large values in an inode of their own.

use super::super::bytes::{u16_at, u32_at};
use super::super::{Attribute, Device, Layout, Node};
use super::{map, Ext4, OLD_INODE};
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_XATTR_BYTES;

const MAGIC: u32 = 0xEA02_0000;
/// What stands before the first entry in a block.
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;
/// Longest value that the kernel gives or takes.
const MAX_VALUE: usize = 64 << 10;

/// The attributes of a file.
pub(super) fn attributes(ext4: &Ext4, device: &Device, node: &Node) -> Result<Vec<Attribute>> {
    let mut list = List { ext4, device, room: MAX_XATTR_BYTES, found: Vec::new() };
    if ext4.inode_bytes > OLD_INODE {
        let mut inode = vec![0; ext4.inode_bytes as usize];
        device.read(&mut inode, node.at)?;
        let start = OLD_INODE as usize + usize::from(u16_at(&inode, 0x80));
        if start + 4 <= inode.len() && u32_at(&inode, start) == MAGIC {
            // Values are found from behind the magic number on.
            list.read(&inode[start + 4..], 0)?;
        }
    }
    let block = u64::from(u32_at(&node.raw, 0x68)) | u64::from(u16_at(&node.raw, 0x76)) << 32;
    if block != 0 {
        let mut bytes = vec![0; ext4.block_bytes as usize];
        device.read(&mut bytes, ext4.byte_of(block)?)?;
        if u32_at(&bytes, 0) != MAGIC {
            return Err(Error::corrupt(format!("block {block} of attributes that is none")));
        }
        list.read(&bytes, BLOCK_HEADER)?;
    }
    Ok(list.found)
}

/// Attributes while they are collected.
struct List<'a> {
    ext4: &'a Ext4,
    device: &'a Device,
    /// Bytes that may still be found.
    room: usize,
    found: Vec<Attribute>,
}

impl List<'_> {
    /// All entries in `area` from `at` on; values are found from the start of the area on.
    fn read(&mut self, area: &[u8], mut at: usize) -> Result<()> {
        let wrong = || Error::corrupt("a list of attributes whose entries do not fit");
        while at + 4 <= area.len() && u32_at(area, at) != 0 {
            let entry = area.get(at..at + ENTRY).ok_or_else(wrong)?;
            let (name_len, index) = (usize::from(entry[0]), entry[1]);
            let (offset, inode, len) = (usize::from(u16_at(entry, 2)), u32_at(entry, 4), u32_at(entry, 8) as usize);
            let name = area.get(at + ENTRY..at + ENTRY + name_len).ok_or_else(wrong)?;
            at += (ENTRY + name_len).next_multiple_of(4);
            let Some(prefix) = prefix(index) else { continue };
            self.room = match self.room.checked_sub(len + name_len) {
                Some(room) if len <= MAX_VALUE => room,
                _ => return Err(Error::new(Kind::Limit, "a file with too many or too large attributes")),
            };
            let value = match inode {
                0 => area.get(offset..offset + len).ok_or_else(wrong)?.to_vec(),
                _ => self.large(inode, len)?,
            };
            let value = if is_acl(index) { list_of_kernel(&value)? } else { value };
            self.found.push(([prefix, name].concat(), value));
        }
        Ok(())
    }

    /// A value that is the content of an inode.
    fn large(&self, inode: u32, len: usize) -> Result<Vec<u8>> {
        let node = self.ext4.node(self.device, inode.into())?;
        if !map::is_value(&node) || node.size != len as u64 {
            return Err(Error::corrupt(format!("inode {inode}: not the value of an attribute")));
        }
        let mut value = vec![0; len];
        let mut wrong = false;
        map::extents(self.ext4, self.device, &node, 0, &mut |extent| {
            let from = extent.offset.min(len as u64) as usize;
            let to = (extent.offset + extent.len).min(len as u64) as usize;
            wrong |= self.device.read(&mut value[from..to], extent.device).is_err();
            !wrong && to < len
        })?;
        match wrong {
            true => Err(Error::corrupt(format!("inode {inode}: a value that cannot be read"))),
            false => Ok(value),
        }
    }
}

/// What a name begins with, as the kernel shows it; None for what it does not show.
fn prefix(index: u8) -> Option<&'static [u8]> {
    match index {
        1 => Some(b"user."),
        2 => Some(b"system.posix_acl_access"),
        3 => Some(b"system.posix_acl_default"),
        4 => Some(b"trusted."),
        6 => Some(b"security."),
        _ => None,
    }
}

fn is_acl(index: u8) -> bool {
    matches!(index, 2 | 3)
}

/// An access control list as the kernel gives it, of what lies on disk: there only users and groups that are named have
/// a number.
fn list_of_kernel(disk: &[u8]) -> Result<Vec<u8>> {
    let wrong = || Error::corrupt("an access control list that is none");
    let (version, mut rest) = disk.split_at_checked(4).ok_or_else(wrong)?;
    if u32_at(version, 0) != 1 {
        return Err(wrong());
    }
    let mut list = 2u32.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let (entry, behind) = rest.split_at_checked(4).ok_or_else(wrong)?;
        list.extend(entry);
        rest = behind;
        match u16_at(entry, 0) {
            2 | 8 => {
                let (number, behind) = rest.split_at_checked(4).ok_or_else(wrong)?;
                list.extend(number);
                rest = behind;
            }
            1 | 4 | 0x10 | 0x20 => list.extend(u32::MAX.to_le_bytes()),
            _ => return Err(wrong()),
        }
    }
    Ok(list)
}
