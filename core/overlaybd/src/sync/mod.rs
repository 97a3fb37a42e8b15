//! Threads, locks and the passing of time, as the core uses them: the machine's, or with the feature `sim` those of a
//! simulated world.
//!
//! Everything that a simulated image goes through takes these instead of the standard library's, so that the same code
//! runs in both worlds. Outside of a world the simulated ones do as the machine's do.

#[cfg(feature = "sim")]
pub mod sim;

#[cfg(not(feature = "sim"))]
mod machine {
    pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub use std::sync::{atomic, OnceLock};
    pub use std::thread;
    pub use std::time::Instant;

    /// Says that the order with other threads may matter here: for the simulator.
    #[inline(always)]
    pub fn point() {}
}

#[cfg(not(feature = "sim"))]
pub use machine::{atomic, point, thread, Condvar, Instant, Mutex, MutexGuard, OnceLock, RwLock};
#[cfg(feature = "sim")]
pub use sim::{atomic, point, thread, Condvar, Instant, Mutex, MutexGuard, OnceLock, RwLock};
