//! Changes of an image that is in use: a snapshot puts a new upper on top, a resize lets the device grow.
//!
//! # What a snapshot promises
//! The cut is one moment between the call and its return. Each write and discard lies wholly below it or wholly
//! above; those that were acknowledged before the call are below. When the call returns, what lies below is a
//! durable layer, the old upper's data file. Reads never wait; writes and discards wait while the present ones
//! end, [`CUT_WAIT`] at most, then are let through before the next try. A flush that comes after the cut waits until
//! the snapshot is finished: only then would a restart find what it makes durable.
//!
//! # After a crash
//! Before the cut the caller announces, durably, the configuration with the new layers; once the old upper is sealed it
//! puts that in place. A process that dies between the two has acknowledged writes that only the new upper has, so
//! whoever finds an announcement finishes the snapshot before it opens the image ([`finish_snapshot`]): there is no
//! moment at which that would be wrong, since the new upper was made and found empty before. After a loss of power the
//! old pair of files still opens as an upper, sealed or not, with all that was flushed.
//!
//! [`finish_snapshot`]: super::finish_snapshot

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::layers::Layers;
use super::Image;
use crate::blob::FileBlob;
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::limits::{CUT_DEADLINE, CUT_REST, CUT_WAIT, MAX_LAYERS, SECTOR};
use crate::lsmt::upper::{clear_unfinished, create, remove_new, CreateOptions};
use crate::lsmt::{Layer, Stack, Upper};
use crate::sync::Instant;
use crate::sys::{Disk, Mode};

/// The new upper of a snapshot: its two files, which are created if neither is there.
pub struct NewUpper<'a> {
    /// The data file.
    pub data: &'a Path,
    /// The index file.
    pub index: &'a Path,
    /// Sparse layout, if the files are created.
    pub sparse: bool,
}

/// What a snapshot did.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// How long writes waited.
    pub pause: Duration,
    /// Entries of the sealed layer's index.
    pub segments: u64,
}

/// What becomes of an image's configuration while a snapshot is taken. Must not flush the image. A closure is one that
/// announces nothing.
pub trait Publish: Send {
    /// Before the cut: says durably, beside the configuration, what it is going to be.
    ///
    /// # Errors
    /// Then no snapshot is taken. The caller of [`Image::snapshot`] takes back what was announced of one that is not.
    fn announce(&mut self) -> Result<()> {
        Ok(())
    }

    /// Puts the configuration with the new layers in place of the old one, durably.
    ///
    /// # Errors
    /// Then it is called again.
    fn publish(&mut self) -> Result<()>;
}

impl<F: FnMut() -> Result<()> + Send> Publish for F {
    fn publish(&mut self) -> Result<()> {
        self()
    }
}

impl Image {
    /// Freezes the upper as a read-only layer and goes on with a new one; the module says what that promises.
    ///
    /// After an error the device goes on with right data. If the cut was made already, what is left to do is tried
    /// again by the next flush, which fails where it does; and by this call, repeated with the same files.
    ///
    /// # Errors
    /// `ReadOnly` without an upper; `Invalid` for a new upper that is the present one, of another size, holds data,
    /// or lacks one of its files; `Limit` with 255 lowers or too long an index; `TimedOut` if writes were under way
    /// all the time; what creating, flushing and sealing say, and `publish`.
    pub fn snapshot(&self, disk: &dyn Disk, new: &NewUpper<'_>, mut publish: Box<dyn Publish>) -> Result<Snapshot> {
        let mut changing = self.changing.lock();
        let old = self.present.with(|layers| layers.upper().cloned())?;
        let same = [old.data().path() == new.data, old.index_path() == new.index];
        let mut pause = Duration::ZERO;
        if changing.is_none() || same != [true, true] {
            self.finish(&mut changing)?;
            if same != [false, false] {
                let what = "the new upper has a file of the present one";
                return Err(Error::new(Kind::Invalid, what).in_file(new.data));
            }
            pause = self.prepare_and_cut(disk, new, &old, &mut *publish)?;
        }
        *changing = Some(publish);
        self.finish(&mut changing)?;
        drop(changing);
        retire(old);
        let top = self.lowers().map_or(0, |lowers| lowers.index().iter().filter(|s| s.tag == 0).count());
        Ok(Snapshot { pause, segments: top as u64 })
    }

