//! The list of a blob's leaves: read if it comes down to the root, made of the blob, and held against its bytes.

use std::ops::Range;

use super::{hash, Hash, LEAF_BYTES};
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_TREE_LEAVES;

const MAGIC: [u8; 8] = *b"OBDMERK1";
/// Magic, bytes of a leaf (8), bytes of the blob (8).
const HEAD: usize = 24;
const HASH: usize = std::mem::size_of::<Hash>();

/// The leaves of one blob, which have been held against the root: 32 bytes of memory for 64 KiB.
#[derive(Debug)]
pub struct Tree {
    size: u64,
    root: Hash,
    leaves: Vec<Hash>,
}

impl Tree {
    /// Reads a list of leaves that is to come down to `root`. Nothing of one that does not is used.
    ///
    /// Errors: `Corrupt` for one that does not, or is no such list; `Limit` for one of too many leaves.
    pub fn parse(list: &[u8], root: &Hash) -> Result<Tree> {
        let (head, hashes) = list.split_at_checked(HEAD).ok_or_else(|| Error::corrupt("a list of leaves cut short"))?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        if head[..8] != MAGIC || word(8) != LEAF_BYTES {
            return Err(Error::corrupt("not a list of leaves"));
        }
        let size = word(16);
        let count = count(size)?;
        if hashes.len() != count * HASH {
            let what = format!("a list of leaves of {} bytes, for a blob of {size}", list.len());
            return Err(Error::corrupt(what));
        }
        let leaves: Vec<Hash> = hashes.chunks_exact(HASH).map(|hash| std::array::from_fn(|i| hash[i])).collect();
        if hash::root(head, &leaves) != *root {
            return Err(Error::corrupt("the list of leaves does not come down to the root"));
        }
        Ok(Tree { size, root: *root, leaves })
    }

    /// Bytes of the blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hash that stands for all of it.
    pub fn root(&self) -> &Hash {
        &self.root
    }

    /// Number of leaves.
    pub fn leaves(&self) -> usize {
        self.leaves.len()
    }

    /// The leaves that a range touches; none of what lies outside of the blob.
    pub fn touched(&self, offset: u64, len: u64) -> Range<usize> {
        let end = offset.saturating_add(len).min(self.size);
        let first = (offset / LEAF_BYTES).min(self.leaves.len() as u64) as usize;
        first..(end.div_ceil(LEAF_BYTES) as usize).max(first)
    }

    /// The bytes that some leaves stand for.
    pub fn range(&self, leaves: Range<usize>) -> Range<u64> {
        let at = |leaf: usize| (leaf as u64 * LEAF_BYTES).min(self.size);
        at(leaves.start)..at(leaves.end)
    }

    /// The bytes of all leaves that a range touches.
    pub fn widened(&self, offset: u64, len: u64) -> Range<u64> {
        self.range(self.touched(offset, len))
    }

    /// Holds bytes against the leaves; they begin with a leaf and end with one. The range of the first that is wrong.
    pub fn first_wrong(&self, offset: u64, bytes: &[u8]) -> Option<Range<u64>> {
        let first = (offset / LEAF_BYTES) as usize;
        let whole = self.range(first..first + (bytes.len() as u64).div_ceil(LEAF_BYTES) as usize);
        if whole != (offset..offset.saturating_add(bytes.len() as u64)) {
            // Not of this blob, or not in whole leaves: nothing proves them.
            return Some(offset..offset.saturating_add(bytes.len() as u64));
        }
        let right = |(leaf, bytes)| self.leaves.get(leaf).is_some_and(|hash| *hash == hash::leaf(bytes));
        let mut parts = (first..).zip(bytes.chunks(LEAF_BYTES as usize));
        parts.find(|part| !right(*part)).map(|(leaf, _)| self.range(leaf..leaf + 1))
    }

    /// A name in a cache for what this tree has proved of the blob `digest`: other trees, right or not, get others.
    pub fn cache_name(&self, digest: &str) -> String {
        let hex = digest.rsplit(':').next().unwrap_or_default();
        let root: String = self.root.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("tree:{hex}{root}")
    }
}

/// Makes the list of leaves of a blob that comes in pieces.
#[derive(Default)]
pub struct Builder {
    size: u64,
    leaves: Vec<Hash>,
    /// Bytes of a leaf that has not all come yet.
    begun: Vec<u8>,
}

impl Builder {
    /// The next bytes of the blob.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.begun.is_empty() && bytes.len() >= LEAF_BYTES as usize {
                let (whole, rest) = bytes.split_at(LEAF_BYTES as usize);
                self.leaf(whole);
                bytes = rest;
                continue;
            }
            let (some, rest) = bytes.split_at(bytes.len().min(LEAF_BYTES as usize - self.begun.len()));
            self.begun.extend_from_slice(some);
            if self.begun.len() == LEAF_BYTES as usize {
                self.end_leaf();
            }
            bytes = rest;
        }
    }

    fn end_leaf(&mut self) {
        let bytes = std::mem::take(&mut self.begun);
        self.leaf(&bytes);
        self.begun = bytes;
        self.begun.clear();
    }

    /// Those of a blob that is too large are not kept: it ends in an error anyway.
    fn leaf(&mut self, bytes: &[u8]) {
        if self.leaves.len() as u64 <= MAX_TREE_LEAVES {
            self.leaves.push(hash::leaf(bytes));
        }
    }

    /// The list, and the root that it comes down to.
    ///
    /// Errors: `Limit` for a blob that is empty or has too many leaves.
    pub fn finish(mut self) -> Result<(Vec<u8>, Hash)> {
        if !self.begun.is_empty() {
            self.end_leaf();
        }
        count(self.size)?;
        let mut list = Vec::with_capacity(HEAD + self.leaves.len() * HASH);
        list.extend_from_slice(&MAGIC);
        list.extend_from_slice(&LEAF_BYTES.to_le_bytes());
        list.extend_from_slice(&self.size.to_le_bytes());
        let root = hash::root(&list, &self.leaves);
        self.leaves.iter().for_each(|leaf| list.extend_from_slice(leaf));
        Ok((list, root))
    }
}

