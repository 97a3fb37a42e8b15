//! Extended attributes of EROFS: behind the inode, and those that files share.

use super::super::bytes::{u16_at, u32_at};
use super::super::{Attribute, Device, Node};
use super::Erofs;
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_XATTR_BYTES;

/// What stands before the numbers of shared attributes, and those behind the inode.
const HEADER: usize = 12;
const ENTRY: usize = 4;
/// A name whose beginning is in a table.
const LONG_PREFIX: u8 = 0x80;

/// The attributes of a file.
pub(super) fn attributes(erofs: &Erofs, device: &Device, node: &Node) -> Result<Vec<Attribute>> {
    let len = Erofs::attribute_bytes(node) as usize;
    if len == 0 {
        return Ok(Vec::new());
    }
    let wrong = || Error::corrupt("a list of attributes whose entries do not fit");
    let mut area = vec![0; len];
    device.read(&mut area, node.at + Erofs::inode_bytes(node))?;
    let (mut found, mut room) = (Vec::new(), MAX_XATTR_BYTES);
    let shared = usize::from(area[4]);
    let mut at = HEADER + shared * 4;
    for number in area.get(HEADER..at).ok_or_else(wrong)?.chunks_exact(4) {
        let place = erofs.shared_at + u64::from(u32_at(number, 0)) * 4;
        let mut head = [0; ENTRY];
        device.read(&mut head, place)?;
        let mut entry = vec![0; length(&head)];
        device.read(&mut entry, place)?;
        take(&entry, &mut found, &mut room)?;
    }
    while at + ENTRY <= len {
        let end = at + length(&area[at..]);
        take(area.get(at..end).ok_or_else(wrong)?, &mut found, &mut room)?;
        at = end.next_multiple_of(4);
    }
    Ok(found)
}

/// Bytes of an entry, by its first four.
fn length(head: &[u8]) -> usize {
    ENTRY + usize::from(head[0]) + usize::from(u16_at(head, 2))
}

fn take(entry: &[u8], found: &mut Vec<Attribute>, room: &mut usize) -> Result<()> {
    let (name, value) = entry[ENTRY..].split_at(usize::from(entry[0]));
    let prefix: &[u8] = match entry[1] {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        index if index & LONG_PREFIX != 0 => {
            return Err(Error::new(Kind::Unsupported, "an attribute with a long prefix of its name"));
        }
        _ => return Ok(()),
    };
    let too_many = || Error::new(Kind::Limit, "a file with too many or too large attributes");
    *room = room.checked_sub(entry.len()).ok_or_else(too_many)?;
    found.push(([prefix, name].concat(), value.to_vec()));
    Ok(())
}