    /// All that may take long or fail, then the cut. After an error all is as before.
    fn prepare_and_cut(
        &self,
        disk: &dyn Disk,
        new: &NewUpper<'_>,
        old: &Arc<Upper>,
        publish: &mut dyn Publish,
    ) -> Result<Duration> {
        let lowers = self.lowers().map_or(0, |lowers| lowers.blobs().len());
        if lowers >= MAX_LAYERS {
            let what = format!("{lowers} lowers, the most that can be stacked: commit or merge first");
            return Err(Error::new(Kind::Limit, what));
        }
        old.check_sealable()?;
        old.lengthen_to_seal()?;
        old.flush()?;
        let created = make_files(disk, new, self.size(), old)?;
        let cut = open_new(disk, new, self.size()).and_then(|upper| {
            // Little is left to make durable: what was written while the files were made.
            old.flush()?;
            publish.announce()?;
            self.cut(old, &Arc::new(upper))
        });
        cut.inspect_err(|_| {
            if created {
                // The error that led here says more than one from tidying up.
                drop(remove_new(disk, new.data, new.index));
            }
        })
    }

    /// Exchanges the upper between two writes.
    fn cut(&self, old: &Arc<Upper>, new: &Arc<Upper>) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let start = Instant::now();
            if let Some(_alone) = self.writes.try_write_for(CUT_WAIT) {
                old.check_sealable()?;
                let lowers = self.lowers();
                let uppers = vec![Arc::clone(new), Arc::clone(old)];
                self.present.replace(Layers { uppers, lowers, unfinished: true });
                return Ok(start.elapsed());
            }
            if begin.elapsed() >= CUT_DEADLINE {
                let what = "snapshot: at no time were all writes done, perhaps one waits for a registry: try again";
                return Err(Error::new(Kind::TimedOut, what));
            }
            crate::sync::thread::sleep(CUT_REST);
        }
    }

    /// Whether a snapshot was taken that is not finished: under way, or failed after the cut.
    pub fn is_unfinished(&self) -> bool {
        self.present.with(|layers| layers.unfinished)
    }

    /// Does what is left to do of a snapshot after the cut, if there is one.
    fn finish(&self, changing: &mut Option<Box<dyn Publish>>) -> Result<()> {
        let Some(publish) = changing else { return Ok(()) };
        self.settle().map_err(|e| e.context("a snapshot was taken but not finished"))?;
        publish
            .publish()
            .map_err(|e| e.context("a snapshot was taken and sealed but its configuration not put in place"))?;
        let (uppers, lowers) = self.present.with(|layers| (layers.uppers.clone(), layers.lowers.clone()));
        self.present.replace(Layers { uppers, lowers, unfinished: false });
        *changing = None;
        Ok(())
    }

    /// Seals what a snapshot froze and makes a lower of it, if that is still to be done.
    fn settle(&self) -> Result<()> {
        let (uppers, lowers) = self.present.with(|layers| (layers.uppers.clone(), layers.lowers.clone()));
        let [upper, frozen] = &uppers[..] else { return Ok(()) };
        frozen.seal()?;
        // Read as a restart will read it.
        let layer = Layer::open(Arc::new(FileBlob::new(Arc::clone(frozen.data()))?))?;
        let lowers = match lowers {
            Some(lowers) => lowers.with_layer_on_top(&layer)?,
            None => Stack::new(vec![layer])?,
        };
        self.present.replace(Layers {
            uppers: vec![Arc::clone(upper)],
            lowers: Some(Arc::new(lowers)),
            unfinished: true,
        });
        // From now on others may read it as a layer; nobody may write to it.
        drop(frozen.data().try_lock(false));
        Ok(())
    }

    /// Makes all that was acknowledged durable, and findable after a restart.
    pub(super) fn flush_upper(&self) -> Result<()> {
        loop {
            let (upper, unfinished) = self.present.with(|layers| (layers.uppers.first().cloned(), layers.unfinished));
            if unfinished {
                self.finish(&mut self.changing.lock())?;
                continue;
            }
            return upper.map_or(Ok(()), |upper| upper.flush());
        }
    }

    /// Lets the device grow to `size_bytes`, durably; what is new reads as the lowers have it, else zeros.
    ///
    /// # Errors
    /// `ReadOnly` without an upper; `Invalid` for a smaller size; `OutOfBounds` for one that is no multiple of 512;
    /// `Limit` for one beyond `limits::MAX_DEVICE_BYTES`; `Unsupported` if the upper is sparse and ends in a block of
    /// its file of which a lower has more; `NoSpace`, `Io`.
    pub fn resize(&self, size_bytes: u64) -> Result<()> {
        let mut changing = self.changing.lock();
        self.finish(&mut changing)?;
        let upper = self.present.with(|layers| layers.upper().cloned())?;
        let present = self.size();
        if size_bytes < present {
            let what = format!("a size of {size_bytes} bytes would cut the device of {present}: it can only grow");
            return Err(Error::new(Kind::Invalid, what));
        }
        if size_bytes > present {
            self.check_behind(&upper, size_bytes)?;
        }
        // Also to the present size: it may be one that a process wrote which died before it was durable.
        upper.resize(size_bytes)?;
        self.size.store(size_bytes, Ordering::Release);
        Ok(())
    }

    /// Refuses growth that an upper would hide a part of once it is opened again.
    fn check_behind(&self, upper: &Upper, size_bytes: u64) -> Result<()> {
        let Range { start, end } = upper.shares_behind();
        let mut hides = false;
        if let Some(lowers) = self.lowers() {
            lowers.index().lookup(start..end.min(size_bytes / SECTOR), |piece| hides |= !piece.zeroed);
        }
        if !hides {
            return Ok(());
        }
        let what = format!(
            "the sparse upper ends at sector {start}, within a block up to {end} of which a lower has more, and would \
             hide that: take a snapshot onto a log-structured upper first"
        );
        Err(Error::new(Kind::Unsupported, what).in_file(upper.data().path()))
    }
}

