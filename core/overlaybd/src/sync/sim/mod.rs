//! A world in which one thread runs at a time, and which one is drawn from a seed: the same seed gives the same run.
//!
//! The threads are real ones that hand a baton on whenever they take a lock, wait, sleep or end. Time passes only when
//! all of them wait: then it leaps to the next moment that one waits for. Threads belong to processes, which can be
//! killed: each of their threads then unwinds from where it stands, and what it does meanwhile must not show (see
//! [`is_dead`]).

pub mod atomic;
mod explore;
mod lock;
mod state;
pub mod thread;
mod time;
mod world;

pub use explore::{explore, follow, Explored};
pub use lock::{Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult};
pub use time::Instant;
pub use world::{
    draw, fail, is_dead, is_inside, kill, note, now, point, process, run, sleep, spawn_process, step, wait_for_process,
    Outcome, Process,
};
