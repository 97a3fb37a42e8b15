//! Opening an image: its layers beside one another, then the stack, then the upper.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Image;
use crate::blob::{heal, Blob};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_LAYERS, OPEN_THREADS};
use crate::lsmt::{Layer, Stack, Upper};
use crate::sys::Disk;
use crate::trace::Recorder;

/// Opens the layers in `lowers` (bottom first, as stored: their wrappers are peeled off here), several
/// at a time since a remote one costs round trips, and the writable pair `(data, index)` on top.
///
/// # Errors
/// Those of the layer that failed, with its number (1 is the bottom one); `Limit` beyond 255 layers;
/// those of [`Image::new`].
pub fn open(disk: &dyn Disk, lowers: Vec<Arc<dyn Blob>>, upper: Option<(&Path, &Path)>) -> Result<Image> {
    if lowers.len() > MAX_LAYERS {
        let what = format!("{} lowers; at most {MAX_LAYERS} can be stacked", lowers.len());
        return Err(Error::new(Kind::Limit, what));
    }
    let recorder = Recorder::new(lowers.len());
    let layers = open_layers(&lowers, &recorder)?;
    let stack = if layers.is_empty() { None } else { Some(Stack::new(layers)?) };
    let upper = upper.map(|(data, index)| Upper::open(disk, data, index)).transpose()?;
    recorder.opened();
    Image::with_recorder(stack, upper, recorder)
}

/// Opens each blob as a layer on up to [`OPEN_THREADS`] threads. After the first failure no new one
/// is begun; of several failures the bottommost is reported.
fn open_layers(blobs: &[Arc<dyn Blob>], recorder: &Arc<Recorder>) -> Result<Vec<Layer>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<Layer>)>> = Mutex::new(Vec::with_capacity(blobs.len()));
    let work = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(blob) = blobs.get(number) else { return };
        let layer = heal(blob, |stored| Layer::open(recorder.tap(number, crate::layer::unwrap(stored)?)));
        if layer.is_err() {
            next.store(blobs.len(), Ordering::Relaxed);
        }
        done.lock().push((number, layer.map_err(|e| e.in_file(blob.name()).context(format!("layer {}", number + 1)))));
    };
    std::thread::scope(|scope| {
        for _ in 1..blobs.len().min(OPEN_THREADS) {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner();
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, layer)| layer).collect()
}
