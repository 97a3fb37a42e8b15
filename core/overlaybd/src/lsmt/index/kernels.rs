//! How many numbers of a cache line are not above another: the inner step of the search, in a form
//! for every processor and in two for the vector units of x86-64.

/// Separators in a node of the tree: one cache line.
pub(super) const FAN: usize = 16;
/// Keys in a block at the bottom: two cache lines.
pub(super) const BLOCK: usize = 16;

/// Keys, as many as one step compares.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Block(pub [u64; BLOCK]);

/// One cache line of separators.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Node(pub [i32; FAN]);

/// The forms of the search. All give the same results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Plain code without branches that depend on the keys, for every processor.
    Scalar,
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl Form {
    /// Every form, the fastest first.
    pub const ALL: [Form; 3] = [Form::Avx512, Form::Avx2, Form::Scalar];

    /// Whether this processor has what the form needs.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Form::Scalar => true,
            Form::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt"),
            Form::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("popcnt"),
        }
        #[cfg(not(target_arch = "x86_64"))]
        matches!(self, Form::Scalar)
    }

    /// The fastest form that this processor has.
    pub fn best() -> Form {
        Form::ALL.into_iter().find(|form| form.is_available()).unwrap_or(Form::Scalar)
    }
}

/// The two comparisons of a search.
pub(super) trait Kernel {
    /// Separators of the node that are not above `x`.
    fn separators(node: &Node, x: i32) -> usize;
    /// Keys of the block that are not above `key`.
    fn keys(block: &Block, key: u64) -> usize;
}

/// See [`Form::Scalar`].
pub(super) struct Scalar;

impl Kernel for Scalar {
    #[inline(always)]
    fn separators(node: &Node, x: i32) -> usize {
        node.0.iter().map(|separator| i32::from(*separator <= x)).sum::<i32>() as usize
    }

    #[inline(always)]
    fn keys(block: &Block, key: u64) -> usize {
        // Four halvings, each a conditional move.
        let mut at = 0;
        for half in [8, 4, 2, 1] {
            at += if block.0[at + half - 1] <= key { half } else { 0 };
        }
        at + usize::from(block.0[at] <= key)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Block, Kernel, Node, BLOCK};

    /// See [`super::Form::Avx2`]. Used only inside functions that have its target features.
    pub(in crate::lsmt::index) struct Avx2;
    /// See [`super::Form::Avx512`]. Used only inside functions that have its target features.
    pub(in crate::lsmt::index) struct Avx512;

    impl Kernel for Avx2 {
        #[inline(always)]
        fn separators(node: &Node, x: i32) -> usize {
            // SAFETY: callers run on a processor with AVX2 (`Form::is_available`); a node is 64 bytes, aligned.
            unsafe {
                let x = _mm256_set1_epi32(x);
                let at = node.0.as_ptr().cast::<__m256i>();
                let (a, b) = (_mm256_load_si256(at), _mm256_load_si256(at.add(1)));
                let above = _mm256_packs_epi32(_mm256_cmpgt_epi32(a, x), _mm256_cmpgt_epi32(b, x));
                // Two bits of the mask are one separator.
                (32 - _popcnt32(_mm256_movemask_epi8(above))) as usize / 2
            }
        }

        #[inline(always)]
        fn keys(block: &Block, key: u64) -> usize {
            // SAFETY: as above; a block is aligned, and the loads stay inside it.
            unsafe {
                // There is only a signed comparison: flipping the top bits makes it an unsigned one.
                let flip = _mm256_set1_epi64x(i64::MIN);
                let key = _mm256_xor_si256(_mm256_set1_epi64x(key as i64), flip);
                let at = block.0.as_ptr().cast::<__m256i>();
                let above = |n| _mm256_cmpgt_epi64(_mm256_xor_si256(_mm256_load_si256(at.add(n)), flip), key);
                let sum = _mm256_add_epi64(_mm256_add_epi64(above(0), above(1)), _mm256_add_epi64(above(2), above(3)));
                let sum = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
                let above = _mm_cvtsi128_si64(_mm_add_epi64(sum, _mm_unpackhi_epi64(sum, sum)));
                (BLOCK as i64 + above) as usize
            }
        }
    }

    impl Kernel for Avx512 {
        #[inline(always)]
        fn separators(node: &Node, x: i32) -> usize {
            // SAFETY: callers run on a processor with AVX-512F; a node is one aligned 64-byte line.
            unsafe {
                let node = _mm512_load_si512(node.0.as_ptr().cast());
                let mask = _mm512_cmple_epi32_mask(node, _mm512_set1_epi32(x));
                _popcnt32(i32::from(mask)) as usize
            }
        }

        #[inline(always)]
        fn keys(block: &Block, key: u64) -> usize {
            // SAFETY: as above; a block is aligned, and the loads stay inside it.
            unsafe {
                let key = _mm512_set1_epi64(key as i64);
                let at = block.0.as_ptr().cast::<__m512i>();
                let low = _mm512_cmple_epu64_mask(_mm512_load_si512(at), key);
                let high = _mm512_cmple_epu64_mask(_mm512_load_si512(at.add(1)), key);
                _popcnt32(i32::from(low) | i32::from(high) << 8) as usize
            }
        }
    }
}
