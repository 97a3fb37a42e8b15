//! Hash trees over the bytes of blobs: one hash that somebody vouches for proves every part alone ("merkle").

mod hash;
mod tree;

pub use tree::{Builder, Tree};

/// Bytes that one leaf stands for; the last one of a blob may stand for fewer. Where it is fuzzed few, so that what is
/// hashed in no time has many leaves.
pub const LEAF_BYTES: u64 = if cfg!(fuzzing) { 64 } else { 64 << 10 };

/// A SHA-256.
pub type Hash = [u8; 32];
