//! A FUSE directory with one file per image, for `losetup`, `mount -o loop`, QEMU or `cp`.
//!
//! Reads that are ready are answered by the threads that take requests from the kernel; the others,
//! and what may wait for a disk, by the image's worker pool.

mod files;
mod mount;
mod resume;
mod session;

pub use session::{Mount, Options};

#[cfg(test)]
mod tests;
