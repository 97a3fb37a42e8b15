//! ublk: the device of an image as a disk of the kernel, `/dev/ublkbN`.
//!
//! The kernel hands requests to an io_uring of each hardware queue, by tags, and copies their data from and to a buffer
//! of each tag. The queue's thread answers what is ready on the spot, with the help of idle workers if that is much;
//! workers carry out the rest and give it back to the thread, which alone may answer. Many answers and requests share
//! one system call. The disk outlives its server: users wait, and the next server gets what was under way.

mod abi;
mod carry;
mod control;
#[cfg(fuzzing)]
pub mod fuzzing;
mod memory;
mod port;
mod queue;
mod request;
mod server;

pub use super::stats::Stats;
pub use abi::{feature, state, Info, Parameters};
pub use control::{numbers, Control};
pub use server::{path, Options, Server};

#[cfg(test)]
mod tests;
