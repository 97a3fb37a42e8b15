//! The two structures of a gzip index: its header, and the points where decoding can begin.
//!
//! Format: turbooci, "Gzip index".

use super::WINDOW;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_BLOB_BYTES, MAX_GZIP_POINTS, MAX_GZIP_WINDOW_BYTES};
use crate::zfile::crc;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 333;

/// Bytes of one point.
pub(super) const POINT_BYTES: usize = 29;

const MAGIC: &[u8; 7] = b"ddgzidx";
const VERSION: u8 = 1;
/// Where the checksum is, of all that comes before it.
const CRC_AT: usize = HEADER_BYTES - 4;

/// The header of an index, all but what is the same in every one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Whether windows and points are compressed by zlib; stored as they are if not.
    pub zlib: bool,
    /// zlib's level.
    pub level: i8,
    /// Plain bytes from one point to the next, about.
    pub span: u32,
    /// Number of points.
    pub points: u64,
    /// Bytes of the gzip file.
    pub packed_bytes: u64,
    /// Bytes of the index file.
    pub index_bytes: u64,
    /// Bytes that the gzip file unpacks to.
    pub plain_bytes: u64,
    /// Where the points are in the index file, and the bytes that they take there.
    pub area: (u64, u64),
}

impl Header {
    /// Decodes the header of an index file of `file_bytes`, and checks all of it.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for another version; `Limit`.
    pub fn parse(bytes: &[u8; HEADER_BYTES], file_bytes: u64) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::corrupt("not a gzip index"));
        }
        let (stored, actual) = (u32_at(bytes, CRC_AT), crc::raw(crc::START, &bytes[..CRC_AT]));
        if stored != actual {
            return Err(Error::corrupt(format!("header's checksum is {actual:08x}, {stored:08x} is stored")));
        }
        if bytes[8] != VERSION || bytes[10] > 1 {
            let what = format!("gzip index of version {}, compression {}", bytes[8], bytes[10]);
            return Err(Error::new(Kind::Unsupported, what));
        }
        let header = Header {
            zlib: bytes[10] == 1,
            level: bytes[11] as i8,
            span: u32_at(bytes, 13),
            points: u64_at(bytes, 25),
            packed_bytes: u64_at(bytes, 33),
            index_bytes: u64_at(bytes, 41),
            plain_bytes: u64_at(bytes, 49),
            area: (u64_at(bytes, 313), u64_at(bytes, 321)),
        };
        let (window, point) = (u32_at(bytes, 17), u32_at(bytes, 21));
        if window != WINDOW as u32 || point != POINT_BYTES as u32 {
            let what = format!("gzip index with windows of {window} bytes and points of {point}");
            return Err(Error::new(Kind::Unsupported, what));
        }
        if header.index_bytes != file_bytes {
            let what = format!("index of {} bytes in a file of {file_bytes}", header.index_bytes);
            return Err(Error::corrupt(what));
        }
        let (start, len) = header.area;
        if start < HEADER_BYTES as u64 || start.checked_add(len) != Some(file_bytes) {
            return Err(Error::corrupt(format!("{len} bytes of points from {start} on in a file of {file_bytes}")));
        }
        if header.points > MAX_GZIP_POINTS || header.packed_bytes.max(header.plain_bytes) > MAX_BLOB_BYTES {
            let Header { points, packed_bytes, plain_bytes, .. } = header;
            let what = format!("{points} points in {packed_bytes} bytes that unpack to {plain_bytes}: too many");
            return Err(Error::new(Kind::Limit, what));
        }
        Ok(header)
    }

    /// Encodes the header, with its checksum.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..7].copy_from_slice(MAGIC);
        bytes[8] = VERSION;
        bytes[10] = self.zlib.into();
        bytes[11] = self.level as u8;
        for (at, value) in [(13, self.span), (17, WINDOW as u32), (21, POINT_BYTES as u32)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let Header { points, packed_bytes, index_bytes, plain_bytes, area, .. } = *self;
        let long = [(25, points), (33, packed_bytes), (41, index_bytes), (49, plain_bytes)];
        for (at, value) in long.into_iter().chain([(313, area.0), (321, area.1)]) {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let sum = crc::raw(crc::START, &bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// A place where decoding can begin: the start of a deflate block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Plain bytes before it.
    pub plain: u64,
    /// Bytes of the gzip file before it, that included of which only `bits` are left.
    pub packed: u64,
    /// Where the window is in the index file, and the bytes that it takes there.
    pub window: (u64, u32),
    /// Upper bits of the byte before `packed` that belong to what comes.
    pub bits: u8,
}

impl Point {
    pub(super) fn parse(bytes: &[u8; POINT_BYTES]) -> Self {
        let window = (u64_at(bytes, 16), u32_at(bytes, 25));
        Point { plain: u64_at(bytes, 0), packed: u64_at(bytes, 8), window, bits: bytes[24] }
    }

    pub(super) fn encode(&self) -> [u8; POINT_BYTES] {
        let mut bytes = [0; POINT_BYTES];
        for (at, value) in [(0, self.plain), (8, self.packed), (16, self.window.0)] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes[24] = self.bits;
        bytes[25..].copy_from_slice(&self.window.1.to_le_bytes());
        bytes
    }

    /// Checks a point against the header and the point before it.
    pub(super) fn check(&self, header: &Header, before: Option<&Point>) -> Result<()> {
        let (at, len) = (self.window.0, u64::from(self.window.1));
        let in_order = match before {
            Some(before) => before.plain <= self.plain && before.packed <= self.packed,
            None => self.plain == 0,
        };
        let in_file = self.plain <= header.plain_bytes && (1..=header.packed_bytes).contains(&self.packed);
        let window_in_file = at >= HEADER_BYTES as u64 && at.checked_add(len).is_some_and(|end| end <= header.area.0);
        let window_fits = if header.zlib { self.window.1 <= MAX_GZIP_WINDOW_BYTES } else { len == WINDOW as u64 };
        if in_order && in_file && window_in_file && window_fits && self.bits < 8 {
            return Ok(());
        }
        Err(Error::corrupt(format!("a point that cannot be: {self:?}")))
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn header() -> Header {
        Header {
            zlib: true,
            level: 6,
            span: 1 << 20,
            points: 2,
            packed_bytes: 1000,
            index_bytes: 5000,
            plain_bytes: 3000,
            area: (4000, 1000),
        }
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused() {
        let parse = |bytes: &[u8; HEADER_BYTES]| Header::parse(bytes, 5000).map_err(|e| e.kind());
        assert_eq!(parse(&header().encode()), Ok(header()));
        let least = HEADER_BYTES as u64;
        let whole = Header { area: (least, 5000 - least), ..header() };
        assert_eq!(parse(&whole.encode()), Ok(whole), "points right behind the header");
        let most = Header { points: MAX_GZIP_POINTS, plain_bytes: MAX_BLOB_BYTES, ..header() };
        assert_eq!(parse(&most.encode()), Ok(most));
        let bad = [
            (Kind::Corrupt, Header { index_bytes: 5001, ..header() }),
            (Kind::Corrupt, Header { area: (least - 1, 5001 - least), ..header() }),
            (Kind::Corrupt, Header { area: (4000, 999), ..header() }),
            (Kind::Corrupt, Header { area: (4000, u64::MAX), ..header() }),
            (Kind::Limit, Header { points: MAX_GZIP_POINTS + 1, ..header() }),
            (Kind::Limit, Header { plain_bytes: MAX_BLOB_BYTES + 1, ..header() }),
            (Kind::Limit, Header { packed_bytes: MAX_BLOB_BYTES + 1, ..header() }),
        ];
        for (kind, header) in bad {
            assert_eq!(parse(&header.encode()), Err(kind), "{header:?}");
        }
        // Version, compression, and the sizes of windows and points.
        for at in [8, 10, 17, 21] {
            let mut bytes = header().encode();
            bytes[at] += 3;
            let sum = crc::raw(crc::START, &bytes[..CRC_AT]);
            bytes[CRC_AT..].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(parse(&bytes), Err(Kind::Unsupported), "byte {at}");
        }
    }

    #[test]
    fn points_that_cannot_be_are_refused() {
        let least = HEADER_BYTES as u64;
        let first = Point { plain: 0, packed: 10, window: (least, 100), bits: 0 };
        let point = Point { plain: 500, packed: 300, window: (3900, 100), bits: 7 };
        let check = |point: Point, before: Option<&Point>| point.check(&header(), before).is_ok();
        assert!(check(first, None) && check(point, Some(&first)) && check(point, Some(&point)));
        assert!(check(Point { plain: 3000, packed: 1000, ..point }, Some(&point)), "at the end");
        assert!(!check(Point { plain: 1, ..first }, None), "the first begins at the start");
        let longest = Header { index_bytes: 1 << 20, area: (1 << 20, 0), ..header() };
        let window = |header: &Header, len| Point { window: (least, len), ..first }.check(header, None).is_ok();
        assert!(window(&longest, MAX_GZIP_WINDOW_BYTES) && !window(&longest, MAX_GZIP_WINDOW_BYTES + 1));
        let plain = Header { zlib: false, ..longest };
        let len = WINDOW as u32;
        assert!(window(&plain, len) && !window(&plain, len - 1) && !window(&plain, len + 1));
        let bad = [
            Point { plain: 3001, ..point },
            Point { packed: 1001, ..point },
            Point { window: (3901, 100), ..point },
            Point { window: (u64::MAX, 100), ..point },
            Point { window: (least - 1, 100), ..point },
            Point { bits: 8, ..point },
        ];
        for bad in bad {
            assert!(!check(bad, Some(&first)), "{bad:?}");
        }
        assert!(!check(Point { packed: 0, ..first }, None), "a point lies in the file");
        assert!(!check(Point { plain: 499, ..point }, Some(&point)), "plain bytes go on");
        assert!(!check(Point { packed: 299, ..point }, Some(&point)), "packed bytes go on");
        assert_eq!(Point::parse(&point.encode()), point);
    }
}
