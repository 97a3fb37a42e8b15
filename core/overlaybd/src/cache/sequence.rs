//! Sequential readers: finds them among all reads of a blob, and says what to fetch before they want it.
//!
//! Several may be under way at once, each a bit out of order, as when a kernel reads ahead itself. What is fetched for
//! one grows while it goes on, and ends with it: nothing more is fetched once reads turn elsewhere.

use std::ops::Range;

use crate::sync::Mutex;

/// Readers of one blob that are told apart.
const MAX_RUNS: usize = 16;

/// Chunks that are read in a row before anything is fetched in advance: files of that size are read whole all the time,
/// and what lies behind them is another file's.
const MIN_LENGTH: usize = 4;

/// Chunks for which a run notes what was read out of order.
const SLACK: usize = 64;

/// Readers of one blob. All numbers are of chunks.
#[derive(Default)]
pub(super) struct Sequence {
    /// The one that moved last is last.
    runs: Mutex<Vec<Run>>,
}

struct Run {
    /// The first chunk that was not read.
    next: usize,
    /// Bit `i`: chunk `next + 1 + i` was read.
    beyond: u64,
    /// Chunks read in a row.
    length: usize,
    /// What is fetched in advance, or being fetched, ends here.
    ahead: usize,
}

impl Run {
    /// Takes note of chunks that were read; true if the run moved.
    fn take(&mut self, chunks: &Range<usize>) -> bool {
        let before = self.next;
        for chunk in chunks.start.max(self.next)..chunks.end {
            // What was fetched in advance may have been read unnoticed.
            if chunk < self.next {
                continue;
            }
            if chunk == self.next || chunk < self.ahead {
                self.pass(chunk);
            } else if chunk - self.next <= SLACK {
                self.beyond |= 1 << (chunk - self.next - 1);
            }
        }
        self.length += self.next - before;
        self.next > before
    }

    /// Moves behind `chunk`, and behind what was read beyond it.
    fn pass(&mut self, mut chunk: usize) {
        loop {
            let steps = (chunk - self.next) as u32;
            let was_read = self.beyond.checked_shr(steps).unwrap_or(0) & 1 != 0;
            self.beyond = self.beyond.checked_shr(steps + 1).unwrap_or(0);
            self.next = chunk + 1;
            if !was_read {
                return;
            }
            chunk = self.next;
        }
    }
}

impl Sequence {
    /// Takes note of a read of `chunks`. If it belongs to a sequential reader: what to fetch in advance now, at most
    /// `max` chunks ahead of it, and no more than it has read. A read that was a `hit` begins no sequence:
    /// it counts if it is of what was fetched for one.
    pub fn note(&self, chunks: Range<usize>, max: usize, hit: bool) -> Option<Range<usize>> {
        let mut runs = self.runs.lock();
        if hit && !runs.iter().any(|run| (run.next..run.ahead).contains(&chunks.start)) {
            return None;
        }
        let Some(at) = runs.iter_mut().position(|run| run.take(&chunks)) else {
            // Perhaps the first of a sequence; behind a gap, too, which may never be filled.
            if !runs.iter().any(|run| run.next == chunks.end) {
                if runs.len() == MAX_RUNS {
                    runs.remove(0);
                }
                runs.push(Run { next: chunks.end, beyond: 0, length: chunks.len(), ahead: chunks.end });
            }
            return None;
        };
        let mut run = runs.remove(at);
        // Those whose way it has covered were of the same reader.
        runs.retain(|other| {
            let covered = (run.next - run.length..=run.next).contains(&other.next);
            if covered {
                run.ahead = run.ahead.max(other.ahead);
            }
            !covered
        });
        run.ahead = run.ahead.max(run.next);
        let window = run.length.min(max);
        let (start, end) = (run.ahead, run.next + window);
        // Half of it at a time, so that requests are few, and one is under way while another is read.
        let enough = window >= MIN_LENGTH.min(max) && end >= start + (window / 2).max(2) - 1;
        let wanted = enough.then_some(start..end);
        if wanted.is_some() {
            run.ahead = end;
        }
        runs.push(run);
        wanted
    }

