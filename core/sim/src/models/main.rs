//! Explores the schedules of small models around the real code: `models quick`, `models deep`, or one by name.
//!
//! A schedule that breaks a model prints what was broken, what happened, and the decisions that lead there.

mod disk;
mod evict;
mod flight;
mod heal;
mod pool;
mod ring;
mod selftest;
mod snapshot;
mod source;
mod switch;

use std::time::Instant;

use overlaybd::sync::sim;

/// A model: a few threads that use a part of the core, and panic where it breaks a promise.
pub struct Model {
    /// By which it can be run alone.
    pub name: &'static str,
    /// What happens in it.
    pub story: fn(),
    /// Preemptions of a run in `make test`.
    pub quick: usize,
    /// Preemptions of a run in `make models`.
    pub deep: usize,
}

/// Schedules of one model, at most.
const MOST: u64 = 4_000_000;
/// Lines of what happened that a failure prints.
const SHOWN: usize = 40;

fn main() {
    // A broken promise is told with its schedule; the panic's own message would only be in the way.
    std::panic::set_hook(Box::new(|_| {}));
    selftest::check();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = words.first().map_or("quick", String::as_str);
    let bound = words.get(1).and_then(|bound| bound.parse().ok());
    let all =
        [flight::MODELS, evict::MODELS, heal::MODELS, switch::MODELS, pool::MODELS, ring::MODELS, snapshot::MODELS];
    let all = all.concat();
    let chosen: Vec<&Model> =
        all.iter().copied().filter(|m| matches!(word, "quick" | "deep") || m.name == word).collect();
    if chosen.is_empty() {
        let names: Vec<_> = all.iter().map(|model| model.name).collect();
        eprintln!("models: {word}: must be quick, deep or one of {}", names.join(", "));
        std::process::exit(2);
    }
    let (mut runs, mut failed, started) = (0, 0, Instant::now());
    for model in chosen {
        let preemptions = bound.unwrap_or(if word == "quick" { model.quick } else { model.deep });
        let (count, right) = explore(model, preemptions);
        (runs, failed) = (runs + count, failed + u64::from(!right));
    }
    println!("{runs} schedules in {:.1} s, {failed} models failed", started.elapsed().as_secs_f64());
    std::process::exit(i32::from(failed > 0));
}

/// How many schedules were run, and whether all were right.
fn explore(model: &Model, preemptions: usize) -> (u64, bool) {
    let started = Instant::now();
    // The first run may find what is static in the program not made yet, and so take other decisions than the next.
    sim::run(0, model.story);
    let explored = sim::explore(preemptions, MOST, model.story);
    let extent = if explored.complete { "all with up to" } else { "some with up to" };
    println!(
        "{:18} {:8} schedules, {extent} {preemptions} preemptions, {} decisions, {:.1} s",
        model.name,
        explored.runs,
        explored.decisions,
        started.elapsed().as_secs_f64()
    );
    let Some((outcome, decisions)) = explored.failure else { return (explored.runs, true) };
    outcome.trace.iter().rev().take(SHOWN).rev().for_each(|line| println!("{line}"));
    println!("{} fails: {}", model.name, outcome.failure.unwrap_or_default());
    println!("decisions: {decisions:?}");
    (explored.runs, false)
}
