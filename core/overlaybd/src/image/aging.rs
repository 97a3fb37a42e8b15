//! Writes that nobody flushes do not stay so for long.
//!
//! After a loss of power a log-structured upper is as it was when it was flushed last. A system writes what is in its
//! page cache to the disk after half a minute, asked or not, and who never flushes relies on about that much; so here
//! somebody flushes what has been waiting that long.

use std::sync::Arc;

use super::Image;
use crate::limits::UNFLUSHED;
use crate::lsmt::Upper;
use crate::sync::{thread, Condvar, Mutex};

/// Flushes an image that is written to, until it is dropped.
pub struct Aging {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The upper, and how many of its records were not flushed when somebody looked last.
type Waiting = Option<(Arc<Upper>, u64)>;

impl Aging {
    /// Watches an image; None if nothing of it can wait. A flush that fails is told to nobody here: the next one of the
    /// device's user fails too.
    /// Without a thread to be had nobody watches.
    pub fn watch(image: &Arc<Image>) -> Option<Aging> {
        image.upper().filter(|upper| upper.is_log_structured())?;
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (image, stopped) = (Arc::clone(image), Arc::clone(&stop));
        let work = move || {
            let mut waiting = None;
            let (stopped, changed) = &*stopped;
            let mut guard = stopped.lock();
            while !*guard {
                if changed.wait_for(&mut guard, UNFLUSHED / 2).timed_out() && !*guard {
                    drop(guard);
                    waiting = image.flush_waiting(waiting);
                    guard = stopped.lock();
                }
            }
        };
        let thread = thread::Builder::new().name("flush".into()).spawn(work).ok();
        Some(Aging { stop, thread })
    }
}

impl Drop for Aging {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
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
