//! A static search tree over sorted keys: an implicit B+ tree whose nodes are cache lines.
//!
//! The keys are in blocks of 16, two cache lines. Above them stand levels of nodes with 16 separators
//! of 32 bits each: the first key of every block but the node's first, without the low bits that do not
//! fit (signed, since vector units compare signed numbers). So a search touches one cache line a level,
//! and the tree adds a quarter byte to each key.
//! (The idea is the S+ tree of static search trees; the layout is our own.)

#[cfg(target_arch = "x86_64")]
use super::kernels::{Avx2, Avx512};
use super::kernels::{Block, Form, Kernel, Node, Scalar, BLOCK, FAN};

/// Children of a node.
const CHILDREN: usize = FAN + 1;
/// The highest value of a key without its low bits: one less than what fills the unused places of a
/// node, so that no search reaches those.
const MAX_TRUNCATED: u64 = u32::MAX as u64 - 1;
/// Fills the last block: above every key.
const PADDING: u64 = u64::MAX;
/// Levels over the most keys that an index may have: 17^6 blocks are more than 2^27 keys.
const MAX_LEVELS: usize = 6;

/// Sorted keys and the levels above them.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// All keys, the last block filled up with [`PADDING`].
    blocks: Box<[Block]>,
    /// All nodes, the root's level first.
    nodes: Box<[Node]>,
    /// Where each level begins in `nodes`, the root's first; only `depth` of them are used.
    levels: [u32; MAX_LEVELS],
    depth: usize,
    /// Low bits of a key that separators leave out.
    shift: u32,
    form: Form,
}

impl Default for Tree {
    fn default() -> Self {
        Tree::build(std::iter::empty())
    }
}

impl Tree {
    /// Takes sorted keys and builds the levels over them.
    pub(super) fn build(keys: impl Iterator<Item = u64>) -> Tree {
        let mut blocks: Vec<Block> = Vec::with_capacity(keys.size_hint().0.div_ceil(BLOCK));
        let mut highest = 0;
        for (n, key) in keys.enumerate() {
            if n % BLOCK == 0 {
                blocks.push(Block([PADDING; BLOCK]));
            }
            if let Some(block) = blocks.last_mut() {
                block.0[n % BLOCK] = key;
            }
            highest = key;
        }
        let mut shift = super::LENGTH_BITS;
        while highest >> shift > MAX_TRUNCATED {
            shift += 1;
        }

        // From the bottom up: on each level, what stands before the first separator is left to the parent.
        let mut firsts: Vec<i32> = blocks.iter().map(|block| separator(block.0[0], shift)).collect();
        let mut levels: Vec<Vec<Node>> = Vec::new();
        while firsts.len() > 1 {
            let node = |children: &[i32]| {
                let mut node = Node([i32::MAX; FAN]);
                node.0[..children.len() - 1].copy_from_slice(&children[1..]);
                node
            };
            levels.push(firsts.chunks(CHILDREN).map(node).collect());
            firsts = firsts.chunks(CHILDREN).map(|children| children[0]).collect();
        }
        let mut starts = [0; MAX_LEVELS];
        let mut at = 0;
        for (start, level) in starts.iter_mut().zip(levels.iter().rev()) {
            *start = at as u32;
            at += level.len();
        }
        let depth = levels.len();
        assert!(depth <= MAX_LEVELS, "more keys than an index may have");
        let nodes = levels.into_iter().rev().flatten().collect();
        Tree { blocks: blocks.into(), nodes, levels: starts, depth, shift, form: Form::best() }
    }

    /// How many keys are not above `key`; `key` is below [`PADDING`].
    #[inline]
    pub(super) fn count_up_to(&self, key: u64) -> usize {
        match self.form {
            Form::Scalar => self.search::<Scalar>(key),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `form` is only ever set to what `is_available` says this processor has.
            Form::Avx2 => unsafe { self.search_avx2(key) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Form::Avx512 => unsafe { self.search_avx512(key) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => self.search::<Scalar>(key),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,popcnt")]
    fn search_avx2(&self, key: u64) -> usize {
        self.search::<Avx2>(key)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,popcnt")]
    fn search_avx512(&self, key: u64) -> usize {
        self.search::<Avx512>(key)
    }

    #[inline(always)]
    fn search<K: Kernel>(&self, key: u64) -> usize {
        let x = separator(key, self.shift);
        let mut at = 0;
        for start in &self.levels[..self.depth] {
            at = at * CHILDREN + K::separators(&self.nodes[*start as usize + at], x);
        }
        // Where separators leave bits of offsets out, several blocks look alike: the last was taken.
        if self.shift > super::LENGTH_BITS {
            at = self.blocks[..=at.min(self.blocks.len() - 1)].partition_point(|block| block.0[0] <= key).max(1) - 1;
        }
        self.blocks.get(at).map_or(0, |block| at * BLOCK + K::keys(block, key))
    }

    /// The key at a position.
    #[inline]
    pub(super) fn key(&self, at: usize) -> u64 {
        self.blocks[at / BLOCK].0[at % BLOCK]
    }

    /// See [`super::Index::use_form`].
    pub(super) fn use_form(&mut self, form: Form) -> bool {
        if form.is_available() {
            self.form = form;
        }
        form.is_available()
    }

    /// Bytes of memory that keys and levels hold.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.blocks)
    }
}

/// What a separator keeps of a key.
#[inline(always)]
fn separator(key: u64, shift: u32) -> i32 {
    ((key >> shift).min(MAX_TRUNCATED) as u32 ^ 1 << 31) as i32
}
