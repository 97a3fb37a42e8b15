//! One compressed cluster, decoded.

use flate2::{Decompress, FlushDecompress};

use super::header::Compression;
use crate::error::{Error, Kind, Result};

/// Decodes `packed`, behind which there may be bytes of something else, to a cluster of `len` bytes.
///
/// # Errors
/// `Corrupt` if that is not what comes of it.
pub fn unpack(compression: Compression, packed: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut plain = vec![0; len];
    match compression {
        Compression::Zlib => inflate(packed, &mut plain)?,
        Compression::Zstd => unzstd(packed, &mut plain)?,
    }
    Ok(plain)
}

fn inflate(packed: &[u8], plain: &mut [u8]) -> Result<()> {
    let mut state = Decompress::new(false);
    let status = state.decompress(packed, plain, FlushDecompress::Finish);
    match status {
        // It may be followed by other bytes, and whoever fills the cluster need not say that this is the end.
        Ok(_) if state.total_out() == plain.len() as u64 => Ok(()),
        Ok(_) => Err(short(state.total_out(), plain)),
        Err(e) => Err(Error::corrupt("a compressed cluster").because(e)),
    }
}

fn unzstd(packed: &[u8], plain: &mut [u8]) -> Result<()> {
    let wrong = |code| Error::corrupt("a compressed cluster").because(zstd_safe::get_error_name(code));
    let frame = zstd_safe::find_frame_compressed_size(packed).map_err(wrong)?;
    let none = || Error::new(Kind::Limit, "no memory for a zstd context");
    let mut context = zstd_safe::DCtx::try_create().ok_or_else(none)?;
    let made = context.decompress(&mut *plain, &packed[..frame.min(packed.len())]).map_err(wrong)?;
    if made == plain.len() {
        Ok(())
    } else {
        Err(short(made as u64, plain))
    }
}

fn short(made: u64, plain: &[u8]) -> Error {
    Error::corrupt(format!("a compressed cluster of {made} bytes, {} expected", plain.len()))
}
