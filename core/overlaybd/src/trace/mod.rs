//! Traces: which ranges of an image's layers were read first, recorded once and fetched in advance next time.

mod format;
mod glob;
mod list;
mod plan;
mod recorder;
mod replay;
mod seen;
#[cfg(test)]
mod tests;

pub use format::{encode, is_trace, parse, Record, HEADER_BYTES, RECORD_BYTES};
#[cfg(fuzzing)]
pub use list::list as path_list;
pub use plan::{plan, Piece};
pub use recorder::Recorder;
pub use replay::{Prefetch, PrefetchOptions, PrefetchStats};
