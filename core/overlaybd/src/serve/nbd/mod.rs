//! An NBD server: any program that speaks the protocol (kernel, QEMU, libnbd) reads and writes images.
//!
//! Each connection has a thread. It receives many requests at once, answers those that are ready on
//! the spot, in batches, and gives the others to the export's worker pool.

mod conn;
mod handshake;
mod input;
mod listen;
mod net;
mod out;
pub mod proto;
mod read;
mod server;
mod session;
mod stats;

pub use server::{Options, Server, Shared};
pub use stats::Stats;

#[cfg(test)]
mod tests;
