//! The background download of a layer: the calls of the core and of the disk that `cache/copy.py` and
//! `cache/partial.py` make, in their order.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use overlaybd::blob::{Blob, FileBlob, SwitchBlob};
use overlaybd::cache::CachedBlob;
use overlaybd::error::{Error, Kind, Result};
use overlaybd::sync::sim;
use overlaybd::sys::{read_exact, write_all, Disk, File, Mode};

use crate::library::{digest_of, Part};
use crate::machine::{is_missing, Machine};

/// Names in the directory of a layer.
pub const COMMIT: &str = "overlaybd.commit";
pub const PARTIAL: &str = ".download";
const RECORD: &str = ".download.progress";
const LOCK: &str = ".download.lock";
const MAP: &str = ".download.map";
const BAD: &str = "overlaybd.commit.bad";

/// What direct writes are multiples of.
const ALIGNMENT: u64 = 4096;
/// How often the bytes so far are made durable and recorded.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// Attempts of a download that somebody else is at, or that fails in ways that may pass.
const ATTEMPTS: usize = 8;

/// A part of a layer that is read from the registry.
#[derive(Clone)]
pub struct Remote {
    pub part: Part,
    pub directory: PathBuf,
    pub blob: Arc<SwitchBlob>,
    pub cached: Option<Arc<CachedBlob>>,
    /// Whether it is cached in the very file that a download makes.
    pub is_media: bool,
}

/// How an attempt ended.
enum End {
    Done,
    Busy,
    Stopped,
    WrongDigest,
}

/// A download under way.
struct Download<'a> {
    disk: &'a dyn Disk,
    remote: &'a Remote,
    stop: &'a AtomicBool,
}

impl Machine {
    /// Downloads what is remote, one after the other, until told to stop.
    pub fn download(&self, remotes: &[Remote], stop: &AtomicBool) {
        sim::sleep(Duration::from_millis(sim::draw(5_000)));
        for remote in remotes {
            let download = Download { disk: &self.disk, remote, stop };
            let mut wrong = 0;
            for attempt in 0..ATTEMPTS {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match download.run() {
                    Ok(End::Done) => {
                        self.check_commit(&remote.directory.join(COMMIT), &remote.part);
                        self.switch(remote).unwrap_or_else(|e| self.may_fail("switch", &e));
                        break;
                    }
                    Ok(End::Stopped) => return,
                    Ok(End::Busy) => {
                        sim::sleep(Duration::from_secs(1));
                    }
                    Ok(End::WrongDigest) => {
                        wrong += 1;
                        let error = Error::corrupt("the registry's bytes are wrong");
                        self.may_fail("download", &error);
                        if wrong > 1 {
                            break;
                        }
                    }
                    Err(e) => {
                        self.may_fail("download", &e);
                        sim::sleep(Duration::from_secs(1 << attempt.min(6)));
                    }
                }
            }
        }
    }

    fn switch(&self, remote: &Remote) -> Result<()> {
        if remote.blob.local().is_some() {
            return Ok(());
        }
        let file = FileBlob::open(&self.disk, &remote.directory.join(COMMIT))?;
        let name = remote.part.digest.clone();
        remote.blob.switch_to(
            Arc::new(file),
            Box::new(move |e| sim::note(|| format!("back to the registry with {name}: {e}"))),
        )?;
        sim::note(|| format!("{} is read from its file", remote.part.digest));
        Ok(())
    }
}