    /// Says that of what was to be fetched, up to chunk `end`, nothing was from chunk `at` on.
    pub fn fell_short(&self, end: usize, at: usize) {
        if let Some(run) = self.runs.lock().iter_mut().find(|run| run.ahead == end) {
            run.ahead = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64;

    /// What is fetched in advance for reads of single chunks: beginnings and ends.
    fn fetched(sequence: &Sequence, reads: impl IntoIterator<Item = usize>) -> Vec<(usize, usize)> {
        let wanted = reads.into_iter().filter_map(|chunk| sequence.note(chunk..chunk + 1, MAX, false));
        wanted.map(|range| (range.start, range.end)).collect()
    }

    fn count(ranges: &[(usize, usize)]) -> usize {
        ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// Checks that ranges follow one another and returns how much they are.
    fn joined(ranges: &[(usize, usize)]) -> usize {
        ranges.windows(2).for_each(|pair| assert_eq!(pair[0].1, pair[1].0));
        count(ranges)
    }

    #[test]
    fn what_is_fetched_ahead_grows_to_a_bound_and_stays_ahead() {
        let sequence = Sequence::default();
        assert_eq!(fetched(&sequence, [10]), []);
        assert_eq!(fetched(&sequence, [11, 12, 13]), [(14, 18)], "a file of three chunks is no sequence");
        let mut ranges = vec![(14, 18)];
        for chunk in 14..1000 {
            ranges.extend(fetched(&sequence, [chunk]));
            let end = ranges.last().map_or(0, |range| range.1);
            assert!(end > chunk && end <= chunk + 1 + MAX, "{chunk}: {end}");
        }
        joined(&ranges);
        assert!(ranges.len() < 50, "{}", ranges.len());
    }

    #[test]
    fn random_reads_fetch_nothing() {
        let sequence = Sequence::default();
        let mut random = 7u64;
        let reads = (0..10_000).map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 40) as usize % 1_000_000
        });
        let wasted = count(&fetched(&sequence, reads));
        assert!(wasted < 20, "{wasted}");
        assert_eq!(fetched(&sequence, (0..3000).rev()), [], "nor do reads that go backwards");
        assert_eq!(fetched(&sequence, (5000..9000).step_by(3)), [], "nor those that leave gaps");
    }

    #[test]
    fn readers_beside_one_another_are_told_apart() {
        let sequence = Sequence::default();
        let mut ranges = vec![Vec::new(); 4];
        for step in 0..200 {
            for (reader, ranges) in ranges.iter_mut().enumerate() {
                ranges.extend(fetched(&sequence, [reader * 100_000 + step]));
            }
            fetched(&sequence, [900_000 + 7 * step]);
        }
        for ranges in &ranges {
            assert!(joined(ranges) >= 200);
        }
    }

    #[test]
    fn a_bit_out_of_order_is_still_in_sequence() {
        let sequence = Sequence::default();
        let reads = (0..400).map(|i: usize| (i & !3) + [1, 0, 3, 2][i & 3]);
        let ranges = fetched(&sequence, reads);
        assert!(joined(&ranges) >= 390, "{ranges:?}");
        let sequence = Sequence::default();
        let reads = (0..400).map(|i: usize| (i & !7) + (7 - (i & 7)));
        assert!(joined(&fetched(&sequence, reads)) >= 380);
    }

    #[test]
    fn what_is_read_unnoticed_holds_nobody_up() {
        let sequence = Sequence::default();
        let mut ranges = fetched(&sequence, 0..4);
        while ranges.len() < 20 {
            // Only the first chunk of each fetch of four is seen, and as a hit.
            let (start, end) = ranges[ranges.len() - 1];
            let seen = (start..end).step_by(4).filter_map(|chunk| sequence.note(chunk..chunk + 1, MAX, true));
            let more: Vec<_> = seen.map(|range| (range.start, range.end)).collect();
            assert!(!more.is_empty(), "after {ranges:?}");
            ranges.extend(more);
        }
        assert!(sequence.note(5000..5001, MAX, true).or(sequence.note(5001..5002, MAX, true)).is_none());
        joined(&ranges);
    }

    #[test]
    fn what_could_not_be_begun_is_wanted_again() {
        let sequence = Sequence::default();
        let (start, end) = fetched(&sequence, 0..40).pop().unwrap();
        sequence.fell_short(end, start);
        let again = fetched(&sequence, 40..start + 1);
        assert_eq!(again[0].0, start);
    }

    #[test]
    fn a_reader_that_turns_elsewhere_costs_a_window_and_no_more() {
        let sequence = Sequence::default();
        fetched(&sequence, 0..100);
        assert_eq!(fetched(&sequence, [5000]), []);
        assert_eq!(fetched(&sequence, 5001..5004), [(5004, 5008)], "begins small again");
    }
}
