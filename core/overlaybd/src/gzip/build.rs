//! Makes the index of a gzip file while reading it once, from its start to its end.
//!
//! Format: turbooci, "Gzip index".

use std::io::{ErrorKind, Read};

use flate2::{Compress, Compression, FlushCompress};

use super::format::{Header, Point, HEADER_BYTES};
use super::inflate::Inflate;
use super::WINDOW;
use crate::error::{Error, Kind, Result};
use crate::limits::{GZIP_SPAN_BYTES, MAX_GZIP_POINTS};
use crate::sink::Sink;

/// Level of zlib that windows are compressed with.
const LEVEL: u32 = 6;
/// Bytes read at a time.
const INPUT: usize = 256 << 10;
/// Bytes unpacked at a time: the window that goes before them is moved once for each.
const OUTPUT: usize = 256 << 10;

/// What was indexed.
pub type Built = Header;

/// Reads a gzip file of one member from `source`, and writes its index to `sink`, which must be able to rewrite its
/// first bytes. `progress` is told how many bytes were read.
///
/// # Errors
/// `Corrupt` for what is not gzip, cut off or damaged; `Unsupported` for a file of more than one member, which an index
/// cannot speak of; `Invalid` for a span or a sink that cannot be; `Limit`; those of source, sink and `progress`.
pub(super) fn build(
    source: &mut dyn Read,
    sink: &mut dyn Sink,
    span: u32,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Built> {
    if !GZIP_SPAN_BYTES.contains(&span) {
        return Err(Error::new(Kind::Invalid, format!("span {span}: must be in {GZIP_SPAN_BYTES:?}")));
    }
    let mut packed = Packed { source, buf: vec![0; INPUT], at: 0, len: 0, taken: 0 };
    sink.write(&[0; HEADER_BYTES])?;
    let mut points = Points::new(sink, span)?;
    let mut inflate = Inflate::gzip()?;
    let mut plain = Plain { buf: vec![0; WINDOW + OUTPUT], end: WINDOW, before: 0 };
    loop {
        if packed.at == packed.len && !packed.fill()? {
            let what = "the gzip file is cut off";
            return Err(Error::corrupt(what).at(packed.taken));
        }
        if plain.end == plain.buf.len() {
            points.keep_window(&plain);
            plain.slide();
        }
        let step = inflate
            .step(&packed.buf[packed.at..packed.len], &mut plain.buf[plain.end..], true)
            .map_err(|e| e.at(packed.taken))?;
        packed.at += step.used;
        packed.taken += step.used as u64;
        plain.end += step.made;
        if step.ended {
            break;
        }
        if let Some(bits) = step.between {
            points.candidate(Point { plain: plain.position(), packed: packed.taken, bits, window: (0, 0) }, &plain)?;
        } else if step.used == 0 && step.made == 0 {
            return Err(Error::corrupt("inflating does not go on").at(packed.taken));
        }
        progress(packed.taken)?;
    }
    packed.finish()?;
    let header = points.finish(packed.taken, plain.position())?;
    progress(packed.taken)?;
    if !sink.rewrite(0, &header.encode())? {
        return Err(Error::new(Kind::Invalid, "a gzip index cannot be written to a stream"));
    }
    Ok(header)
}

/// The gzip file.
struct Packed<'a> {
    source: &'a mut dyn Read,
    buf: Vec<u8>,
    at: usize,
    len: usize,
    /// Bytes that were used.
    taken: u64,
}

impl Packed<'_> {
    /// Reads on; false at the end.
    fn fill(&mut self) -> Result<bool> {
        loop {
            match self.source.read(&mut self.buf) {
                Ok(n) => {
                    (self.at, self.len) = (0, n);
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", e).at(self.taken)),
            }
        }
    }

    /// Reads what follows the first member: nothing, or zeros, as tapes have.
    fn finish(&mut self) -> Result<()> {
        loop {
            let rest = &self.buf[self.at..self.len];
            if let Some(zeros) = rest.iter().position(|byte| *byte != 0) {
                let is_gzip = rest[zeros] == 0x1F;
                let (kind, what) = match is_gzip {
                    true => (Kind::Unsupported, "more than one gzip member, which a gzip index cannot speak of"),
                    false => (Kind::Corrupt, "what follows the gzip member is no gzip"),
                };
                return Err(Error::new(kind, what).at(self.taken + zeros as u64));
            }
            self.taken += rest.len() as u64;
            if !self.fill()? {
                return Ok(());
            }
        }
    }
}

