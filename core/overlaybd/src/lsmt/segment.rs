//! One index entry: a run of sectors of the virtual disk and where its bytes are.
//!
//! Format: lsmt, "Index entry (segment mapping)": two little-endian words,
//! `offset(50) | length(14)` and `moffset(55) | zeroed(1) | tag(8)`.

/// Bytes of an entry on disk.
pub const ENTRY_BYTES: usize = 16;
/// Longest run that one entry can say, in sectors.
pub const MAX_LENGTH: u32 = (1 << 14) - 1;
/// The offset that marks an invalid (padding) entry; legal offsets are below it.
pub const INVALID_OFFSET: u64 = (1 << 50) - 1;
/// Highest sector that an entry can map to.
pub const MAX_MOFFSET: u64 = (1 << 55) - 1;

/// A decoded entry. All numbers are sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// First sector covered.
    pub offset: u64,
    /// Sectors covered, up to [`MAX_LENGTH`].
    pub length: u32,
    /// Sector in the data-bearing file that holds the first sector.
    pub moffset: u64,
    /// Reads as zeros; there is no data.
    pub zeroed: bool,
    /// Which file: the run-time number of the layer, or the segment type in warp files.
    pub tag: u8,
}

impl Segment {
    /// The padding entry.
    pub const INVALID: Segment = Segment { offset: INVALID_OFFSET, length: 0, moffset: 0, zeroed: false, tag: 0 };

    /// Whether this is padding: whatever else it says, an entry with the reserved offset is none.
    pub fn is_invalid(&self) -> bool {
        self.offset == INVALID_OFFSET
    }

    /// First sector behind the run.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// First sector behind the run in the data-bearing file; `moffset` itself when zeroed.
    pub fn mend(&self) -> u64 {
        if self.zeroed {
            self.moffset
        } else {
            self.moffset + u64::from(self.length)
        }
    }

    /// The part of the run inside `[start, end)`; the caller makes sure that it is not empty.
    pub fn clip(self, start: u64, end: u64) -> Segment {
        let from = self.offset.max(start);
        let to = self.end().min(end);
        debug_assert!(from < to, "clip to an empty run");
        let skip = if self.zeroed { 0 } else { from - self.offset };
        Segment { offset: from, length: (to - from) as u32, moffset: self.moffset + skip, ..self }
    }

    /// Decodes the 16 bytes of an entry. Every bit pattern is an entry; validity is checked by who
    /// knows the file's bounds.
    pub fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Segment {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let (w0, w1) = (word(0), word(8));
        Segment {
            offset: w0 & INVALID_OFFSET,
            length: (w0 >> 50) as u32,
            moffset: w1 & MAX_MOFFSET,
            zeroed: w1 >> 55 & 1 == 1,
            tag: (w1 >> 56) as u8,
        }
    }

    /// Encodes the entry. Out-of-range numbers are a bug of the caller.
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        assert!(self.offset <= INVALID_OFFSET && self.length <= MAX_LENGTH && self.moffset <= MAX_MOFFSET);
        let w0 = self.offset | u64::from(self.length) << 50;
        let w1 = self.moffset | u64::from(self.zeroed) << 55 | u64::from(self.tag) << 56;
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&w0.to_le_bytes());
        bytes[8..].copy_from_slice(&w1.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_examples_of_the_format() {
        let cases = [
            ("0000000000002000 0800000000000000", (0, 8, 8, false, 0)),
            ("7800000000004000 2c00000000008000", (120, 16, 44, true, 0)),
            ("4014000000000400 0100000000000001", (5184, 1, 1, false, 1)),
            ("feffffffffffffff ffffffffffff7fff", ((1 << 50) - 2, 16383, MAX_MOFFSET, false, 255)),
            ("ffffffffffff0300 0000000000000000", (INVALID_OFFSET, 0, 0, false, 0)),
        ];
        for (hex, (offset, length, moffset, zeroed, tag)) in cases {
            let digits: Vec<u8> = hex.bytes().filter(|b| *b != b' ').collect();
            let bytes: Vec<u8> =
                digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect();
            let segment = Segment { offset, length, moffset, zeroed, tag };
            assert_eq!(Segment::from_bytes(&bytes.clone().try_into().unwrap()), segment);
            assert_eq!(segment.to_bytes()[..], bytes[..]);
        }
    }
}
