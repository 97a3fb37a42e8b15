//! Many worlds: shared out among processes, one for each processor, since worlds of one process come one after the
//! other.

use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::time::Instant;

use overlaybd::sync::sim;

use crate::story;

/// Lines of the trace that a failure prints.
const SHOWN: usize = 60;

/// Every so many worlds run twice, to see that they do the same.
const TWICE: u64 = 50;

/// The first word of the line in which a process tells what it did.
const TOLD: &str = "told:";

/// What came of some worlds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    pub worlds: u64,
    pub failed: u64,
    pub again: u64,
    pub steps: u64,
    pub millis: u64,
}

impl Total {
    fn add(&mut self, [worlds, failed, again, steps, millis]: [u64; 5]) {
        self.worlds += worlds;
        self.failed += failed;
        self.again += again;
        self.steps += steps;
        self.millis += millis;
    }

    /// In one line, with how fast that was.
    pub fn line(&self, since: Instant) -> String {
        let (took, time) = (since.elapsed().as_secs_f64(), self.millis as f64 / 1000.0);
        let Total { worlds, failed, again, steps, .. } = *self;
        format!(
            "{worlds} worlds, {failed} failed, {again} run twice: {steps} steps, {time:.0} simulated seconds \
             in {took:.1} s ({:.0} worlds/s, {:.0} simulated s/s)",
            worlds as f64 / took,
            time / took
        )
    }
}

/// Runs one seed, and again if that is of interest; the whole trace is printed if it is `alone`.
fn run_one(seed: u64, alone: bool) -> [u64; 5] {
    let outcome = sim::run(seed, story::story);
    if alone {
        outcome.trace.iter().for_each(|line| println!("{line}"));
        println!("digest {:016x}", outcome.digest);
    }
    let mut failure = outcome.failure;
    let again = seed.is_multiple_of(TWICE) || alone || failure.is_some();
    if again && sim::run(seed, story::story).digest != outcome.digest {
        failure = Some(format!("the second time it is not the same; the first time: {failure:?}"));
    }
    if let Some(failure) = &failure {
        if !alone {
            outcome.trace.iter().rev().take(SHOWN).rev().for_each(|line| println!("{line}"));
        }
        println!("seed {seed} fails: {failure}");
    }
    [1, failure.is_some().into(), again.into(), outcome.steps, outcome.time.as_millis() as u64]
}

/// Runs every `step`th seed of a range in this process, and tells of it in a way that [`run`] understands.
pub fn run_part(seeds: RangeInclusive<u64>, step: usize) {
    let mut total = Total::default();
    seeds.step_by(step).for_each(|seed| total.add(run_one(seed, false)));
    let Total { worlds, failed, again, steps, millis } = total;
    println!("{TOLD} {worlds} {failed} {again} {steps} {millis}");
}

/// Runs a range of seeds. A process that does not tell of its part is one that failed.
pub fn run(seeds: RangeInclusive<u64>) -> Total {
    let mut total = Total::default();
    if seeds.start() == seeds.end() {
        total.add(run_one(*seeds.start(), true));
        return total;
    }
    let crew = std::thread::available_parallelism().map_or(1, usize::from).min(seeds.clone().count());
    let program = std::env::current_exe().expect("a name of this program");
    let (from, to) = (*seeds.start(), *seeds.end());
    let parts: Vec<_> = (0..crew as u64)
        .map(|part| {
            let words = [format!("{}-{to}", from + part), crew.to_string()];
            Command::new(&program).args(words).stdout(Stdio::piped()).spawn().expect("another process")
        })
        .collect();
    for mut part in parts {
        let mut told = None;
        for line in BufReader::new(part.stdout.take().expect("its output")).lines().map_while(Result::ok) {
            match line.strip_prefix(TOLD) {
                Some(numbers) => told = Some(numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect()),
                None => println!("{line}"),
            }
        }
        let ended = part.wait().is_ok_and(|status| status.success());
        match told.map(|numbers: Vec<u64>| numbers.try_into()) {
            Some(Ok(numbers)) if ended => total.add(numbers),
            _ => {
                println!("a process that ran worlds has died");
                total.failed += 1;
            }
        }
    }
    total
}
