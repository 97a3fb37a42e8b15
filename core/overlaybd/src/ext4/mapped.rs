//! Which pages content was mapped to.

use std::collections::BTreeMap;
use std::ops::Range;

/// Runs of pages: where they begin, where they end. There are no more of them than files that were mapped.
#[derive(Default)]
pub(super) struct Mapped {
    runs: BTreeMap<u64, u64>,
}

impl Mapped {
    /// Adds pages, some of which may be there already.
    pub fn add(&mut self, mut pages: Range<u64>) {
        while let Some((&start, &end)) =
            self.runs.range(..=pages.end).next_back().filter(|(_, end)| **end >= pages.start)
        {
            self.runs.remove(&start);
            pages = pages.start.min(start)..pages.end.max(end);
        }
        if !pages.is_empty() {
            self.runs.insert(pages.start, pages.end);
        }
    }

    /// Takes one away; whether it was there.
    pub fn remove(&mut self, page: u64) -> bool {
        let Some((&start, &end)) = self.runs.range(..=page).next_back().filter(|(_, end)| **end > page) else {
            return false;
        };
        self.runs.remove(&start);
        for rest in [start..page, page + 1..end] {
            if !rest.is_empty() {
                self.runs.insert(rest.start, rest.end);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_and_go_as_in_a_set() {
        let (mut mapped, mut set) = (Mapped::default(), std::collections::BTreeSet::new());
        let mut seed = 1u64;
        for _ in 0..3000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (page, len) = (seed >> 58, (seed >> 40) % 9);
            if seed & (1 << 30) == 0 {
                mapped.add(page..page + len);
                set.extend(page..page + len);
            } else {
                assert_eq!(mapped.remove(page), set.remove(&page));
            }
            assert_eq!(
                mapped.runs.iter().flat_map(|(a, b)| *a..*b).collect::<Vec<_>>(),
                set.iter().copied().collect::<Vec<_>>()
            );
            assert!(mapped.runs.iter().zip(mapped.runs.iter().skip(1)).all(|(a, b)| a.1 < b.0), "not joined");
        }
    }
}