/// What was unpacked last: the window before it, zeros at first, and up to `OUTPUT` bytes.
struct Plain {
    buf: Vec<u8>,
    end: usize,
    /// Bytes unpacked before those.
    before: u64,
}

impl Plain {
    fn position(&self) -> u64 {
        self.before + (self.end - WINDOW) as u64
    }

    /// The window of a position that is not before those still here.
    fn window(&self, position: u64) -> &[u8] {
        &self.buf[(position - self.before) as usize..][..WINDOW]
    }

    /// Makes room for more: only the window stays.
    fn slide(&mut self) {
        self.before = self.position();
        self.buf.copy_within(self.end - WINDOW..self.end, 0);
        self.end = WINDOW;
    }
}

/// Which of the places between blocks become points, and their windows on the way to the index.
struct Points<'a> {
    sink: &'a mut dyn Sink,
    compress: Compress,
    /// Room for what is compressed.
    room: Vec<u8>,
    span: u32,
    /// Where the next point is wanted.
    wanted: u64,
    /// The last place before that, and its window once the bytes are about to go.
    last: Option<(Point, Option<Vec<u8>>)>,
    taken: Vec<u8>,
    count: u64,
}

impl<'a> Points<'a> {
    fn new(sink: &'a mut dyn Sink, span: u32) -> Result<Self> {
        let compress = Compress::new(Compression::new(LEVEL), true);
        Ok(Points { sink, compress, room: Vec::new(), span, wanted: 0, last: None, taken: Vec::new(), count: 0 })
    }

    /// Looks at a place between blocks.
    fn candidate(&mut self, point: Point, plain: &Plain) -> Result<()> {
        if point.plain > self.wanted {
            if let Some((last, window)) = self.last.take() {
                match window {
                    Some(window) => self.take(last, &window)?,
                    None => self.take(last, plain.window(last.plain))?,
                }
            }
            while self.wanted < point.plain {
                self.wanted += u64::from(self.span);
            }
        }
        if point.plain < self.wanted {
            self.last = Some((point, None));
            return Ok(());
        }
        self.last = None;
        self.wanted += u64::from(self.span);
        self.take(point, plain.window(point.plain))
    }

    /// Keeps a copy of the window that may still be wanted.
    fn keep_window(&mut self, plain: &Plain) {
        if let Some((last, window @ None)) = &mut self.last {
            *window = Some(plain.window(last.plain).to_vec());
        }
    }

    fn take(&mut self, mut point: Point, window: &[u8]) -> Result<()> {
        if self.count == MAX_GZIP_POINTS {
            return Err(Error::new(Kind::Limit, format!("more than {MAX_GZIP_POINTS} points: take a larger span")));
        }
        point.window.0 = self.sink.position();
        point.window.1 = self.write(window)? as u32;
        self.taken.extend_from_slice(&point.encode());
        self.count += 1;
        Ok(())
    }

    /// Compresses and writes; returns the bytes written.
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.compress.reset();
        self.room.clear();
        // Never more than that: zlib stores what it cannot compress, with a few bytes for each piece.
        self.room.reserve(bytes.len() + bytes.len() / 64 + 1024);
        let status = self.compress.compress_vec(bytes, &mut self.room, FlushCompress::Finish);
        if !matches!(status, Ok(flate2::Status::StreamEnd)) {
            return Err(Error::corrupt("a window of the index cannot be compressed"));
        }
        self.sink.write(&self.room)?;
        Ok(self.room.len())
    }

    /// Writes the points themselves; the header is the caller's.
    fn finish(mut self, packed_bytes: u64, plain_bytes: u64) -> Result<Header> {
        let start = self.sink.position();
        let taken = std::mem::take(&mut self.taken);
        let len = self.write(&taken)? as u64;
        Ok(Header {
            zlib: true,
            level: LEVEL as i8,
            span: self.span,
            points: self.count,
            packed_bytes,
            index_bytes: start + len,
            plain_bytes,
            area: (start, len),
        })
    }
}
