//! Runs simulated worlds: `sim FROM-TO` one for each seed, `sim SEED` one with its whole trace.
//!
//! A seed that fails prints what was broken and the last lines of what happened; it fails in the same way each time.

mod commit;
mod crew;
mod daemon;
mod disk;
mod door;
mod download;
mod file;
mod inode;
mod library;
mod machine;
mod model;
mod net;
mod open;
mod replay;
mod ring;
mod setting;
mod story;

use std::time::Instant;

fn main() {
    // A broken promise is told with its seed and trace; the panic's own message would only be in the way.
    std::panic::set_hook(Box::new(|_| {}));
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = words.first().map_or("1-1000", String::as_str);
    let range = match word.split_once('-') {
        Some((from, to)) => from.parse().ok().zip(to.parse().ok()),
        None => word.parse().ok().map(|seed: u64| (seed, seed)),
    };
    let Some((from, to)) = range.filter(|(from, to)| from <= to) else {
        eprintln!("sim: {word}: must be FROM-TO or SEED");
        std::process::exit(2);
    };
    library::layer(0);
    if let Some(step) = words.get(1).and_then(|step| step.parse().ok()) {
        return crew::run_part(from..=to, step);
    }
    let started = Instant::now();
    let total = crew::run(from..=to);
    println!("{}", total.line(started));
    std::process::exit(i32::from(total.failed > 0));
}
