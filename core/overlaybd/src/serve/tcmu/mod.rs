//! TCMU: the device of an image behind the kernel's own SCSI target, for `/dev/sdX`, iSCSI and virtual machines.
//!
//! The kernel puts commands into a ring in memory that it shares with this process. One thread for each device
//! takes them, answers those that are ready on the spot, with the help of idle workers if there are many, and gives
//! the others to the device's worker pool. Completions go back in any order, and the kernel is told of several at once.

mod carry;
mod data;
mod region;
mod ring;
pub mod scsi;
mod server;
mod tell;
mod uio;

pub use super::stats::Stats;
pub use region::Region;
pub use ring::{entry, mailbox, Command, Response, Ring};
pub use server::{Link, Options, Server};
pub use uio::start;

#[cfg(any(test, feature = "sim"))]
pub mod testing;
#[cfg(test)]
mod tests;
