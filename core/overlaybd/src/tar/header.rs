//! One ustar header block: what is read of it, and the two that we write.
//!
//! Format: tar, "What is written".

use crate::error::{Error, Kind, Result};

/// Bytes of a header, and the unit of everything in a tar.
pub const BLOCK: u64 = 512;

const NAME: std::ops::Range<usize> = 0..100;
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const MAGIC: std::ops::Range<usize> = 257..262;
const VERSION: std::ops::Range<usize> = 263..265;

/// A header whose magic, version and checksum are right.
pub struct Header([u8; BLOCK as usize]);

impl Header {
    /// None if the block is not a ustar header.
    pub fn parse(block: [u8; BLOCK as usize]) -> Option<Self> {
        let ustar = &block[MAGIC] == b"ustar" && &block[VERSION] == b"00";
        let stored = octal(&block[CHECKSUM])?;
        let (unsigned, signed) = sums(&block);
        let right = stored == u64::from(unsigned) || i64::try_from(stored) == Ok(i64::from(signed));
        (ustar && right).then_some(Header(block))
    }

    /// Whether it only says something of the next header (PAX, for one member or for all).
    pub fn is_extension(&self) -> bool {
        matches!(self.0[TYPE], b'x' | b'g')
    }

    /// Bytes that follow the header. Errors: `Unsupported` if they are not given in octal.
    pub fn size(&self) -> Result<u64> {
        octal(&self.0[SIZE]).ok_or_else(|| Error::new(Kind::Unsupported, "tar member whose size is not octal"))
    }

    /// The member's name, without prefix.
    pub fn name(&self) -> String {
        let name = &self.0[NAME];
        let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..end]).into_owned()
    }
}

/// A number in octal text, with blanks or NULs around it; a field without digits is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = field[start..].split(blank).next().unwrap_or_default();
    digits.iter().try_fold(0, |n, b| matches!(b, b'0'..=b'7').then(|| n * 8 + u64::from(b - b'0')))
}

/// The checksum, of bytes taken as unsigned and, as some writers have it, as signed.
fn sums(block: &[u8; BLOCK as usize]) -> (u32, i32) {
    let counted = |i: usize| if CHECKSUM.contains(&i) { b' ' } else { block[i] };
    let all = || (0..block.len()).map(counted);
    (all().map(u32::from).sum(), all().map(|b| i32::from(b.cast_signed())).sum())
}

/// The three blocks before a payload of `size` bytes; without `size`, the placeholder that no tar reader
/// takes for a header.
pub fn wrapper(size: Option<u64>) -> [u8; 3 * BLOCK as usize] {
    let mut blocks = [0; 3 * BLOCK as usize];
    let (pax, rest) = blocks.split_at_mut(BLOCK as usize);
    let (record, member) = rest.split_at_mut(BLOCK as usize);

    let text = size_record(size.unwrap_or(0));
    put(record, 0, text.as_bytes());

    put(pax, NAME.start, b"overlaybd.pax");
    put(pax, SIZE.start, format!("{:11o} ", text.len()).as_bytes());
    pax[TYPE] = b'x';

    put(member, NAME.start, if size.is_some() { b"overlaybd.commit" } else { b"overlaybd.new" });
    for (at, field) in
        [(100, "100644 \0"), (108, "     0 \0"), (116, "     0 \0"), (124, "          0 "), (136, "          0 ")]
    {
        put(member, at, field.as_bytes());
    }
    member[TYPE] = b'0';
    put(member, 265, b"root");
    put(member, 297, b"root");

    if size.is_some() {
        for header in [pax, member] {
            put(header, MAGIC.start, b"ustar\x0000");
            let mut whole = [0; BLOCK as usize];
            whole.copy_from_slice(header);
            put(header, CHECKSUM.start, format!("{:6o} \0", sums(&whole).0).as_bytes());
        }
    } else {
        put(member, MAGIC.start, b"xxtar\0xx");
    }
    blocks
}

/// `LENGTH size=SIZE\n`, where LENGTH counts itself.
fn size_record(size: u64) -> String {
    let rest = format!(" size={size}\n");
    let mut len = rest.len() + 1;
    while len != rest.len() + len.to_string().len() {
        len += 1;
    }
    format!("{len}{rest}")
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..][..bytes.len()].copy_from_slice(bytes);
}
