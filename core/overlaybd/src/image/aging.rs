//! Writes that nobody flushes do not stay so for long.
//!
//! After a loss of power a log-structured upper is as it was when it was flushed last. A system writes what is in its
//! page cache to the disk after half a minute, asked or not, and who never flushes relies on about that much; so here
//! somebody flushes what has been waiting that long: one thread for all images of a process.

use std::sync::{Arc, Condvar, MutexGuard, PoisonError};

use super::Image;
use crate::limits::UNFLUSHED;
use crate::lsmt::Upper;
use crate::sync::Mutex;

/// Flushes an image that is written to, until this is dropped.
pub struct Aging(Arc<Watched>);

/// An image, until it is not watched any more, and what of it waited when somebody looked last.
type Watched = Mutex<Option<(Arc<Image>, Waiting)>>;

/// The upper, and how many of its records had been made when some of them were not flushed.
type Waiting = Option<(Arc<Upper>, u64)>;

/// What the thread looks after. The standard library's lock: a process that was forked goes on with it.
struct Watch {
    images: std::sync::Mutex<Images>,
    changed: Condvar,
}

struct Images {
    watched: Vec<Arc<Watched>>,
    /// The process that the thread is in, 0 for none.
    process: u32,
}

static WATCH: Watch =
    Watch { images: std::sync::Mutex::new(Images { watched: Vec::new(), process: 0 }), changed: Condvar::new() };

impl Aging {
    /// Watches an image; None if nothing of it can wait. A flush that fails is told to nobody here: the next one of the
    /// device's user fails too. Without a thread to be had nobody watches.
    pub fn watch(image: &Arc<Image>) -> Option<Aging> {
        image.upper().filter(|upper| upper.is_log_structured())?;
        let watched = Arc::new(Mutex::new(Some((Arc::clone(image), None))));
        let mut images = WATCH.lock();
        if images.process != std::process::id() {
            // What a process had open before it was forked is for that one to flush.
            images.watched.clear();
            let started = std::thread::Builder::new().name("obd-flush".into()).spawn(|| WATCH.run());
            images.process = started.map_or(0, |_| std::process::id());
        }
        if images.watched.is_empty() {
            WATCH.changed.notify_all();
        }
        images.watched.push(Arc::clone(&watched));
        Some(Aging(watched))
    }
}

impl Drop for Aging {
    /// Waits for a flush that is under way: the image is to be free after this.
    fn drop(&mut self) {
        *self.0.lock() = None;
        WATCH.lock().watched.retain(|watched| !Arc::ptr_eq(watched, &self.0));
    }
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut images = self.lock();
        loop {
            if images.watched.is_empty() {
                images = self.changed.wait(images).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (guard, waited) =
                self.changed.wait_timeout(images, UNFLUSHED / 2).unwrap_or_else(PoisonError::into_inner);
            images = guard;
            if waited.timed_out() {
                let all = images.watched.clone();
                drop(images);
                all.iter().for_each(|watched| look(watched));
                images = self.lock();
            }
        }
    }
}

fn look(watched: &Watched) {
    if let Some((image, waiting)) = &mut *watched.lock() {
        *waiting = image.flush_waiting(waiting.take());
    }
}

impl Image {
    /// Flushes if some of what waited before still does; what waits now.
    fn flush_waiting(&self, before: Waiting) -> Waiting {
        let upper = self.upper().filter(|upper| upper.is_log_structured())?;
        let (written, proven) = upper.progress();
        if before.is_some_and(|(old, records)| Arc::ptr_eq(&old, &upper) && proven < records) {
            let _ = self.flush_upper();
            return None;
        }
        (proven < written).then_some((upper, written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::BlockDevice;
    use crate::lsmt::upper::{create, CreateOptions};
    use crate::sys::os::OsDisk;

    fn image(sparse: bool) -> (tempfile::TempDir, Arc<Image>) {
        let dir = tempfile::tempdir().unwrap();
        let (data, index) = (dir.path().join("data"), dir.path().join("index"));
        create(&OsDisk, &data, &index, &CreateOptions { size: 1 << 20, sparse, ..CreateOptions::default() }).unwrap();
        let upper = Upper::open(&OsDisk, &data, &index).unwrap();
        (dir, Arc::new(Image::new(None, Some(upper)).unwrap()))
    }

    #[test]
    fn what_waits_longer_than_one_look_is_flushed() {
        let (_dir, image) = image(false);
        let proven = || image.upper().unwrap().progress().1;
        assert!(image.flush_waiting(None).is_none(), "nothing was written");
        image.write_at(&[1; 4096], 0).unwrap();
        let waiting = image.flush_waiting(None);
        assert!(waiting.is_some() && proven() == 0, "it may be flushed by its user yet");
        image.write_at(&[2; 4096], 0).unwrap();
        assert!(image.flush_waiting(waiting).is_none());
        assert_eq!(proven(), image.upper().unwrap().progress().0);
    }

    #[test]
    fn what_its_user_flushed_is_not_flushed_again() {
        let (_dir, image) = image(false);
        image.write_at(&[1; 4096], 0).unwrap();
        let waiting = image.flush_waiting(None);
        image.flush().unwrap();
        let proven = image.upper().unwrap().progress().1;
        image.write_at(&[2; 4096], 0).unwrap();
        assert!(image.flush_waiting(waiting).is_some(), "what came since waits anew");
        assert_eq!(image.upper().unwrap().progress().1, proven);
    }

    #[test]
    fn only_log_structured_uppers_are_watched_and_closing_waits_for_no_time() {
        assert!(Aging::watch(&image(true).1).is_none());
        let (_dir, image) = image(false);
        let aging = Aging::watch(&image).unwrap();
        drop(aging);
        assert_eq!(Arc::strong_count(&image), 1, "and nobody holds the image any more");
    }
}
