//! Which target served which bytes lately, so that the right one is blamed when bytes prove wrong.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::Target;

/// Runs remembered for one blob: bytes are checked soon after they came, so what is older is rarely asked for.
const MAX_RUNS: usize = 64;

/// The newest runs of bytes, newest last.
#[derive(Default)]
pub(super) struct Served {
    runs: VecDeque<(Range<u64>, Arc<Target>)>,
}

impl Served {
    /// Takes note of bytes that came from `target`.
    pub fn add(&mut self, start: u64, len: u64, target: &Arc<Target>) {
        if len == 0 {
            return;
        }
        if let Some((run, last)) = self.runs.back_mut() {
            if run.end == start && last.endpoint == target.endpoint {
                run.end = start + len;
                return;
            }
        }
        if self.runs.len() == MAX_RUNS {
            self.runs.pop_front();
        }
        self.runs.push_back((start..start + len, Arc::clone(target)));
    }

    /// Who served one of these bytes last, if that is remembered.
    pub fn by(&self, start: u64, len: u64) -> Option<Arc<Target>> {
        let hit = |run: &Range<u64>| run.start < start.saturating_add(len) && start < run.end;
        self.runs.iter().rev().find(|(run, _)| hit(run)).map(|(_, target)| Arc::clone(target))
    }
}
