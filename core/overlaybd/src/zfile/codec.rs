//! The two compressors of zfile blocks behind one small trait.
//!
//! Format: zfile, "Blocks".

use std::ffi::c_int;

use zstd_safe::{CCtx, DCtx};

use crate::error::{Error, Kind, Result};

/// How the blocks of a zfile are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// LZ4 block format, fast compressor, acceleration 1.
    #[default]
    Lz4,
    /// One zstd frame a block, level 3.
    Zstd,
}

/// The level that upstream's builder always uses.
const ZSTD_LEVEL: i32 = 3;

impl Algorithm {
    /// Name used by the tools: `lz4` or `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Lz4 => "lz4",
            Algorithm::Zstd => "zstd",
        }
    }

    /// The algorithm of that name. Errors: `Invalid`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "lz4" => Ok(Algorithm::Lz4),
            "zstd" => Ok(Algorithm::Zstd),
            _ => Err(Error::new(Kind::Invalid, format!("no compression algorithm is named {name:?}: lz4 or zstd"))),
        }
    }

    /// The number in the header.
    pub fn number(self) -> u8 {
        match self {
            Algorithm::Lz4 => 1,
            Algorithm::Zstd => 2,
        }
    }

    /// The algorithm of that number. Errors: `Unsupported`.
    pub fn from_number(number: u8) -> Result<Self> {
        match number {
            1 => Ok(Algorithm::Lz4),
            2 => Ok(Algorithm::Zstd),
            _ => Err(Error::new(Kind::Unsupported, format!("compression algorithm {number}"))),
        }
    }
}

/// The most bytes that a block of `block_size` plain bytes can take when compressed, whichever the
/// codec: not less than `LZ4_compressBound` and `ZSTD_compressBound`, with room for a frame checksum.
pub const fn bound(block_size: usize) -> usize {
    block_size + block_size / 128 + 80
}

/// A compressor and decompressor with its working memory; one a thread.
pub trait Codec: Send {
    /// Compresses `plain` into `packed`, which has room for [`bound`], and returns the bytes used.
    /// The result depends on nothing but `plain`.
    fn compress(&mut self, plain: &[u8], packed: &mut [u8]) -> Result<usize>;

    /// Decompresses `packed`, which may be anything at all, into `plain`, filling it exactly.
    /// Errors: `Corrupt` if it does not decode, or to another length.
    fn decompress(&mut self, packed: &[u8], plain: &mut [u8]) -> Result<()>;
}

/// Working memory of both codecs, made when first needed.
#[derive(Default)]
pub struct Codecs {
    lz4: Lz4,
    zstd: Zstd,
}

impl Codecs {
    /// The codec for `algorithm`.
    pub fn get(&mut self, algorithm: Algorithm) -> &mut dyn Codec {
        match algorithm {
            Algorithm::Lz4 => &mut self.lz4,
            Algorithm::Zstd => &mut self.zstd,
        }
    }
}

/// LZ4 keeps no state: its hash table lives on the stack for the time of a block.
#[derive(Default)]
struct Lz4;

#[derive(Default)]
struct Zstd {
    compressor: Option<CCtx<'static>>,
    decompressor: Option<DCtx<'static>>,
}

fn wrong_length(got: usize, expected: usize) -> Error {
    Error::corrupt(format!("decodes to {got} bytes, {expected} expected"))
}

impl Codec for Lz4 {
    fn compress(&mut self, plain: &[u8], packed: &mut [u8]) -> Result<usize> {
        let (len, room) = (c_length(plain.len())?, c_length(packed.len())?);
        // SAFETY: both pointers are valid for the lengths given with them.
        let n = unsafe { lz4_sys::LZ4_compress_default(plain.as_ptr().cast(), packed.as_mut_ptr().cast(), len, room) };
        match usize::try_from(n) {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(Error::new(Kind::Limit, "LZ4 output does not fit its buffer")),
        }
    }

    fn decompress(&mut self, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        let (len, room) = (c_length(packed.len())?, c_length(plain.len())?);
        // SAFETY: both pointers are valid for the lengths given with them; the function checks every step
        // of whatever input against both.
        let n = unsafe { lz4_sys::LZ4_decompress_safe(packed.as_ptr().cast(), plain.as_mut_ptr().cast(), len, room) };
        match usize::try_from(n) {
            Ok(n) if n == plain.len() => Ok(()),
            Ok(n) => Err(wrong_length(n, plain.len())),
            Err(_) => Err(Error::corrupt("not an LZ4 block of the expected length")),
        }
    }
}

/// A length for LZ4, which counts in C ints.
fn c_length(len: usize) -> Result<c_int> {
    c_int::try_from(len).map_err(|_| Error::new(Kind::Limit, format!("an LZ4 block of {len} bytes")))
}

impl Codec for Zstd {
    fn compress(&mut self, plain: &[u8], packed: &mut [u8]) -> Result<usize> {
        let context = match &mut self.compressor {
            Some(context) => context,
            none => none.insert(CCtx::try_create().ok_or_else(no_memory)?),
        };
        context
            .compress(packed, plain, ZSTD_LEVEL)
            .map_err(|code| Error::new(Kind::Limit, "zstd").because(zstd_safe::get_error_name(code)))
    }

    fn decompress(&mut self, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        let context = match &mut self.decompressor {
            Some(context) => context,
            none => none.insert(DCtx::try_create().ok_or_else(no_memory)?),
        };
        match context.decompress(plain, packed) {
            Ok(n) if n == plain.len() => Ok(()),
            Ok(n) => Err(wrong_length(n, plain.len())),
            Err(code) => Err(Error::corrupt("not a zstd frame").because(zstd_safe::get_error_name(code))),
        }
    }
}

fn no_memory() -> Error {
    Error::new(Kind::Limit, "no memory for a zstd context")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_for_both_codecs() {
        for len in 0..=65536 {
            let lz4 = len + len / 255 + 16;
            assert!(bound(len) >= lz4.max(zstd_safe::compress_bound(len)) + 4, "{len}");
        }
    }

    #[test]
    fn both_codecs_round_trip_and_refuse_another_length() {
        let plain: Vec<u8> = (0..5000u32).map(|i| (i / 7) as u8).collect();
        for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
            let mut codecs = Codecs::default();
            let codec = codecs.get(algorithm);
            let mut packed = vec![0; bound(plain.len())];
            let n = codec.compress(&plain, &mut packed).unwrap();
            packed.truncate(n);
            let mut back = vec![0; plain.len()];
            codec.decompress(&packed, &mut back).unwrap();
            assert!(back == plain);
            for len in [plain.len() - 1, plain.len() + 1] {
                let e = codec.decompress(&packed, &mut vec![0; len]).unwrap_err();
                assert_eq!(e.kind(), Kind::Corrupt, "{algorithm:?} {e}");
            }
            assert_eq!(codec.decompress(&[], &mut back).unwrap_err().kind(), Kind::Corrupt);
            assert_eq!(codec.compress(&plain, &mut [0; 20]).unwrap_err().kind(), Kind::Limit, "it has no room");
        }
    }

    #[test]
    fn names_and_numbers_agree() {
        for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
            assert_eq!(Algorithm::from_name(algorithm.name()).unwrap(), algorithm);
            assert_eq!(Algorithm::from_number(algorithm.number()).unwrap(), algorithm);
        }
        assert_eq!(Algorithm::from_name("gzip").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(Algorithm::from_number(0).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(Algorithm::from_number(3).unwrap_err().kind(), Kind::Unsupported);
    }
}
