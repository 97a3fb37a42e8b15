//! Blocks of a directory as they lie on disk: leaves, and the nodes of the tree over them.

use super::{Entry, Format, Leaf, NODE_ENTRIES, ROOT_ENTRIES, TAIL, UNSIGNED};
use crate::error::{Error, Result};

/// What is read of a directory's block: its entries, without `.` and `..`, and where `..` leads if it says so.
pub(super) struct Read {
    pub entries: Vec<Entry>,
    pub parent: Option<u32>,
}

/// Type of a directory, as entries say it.
pub(super) const DIRECTORY: u8 = 2;

/// A hash tree as it lies on disk: each leaf's lowest hash and block.
pub(super) struct Tree {
    /// Of signed characters: that they have none is up to the file system.
    pub version: u8,
    leaves: Vec<(u32, u32)>,
    pub nodes: Vec<u32>,
}

impl Tree {
    /// None if it is not as a tree must be.
    pub fn parse(format: Format, blocks: &[Vec<u8>]) -> Option<Self> {
        let root = &blocks[0];
        let (version, info, levels) = (root[0x1C], root[0x1D], root[0x1E]);
        if version >= UNSIGNED || info != 8 || levels > 1 || get32(root, 0x18) != 0 {
            return None;
        }
        let top = children(format, root, ROOT_ENTRIES)?;
        let mut tree = Tree { version, leaves: Vec::new(), nodes: Vec::new() };
        if levels == 0 {
            tree.leaves = top;
        } else {
            for (low, number) in top {
                let mut below = children(format, blocks.get(number as usize)?, NODE_ENTRIES)?;
                below.first_mut()?.0 = low;
                tree.leaves.append(&mut below);
                tree.nodes.push(number);
            }
        }
        Some(tree)
    }

    /// The leaves with their entries; None if they do not keep to what the tree says.
    pub fn leaves(&self, blocks: &[Vec<u8>], hash: &impl Fn(&[u8]) -> u32) -> Result<Option<Vec<Leaf>>> {
        let mut used = vec![false; blocks.len()];
        used[0] = true;
        let mut leaves: Vec<Leaf> = Vec::with_capacity(self.leaves.len());
        for number in self.nodes.iter().chain(self.leaves.iter().map(|(_, number)| number)) {
            match used.get_mut(*number as usize) {
                Some(used) if !*used => *used = true,
                _ => return Ok(None),
            }
        }
        for (number, (low, block)) in self.leaves.iter().enumerate() {
            let entries = read(&blocks[*block as usize], hash)?.entries;
            let low = low & !1;
            let high = self.leaves.get(number + 1).map(|(next, _)| *next);
            // A following leaf with the lowest bit set shares its lowest hash with this one.
            let inside = |entry: &Entry| entry.hash >= low && high.is_none_or(|high| entry.hash < high);
            let ordered = leaves.last().is_none_or(|before| before.low <= low);
            if !ordered || !entries.iter().all(inside) {
                return Ok(None);
            }
            leaves.push(Leaf::of(low, *block, entries, false));
        }
        Ok((used.iter().all(|used| *used) && !leaves.is_empty()).then_some(leaves))
    }
}

/// The children of a node: hash and block. The first hash is 0.
fn children(format: Format, node: &[u8], at: usize) -> Option<Vec<(u32, u32)>> {
    let (limit, count) = (usize::from(get16(node, at)), usize::from(get16(node, at + 2)));
    if limit != format.fan_out(at) || count == 0 || count > limit {
        return None;
    }
    let child = |number: usize| {
        let hash = if number == 0 { 0 } else { get32(node, at + 8 * number) };
        (hash, get32(node, at + 8 * number + 4) & 0x0FFF_FFFF)
    };
    Some((0..count).map(child).collect())
}

pub(super) fn read(block: &[u8], hash: &impl Fn(&[u8]) -> u32) -> Result<Read> {
    let mut found = Read { entries: Vec::new(), parent: None };
    if block.iter().all(|b| *b == 0) {
        return Ok(found);
    }
    let mut rest = block;
    while !rest.is_empty() {
        let wrong = || Error::corrupt("an entry of a directory that does not fit");
        if rest.len() < 8 {
            return Err(wrong());
        }
        let (inode, len, name_len) = (get32(rest, 0), usize::from(get16(rest, 4)), usize::from(rest[6]));
        if len < 8 || len > rest.len() || !len.is_multiple_of(4) || (inode != 0 && 8 + name_len > len) {
            return Err(wrong());
        }
        if inode != 0 {
            let name = &rest[8..8 + name_len];
            match name {
                b"." => {}
                b".." => found.parent = Some(inode),
                _ if name.is_empty() || name.contains(&b'/') || name.contains(&0) => {
                    return Err(Error::corrupt("a name in a directory that is none"));
                }
                _ => found.entries.push(Entry { hash: hash(name), inode, kind: rest[7], name: name.into() }),
            }
        }
        rest = &rest[len..];
    }
    Ok(found)
}

pub(super) fn write_leaf(format: Format, block: &mut [u8], dots: &[(u32, &[u8])], entries: &[Entry]) {
    block.fill(0);
    let room = format.room();
    let own = entries.iter().map(|entry| (entry.inode, entry.kind, &*entry.name));
    let all = dots.iter().map(|(inode, name)| (*inode, DIRECTORY, *name)).chain(own);
    let (mut at, mut last) = (0, 0);
    for (inode, kind, name) in all {
        let len = 8 + name.len().next_multiple_of(4);
        write_entry(&mut block[at..at + len], inode, kind, name);
        (last, at) = (at, at + len);
    }
    // The last entry, or one that is none, reaches to the end.
    put16(block, last + 4, (room - last) as u16);
    if format.checksums {
        put16(block, room + 4, TAIL as u16);
        block[room + 7] = 0xDE;
    }
}

pub(super) fn write_entry(place: &mut [u8], inode: u32, kind: u8, name: &[u8]) {
    put32(place, 0, inode);
    put16(place, 4, place.len() as u16);
    place[6] = name.len() as u8;
    place[7] = kind;
    place[8..8 + name.len()].copy_from_slice(name);
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from(get16(bytes, at)) | u32::from(get16(bytes, at + 2)) << 16
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
