//! Which sectors of a layer were read before: one bit each, in pages that exist once they are needed.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use crate::limits::{MAX_TRACED_BYTES, SECTOR};

/// Bits of a page: 16 MiB of the layer, 4 KiB of memory.
const PAGE_SECTORS: u64 = 1 << 15;
const WORDS: usize = PAGE_SECTORS as usize / 64;

type Page = OnceLock<Box<[AtomicU64; WORDS]>>;

/// The sectors of one layer.
#[derive(Default)]
pub(super) struct Seen {
    pages: OnceLock<Box<[Page]>>,
}

impl Seen {
    /// Marks the sectors that a range of bytes touches, in a layer of `len` bytes, and calls `fresh` for each run of
    /// sectors that was not marked before. What lies beyond [`MAX_TRACED_BYTES`] counts as seen.
    pub fn mark(&self, bytes: Range<u64>, len: u64, mut fresh: impl FnMut(Range<u64>)) {
        let pages = self.pages.get_or_init(|| {
            let count = len.min(MAX_TRACED_BYTES).div_ceil(SECTOR).div_ceil(PAGE_SECTORS);
            (0..count).map(|_| Page::new()).collect()
        });
        let limit = pages.len() as u64 * PAGE_SECTORS;
        let (mut at, end) = ((bytes.start / SECTOR), bytes.end.div_ceil(SECTOR).min(limit));
        let mut run = at..at;
        while at < end {
            let page = pages[(at / PAGE_SECTORS) as usize].get_or_init(empty_page);
            let bit = at % 64;
            let count = (64 - bit).min(end - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            let word = &page[(at % PAGE_SECTORS / 64) as usize];
            if word.load(Ordering::Relaxed) & mask != mask {
                let mut new = mask & !word.fetch_or(mask, Ordering::Relaxed);
                while new != 0 {
                    let first = u64::from(new.trailing_zeros());
                    let ones = u64::from((new >> first).trailing_ones());
                    let (start, stop) = (at - bit + first, at - bit + first + ones);
                    if run.end != start {
                        flush(&mut run, &mut fresh);
                        run.start = start;
                    }
                    run.end = stop;
                    new = if first + ones == 64 { 0 } else { new >> (first + ones) << (first + ones) };
                }
            }
            at += count;
        }
        flush(&mut run, &mut fresh);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for page in self.pages.get().into_iter().flatten() {
            page.get().into_iter().flat_map(|page| page.iter()).for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }
}

fn empty_page() -> Box<[AtomicU64; WORDS]> {
    Box::new([const { AtomicU64::new(0) }; WORDS])
}

fn flush(run: &mut Range<u64>, fresh: &mut impl FnMut(Range<u64>)) {
    if !run.is_empty() {
        fresh(run.clone());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECTORS: u64 = 3 * PAGE_SECTORS;

    proptest! {
        #[test]
        fn every_sector_is_fresh_once(reads in prop::collection::vec((0..SECTORS * SECTOR, 1u64..1 << 24), 1..30)) {
            let (seen, len) = (Seen::default(), SECTORS * SECTOR);
            let mut model = vec![false; SECTORS as usize];
            for (start, count) in reads {
                let end = (start + count).min(len);
                let mut runs = Vec::new();
                seen.mark(start..end, len, |run| runs.push(run));
                let mut expected: Vec<Range<u64>> = Vec::new();
                for sector in start / SECTOR..end.div_ceil(SECTOR) {
                    if !std::mem::replace(&mut model[sector as usize], true) {
                        match expected.last_mut() {
                            Some(run) if run.end == sector => run.end += 1,
                            _ => expected.push(sector..sector + 1),
                        }
                    }
                }
                prop_assert_eq!(runs, expected);
            }
            seen.clear();
            let mut all = 0;
            seen.mark(0..len, len, |run| all += run.end - run.start);
            prop_assert_eq!(all, SECTORS);
        }
    }

    #[test]
    fn a_layer_that_claims_to_be_huge_takes_little_memory() {
        let seen = Seen::default();
        let mut fresh = 0;
        seen.mark(u64::MAX - 4096..u64::MAX, u64::MAX, |_| fresh += 1);
        assert_eq!(fresh, 0);
        seen.mark(MAX_TRACED_BYTES - 512..MAX_TRACED_BYTES + 512, u64::MAX, |run| {
            assert_eq!(run.end - run.start, 1);
            fresh += 1;
        });
        assert_eq!(fresh, 1);
        let pages = seen.pages.get().unwrap();
        assert_eq!(pages.iter().filter(|page| page.get().is_some()).count(), 1);
        assert!(std::mem::size_of_val(&**pages) <= 8 << 20);
    }
}
