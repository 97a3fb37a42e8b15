//! Exploring all schedules of a small world: each decision is taken in every way that it can be, one run after another.
//!
//! A run follows the decisions of a path and takes the first option wherever the path has ended; the next path differs
//! in the last decision that has options left. Who ran goes on first: a thread that could run and does not counts as
//! preempted, and only so many are in a run. Most mistakes need one or two, and with a bound their number is within
//! reach (as in CHESS, PLDI 2007).

use std::sync::Arc;

use super::world::{self, Outcome};

/// Decisions after which a run is taken for one that has no end.
pub(super) const MAX_DECISIONS: u64 = 100_000;

/// Options of a decision that another exploration took.
const UNKNOWN: usize = 0;

/// One decision of a run.
#[derive(Clone, Copy, Debug)]
struct Choice {
    options: usize,
    taken: usize,
}

/// The decisions of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Path {
    choices: Vec<Choice>,
    /// Decisions of the present run so far.
    at: usize,
    /// Threads that were preempted in it.
    preempted: usize,
    /// As many may be.
    bound: usize,
}

impl Path {
    /// Takes a decision between so many `options`: the number of one. If it preempts a thread to take any but the
    /// first, the bound may allow no other. None if the run is not the one that the path was made for.
    pub fn choose(&mut self, options: usize, preempts: bool) -> Option<usize> {
        if options < 2 || (preempts && self.preempted == self.bound) {
            return Some(0);
        }
        if self.at == self.choices.len() {
            self.choices.push(Choice { options, taken: 0 });
        }
        let choice = self.choices[self.at];
        if choice.options != options && choice.options != UNKNOWN || choice.taken >= options {
            return None;
        }
        self.at += 1;
        self.preempted += usize::from(preempts && choice.taken > 0);
        Some(choice.taken)
    }

    /// Makes the path of the next run; false if there is none.
    fn advance(&mut self) -> bool {
        self.choices.truncate(self.at);
        (self.at, self.preempted) = (0, 0);
        while let Some(last) = self.choices.last_mut() {
            last.taken += 1;
            if last.taken < last.options {
                return true;
            }
            self.choices.pop();
        }
        false
    }
}

/// What came of an exploration.
#[derive(Debug)]
pub struct Explored {
    /// Runs, each with a schedule of its own.
    pub runs: u64,
    /// Whether those are all that there are within the bound.
    pub complete: bool,
    /// Most decisions that one of them took.
    pub decisions: usize,
    /// The first run that failed: its outcome, and its decisions where there was a choice.
    pub failure: Option<(Outcome, Vec<usize>)>,
}

/// Runs `story` with each schedule that preempts at most `preemptions` threads, until one fails or `most` have been
/// run. Beside who runs, each [`super::draw`] is a decision.
pub fn explore(preemptions: usize, most: u64, story: impl Fn() + Send + Sync + 'static) -> Explored {
    let story = Arc::new(story);
    let mut path = Path { bound: preemptions, ..Path::default() };
    let mut explored = Explored { runs: 0, complete: false, decisions: 0, failure: None };
    while explored.runs < most {
        let tell = Arc::clone(&story);
        let (outcome, taken) = world::run_along(path, move || tell());
        path = taken;
        explored.runs += 1;
        explored.decisions = explored.decisions.max(path.at);
        if outcome.failure.is_some() {
            let decisions = path.choices[..path.at].iter().map(|choice| choice.taken).collect();
            explored.failure = Some((outcome, decisions));
            break;
        }
        if !path.advance() {
            explored.complete = true;
            break;
        }
    }
    explored
}

/// Runs `story` once along the decisions of a run that failed.
pub fn follow(preemptions: usize, decisions: &[usize], story: impl FnOnce() + Send + 'static) -> Outcome {
    let choices = decisions.iter().map(|taken| Choice { options: UNKNOWN, taken: *taken }).collect();
    let path = Path { choices, bound: preemptions, ..Path::default() };
    world::run_along(path, story).0
}
