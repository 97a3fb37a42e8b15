//! An open gzip index: the points in memory, their windows where they are.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use flate2::{Decompress, FlushDecompress, Status};
use ring::digest::{Context, SHA256};

use super::build::{self, Built};
use super::format::{Header, Point, HEADER_BYTES, POINT_BYTES};
use super::WINDOW;
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};
use crate::sink::Sink;

/// An index, shared by all who read by it.
pub struct Index {
    blob: Arc<dyn Blob>,
    header: Header,
    points: Vec<Point>,
}

impl Index {
    /// Makes the index of the gzip file that `source` gives, of one member, and writes it to `sink`, with a point every
    /// `span` plain bytes or so. `progress` is told how many bytes were read.
    ///
    /// # Errors
    /// `Corrupt` for what is not gzip, cut off or damaged; `Unsupported` for a file of more than one member, which an
    /// index cannot speak of; `Invalid` for a span or a sink that cannot be; those of source, sink and `progress`.
    pub fn build(
        source: &mut dyn Read,
        sink: &mut dyn Sink,
        span: u32,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Built> {
        build::build(source, sink, span, progress)
    }

    /// Opens an index and checks all of it but the windows.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` or `Limit` for what cannot be used; those of the blob.
    pub fn open(blob: Arc<dyn Blob>) -> Result<Self> {
        let in_file = |e: Error| e.in_file(blob.name());
        if blob.len() < HEADER_BYTES as u64 {
            return Err(in_file(Error::corrupt("too short for a gzip index")));
        }
        let mut bytes = [0; HEADER_BYTES];
        blob.read_at(&mut bytes, 0)?;
        let header = Header::parse(&bytes, blob.len()).map_err(in_file)?;
        let points = points(&*blob, &header).map_err(|e| in_file(e.at(header.area.0)))?;
        Ok(Index { blob, header, points })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// All points, in order; the first is at the start.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// A name, in the form of a digest, for what a file of `digest` unpacks to by this index: not by another one, which
    /// somebody else may have made for the same file.
    ///
    /// # Errors
    /// Those of the blob, all of which is read.
    pub fn key(&self, digest: &str) -> Result<String> {
        let mut sum = Context::new(&SHA256);
        sum.update(digest.as_bytes());
        sum.update(&[0]);
        let mut piece = vec![0; self.blob.len().min(1 << 20) as usize];
        let mut done = 0;
        while done < self.blob.len() {
            let n = (self.blob.len() - done).min(piece.len() as u64) as usize;
            self.blob.read_at(&mut piece[..n], done)?;
            sum.update(&piece[..n]);
            done += n as u64;
        }
        let hex: String = sum.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        // Not `sha256:`, which promises that the content has this hash.
        Ok(format!("unpacked:{hex}"))
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        self.blob.name()
    }

    /// The number of the last point at or before a plain offset.
    pub(super) fn before(&self, offset: u64) -> usize {
        self.points.partition_point(|point| point.plain <= offset).saturating_sub(1)
    }

    /// The bytes of the gzip file that a range of plain bytes needs.
    pub(super) fn packed(&self, offset: u64, len: u64) -> Range<u64> {
        let end = offset.saturating_add(len).min(self.header.plain_bytes);
        if offset >= end {
            return 0..0;
        }
        let start = self.points[self.before(offset)];
        let next = self.points.partition_point(|point| point.plain < end);
        let end = self.points.get(next).map_or(self.header.packed_bytes, |point| point.packed);
        start.packed - u64::from(start.bits > 0)..end
    }

    /// Reads the window of a point.
    ///
    /// # Errors
    /// `Corrupt` if it is not one; those of the blob.
    pub(super) fn window(&self, number: usize) -> Result<Box<[u8; WINDOW]>> {
        let (at, len) = self.points[number].window;
        let mut stored = vec![0; len as usize];
        self.blob.read_at(&mut stored, at)?;
        if self.header.zlib {
            stored = unpack(&stored, WINDOW)
                .ok_or_else(|| Error::corrupt(format!("window {number} is damaged")).in_file(self.name()).at(at))?;
        }
        let wrong = |_| Error::corrupt(format!("window {number} is of the wrong length")).in_file(self.name());
        Box::<[u8; WINDOW]>::try_from(stored.into_boxed_slice()).map_err(wrong)
    }

    /// Says that a window proved wrong: see [`Blob::distrust`].
    pub(super) fn distrust(&self, number: usize) -> Result<bool> {
        let (at, len) = self.points[number].window;
        self.blob.distrust(at, len.into())
    }
}

fn points(blob: &dyn Blob, header: &Header) -> Result<Vec<Point>> {
    let (start, stored) = header.area;
    let plain = header.points as usize * POINT_BYTES;
    // What zlib may add to bytes that it cannot compress, with room to spare; it never makes less than a thousandth.
    if stored > plain as u64 + plain as u64 / 64 + 1024 || stored < plain as u64 / 1100 {
        return Err(Error::corrupt(format!("{stored} bytes for {} points", header.points)));
    }
    let mut bytes = vec![0; stored as usize];
    blob.read_at(&mut bytes, start)?;
    if header.zlib {
        bytes = unpack(&bytes, plain).ok_or_else(|| Error::corrupt("the points are damaged"))?;
    }
    if bytes.len() != plain {
        return Err(Error::corrupt(format!("{} bytes for {} points", bytes.len(), header.points)));
    }
    let mut points: Vec<Point> = Vec::with_capacity(header.points as usize);
    for bytes in bytes.as_chunks::<POINT_BYTES>().0 {
        let point = Point::parse(bytes);
        point.check(header, points.last())?;
        points.push(point);
    }
    if points.is_empty() {
        return Err(Error::new(Kind::Corrupt, "no points"));
    }
    Ok(points)
}

/// Unpacks a zlib stream that gives `len` bytes; None if it does not.
fn unpack(stored: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(len);
    let mut zlib = Decompress::new(true);
    let status = zlib.decompress_vec(stored, &mut plain, FlushDecompress::Finish).ok()?;
    (status == Status::StreamEnd && plain.len() == len).then_some(plain)
}
