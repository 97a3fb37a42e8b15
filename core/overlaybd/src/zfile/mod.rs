//! ZFile: a file compressed block by block, so that any part of it can be read alone.
//!
//! `header` and `table` are the format, `codec` and `crc` the arithmetic, `reader` and `builder` the two
//! things that one does with it.

mod builder;
pub mod codec;
pub mod crc;
pub mod header;
mod load;
mod packer;
mod prefetch;
mod reader;
mod scratch;
mod table;

#[cfg(test)]
mod tests;

pub use builder::{Builder, Options, Summary};
pub use codec::Algorithm;
pub use header::Header;
pub use load::is_zfile;
pub use reader::{Info, Reader};
