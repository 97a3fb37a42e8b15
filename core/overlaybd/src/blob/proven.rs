//! A blob on this machine that has a tree: each leaf is held against it when it is first read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::{check_range, Blob};
use crate::error::{Error, Result};
use crate::merkle::{Tree, LEAF_BYTES};

/// Bytes that are read and held against the tree at a time.
const PIECE: u64 = 16 * LEAF_BYTES;

/// Reads a file of this machine. What was right once is read without checks until it is closed.
pub struct ProvenBlob {
    inner: Arc<dyn Blob>,
    tree: Arc<Tree>,
    /// A bit for each leaf that was right.
    seen: Vec<AtomicU64>,
}

impl ProvenBlob {
    /// Puts `tree` before a blob.
    ///
    /// Errors: `Corrupt` if it is of another length.
    pub fn new(inner: Arc<dyn Blob>, tree: Arc<Tree>) -> Result<Self> {
        if inner.len() != tree.size() {
            let what = format!("{} bytes long, but its tree is of {}", inner.len(), tree.size());
            return Err(Error::corrupt(what).in_file(inner.name()));
        }
        let seen = (0..tree.leaves().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(ProvenBlob { inner, tree, seen })
    }

    fn is_seen(&self, leaf: usize) -> bool {
        // Nothing else is published by the bit: the bytes are those of the file, which nobody writes.
        self.seen[leaf / 64].load(Ordering::Relaxed) & (1 << (leaf % 64)) != 0
    }

    /// Reads whole leaves, and gives what of them is in `offset..`.
    fn prove(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let leaves = self.tree.touched(offset, buf.len() as u64);
        let wide = self.tree.range(leaves.clone());
        let mut bytes = vec![0; (wide.end - wide.start) as usize];
        self.inner.read_at(&mut bytes, wide.start)?;
        if let Some(wrong) = self.tree.first_wrong(wide.start, &bytes) {
            let what = format!("{} bytes do not match the tree of the layer", wrong.end - wrong.start);
            return Err(Error::corrupt(what).in_file(self.inner.name()).at(wrong.start));
        }
        for leaf in leaves {
            self.seen[leaf / 64].fetch_or(1 << (leaf % 64), Ordering::Relaxed);
        }
        buf.copy_from_slice(&bytes[(offset - wide.start) as usize..][..buf.len()]);
        Ok(())
    }
}

impl Blob for ProvenBlob {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        if self.tree.touched(offset, buf.len() as u64).all(|leaf| self.is_seen(leaf)) {
            return self.inner.read_at(buf, offset);
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let n = (rest.len() as u64).min(PIECE - at % PIECE);
            let (part, behind) = rest.split_at_mut(n as usize);
            self.prove(part, at)?;
            (at, rest) = (at + n, behind);
        }
        Ok(())
    }

    // No `as_file`: whoever copies from the file past this would copy what nobody has looked at.
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{FileBlob, MemoryBlob};
    use crate::error::Kind;
    use crate::merkle::Builder;
    use crate::sys::os::OsDisk;

    fn tree_of(bytes: &[u8]) -> Arc<Tree> {
        let mut builder = Builder::default();
        builder.update(bytes);
        let (list, root) = builder.finish().unwrap();
        Arc::new(Tree::parse(&list, &root).unwrap())
    }

    #[test]
    fn a_file_that_rots_is_noticed_where_it_is_first_read() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 7) as u8).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlaybd.commit");
        let mut rotten = bytes.clone();
        rotten[1_500_000] ^= 4;
        std::fs::write(&path, rotten).unwrap();
        let file = Arc::new(FileBlob::open(&OsDisk, &path).unwrap());
        let blob = ProvenBlob::new(file, tree_of(&bytes)).unwrap();
        let read = |offset: usize, len: usize| {
            let mut buf = vec![0; len];
            blob.read_at(&mut buf, offset as u64).map(|()| assert!(buf == bytes[offset..offset + len]))
        };
        let leaf = 1_500_000 / 65_536 * 65_536;
        read(0, leaf).unwrap();
        read(10, 100).unwrap();
        read(leaf - 5, 5).unwrap();
        for (offset, len) in [(leaf - 5, 6), (1_500_000, 1), (0, bytes.len()), (leaf + 65_535, 2)] {
            let e = read(offset, len).unwrap_err();
            assert_eq!(e.kind(), Kind::Corrupt);
            let line = e.to_string();
            assert!(line.contains(&format!("at {leaf}")) && line.contains("overlaybd.commit"), "{line}");
        }
        read(leaf + 65_536, bytes.len() - leaf - 65_536).unwrap();
        assert!(read(bytes.len() - 1, 2).is_err());
        std::fs::write(&path, &bytes).unwrap();
        read(0, bytes.len()).unwrap();
    }

    #[test]
    fn another_length_is_refused() {
        let blob = Arc::new(MemoryBlob::new("file", vec![1; 100]));
        assert_eq!(ProvenBlob::new(blob, tree_of(&[1; 99])).err().unwrap().kind(), Kind::Corrupt);
    }
}
