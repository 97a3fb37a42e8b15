//! A directory in memory: read from blocks of sorted names, changed, and made into such blocks again.

use std::collections::BTreeMap;

use super::format::{mode_of, type_of, BLOCK};
use crate::error::{Error, Result};
use crate::fs::bytes::{u16_at, u64_at};
use crate::tar::shown;

const ENTRY: usize = 12;

/// What a directory has.
#[derive(Default)]
pub(super) struct Directory {
    /// The directory that it is in.
    pub parent: u64,
    /// Numbers and types, as in a mode, by name; without `.` and `..`.
    pub entries: BTreeMap<Box<[u8]>, (u64, u16)>,
    /// Whether it must be written.
    pub changed: bool,
}

impl Directory {
    /// Reads the content of one. A type that is not said is 0.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn parse(content: &[u8]) -> Result<Self> {
        let mut directory = Directory::default();
        let mut has_parent = false;
        for block in content.chunks(BLOCK as usize) {
            parse_block(block, &mut |name, number, kind| {
                let twice = match name {
                    b"." => false,
                    b".." => {
                        directory.parent = number;
                        std::mem::replace(&mut has_parent, true)
                    }
                    _ => directory.entries.insert(name.into(), (number, mode_of(kind).unwrap_or(0))).is_some(),
                };
                if twice {
                    return Err(Error::corrupt(format!("a directory that has {} twice", shown(name))));
                }
                Ok(())
            })?;
        }
        if !has_parent {
            return Err(Error::corrupt("a directory that is nowhere"));
        }
        Ok(directory)
    }

    /// Its content. `number` gives the final number for one in memory.
    pub fn encode(&self, own: u64, number: impl Fn(u64) -> u64) -> Vec<u8> {
        let (dot, dots): (&[u8], &[u8]) = (b".", b"..");
        let mut all: Vec<(&[u8], u64, u16)> =
            vec![(dot, number(own), crate::ext4::DIR), (dots, number(self.parent), crate::ext4::DIR)];
        all.extend(self.entries.iter().map(|(name, (other, kind))| (&**name, number(*other), *kind)));
        // All are sorted but the first two, which some names come before.
        all.sort_unstable();
        let mut content = Vec::new();
        let mut left = all.as_slice();
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = |entry: &&(&[u8], u64, u16)| {
                bytes += ENTRY + entry.0.len();
                bytes <= BLOCK as usize
            };
            let count = left.iter().take_while(fits).count();
            let (block, rest) = left.split_at(count);
            content.resize(content.len().next_multiple_of(BLOCK as usize), 0);
            encode_block(block, &mut content);
            left = rest;
        }
        content
    }

    /// Bytes that its content will have.
    pub fn len(&self) -> usize {
        self.encode(0, |_| 0).len()
    }
}

fn encode_block(entries: &[(&[u8], u64, u16)], content: &mut Vec<u8>) {
    let mut name_at = entries.len() * ENTRY;
    for (name, number, kind) in entries {
        content.extend(number.to_le_bytes());
        content.extend((name_at as u16).to_le_bytes());
        content.extend([type_of(*kind), 0]);
        name_at += name.len();
    }
    for (name, ..) in entries {
        content.extend_from_slice(name);
    }
}

/// Takes an entry: name, number, and type as it is stored.
type Taker<'a> = dyn FnMut(&[u8], u64, u8) -> Result<()> + 'a;

fn parse_block(block: &[u8], each: &mut Taker<'_>) -> Result<()> {
    let broken = || Error::corrupt("a block of a directory whose entries do not fit");
    if block.len() < ENTRY {
        return Err(broken());
    }
    let names_at = usize::from(u16_at(block, 8));
    if names_at < ENTRY || names_at > block.len() || names_at % ENTRY != 0 {
        return Err(broken());
    }
    let entries: Vec<&[u8]> = block[..names_at].chunks_exact(ENTRY).collect();
    for (i, entry) in entries.iter().enumerate() {
        let start = usize::from(u16_at(entry, 8));
        let end = entries.get(i + 1).map_or(block.len(), |next| u16_at(next, 8).into());
        let name = block.get(start..end).filter(|_| start >= names_at).ok_or_else(broken)?;
        // The last name is followed by zeros.
        let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let name = &name[..len];
        if name.is_empty() || name.len() > 255 || name.contains(&b'/') {
            return Err(Error::corrupt(format!("a directory that has {}, which is no name", shown(name))));
        }
        each(name, u64_at(entry, 0), entry[10])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ext4::{DIR, FILE};

    #[test]
    fn what_was_encoded_is_decoded() {
        for count in [0, 1, 50, 2000] {
            let mut directory = Directory { parent: 7, ..Directory::default() };
            for n in 0..count {
                let name = format!("{n}{}", "x".repeat(n * 37 % 240));
                directory
                    .entries
                    .insert(name.into_bytes().into(), (n as u64 + 100, if n % 3 == 0 { DIR } else { FILE }));
            }
            // Before and after the directory's own names.
            directory.entries.insert(b"+"[..].into(), (1, FILE));
            directory.entries.insert(b"..."[..].into(), (2, FILE));
            let content = directory.encode(5, |number| number + 1000);
            assert_eq!(content.len(), directory.len());
            let read = Directory::parse(&content).unwrap();
            assert_eq!(read.parent, 1007);
            let wanted = directory.entries.iter().map(|(name, (number, kind))| (name.clone(), (number + 1000, *kind)));
            assert_eq!(read.entries, wanted.collect());
            // The names of a block and of all blocks ascend, as the kernel's search wants it.
            let mut last: Vec<u8> = Vec::new();
            for block in content.chunks(4096) {
                parse_block(block, &mut |name, _, _| {
                    assert!(last.as_slice() < name);
                    last = name.to_vec();
                    Ok(())
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn odd_ones_are_refused() {
        let directory = Directory { entries: [(b"a"[..].into(), (1, FILE))].into(), ..Directory::default() };
        let content = directory.encode(5, |number| number);
        let twice = [&content[..], &vec![0; 4096 - content.len()], &content[..]].concat();
        let mut slash = content.clone();
        *slash.last_mut().unwrap() = b'/';
        for bad in [twice, slash, content[..11].to_vec(), content[..30].to_vec(), vec![0; 4096], Vec::new()] {
            assert_eq!(Directory::parse(&bad).map(drop).unwrap_err().kind(), Kind::Corrupt);
        }
    }
}
