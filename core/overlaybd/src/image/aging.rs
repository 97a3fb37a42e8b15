//! Writes that nobody flushes do not stay so for long.
//!
//! After a loss of power a log-structured upper is as it was when it was flushed last. A system writes what is in its
//! page cache to the disk after half a minute, asked or not, and who never flushes relies on about that much; so here
//! somebody flushes what has been waiting that long: one thread for all images of a process. While that one is at work
//! another one waits for the next look, so that a disk that hangs keeps only its own images from being flushed; there
//! are [`MAX_FLUSHERS`] at most.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::Image;
use crate::limits::{MAX_FLUSHERS, UNFLUSHED};
use crate::lsmt::Upper;

/// Flushes an image that is written to, until this is dropped.
pub struct Aging {
    watch: &'static Watch,
    watched: Arc<Watched>,
}

/// An image, until it is not watched any more, and what of it waited when somebody looked last.
type Watched = Mutex<Option<(Arc<Image>, Waiting)>>;

/// The upper, and how many of its records had been made when some of them were not flushed.
type Waiting = Option<(Arc<Upper>, u64)>;

/// What the threads look after. The standard library's locks: a process that was forked goes on with them.
struct Watch {
    /// From one look to the next.
    period: Duration,
    images: Mutex<Images>,
    changed: Condvar,
}

struct Images {
    watched: Vec<Arc<Watched>>,
    /// The process that the threads are in.
    process: u32,
    threads: usize,
    /// Whether one of them is there for the next look.
    waits: bool,
}

static WATCH: Watch = Watch::new(Duration::from_secs(UNFLUSHED.as_secs() / 2));

impl Aging {
    /// Watches an image; None if nothing of it can wait. A flush that fails is told to nobody here: the next one of the
    /// device's user fails too. Without a thread to be had nobody watches.
    pub fn watch(image: &Arc<Image>) -> Option<Aging> {
        WATCH.add(image)
    }
}

impl Drop for Aging {
    /// Waits for a flush that is under way: the image is to be free after this.
    fn drop(&mut self) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.watch.lock().watched.retain(|watched| !Arc::ptr_eq(watched, &self.watched));
    }
}

impl Watch {
    const fn new(period: Duration) -> Watch {
        let images = Images { watched: Vec::new(), process: 0, threads: 0, waits: false };
        Watch { period, images: Mutex::new(images), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&'static self, image: &Arc<Image>) -> Option<Aging> {
        image.upper().filter(|upper| upper.is_log_structured())?;
        let watched = Arc::new(Mutex::new(Some((Arc::clone(image), None))));
        let mut images = self.lock();
        let process = std::process::id();
        if images.process != process {
            // What a process had open before it was forked is for that one to flush.
            *images = Images { watched: Vec::new(), process, threads: 0, waits: false };
        }
        if images.watched.is_empty() {
            self.changed.notify_all();
        }
        images.watched.push(Arc::clone(&watched));
        self.have_one_wait(&mut images);
        Some(Aging { watch: self, watched })
    }

    /// Starts a thread for the next look, unless one waits for it or there are too many.
    fn have_one_wait(&'static self, images: &mut Images) {
        if images.waits || images.threads >= MAX_FLUSHERS {
            return;
        }
        if std::thread::Builder::new().name("obd-flush".into()).spawn(|| self.run()).is_ok() {
            images.threads += 1;
            images.waits = true;
        }
    }

    fn run(&'static self) {
        let mut images = self.lock();
        loop {
            if images.watched.is_empty() {
                images = self.changed.wait(images).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (guard, waited) =
                self.changed.wait_timeout(images, self.period).unwrap_or_else(PoisonError::into_inner);
            images = guard;
            if !waited.timed_out() {
                continue;
            }
            let all = images.watched.clone();
            images.waits = false;
            self.have_one_wait(&mut images);
            drop(images);
            all.iter().for_each(|watched| look(watched));
            images = self.lock();
            if images.waits {
                images.threads -= 1;
                return;
            }
            images.waits = true;
        }
    }
}

/// Looks at an image, unless another thread is still at it.
fn look(watched: &Watched) {
    let mut watched = match watched.try_lock() {
        Ok(watched) => watched,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    if let Some((image, waiting)) = &mut *watched {
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
    use std::sync::mpsc;

    use super::*;
    use crate::device::BlockDevice;
    use crate::image::layers::Layers;
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
    /// An image that was written to, whose next flush does something else first.
    fn before_a_flush(mut first: impl FnMut() + Send + 'static) -> (tempfile::TempDir, Arc<Image>) {
        let (dir, image) = image(false);
        image.write_at(&[1; 4096], 0).unwrap();
        // As after a snapshot whose configuration is still to be put in place.
        let uppers = vec![image.upper().unwrap()];
        image.present.replace(Layers { uppers, lowers: None, unfinished: true });
        *image.changing.lock() = Some(Box::new(move || {
            first();
            Ok(())
        }));
        (dir, image)
    }

    fn is_flushed(image: &Image) -> bool {
        let (written, proven) = image.upper().unwrap().progress();
        written == proven
    }

    #[test]
    fn disks_that_hang_keep_only_their_own_images_from_being_flushed() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let watch: &'static Watch = Box::leak(Box::new(Watch::new(Duration::from_millis(1))));
        let (say, said) = mpsc::channel();
        let gate = Arc::new(Mutex::new(()));
        let shut = gate.lock().unwrap();
        let hang = || {
            let (say, gate) = (say.clone(), Arc::clone(&gate));
            let (dir, image) = before_a_flush(move || {
                say.send("hangs").unwrap();
                drop(gate.lock());
            });
            let aging = watch.add(&image).unwrap();
            (aging, image, dir)
        };
        let pass = || {
            let say = say.clone();
            let (dir, image) = before_a_flush(move || say.send("passes").unwrap());
            let aging = watch.add(&image).unwrap();
            assert_eq!(said.recv_timeout(PATIENCE), Ok("passes"));
            drop(aging); // which waits for the flush that has begun
            assert!(is_flushed(&image));
            drop((image, dir));
        };
        pass();
        let mut hanging: Vec<_> = (1..MAX_FLUSHERS).map(|_| hang()).collect();
        hanging.iter().for_each(|_| assert_eq!(said.recv_timeout(PATIENCE), Ok("hangs")));
        pass();
        hanging.push(hang());
        assert_eq!(said.recv_timeout(PATIENCE), Ok("hangs"));
        hanging.push(hang());
        assert_eq!(watch.lock().threads, MAX_FLUSHERS, "and no more of them, whatever hangs");
        drop(shut);
        assert_eq!(said.recv_timeout(PATIENCE), Ok("hangs"), "one that came while nobody was left to look");
        for (aging, image, _dir) in hanging {
            drop(aging);
            assert!(is_flushed(&image));
        }
        pass();
    }
}
