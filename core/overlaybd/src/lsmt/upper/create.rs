//! Makes the two files of a new writable layer, and clears away those that nobody finished.
//!
//! A data file gets its header last, when all else is durable: one without is of no use to anybody yet.
//!
//! Format: lsmt, "Writable append-only layer", "Writable sparse layer" and "Warp files".

use std::path::Path;
use std::sync::Arc;

use super::derive::holes_unknown;
use super::directory;
use crate::error::{Error, Kind, Result};
use crate::lsmt::header::{Header, BLOCK_BYTES, DATA, HEADER, SPARSE};
use crate::lsmt::stack::{check_size, sectors};
use crate::lsmt::uuid::Uuid;
use crate::sys::{read_exact, write_all, Disk, File, Mode};

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
/// `Exists`, `OutOfBounds` for an odd size, `Limit` for too large a one and for a long message, `NoSpace`, `Io`;
/// `Unsupported` for a sparse layer on a file system that does not tell where holes are.
pub fn create(disk: &dyn Disk, data: &Path, index: &Path, options: &CreateOptions) -> Result<()> {
    let CreateOptions { size, sparse, warp, uuid, parent_uuid, tag } = options;
    let sparse = *sparse && !warp;
    sectors(0, *size)?;
    check_size(*size)?;
    let uuid = uuid.map_or_else(Uuid::random, Ok)?;
    let flags = HEADER | if sparse { SPARSE } else { 0 };
    let data_header = Header::new(flags | DATA, *size, uuid, *parent_uuid, tag)?;
    let index_header = Header { flags, index_offset: BLOCK_BYTES as u64, ..data_header.clone() };

    let data_file = disk.open(data, Mode::New)?;
    let index_file = disk.open(index, Mode::New).inspect_err(|_| drop(disk.remove(data)))?;
    let sync = |file: &Arc<dyn File>| file.sync_data().map_err(|e| Error::io("flush", e).in_file(file.path()));
    let set_len = |len| data_file.set_len(len).map_err(|e| Error::io("set the length", e).in_file(data));
    let fill = || {
        if !sparse {
            write_all(&*index_file, &index_header.to_block(), 0)?;
        }
        sync(&index_file)?;
        disk.sync_dir(directory(data))?;
        if directory(index) != directory(data) {
            disk.sync_dir(directory(index))?;
        }
        if sparse {
            let len = size + BLOCK_BYTES as u64;
            // A layer without a size yet is to find out too.
            set_len(len.max(2 * BLOCK_BYTES as u64))?;
            needs_holes(&*data_file)?;
            set_len(len)?;
        }
        if *warp {
            set_len(*size)?;
        } else {
            write_all(&*data_file, &data_header.to_block(), 0)?;
        }
        sync(&data_file)
    };
    // The error that led there says more than one from tidying up.
    fill().inspect_err(|_| drop(remove_new(disk, data, index)))
}

/// Refuses a file system that says data where an empty file has none: the layer would hide all that lies below.
fn needs_holes(data: &dyn File) -> Result<()> {
    match data.next_data(BLOCK_BYTES as u64) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(holes_unknown(data)),
        Err(e) => Err(Error::io("look for data", e).in_file(data.path())),
    }
}

/// Removes the files of a layer that nothing has been written to; whoever is killed meanwhile leaves an unfinished one.
///
/// # Errors
/// `Io`, `Denied`. Files that are not there are none.
pub fn remove_new(disk: &dyn Disk, data: &Path, index: &Path) -> Result<()> {
    match disk.open(data, Mode::Write) {
        Ok(file) => file.set_len(0).map_err(|e| Error::io("empty", e).in_file(data))?,
        Err(e) if e.kind() == Kind::NotFound => {}
        Err(e) => return Err(e),
    }
    for path in [index, data] {
        match disk.remove(path) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Removes what somebody left who died while he created (or removed) a layer: a data file that holds nothing, not even
/// a header, with an index file without records, or none. True if that was so. Not for layers of turboOCI.
///
/// # Errors
/// `Io`, `Denied`.
pub fn clear_unfinished(disk: &dyn Disk, data: &Path, index: &Path) -> Result<bool> {
    let open = |path| match disk.open(path, Mode::Write) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    let Some(file) = open(data)? else { return Ok(false) };
    let fail = |e| Error::io("look for data", e).in_file(data);
    // A header that was not written out when the power was lost reads as zeros.
    let mut head = vec![0; BLOCK_BYTES.min(file.len().map_err(fail)? as usize)];
    read_exact(&*file, &mut head, 0)?;
    if head.iter().any(|byte| *byte != 0) || file.next_data(BLOCK_BYTES as u64).map_err(fail)?.is_some() {
        return Ok(false);
    }
    if let Some(log) = open(index)? {
        if log.len().map_err(|e| Error::io("length", e).in_file(index))? > BLOCK_BYTES as u64 {
            return Ok(false);
        }
    }
    remove_new(disk, data, index).map(|()| true)
}
