//! LSMT layers: formats, indexes, writable layers, commit.

pub mod index;
pub mod segment;

pub use index::{Index, MutableIndex};
pub use segment::Segment;
