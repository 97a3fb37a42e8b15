//! Runs simulated worlds: `sim FROM-TO` one for each seed, `sim SEED` one with its whole trace.
//!
//! A seed that fails prints what was broken and the last lines of what happened; it fails in the same way each time.

mod daemon;
mod disk;
mod file;
mod inode;
mod machine;
mod model;
mod net;
mod story;

use std::time::Instant;

use overlaybd::sync::sim;

/// Lines of the trace that a failure prints.
const SHOWN: usize = 60;

fn main() {
    // A broken promise is told with its seed and trace; the panic's own message would only be in the way.
    std::panic::set_hook(Box::new(|_| {}));
    let word = std::env::args().nth(1).unwrap_or_else(|| "1-1000".into());
    let range = match word.split_once('-') {
        Some((from, to)) => from.parse().ok().zip(to.parse().ok()),
        None => word.parse().ok().map(|seed: u64| (seed, seed)),
    };
    let Some((from, to)) = range else {
        eprintln!("sim: {word}: must be FROM-TO or SEED");
        std::process::exit(2);
    };
    let (started, mut failed, mut steps, mut time) = (Instant::now(), 0, 0, 0.0);
    for seed in from..=to {
        let outcome = sim::run(seed, story::story);
        (steps, time) = (steps + outcome.steps, time + outcome.time.as_secs_f64());
        if from == to {
            outcome.trace.iter().for_each(|line| println!("{line}"));
            println!("digest {:016x}", outcome.digest);
        }
        if let Some(failure) = outcome.failure {
            failed += 1;
            if from != to {
                outcome.trace.iter().rev().take(SHOWN).rev().for_each(|line| println!("{line}"));
            }
            println!("seed {seed} fails: {failure}");
        }
    }
    let (runs, took) = (to.saturating_sub(from) + 1, started.elapsed().as_secs_f64());
    println!(
        "{runs} worlds, {failed} failed: {time:.0} simulated seconds, {steps} steps in {took:.1} s ({:.0} worlds/s)",
        runs as f64 / took
    );
    std::process::exit(i32::from(failed > 0));
}
