//! Lists of leaves: any bytes as one, and good ones that were changed; what is accepted proves only right bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use overlaybd::merkle::{Builder, Tree};

/// Longest content: as many leaves as a level of a tree can be odd in its ways.
const LARGEST: usize = 2048;

fuzz_target!(|bytes: &[u8]| {
    let [mode, high, low, rest @ ..] = bytes else { return };
    let place = usize::from(u16::from_be_bytes([*high, *low]));
    if mode % 2 == 0 {
        // No root is known for such bytes: none may be accepted.
        let root = std::array::from_fn(|i| rest.get(i).copied().unwrap_or(0));
        assert!(Tree::parse(rest, &root).is_err());
        return;
    }
    // The input again and again, each time with another number before it.
    let len = 1 + place % LARGEST;
    let mut content = Vec::with_capacity(len + rest.len() + 2);
    while content.len() < len {
        content.extend((content.len() as u16).to_le_bytes());
        content.extend(rest);
    }
    content.truncate(len);
    let mut builder = Builder::default();
    content.chunks(1 + place % 999).for_each(|piece| builder.update(piece));
    let (list, root) = builder.finish().unwrap();
    let tree = Tree::parse(&list, &root).unwrap();
    assert!(tree.first_wrong(0, &content).is_none() && tree.size() == content.len() as u64);
    let mut bad = list.clone();
    let at = place % bad.len();
    bad[at] ^= 1 | mode;
    assert!(Tree::parse(&bad, &root).is_err());
    assert!(Tree::parse(&list[..at], &root).is_err());
    let mut other = content.clone();
    let at = place % other.len();
    other[at] ^= 1 | mode;
    assert!(tree.first_wrong(0, &other).is_some_and(|wrong| wrong.contains(&(at as u64))));
    let _ = tree.widened(place as u64, u64::MAX);
    assert!(tree.first_wrong(1, &content).is_some());
});
