//! Writes a payload wrapped in a tar.

use super::header::{wrapper, BLOCK};
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};
use crate::sink::Sink;

/// A sink that wraps what it gets, byte for byte as upstream does. Positions are those of the payload.
///
/// The size comes first in a tar and is known last, so three blocks that are no tar header hold its place
/// until `finish`; what a crash leaves is not taken for a layer. An output that cannot rewrite them is
/// refused at the start: holding back a payload of any size would need memory without limit.
pub struct TarSink<S: Sink> {
    sink: S,
    base: u64,
}

impl<S: Sink> TarSink<S> {
    /// Starts a tar at the present end of `sink`.
    ///
    /// Errors: `Invalid` if the sink is a stream; those of the sink.
    pub fn new(mut sink: S) -> Result<Self> {
        let base = sink.position();
        let placeholder = wrapper(None);
        sink.write(&placeholder)?;
        if !sink.rewrite(base, &placeholder)? {
            return Err(Error::new(Kind::Invalid, "a tar cannot be written to a stream: its size comes first"));
        }
        Ok(TarSink { sink, base })
    }

    /// The sink below, for instance to take what it collected.
    pub fn into_sink(self) -> S {
        self.sink
    }

    fn payload(&self) -> u64 {
        self.base + 3 * BLOCK
    }
}

impl<S: Sink> Sink for TarSink<S> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write(bytes)
    }

    fn write_from(&mut self, from: &dyn Blob, offset: u64, len: u64) -> Result<()> {
        self.sink.write_from(from, offset, len)
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> Result<bool> {
        self.sink.rewrite(self.payload() + offset, bytes)
    }

    fn position(&self) -> u64 {
        self.sink.position() - self.payload()
    }

    fn finish(&mut self) -> Result<()> {
        let size = self.position();
        let padding = size.next_multiple_of(BLOCK) - size;
        self.sink.write(&[0; 3 * BLOCK as usize][..(padding + 2 * BLOCK) as usize])?;
        if !self.sink.rewrite(self.base, &wrapper(Some(size)))? {
            return Err(Error::new(Kind::Invalid, "the tar header cannot be written: the output is a stream"));
        }
        self.sink.finish()
    }
}
