//! Extended attributes as they follow an inode.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};
use crate::tar::shown;

/// Attributes of a file: namespace and the rest of the name, and the value.
pub(super) type Attributes = BTreeMap<(u8, Box<[u8]>), Box<[u8]>>;

/// Names of namespaces, and the numbers that stand for them. Of lists the namespace is the whole name.
const NAMESPACES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// What the map has in memory: names and values in nodes, which have room for so many and may be half empty.
const IN_NODE: usize = 5;
const NODE_BYTES: usize = 512;

const HEADER: usize = 12;
const ENTRY: usize = 4;
/// Bytes that an inode can say that its attributes have.
const MAX_BYTES: usize = HEADER + (u16::MAX as usize - 1) * 4;

/// What stands for a name; None if there is nothing.
fn key(name: &[u8]) -> Option<(u8, Box<[u8]>)> {
    let (number, rest) = NAMESPACES.iter().find_map(|(number, space)| Some((*number, name.strip_prefix(*space)?)))?;
    // A list has no more of a name, all others have.
    (rest.is_empty() == matches!(number, 2 | 3) && rest.len() <= 255).then(|| (number, rest.into()))
}

/// Sets attributes; those not named stay. Whether anything changed.
///
/// # Errors
/// `Invalid` for a name that cannot be; `Limit` if they are too large.
pub(super) fn set(attributes: &mut Attributes, wanted: &[(Vec<u8>, Vec<u8>)]) -> Result<bool> {
    let mut changed = false;
    for (name, value) in wanted {
        let invalid = || Error::new(Kind::Invalid, format!("attribute {}: no such name can be", shown(name)));
        let key = key(name).filter(|_| !name.contains(&0)).ok_or_else(invalid)?;
        if value.len() > usize::from(u16::MAX) {
            let what = format!("attribute {} of {} bytes: too large", shown(name), value.len());
            return Err(Error::new(Kind::Limit, what));
        }
        if attributes.get(&key).map(|there| &**there) != Some(value) {
            attributes.insert(key, value.as_slice().into());
            changed = true;
        }
    }
    if len(attributes) > MAX_BYTES {
        return Err(Error::new(Kind::Limit, format!("attributes of {} bytes: too large", len(attributes))));
    }
    Ok(changed)
}

/// Takes attributes away, except those that have the names of `wanted`. Whether anything changed.
pub(super) fn clear(attributes: &mut Attributes, wanted: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let before = attributes.len();
    let kept: Vec<_> = wanted.iter().filter_map(|(name, _)| key(name)).collect();
    attributes.retain(|key, _| kept.contains(key));
    attributes.len() != before
}

/// Bytes that they take behind an inode.
pub(super) fn len(attributes: &Attributes) -> usize {
    let each = attributes.iter().map(|((_, name), value)| (ENTRY + name.len() + value.len()).next_multiple_of(4));
    if attributes.is_empty() {
        0
    } else {
        HEADER + each.sum::<usize>()
    }
}

/// Bytes that they take in memory, about.
pub(super) fn held(attributes: &Attributes) -> usize {
    attributes.len().div_ceil(IN_NODE) * NODE_BYTES + len(attributes)
}

/// Their bytes, filled up to `room` with what is nothing: entries of no namespace.
pub(super) fn encode(attributes: &Attributes, room: usize) -> Vec<u8> {
    let mut area = Vec::with_capacity(room);
    if room > 0 {
        area.resize(HEADER, 0);
    }
    for ((space, name), value) in attributes {
        area.extend([name.len() as u8, *space]);
        area.extend((value.len() as u16).to_le_bytes());
        area.extend_from_slice(name);
        area.extend_from_slice(value);
        area.resize(area.len().next_multiple_of(4), 0);
    }
    debug_assert!(area.len() <= room);
    area.resize(room, 0);
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_as_the_kernel_wants_them() {
        let mut all = Attributes::new();
        let wanted = [
            (b"user.a".to_vec(), b"1".to_vec()),
            (b"security.capability".to_vec(), vec![7; 3]),
            (b"system.posix_acl_access".to_vec(), vec![2; 4]),
        ];
        assert!(set(&mut all, &wanted).unwrap());
        assert!(!set(&mut all, &wanted[..2]).unwrap());
        let entries: [&[u8]; 3] =
            [b"\x01\x01\x01\0a1\0\0", b"\0\x02\x04\0\x02\x02\x02\x02", b"\x0a\x06\x03\0capability\x07\x07\x07\0\0\0"];
        let area = [[0; 12].as_slice(), &entries.concat()].concat();
        assert_eq!((len(&all), encode(&all, len(&all))), (area.len(), area.clone()));
        assert_eq!(encode(&all, 200), [area.as_slice(), &vec![0; 200 - area.len()]].concat());
        assert!(encode(&Attributes::new(), 0).is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut all = Attributes::new();
        for name in ["user.", "system.posix_acl_access.x", "nothing", "user.a\0b"] {
            assert_eq!(set(&mut all, &[(name.into(), vec![])]).unwrap_err().kind(), Kind::Invalid, "{name}");
        }
        assert_eq!(set(&mut all, &[(b"user.b".to_vec(), vec![0; 65536])]).unwrap_err().kind(), Kind::Limit);
        assert!(all.is_empty());
    }

    #[test]
    fn as_much_is_taken_as_an_inode_can_say() {
        let named = |name: &str, len| (format!("user.{name}").into_bytes(), vec![0; len]);
        let mut all = Attributes::new();
        assert!(set(&mut all, &["a", "b", "c"].map(|name| named(name, 65535))).unwrap());
        let room = MAX_BYTES - len(&all) - ENTRY;
        assert!(set(&mut all, &[named("d", room - 1)]).unwrap());
        assert_eq!((len(&all), encode(&all, MAX_BYTES).len()), (MAX_BYTES, MAX_BYTES));
        assert_eq!(set(&mut all, &[named("d", room)]).unwrap_err().kind(), Kind::Limit);
        let name = "n".repeat(255);
        assert!(set(&mut Attributes::new(), &[named(&name, 1)]).unwrap());
        assert_eq!(set(&mut Attributes::new(), &[named(&(name + "n"), 1)]).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn attributes_in_memory_count_with_the_nodes_of_their_map() {
        let mut all = Attributes::new();
        assert_eq!(held(&all), 0);
        for (count, nodes) in [(1, 1), (5, 1), (6, 2), (11, 3)] {
            let wanted: Vec<_> = (0..count).map(|n| (format!("user.{n}").into_bytes(), vec![7; 100])).collect();
            set(&mut all, &wanted).unwrap();
            assert_eq!(held(&all), nodes * NODE_BYTES + len(&all), "{count} attributes");
        }
    }
}