/// How many leaves a blob of so many bytes has.
fn count(size: u64) -> Result<usize> {
    let count = size.div_ceil(LEAF_BYTES);
    if count == 0 || count > MAX_TREE_LEAVES {
        let what = format!("a blob of {size} bytes: a tree has 1 to {MAX_TREE_LEAVES} leaves of {LEAF_BYTES} bytes");
        return Err(Error::new(Kind::Limit, what));
    }
    Ok(count as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(bytes: &[u8], pieces: usize) -> (Vec<u8>, Hash) {
        let mut builder = Builder::default();
        bytes.chunks(pieces.max(1)).for_each(|piece| builder.update(piece));
        builder.finish().unwrap()
    }

    /// Bytes that repeat nowhere, so that no two leaves are alike.
    fn content(len: usize) -> Vec<u8> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn a_tree_proves_what_it_was_made_of_and_nothing_else() {
        for len in [1, 65_535, 65_536, 65_537, 3 * 65_536, 5 * 65_536 + 7] {
            let bytes = content(len);
            let (list, root) = build(&bytes, 10_007);
            assert_eq!((list.clone(), root), build(&bytes, len), "the pieces do not count");
            let tree = Tree::parse(&list, &root).unwrap();
            assert_eq!((tree.size(), tree.leaves()), (len as u64, len.div_ceil(65_536)));
            assert_eq!(tree.first_wrong(0, &bytes), None);
            let longer = [&bytes[..], &[0]].concat();
            assert!(tree.first_wrong(0, &longer).is_some());
            // Whole leaves are right by themselves, a part of one never is.
            let part = len - 1;
            assert_eq!(
                tree.first_wrong(0, &bytes[..part]).is_none(),
                (part as u64).is_multiple_of(LEAF_BYTES),
                "{len}"
            );
            assert_ne!(build(&longer, len).1, root, "the length counts");
        }
    }

    #[test]
    fn leaves_in_another_place_are_wrong() {
        let bytes = content(4 * 65_536);
        let (list, root) = build(&bytes, 65_536);
        let tree = Tree::parse(&list, &root).unwrap();
        assert_eq!(tree.first_wrong(65_536, &bytes[65_536..]), None);
        assert_eq!(tree.first_wrong(65_536, &bytes[..2 * 65_536]), Some(65_536..131_072));
        assert!(tree.first_wrong(100, &bytes[100..65_536]).is_some(), "half a leaf proves nothing");
        assert!(tree.first_wrong(1 << 40, &bytes[..65_536]).is_some());
        assert_eq!(tree.widened(65_530, 10), 0..131_072);
        assert_eq!(tree.widened(4 * 65_536 - 1, 100), 3 * 65_536..4 * 65_536);
        assert!(tree.widened(u64::MAX - 5, 100).is_empty());
    }

    #[test]
    fn a_node_is_not_taken_for_a_leaf() {
        // Without the size in the root, two hashes could pass for a leaf that has their bytes.
        let (list, _) = build(&content(2 * 65_536), 65_536);
        let (_, other) = build(&list[HEAD..], 64);
        assert!(Tree::parse(&list, &other).is_err());
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        assert_eq!(Builder::default().finish().unwrap_err().kind(), Kind::Limit);
        let mut head = build(b"x", 1).0;
        for size in [0, u64::MAX, (MAX_TREE_LEAVES + 1) * LEAF_BYTES] {
            head[16..24].copy_from_slice(&size.to_le_bytes());
            assert_eq!(Tree::parse(&head, &[0; 32]).unwrap_err().kind(), Kind::Limit);
        }
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(len in 1_usize..300_000, at: prop::sample::Index, bit in 0..8_u32) {
            let mut bytes = content(len);
            let (mut list, root) = build(&bytes, 4096);
            let tree = Tree::parse(&list, &root).unwrap();
            let place = at.index(len);
            bytes[place] ^= 1_u8 << bit;
            let wrong = tree.first_wrong(0, &bytes).unwrap();
            prop_assert!(wrong.contains(&(place as u64)) && wrong.end - wrong.start <= LEAF_BYTES);
            let place = at.index(list.len());
            list[place] ^= 1_u8 << bit;
            prop_assert!(Tree::parse(&list, &root).is_err());
            list[place] ^= 1_u8 << bit;
            let cut = at.index(list.len());
            prop_assert!(Tree::parse(&list[..cut], &root).is_err());
        }
    }
}
