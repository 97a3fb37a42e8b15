//! One header block of an archive's member, in any of its dialects: v7, ustar, GNU.

use super::header::BLOCK;
use crate::error::{Error, Result};

/// Offsets and lengths of what a sparse file holds.
pub(super) type Pieces = Vec<(u64, u64)>;

/// Where headers that are kept alone say where the content is: what the major number of a device is elsewhere.
pub(super) const PLACE: std::ops::Range<usize> = 329..337;

/// Pieces that fit the header of an old GNU sparse member, and each block that continues it.
pub(super) const HEADER_PIECES: usize = 4;
pub(super) const BLOCK_PIECES: usize = 21;

/// A header block whose checksum is right.
pub(super) struct Block([u8; BLOCK as usize]);

/// The dialects that differ in what a header holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    Gnu,
}

impl Block {
    /// # Errors
    /// `Corrupt` if the checksum is wrong.
    pub fn parse(bytes: [u8; BLOCK as usize]) -> Result<Self> {
        let mut counted = bytes;
        counted[148..156].fill(b' ');
        let unsigned = counted.iter().map(|byte| i64::from(*byte)).sum::<i64>();
        // Some have taken bytes for signed: each of the upper half counts for 256 less.
        let signed = unsigned - 256 * counted.iter().map(|byte| i64::from(byte >> 7)).sum::<i64>();
        let stored = octal(&bytes[148..156]);
        if stored != Some(unsigned) && stored != Some(signed) {
            return Err(Error::corrupt("a tar header whose checksum is wrong"));
        }
        Ok(Block(bytes))
    }

    /// One whose checksum means nothing.
    pub fn unchecked(bytes: [u8; BLOCK as usize]) -> Self {
        Block(bytes)
    }

    /// Where in the uncompressed archive the content lies, if this is one of headers that are kept alone.
    pub fn place(&self) -> Result<u64> {
        let mut place = [0; 8];
        place.copy_from_slice(&self.0[PLACE]);
        let place = i64::from_le_bytes(place);
        let checked = u64::try_from(place).ok().filter(|place| *place > 0 && place.is_multiple_of(BLOCK));
        checked.ok_or_else(|| Error::corrupt(format!("content at {place}: these are no exported headers")))
    }

    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix where the dialect has one.
    pub fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = match self.dialect() {
            Dialect::Ustar => text(&self.0[345..500]),
            Dialect::V7 | Dialect::Gnu => &[],
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub fn mode(&self) -> Result<i64> {
        number(&self.0[100..108], "mode")
    }

    pub fn uid(&self) -> Result<i64> {
        number(&self.0[108..116], "owner")
    }

    pub fn gid(&self) -> Result<i64> {
        number(&self.0[116..124], "group")
    }

    pub fn size(&self) -> Result<u64> {
        let size = number(&self.0[124..136], "size")?;
        u64::try_from(size).map_err(|_| Error::corrupt(format!("a tar member of {size} bytes")))
    }

    pub fn mtime(&self) -> Result<i64> {
        number(&self.0[136..148], "time")
    }

    /// Major and minor number; what v7 has there is nothing.
    pub fn device(&self) -> Result<(i64, i64)> {
        match self.dialect() {
            Dialect::V7 => Ok((0, 0)),
            _ => Ok((number(&self.0[329..337], "device")?, number(&self.0[337..345], "device")?)),
        }
    }

    /// For an old GNU sparse member: the pieces that fit the header, whether more follow, and the real size.
    pub fn sparse(&self) -> Result<(Pieces, bool, u64)> {
        Ok((pieces(&self.0[386..482])?, self.0[482] != 0, unsigned(&self.0[483..495])?))
    }

    fn dialect(&self) -> Dialect {
        match &self.0[257..263] {
            b"ustar\0" => Dialect::Ustar,
            b"ustar " => Dialect::Gnu,
            _ => Dialect::V7,
        }
    }
}

/// The pieces in a continuation block of an old GNU sparse member, and whether another follows.
pub(super) fn more_pieces(block: &[u8; BLOCK as usize]) -> Result<(Pieces, bool)> {
    Ok((pieces(&block[..504])?, block[504] != 0))
}

/// Offsets and lengths, 12 bytes each, up to the first that is not given.
fn pieces(area: &[u8]) -> Result<Pieces> {
    area.chunks_exact(24)
        .take_while(|pair| pair[0] != 0 && pair[12] != 0)
        .map(|pair| Ok((unsigned(&pair[..12])?, unsigned(&pair[12..])?)))
        .collect()
}

fn unsigned(field: &[u8]) -> Result<u64> {
    let value = number(field, "place of a piece")?;
    u64::try_from(value).map_err(|_| Error::corrupt("a negative place in a sparse tar member"))
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A number in octal text, or in base 256 where the first bit says so.
fn number(field: &[u8], what: &str) -> Result<i64> {
    let first = field.first().copied().unwrap_or_default();
    let value = if first & 0x80 != 0 { base256(field) } else { octal(field) };
    value.ok_or_else(|| Error::corrupt(format!("a tar header whose {what} is no number")))
}

/// A big-endian number in two's complement whose first bit only marks it.
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { i64::from(field[0] | 0x80) - 256 } else { i64::from(field[0] & 0x7F) };
    field[1..].iter().try_fold(first, |n, byte| n.checked_mul(256)?.checked_add(i64::from(*byte)))
}

/// A number in octal text with blanks or NULs around it; a field without digits is 0.
fn octal(field: &[u8]) -> Option<i64> {
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = field[start..].split(blank).next().unwrap_or_default();
    digits.iter().try_fold(0, |n: i64, b| matches!(b, b'0'..=b'7').then(|| n * 8 + i64::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn checksums_may_take_bytes_for_signed_and_must_be_numbers() {
        let parsed = |sum: &str| {
            let mut bytes = [0; BLOCK as usize];
            bytes[..3].copy_from_slice(b"a\xC3\xA4");
            bytes[148..155].copy_from_slice(sum.as_bytes());
            Block::parse(bytes).map(|block| block.path()).map_err(|e| e.kind())
        };
        let unsigned = 8 * 0x20 + 0x61 + 0xC3 + 0xA4;
        for right in [unsigned, unsigned - 2 * 256] {
            assert_eq!(parsed(&format!("{right:06o}\0")), Ok(b"a\xC3\xA4".to_vec()));
            for wrong in [right - 1, right + 1, right + 256] {
                assert_eq!(parsed(&format!("{wrong:06o}\0")), Err(Kind::Corrupt), "{wrong}");
            }
        }
        assert_eq!(parsed("no sum\0"), Err(Kind::Corrupt));
    }

    #[test]
    fn numbers_in_every_notation() {
        assert_eq!(octal(b"  644 \0\0"), Some(0o644));
        assert_eq!(octal(b"\0\0\0\0"), Some(0));
        assert_eq!((octal(b"12a"), octal(b"128")), (None, None));
        assert_eq!((octal(b"7777777"), octal(b" 7 1 ")), (Some(0o7_777_777), Some(7)));
        assert_eq!(base256(b"\x80\0\0\0\0\x2d\xc6\xc0"), Some(3_000_000));
        assert_eq!(base256(&[0xFF; 12]), Some(-1));
        assert_eq!(base256(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfa"), Some(-6));
        assert_eq!(base256(b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }
}
