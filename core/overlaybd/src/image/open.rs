//! Opening an image: its layers beside one another, then the stack, then the upper.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crate::sync::{thread, Mutex};

use super::Image;
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};
use crate::layer::{open_tapped, Stored};
use crate::limits::{MAX_LAYERS, OPEN_THREADS};
use crate::lsmt::{Layer, Stack, Upper};
use crate::sys::Disk;
use crate::trace::Recorder;

/// The two files of an upper.
#[derive(Clone)]
pub struct UpperFiles<'a> {
    /// The data file.
    pub data: &'a Path,
    /// The index file.
    pub index: &'a Path,
    /// What the upper, one of turboOCI, maps to; this is what makes it one. It is not read while an image is built.
    pub target: Option<Arc<dyn Blob>>,
}

/// Opens the layers in `lowers` (bottom first, as stored: their wrappers are peeled off here), several
/// at a time since a remote one costs round trips, and the writable pair `(data, index)` on top.
///
/// # Errors
/// Those of the layer that failed, with its number (1 is the bottom one); `Limit` beyond 255 layers;
/// those of [`Image::new`].
pub fn open(disk: &dyn Disk, lowers: Vec<Arc<dyn Blob>>, upper: Option<(&Path, &Path)>) -> Result<Image> {
    let lowers = lowers.into_iter().map(Stored::from).collect();
    open_stored(disk, lowers, upper.map(|(data, index)| UpperFiles { data, index, target: None }))
}

/// As [`open`], of layers some of which may be of turboOCI.
///
/// # Errors
/// As [`open`].
pub fn open_stored(disk: &dyn Disk, lowers: Vec<Stored>, upper: Option<UpperFiles<'_>>) -> Result<Image> {
    if lowers.len() > MAX_LAYERS {
        let what = format!("{} lowers; at most {MAX_LAYERS} can be stacked", lowers.len());
        return Err(Error::new(Kind::Limit, what));
    }
    let recorder = Recorder::new(lowers.len());
    let layers = open_layers(&lowers, &recorder)?;
    let stack = if layers.is_empty() { None } else { Some(Stack::new(layers)?) };
    let upper = upper.map(|UpperFiles { data, index, target }| match target {
        Some(target) => Upper::open_warp(disk, data, index, Some(target), lowers.len()),
        None => Upper::open(disk, data, index),
    });
    recorder.opened();
    Image::with_recorder(stack, upper.transpose()?, recorder)
}

/// Opens each blob as a layer on up to [`OPEN_THREADS`] threads. After the first failure no new one
/// is begun; of several failures the bottommost is reported.
fn open_layers(lowers: &[Stored], recorder: &Arc<Recorder>) -> Result<Vec<Layer>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<Layer>)>> = Mutex::new(Vec::with_capacity(lowers.len()));
    let work = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(stored) = lowers.get(number) else { return };
        let layer = open_tapped(stored, |blob| recorder.tap(number, blob));
        if layer.is_err() {
            next.store(lowers.len(), Ordering::Relaxed);
        }
        done.lock()
            .push((number, layer.map_err(|e| e.in_file(stored.blob.name()).context(format!("layer {}", number + 1)))));
    };
    thread::scope(|scope| {
        for _ in 1..lowers.len().min(OPEN_THREADS) {
            // Where the system has no thread left, this one opens what the others do not.
            if thread::Builder::new().name("obd-open".into()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let mut done = done.into_inner();
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, layer)| layer).collect()
}
