//! LSMT layers: formats, indexes, writable layers, commit.

pub mod index;
pub mod segment;

pub use index::{check_entries, coalesce, push_coalesced, Index, MutableIndex};
pub use segment::Segment;
