//! LSMT layers: formats, indexes, writable layers, commit.

pub mod commit;
pub mod header;
pub mod import;
pub mod index;
pub mod info;
pub mod layer;
pub mod segment;
pub mod stack;
#[cfg(test)]
pub(crate) mod testing;
pub mod upper;
pub mod uuid;
pub mod warp;

pub use header::Header;
pub use index::{check_entries, coalesce, push_coalesced, Index, MutableIndex};
pub use layer::Layer;
pub use segment::Segment;
pub use stack::Stack;
pub use upper::Upper;
pub use uuid::Uuid;
pub use warp::RemoteMap;
