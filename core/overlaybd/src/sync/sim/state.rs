//! What a world amounts to at a moment: its threads, its time, and the decision who runs next.

use std::collections::VecDeque;
use std::time::Duration;

use super::explore::{Path, MAX_DECISIONS};

/// Steps after which a run is taken for one that has no end.
const MAX_STEPS: u64 = 20_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ready,
    Waiting { key: usize, until: Option<Duration> },
    Gone,
}

pub struct Thread {
    pub status: Status,
    pub process: usize,
    pub name: String,
    pub timed_out: bool,
}

pub struct State {
    pub random: u64,
    /// Takes the decisions in place of the seed, where all schedules are explored.
    pub path: Option<Path>,
    pub now: Duration,
    pub running: usize,
    pub threads: Vec<Thread>,
    pub dead: Vec<bool>,
    pub failure: Option<String>,
    pub trace: VecDeque<String>,
    pub digest: u64,
    pub steps: u64,
    pub finished: bool,
}

impl State {
    /// A number below `end`, which is at least 1.
    pub fn pick(&mut self, end: u64) -> u64 {
        if self.path.is_some() {
            return self.decide(end as usize, false) as u64;
        }
        self.draw() % end
    }

    fn decide(&mut self, options: usize, preempts: bool) -> usize {
        let Some(path) = &mut self.path else { return 0 };
        path.choose(options, preempts).unwrap_or_else(|| {
            self.fail("the same decisions lead elsewhere: something is left to chance".into());
            0
        })
    }

    pub fn draw(&mut self) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn mix(&mut self, value: u64) {
        self.digest = (self.digest ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    pub fn count(&mut self) {
        self.steps += 1;
        if self.steps == if self.path.is_some() { MAX_DECISIONS } else { MAX_STEPS } {
            self.fail("no end in sight".into());
        }
    }

    /// The world has failed: all its threads end.
    pub fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
        self.dead.fill(true);
        self.wake_dead();
    }

    pub fn wake_dead(&mut self) {
        for thread in &mut self.threads {
            if self.dead[thread.process] && thread.status != Status::Gone {
                thread.status = Status::Ready;
            }
        }
    }

    /// Who runs next after `me`: one of those that are ready; if none is, time leaps to where one will be.
    pub fn choose(&mut self, me: usize) -> usize {
        self.count();
        loop {
            let mut ready: Vec<usize> =
                (0..self.threads.len()).filter(|n| self.threads[*n].status == Status::Ready).collect();
            if !ready.is_empty() {
                let next = if self.path.is_some() {
                    // Who ran comes first, the others in their order.
                    let goes_on = ready.iter().position(|n| *n == me);
                    goes_on.into_iter().for_each(|at| ready[..=at].rotate_right(1));
                    let chosen = self.decide(ready.len(), goes_on.is_some());
                    ready[chosen]
                } else {
                    ready[self.draw() as usize % ready.len()]
                };
                self.mix(next as u64);
                return next;
            }
            let soonest = self.threads.iter().filter_map(|t| match t.status {
                Status::Waiting { until, .. } => until,
                _ => None,
            });
            match soonest.min() {
                Some(time) => self.leap(time),
                None => {
                    let who: Vec<_> =
                        self.threads.iter().filter(|t| t.status != Status::Gone).map(|t| t.name.as_str()).collect();
                    let what = format!("all wait for ever: {}", who.join(", "));
                    self.fail(what);
                }
            }
        }
    }

    pub fn leap(&mut self, time: Duration) {
        self.now = self.now.max(time);
        for thread in &mut self.threads {
            if matches!(thread.status, Status::Waiting { until: Some(until), .. } if until <= self.now) {
                thread.status = Status::Ready;
                thread.timed_out = true;
            }
        }
    }
}
