//! The hashes of a tree: what is hashed for a leaf, for two nodes and for the root never begins alike.

use ring::digest::{Context, SHA256};

use super::Hash;

const LEAF: u8 = 0;
const NODE: u8 = 1;
const ROOT: u8 = 2;

/// The hash of the bytes of one leaf.
pub(super) fn leaf(bytes: &[u8]) -> Hash {
    of(LEAF, &[bytes])
}

/// The root of a list: its head, which has the size of the blob, and the hash that all leaves come down to.
/// `leaves` is not empty.
pub(super) fn root(head: &[u8], leaves: &[Hash]) -> Hash {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        // One without a neighbour goes up as it is: with the size in the root there is one form for each number.
        level = level.chunks(2).map(|pair| if let [a, b] = pair { of(NODE, &[a, b]) } else { pair[0] }).collect();
    }
    of(ROOT, &[head, &level[0]])
}

fn of(domain: u8, parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[domain]);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}
