//! A directory in memory: its entries in leaves, ordered by the hash of their names.
//!
//! One block holds a small directory. A larger one is a hash tree: block 0 its root, then leaves, and nodes between
//! them where the root has no room for all. This is what the kernel looks names up by; leaves that nobody touches stay
//! as they are on disk.

mod disk;

use crate::error::{Error, Kind, Result};
use crate::limits::MAX_DIR_BYTES;
use disk::{put16, put32, read, write_entry, write_leaf, Tree, DIRECTORY};

/// Bytes of `.` and `..`.
pub(super) const DOTS: usize = 24;
/// Bytes at the end of a block that hold its checksum, in leaves and in nodes.
const TAIL: usize = 12;
const NODE_TAIL: usize = 8;
/// Where entries begin in the root of a tree, and in its other nodes.
const ROOT_ENTRIES: usize = 32;
const NODE_ENTRIES: usize = 8;
/// Versions of hashing that take characters for unsigned are so much above those that do not. Trees never say them: the
/// super block does, for all.
pub(super) const UNSIGNED: u8 = 3;

/// How blocks of directories look in a file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub block_bytes: usize,
    pub checksums: bool,
}

impl Format {
    /// Bytes of a leaf that entries may take.
    fn room(self) -> usize {
        self.block_bytes - if self.checksums { TAIL } else { 0 }
    }

    /// Children of the root of a tree, and of its other nodes.
    fn fan_out(self, entries_at: usize) -> usize {
        (self.block_bytes - entries_at - if self.checksums { NODE_TAIL } else { 0 }) / 8
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub hash: u32,
    pub inode: u32,
    /// Type of the file, as directories say it.
    pub kind: u8,
    pub name: Box<[u8]>,
}

impl Entry {
    fn bytes(&self) -> usize {
        8 + self.name.len().next_multiple_of(4)
    }
}

/// A block of entries whose hashes are not below `low`.
#[derive(Debug, Default)]
struct Leaf {
    low: u32,
    block: u32,
    entries: Vec<Entry>,
    bytes: usize,
    dirty: bool,
}

impl Leaf {
    fn of(low: u32, block: u32, entries: Vec<Entry>, dirty: bool) -> Self {
        let bytes = entries.iter().map(Entry::bytes).sum();
        Leaf { low, block, entries, bytes, dirty }
    }
}

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    format: Format,
    pub parent: u32,
    hash_version: u8,
    /// In the order of their hashes; one of block 0 if there is no tree.
    leaves: Vec<Leaf>,
    /// Blocks of nodes between root and leaves.
    nodes: Vec<u32>,
    /// Blocks that it has.
    pub blocks: u32,
    tree_changed: bool,
    /// Entries, for the bound on memory.
    pub len: usize,
}

impl Directory {
    /// A new one, without entries and blocks.
    pub fn new(format: Format, parent: u32, hash_version: u8) -> Self {
        let leaves = vec![Leaf { dirty: true, ..Leaf::default() }];
        Directory { format, parent, hash_version, leaves, nodes: Vec::new(), blocks: 0, tree_changed: false, len: 0 }
    }

    /// One from its blocks in order. `indexed` says that it is a tree; if that is not
    /// as it must be, it becomes a new one. `hash` hashes a name in a given way, if that is known.
    ///
    /// # Errors
    /// `Corrupt` for entries that make no sense.
    pub fn load(
        format: Format,
        blocks: &[Vec<u8>],
        indexed: bool,
        default_version: u8,
        hash: impl Fn(u8, &[u8]) -> Option<u32>,
    ) -> Result<Self> {
        let root = blocks.first().ok_or_else(|| Error::corrupt("a directory without content"))?;
        let tree = if indexed && blocks.len() > 1 { Tree::parse(format, blocks) } else { None };
        let unsigned = if default_version < UNSIGNED { 0 } else { UNSIGNED };
        let version = tree.as_ref().map_or(default_version, |tree| tree.version + unsigned);
        let hash = |name: &[u8]| hash(version, name).unwrap_or(0) & !1;
        let mut found = Directory::new(format, 0, version);
        found.blocks = blocks.len() as u32;
        let first = read(root, &hash)?;
        found.parent = first.parent.ok_or_else(|| Error::corrupt("a directory that does not say where it is"))?;
        if let Some(tree) = tree {
            if let Some(leaves) = tree.leaves(blocks, &hash)? {
                (found.leaves, found.nodes) = (leaves, tree.nodes);
                found.len = found.leaves.iter().map(|leaf| leaf.entries.len()).sum();
                return Ok(found);
            }
        }
        let mut entries = first.entries;
        for block in &blocks[1..] {
            entries.extend(read(block, &hash)?.entries);
        }
        found.len = entries.len();
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        if blocks.len() == 1 && DOTS + bytes <= format.room() {
            found.leaves = vec![Leaf::of(0, 0, entries, false)];
        } else {
            found.plant(entries);
        }
        Ok(found)
    }

