//! What a stored file is, wrapper by wrapper, and whether all of it is sound.

use std::sync::Arc;

use crate::blob::Blob;
use crate::error::Result;
use crate::lsmt::info::{describe as describe_lsmt, is_lsmt, Info};
use crate::progress::Progress;
use crate::{tar, zfile};

/// Bytes read at a time.
const WINDOW_BYTES: u64 = 1 << 20;

/// A description from the outside in. A part is None where the file has no such layer of wrapping.
pub struct Description {
    /// Bytes of the file.
    pub stored_size: u64,
    /// The member that holds the layer.
    pub tar: Option<tar::Member>,
    /// The compressed file.
    pub zfile: Option<zfile::Info>,
    /// The layer, or one of a writable layer's files.
    pub lsmt: Option<Info>,
}

/// A file with its wrappers opened.
struct Opened {
    tar: Option<tar::Member>,
    zfile: Option<Arc<zfile::Reader>>,
    content: Arc<dyn Blob>,
}

fn open(blob: &Arc<dyn Blob>) -> Result<Opened> {
    let tar = tar::detect(&**blob)?;
    let inner = tar::unwrap(blob.clone())?;
    if !zfile::is_zfile(&*inner)? {
        return Ok(Opened { tar, zfile: None, content: inner });
    }
    let reader = Arc::new(zfile::Reader::open(inner)?);
    Ok(Opened { tar, zfile: Some(reader.clone()), content: reader })
}

/// Describes a file. One that is nothing that this program knows has none of the parts.
///
/// # Errors
/// Those of the part that is recognised but broken.
pub fn describe(blob: &Arc<dyn Blob>) -> Result<Description> {
    describe_opened(blob, &open(blob)?)
}

fn describe_opened(blob: &Arc<dyn Blob>, opened: &Opened) -> Result<Description> {
    let lsmt = if is_lsmt(&*opened.content)? { Some(describe_lsmt(&opened.content)?) } else { None };
    let zfile = opened.zfile.as_ref().map(|reader| reader.info());
    Ok(Description { stored_size: blob.len(), tar: opened.tar.clone(), zfile, lsmt })
}

/// Reads the whole file and checks all that can be checked: headers, the index and its rules, the jump
/// table, and every block with its checksum where there are any. Progress is in plain bytes.
///
/// # Errors
/// The first thing that is wrong; those of `progress`.
pub fn verify(blob: &Arc<dyn Blob>, progress: &mut Progress<'_>) -> Result<Description> {
    let opened = open(blob)?;
    let description = describe_opened(blob, &opened)?;
    match &opened.zfile {
        Some(reader) => {
            reader.check_trailer()?;
            reader.for_each_piece(progress, |_| Ok(()))?;
        }
        None => read_through(&*opened.content, progress)?,
    }
    Ok(description)
}

fn read_through(blob: &dyn Blob, progress: &mut Progress<'_>) -> Result<()> {
    let mut window = vec![0; WINDOW_BYTES.min(blob.len()) as usize];
    let mut at = 0;
    while at < blob.len() {
        let part = &mut window[..WINDOW_BYTES.min(blob.len() - at) as usize];
        blob.read_at(part, at)?;
        at += part.len() as u64;
        progress(at, blob.len())?;
    }
    Ok(())
}
