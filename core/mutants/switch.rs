//! Which mutant is on: the environment says so. Put into the core by `core/mutants`, never part of the product.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::OnceLock;

struct Switch {
    on: u32,
    /// A byte for each mutant, set when a place where it stands is reached.
    reached: Option<&'static [AtomicU8]>,
}

static SWITCH: OnceLock<Switch> = OnceLock::new();

/// Tells which mutant is on, `u32::MAX` if none is, at the place where `here` stand.
pub fn on(here: &[u32]) -> u32 {
    let switch = SWITCH.get_or_init(start);
    if let Some(reached) = switch.reached {
        for number in here {
            reached[*number as usize].store(1, Ordering::Relaxed);
        }
    }
    switch.on
}

fn start() -> Switch {
    let number = std::env::var("MUTANT_ON").ok().and_then(|text| text.parse().ok());
    if number.is_some() {
        // One failed assertion is enough; libtest would go on, and proptest would look for a smaller case.
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            usual(info);
            std::process::exit(101);
        }));
    }
    let reached = std::env::var("MUTANTS_REACHED").ok().map(|path| {
        use std::os::fd::AsRawFd;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len() as usize;
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a mapping of its own that is never unmapped, of a file that nobody cuts short.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, access, shared, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: `length` bytes are mapped there for good, and atomics of a byte are as bytes.
        unsafe { std::slice::from_raw_parts(at.cast::<AtomicU8>(), length) }
    });
    Switch { on: number.unwrap_or(u32::MAX), reached }
}