/// Lets go of an upper that only late readers use: freeing its index takes long, and is not to fall to one of them.
fn retire(upper: Arc<Upper>) {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        if Arc::strong_count(&upper) == 1 {
            return;
        }
        crate::sync::thread::sleep(Duration::from_millis(1));
    }
}

/// Creates the files of the new upper, unless both are there; whether it did. Those that an earlier attempt had begun
/// when its process died are made anew.
fn make_files(disk: &dyn Disk, new: &NewUpper<'_>, size: u64, old: &Upper) -> Result<bool> {
    clear_unfinished(disk, new.data, new.index)?;
    match (exists(disk, new.data)?, exists(disk, new.index)?) {
        (true, true) => Ok(false),
        (false, false) => {
            let parent_uuid = old.header().uuid;
            let options = CreateOptions { size, sparse: new.sparse, parent_uuid, ..CreateOptions::default() };
            create(disk, new.data, new.index, &options).map(|()| true)
        }
        (data, _) => {
            let missing = if data { new.index } else { new.data };
            let what = "one file of the new upper is missing while the other is there";
            Err(Error::new(Kind::Invalid, what).in_file(missing))
        }
    }
}

fn exists(disk: &dyn Disk, path: &Path) -> Result<bool> {
    match disk.open(path, Mode::Read) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == Kind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Opens the new upper and makes sure that the device will look the same with it.
fn open_new(disk: &dyn Disk, new: &NewUpper<'_>, size: u64) -> Result<Upper> {
    let upper = Upper::open(disk, new.data, new.index)?;
    let invalid = |what: String| Error::new(Kind::Invalid, what).in_file(new.data);
    if !upper.segments().is_empty() || upper.cut_records() > 0 {
        return Err(invalid("the new upper is not empty: create it anew".to_string()));
    }
    upper.inherit_size(size)?;
    if upper.virtual_size() != size {
        return Err(invalid(format!("the new upper is of {} bytes, the device of {size}", upper.virtual_size())));
    }
    upper.flush()?;
    Ok(upper)
}
