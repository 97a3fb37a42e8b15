//! Makes the two files of a new writable layer.
//!
//! Format: lsmt, "Writable append-only layer", "Writable sparse layer" and "Warp files".

use std::path::Path;

use super::directory;
use crate::error::{Error, Kind, Result};
use crate::limits::SECTOR;
use crate::lsmt::header::{Header, BLOCK_BYTES, DATA, HEADER, SPARSE};
use crate::lsmt::uuid::Uuid;
use crate::sys::{write_all, Disk, Mode};

/// What a new writable layer is to be.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Bytes of the device, a multiple of 512; 0 takes the size of the layers below once there are any.
    pub size: u64,
    /// Sparse layout instead of the log-structured one.
    pub sparse: bool,
    /// A layer of turboOCI; then `sparse` means nothing.
    pub warp: bool,
    /// Id of the layer; None makes a random one.
    pub uuid: Option<Uuid>,
    /// Id of the layer below; may be null.
    pub parent_uuid: Uuid,
    /// A message, at most 256 bytes.
    pub tag: Vec<u8>,
}

/// Creates both files, durably; neither may exist before, and after an error neither is left behind.
///
/// The index file of a sparse layer stays empty until the layer is first opened for writing.
///
/// # Errors
/// `Exists`, `OutOfBounds` for an odd size, `Limit` for a long message, `NoSpace`, `Io`.
pub fn create(disk: &dyn Disk, data: &Path, index: &Path, options: &CreateOptions) -> Result<()> {
    let CreateOptions { size, sparse, warp, uuid, parent_uuid, tag } = options;
    let sparse = *sparse && !warp;
    let sparse_len = size.checked_add(BLOCK_BYTES as u64).filter(|_| size.is_multiple_of(SECTOR));
    let Some(sparse_len) = sparse_len else {
        return Err(Error::new(Kind::OutOfBounds, format!("a size of {size} bytes is not a number of sectors")));
    };
    let uuid = uuid.map_or_else(Uuid::random, Ok)?;
    let flags = HEADER | if sparse { SPARSE } else { 0 };
    let data_header = Header::new(flags | DATA, *size, uuid, *parent_uuid, tag)?;
    let index_header = Header { flags, index_offset: BLOCK_BYTES as u64, ..data_header.clone() };

    let data_file = disk.open(data, Mode::New)?;
    let index_file = disk.open(index, Mode::New).inspect_err(|_| drop(disk.remove(data)))?;
    let fill = || {
        let set_len = |len| data_file.set_len(len).map_err(|e| Error::io("set the length", e).in_file(data));
        if *warp {
            set_len(*size)?;
        } else {
            write_all(&*data_file, &data_header.to_block(), 0)?;
        }
        if sparse {
            set_len(sparse_len)?;
        } else {
            write_all(&*index_file, &index_header.to_block(), 0)?;
        }
        for (file, path) in [(&data_file, data), (&index_file, index)] {
            file.sync_data().map_err(|e| Error::io("flush", e).in_file(path))?;
        }
        disk.sync_dir(directory(data))?;
        if directory(index) == directory(data) {
            return Ok(());
        }
        disk.sync_dir(directory(index))
    };
    fill().inspect_err(|_| {
        // The error that led here says more than one from tidying up.
        drop(disk.remove(data));
        drop(disk.remove(index));
    })
}