    /// Where in its leaf an entry is.
    fn find(&self, hash: u32, name: &[u8]) -> Option<(usize, usize)> {
        let first = self.leaves.partition_point(|leaf| leaf.low < hash).saturating_sub(1);
        let leaves = self.leaves.iter().enumerate().skip(first).take_while(|(_, leaf)| leaf.low <= hash);
        for (number, leaf) in leaves {
            if let Some(at) = leaf.entries.iter().position(|entry| entry.hash == hash && *entry.name == *name) {
                return Some((number, at));
            }
        }
        None
    }

    /// Inode and type of an entry.
    pub fn get(&self, hash: u32, name: &[u8]) -> Option<(u32, u8)> {
        let (leaf, at) = self.find(hash, name)?;
        let entry = &self.leaves[leaf].entries[at];
        Some((entry.inode, entry.kind))
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.leaves.iter().flat_map(|leaf| &leaf.entries)
    }

    /// Removes an entry; false if there is none.
    pub fn remove(&mut self, hash: u32, name: &[u8]) -> bool {
        let Some((leaf, at)) = self.find(hash, name) else { return false };
        let leaf = &mut self.leaves[leaf];
        leaf.bytes -= leaf.entries.remove(at).bytes();
        leaf.dirty = true;
        self.len -= 1;
        true
    }

    /// Adds an entry, of whose name there must be none.
    pub fn add(&mut self, entry: Entry) {
        self.len += 1;
        let number = self.leaves.partition_point(|leaf| leaf.low <= entry.hash).saturating_sub(1);
        let is_tree = self.is_tree();
        let leaf = &mut self.leaves[number];
        leaf.bytes += entry.bytes();
        leaf.entries.push(entry);
        leaf.dirty = true;
        if !is_tree {
            if DOTS + leaf.bytes > self.format.room() {
                let entries = std::mem::take(&mut leaf.entries);
                self.plant(entries);
            }
        } else if leaf.bytes > self.format.room() {
            self.split(number);
        }
    }

    fn is_tree(&self) -> bool {
        self.leaves.len() > 1 || self.leaves[0].block != 0
    }

    /// Version of hashing that its tree was made with.
    pub fn hash_version(&self) -> u8 {
        self.hash_version
    }

    /// Puts entries into a new tree, three quarters full as one that grew is.
    fn plant(&mut self, mut entries: Vec<Entry>) {
        entries.sort_by_key(|entry| entry.hash);
        let full = self.format.room() * 3 / 4;
        let (mut leaves, mut leaf) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for entry in entries {
            if bytes + entry.bytes() > full && !leaf.is_empty() {
                leaves.push(std::mem::take(&mut leaf));
                bytes = 0;
            }
            bytes += entry.bytes();
            leaf.push(entry);
        }
        leaves.push(leaf);
        let leaves = leaves.into_iter().zip(1..).map(|(entries, block)| {
            let low = if block == 1 { 0 } else { entries.first().map_or(0, |entry: &Entry| entry.hash) };
            Leaf::of(low, block, entries, true)
        });
        self.leaves = leaves.collect();
        self.nodes.clear();
        // Blocks that it has beyond these are freed when it is written.
        self.blocks = self.leaves.len() as u32 + 1;
        self.tree_changed = true;
    }

    /// Halves a leaf, between different hashes if there are any.
    fn split(&mut self, number: usize) {
        let leaf = &mut self.leaves[number];
        leaf.entries.sort_by_key(|entry| entry.hash);
        let mut bytes = 0;
        let half = leaf.entries.iter().position(|entry| {
            bytes += entry.bytes();
            bytes > leaf.bytes / 2
        });
        let (half, last) = (half.unwrap_or(1).max(1), leaf.entries.len() - 1);
        let differ = |at: &usize| leaf.entries[*at - 1].hash != leaf.entries[*at].hash;
        let up = (half..=last).find(differ);
        let down = (1..half).rev().find(differ);
        let fits = |at: &usize| leaf.entries[*at..].iter().map(Entry::bytes).sum::<usize>() <= self.format.room();
        let at = up.or(down.filter(fits)).unwrap_or(half.min(last));
        let upper = leaf.entries.split_off(at);
        let (low, kept) = (leaf.low, std::mem::take(&mut leaf.entries));
        let block = leaf.block;
        *leaf = Leaf::of(low, block, kept, true);
        self.leaves.insert(number + 1, Leaf::of(upper[0].hash, self.blocks, upper, true));
        self.blocks += 1;
        self.tree_changed = true;
        if self.leaves[number].bytes > self.format.room() {
            self.split(number);
        }
    }