impl Download<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.remote.directory.join(name)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// As `Copy.run`.
    fn run(&self) -> Result<End> {
        let commit = self.path(COMMIT);
        if self.is_there(&commit)? {
            return Ok(End::Done);
        }
        let Some(lock) = self.lock()? else { return Ok(End::Busy) };
        let done = self.locked(&commit);
        // As `Partial.release`.
        if let Err(e) = self.disk.remove(&self.path(LOCK)) {
            sim::note(|| format!("release: {e}"));
        }
        drop(lock);
        done
    }

    fn locked(&self, commit: &Path) -> Result<End> {
        match self.disk.open(commit, Mode::Read) {
            Ok(_) if self.is_there(commit)? => return Ok(End::Done),
            Ok(_) => self.disk.rename(commit, &self.path(BAD))?,
            Err(e) if is_missing(&e) => {}
            Err(e) => return Err(e),
        }
        // As `Partial.claim`, which is held to the end.
        let claim = self.disk.open(&self.path(PARTIAL), Mode::Create)?;
        if !claim.try_lock(!self.remote.is_media).map_err(|e| failed("lock", &*claim, e))? {
            return Ok(End::Busy);
        }
        let end = if self.remote.is_media { self.fill()? } else { self.fetch()? };
        if let End::Done = end {
            if let Err(e) = self.finish(commit) {
                // As `Copy._finish`.
                if self.remote.is_media {
                    self.remote.blob.remote().distrust(0, self.remote.blob.len())?;
                } else {
                    self.remove(RECORD)?;
                    self.remove(PARTIAL)?;
                }
                return Err(e);
            }
        }
        Ok(end)
    }

    /// As `Partial.lock`.
    fn lock(&self) -> Result<Option<Arc<dyn File>>> {
        loop {
            let file = self.disk.open(&self.path(LOCK), Mode::Create)?;
            if !file.try_lock(true).map_err(|e| failed("lock", &*file, e))? {
                return Ok(None);
            }
            // Who ends a download removes its lock file: this may be one that is gone.
            if file.links().map_err(|e| failed("stat", &*file, e))? > 0 {
                return Ok(Some(file));
            }
        }
    }

    /// Whether somebody has put the layer in place: its bytes count, not its name.
    fn is_there(&self, commit: &Path) -> Result<bool> {
        match self.disk.open(commit, Mode::Read) {
            Ok(file) => Ok(self.read(&*file)?.is_some_and(|bytes| self.is_right(&bytes))),
            Err(e) if is_missing(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn is_right(&self, bytes: &[u8]) -> bool {
        digest_of(bytes) == self.remote.part.digest
    }

    /// All of a file, if it is as long as the layer.
    fn read(&self, file: &dyn File) -> Result<Option<Vec<u8>>> {
        let size = self.remote.blob.len();
        if file.len().map_err(|e| failed("stat", file, e))? < size {
            return Ok(None);
        }
        let mut bytes = vec![0; size as usize];
        read_exact(file, &mut bytes, 0)?;
        Ok(Some(bytes))
    }

    /// Completes the file that reads fill too, then reads all of it.
    fn fill(&self) -> Result<End> {
        let (size, mut at) = (self.remote.blob.len(), 0);
        let cached = self.remote.cached.as_ref();
        let uncached = || Error::new(Kind::Unsupported, "it is read uncached: there is nothing to fill");
        while at < size {
            let count = (64 << 10).min(size - at);
            cached.ok_or_else(uncached)?.fill(at, count)?;
            at += count;
            if self.stopped() {
                return Ok(End::Stopped);
            }
        }
        let file = self.disk.open(&self.path(PARTIAL), Mode::Read)?;
        let bytes = self.read(&*file)?;
        if !bytes.is_some_and(|bytes| self.is_right(&bytes)) {
            self.remote.blob.remote().distrust(0, size)?;
            return Ok(End::WrongDigest);
        }
        Ok(End::Done)
    }

    fn fetch(&self) -> Result<End> {
        let size = self.remote.blob.len();
        let mut at = self.prepare(size)?;
        at -= if at < size { at % ALIGNMENT } else { 0 };
        let file = self.disk.open(&self.path(PARTIAL), Mode::Write)?;
        let mut bytes = vec![0; size as usize];
        read_exact(&*file, &mut bytes[..at as usize], 0)?;
        let (mut noted, mut failed) = (sim::now(), false);
        let taken = loop {
            if at == size {
                break Ok(End::Done);
            }
            let count = (64 << 10).min(size - at) as usize;
            let piece = &mut bytes[at as usize..at as usize + count];
            if let Err(e) = self.remote.blob.copy_at(piece, at) {
                break Err(e);
            }
            if let Err(e) = write_all(&*file, piece, at) {
                failed = true;
                break Err(e);
            }
            at += count as u64;
            if sim::now() > noted.map(|time| time + RECORD_EVERY) {
                if let Err(e) = self.keep(&*file, at) {
                    failed = true;
                    break Err(e);
                }
                noted = sim::now();
            }
            if self.stopped() {
                break Ok(End::Stopped);
            }
        };
        match taken {
            Ok(End::Done) => sync(&*file)?,
            unfinished => {
                // As `Copy._keep`: once a flush has failed the next may succeed though what was written is lost.
                if !failed {
                    drop(self.keep(&*file, at));
                }
                return unfinished;
            }
        }
        if !self.is_right(&bytes) {
            self.remove(RECORD)?;
            self.remove(PARTIAL)?;
            self.remote.blob.remote().distrust(0, size)?;
            return Ok(End::WrongDigest);
        }
        Ok(End::Done)
    }

    fn keep(&self, file: &dyn File, at: u64) -> Result<()> {
        sync(file)?;
        self.record(at)
    }

    /// As `Partial.prepare`: how many bytes are there already.
    fn prepare(&self, size: u64) -> Result<u64> {
        let mut done = self.recorded(size).unwrap_or(0);
        let file = self.disk.open(&self.path(PARTIAL), Mode::Create)?;
        let set_len = |len| file.set_len(len).map_err(|e| failed("truncate", &*file, e));
        if file.len().map_err(|e| failed("stat", &*file, e))? < done {
            done = 0;
        }
        if done == 0 {
            self.remove(RECORD)?;
            set_len(0)?;
        }
        set_len(size)?;
        Ok(done)
    }

    /// As `Partial.record`.
    fn record(&self, done: u64) -> Result<()> {
        let text = format!("{} {} {done}", self.remote.part.digest, self.remote.blob.len());
        let line = format!("{text} {}\n", &digest_of(text.as_bytes())[7..15]);
        let file = self.disk.open(&self.path(RECORD), Mode::Create)?;
        file.write_at(format!("{line:>512}").as_bytes(), 0).map(drop).map_err(|e| failed("write", &*file, e))
    }

    fn recorded(&self, size: u64) -> Option<u64> {
        let file = self.disk.open(&self.path(RECORD), Mode::Read).ok()?;
        let mut bytes = [0; 1024];
        let len = file.read_at(&mut bytes, 0).ok()?;
        let words: Vec<&str> = std::str::from_utf8(&bytes[..len]).ok()?.split_whitespace().collect();
        let [digest, total, done, sum] = words[..] else { return None };
        let text = format!("{digest} {total} {done}");
        let right = sum == &digest_of(text.as_bytes())[7..15] && digest == self.remote.part.digest;
        done.parse().ok().filter(|done| right && total.parse() == Ok(size) && *done <= size)
    }

    /// As `Partial.finish`.
    fn finish(&self, commit: &Path) -> Result<()> {
        let file = self.disk.open(&self.path(PARTIAL), Mode::Read)?;
        sync(&*file)?;
        self.disk.rename(&self.path(PARTIAL), commit)?;
        self.disk.sync_dir(&self.remote.directory)?;
        self.remove(RECORD)?;
        self.remove(MAP)
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self.disk.remove(&self.path(name)) {
            Err(e) if !is_missing(&e) => Err(e),
            _ => Ok(()),
        }
    }
}

fn sync(file: &dyn File) -> Result<()> {
    file.sync_data().map_err(|e| failed("flush", file, e))
}

fn failed(what: &str, file: &dyn File, error: io::Error) -> Error {
    Error::io(what, error).in_file(file.path())
}
