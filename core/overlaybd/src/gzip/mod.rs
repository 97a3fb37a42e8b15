//! Random access to a gzip file: an index of places where decoding can begin, and the plain bytes as a blob.
//!
//! Format: turbooci, "Gzip index".

mod build;
mod cursor;
mod format;
mod index;
mod inflate;
#[cfg(test)]
mod tests;
mod view;

pub use build::Built;
pub use format::{Header, Point, HEADER_BYTES};
pub use index::Index;
pub use view::View;

/// Bytes before a place that decoding from there may refer to.
pub const WINDOW: usize = 32 << 10;