    /// Hands over the blocks that have changed: number and content. `inode` is its own number.
    ///
    /// # Errors
    /// `Limit` for one too large; those of `each`.
    pub fn store(&mut self, inode: u32, mut each: impl FnMut(u32, &mut [u8]) -> Result<()>) -> Result<()> {
        let mut block = vec![0; self.format.block_bytes];
        if self.tree_changed {
            self.place_nodes()?;
        }
        if u64::from(self.blocks) * self.format.block_bytes as u64 > MAX_DIR_BYTES {
            return Err(Error::new(Kind::Limit, format!("a directory of {} entries", self.len)));
        }
        let is_tree = self.is_tree();
        self.blocks = self.blocks.max(1);
        if is_tree && self.tree_changed {
            for (number, content) in self.index(inode) {
                block.copy_from_slice(&content);
                each(number, &mut block)?;
            }
            self.tree_changed = false;
        }
        for leaf in self.leaves.iter_mut().filter(|leaf| leaf.dirty) {
            let dots = [(inode, &b"."[..]), (self.parent, b"..")];
            write_leaf(self.format, &mut block, if is_tree { &[] } else { &dots }, &leaf.entries);
            each(leaf.block, &mut block)?;
            leaf.dirty = false;
        }
        Ok(())
    }

    /// Whether anything was changed since it was stored.
    pub fn is_dirty(&self) -> bool {
        self.tree_changed || self.leaves.iter().any(|leaf| leaf.dirty)
    }

    /// Whether it has a hash tree, as the inode has to say.
    pub fn is_indexed(&self) -> bool {
        self.is_tree()
    }

    /// Finds blocks for the nodes between root and leaves.
    fn place_nodes(&mut self) -> Result<()> {
        let direct = self.format.fan_out(ROOT_ENTRIES);
        if self.leaves.len() <= direct && self.nodes.is_empty() {
            return Ok(());
        }
        let nodes = self.leaves.len().div_ceil(self.format.fan_out(NODE_ENTRIES));
        if nodes > direct {
            return Err(Error::new(Kind::Limit, format!("a directory of {} entries", self.len)));
        }
        while self.nodes.len() < nodes {
            self.nodes.push(self.blocks);
            self.blocks += 1;
        }
        Ok(())
    }

    /// The blocks of the tree that are no leaves.
    fn index(&self, inode: u32) -> Vec<(u32, Vec<u8>)> {
        let mut previous = None;
        let children: Vec<(u32, u32)> = self
            .leaves
            .iter()
            .map(|leaf| {
                // The lowest bit says that names of that hash are also in the leaf before.
                let shared = previous == Some(leaf.low) && leaf.low != 0;
                previous = leaf.entries.iter().map(|entry| entry.hash).max().or(previous);
                (leaf.low | u32::from(shared), leaf.block)
            })
            .collect();
        let mut found = Vec::new();
        let top = if self.nodes.is_empty() {
            children
        } else {
            let each = children.len().div_ceil(self.nodes.len());
            let mut top = Vec::new();
            let mut parts = children.chunks(each);
            for number in &self.nodes {
                let Some(part) = parts.next() else { break };
                let mut block = vec![0; self.format.block_bytes];
                put16(&mut block, 4, self.format.block_bytes as u16);
                self.write_children(&mut block, NODE_ENTRIES, part);
                top.push((part[0].0, *number));
                found.push((*number, block));
            }
            top
        };
        let mut root = vec![0; self.format.block_bytes];
        write_entry(&mut root[..12], inode, DIRECTORY, b".");
        write_entry(&mut root[12..], self.parent, DIRECTORY, b"..");
        root[0x1C] = self.hash_version % UNSIGNED;
        root[0x1D] = 8;
        root[0x1E] = u8::from(!self.nodes.is_empty());
        self.write_children(&mut root, ROOT_ENTRIES, &top);
        found.push((0, root));
        found
    }

    fn write_children(&self, block: &mut [u8], at: usize, children: &[(u32, u32)]) {
        for (number, (low, child)) in children.iter().enumerate() {
            put32(block, at + 8 * number, *low);
            put32(block, at + 8 * number + 4, *child);
        }
        // In the place of the first hash, which is 0.
        put16(block, at, self.format.fan_out(at) as u16);
        put16(block, at + 2, children.len() as u16);
    }
}
