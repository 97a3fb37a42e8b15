//! A remote blob that a local file takes over while it is being read: once, and back for good if the file fails.

use std::sync::Arc;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::OnceLock;

use super::Blob;
use crate::error::{Error, Kind, Result};

/// Called once, with why the local file is no longer used. Must be quick and take no lock of the reader's.
pub type OnFailure = Box<dyn Fn(&Error) + Send + Sync>;

struct Local {
    blob: Arc<dyn Blob>,
    on_failure: OnFailure,
}

/// Reads a remote blob until [`SwitchBlob::switch_to`], then a local copy of it. A read takes no lock: it looks at
/// one flag. The remote blob stays open for the reads that are under way, and for the day when the copy fails.
pub struct SwitchBlob {
    remote: Arc<dyn Blob>,
    local: OnceLock<Local>,
    /// Set once `local` is to be read, cleared once it has failed.
    is_local: AtomicBool,
}

impl SwitchBlob {
    /// Begins with `remote`.
    pub fn new(remote: Arc<dyn Blob>) -> Self {
        SwitchBlob { remote, local: OnceLock::new(), is_local: AtomicBool::new(false) }
    }

    /// The remote blob, which copies are made of.
    pub fn remote(&self) -> &Arc<dyn Blob> {
        &self.remote
    }

    /// The local blob, while reads go to it.
    pub fn local(&self) -> Option<&Arc<dyn Blob>> {
        Some(&self.active()?.blob)
    }

    /// Lets reads that begin from now on go to `local`, which holds the same bytes. If that fails to read, or is
    /// distrusted, reads return to the remote blob for good, and `on_failure` is told why.
    ///
    /// Errors: `Corrupt` if the length differs; `Exists` if there was a switch before.
    pub fn switch_to(&self, local: Arc<dyn Blob>, on_failure: OnFailure) -> Result<()> {
        if local.len() != self.len() {
            let what = format!("{} bytes long, but the blob that it is to replace {}", local.len(), self.len());
            return Err(Error::corrupt(what).in_file(local.name()));
        }
        let name = local.name().to_owned();
        if self.local.set(Local { blob: local, on_failure }).is_err() {
            let what = format!("{} was replaced by a local file before", self.name());
            return Err(Error::new(Kind::Exists, what).in_file(name));
        }
        self.is_local.store(true, Ordering::Release);
        Ok(())
    }

    fn active(&self) -> Option<&Local> {
        // `local` never changes once the flag has been set: seeing it late costs a remote read, no more.
        if self.is_local.load(Ordering::Acquire) {
            self.local.get()
        } else {
            None
        }
    }

    fn go_back(&self, local: &Local, why: &Error) {
        if self.is_local.swap(false, Ordering::AcqRel) {
            (local.on_failure)(why);
        }
    }
}

impl Blob for SwitchBlob {
    fn name(&self) -> &str {
        self.remote.name()
    }

    fn len(&self) -> u64 {
        self.remote.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if let Some(local) = self.active() {
            match local.blob.read_at(buf, offset) {
                // The caller's fault, not that of the file.
                Err(e) if e.kind() != Kind::OutOfBounds => self.go_back(local, &e),
                done => return done,
            }
        }
        self.remote.read_at(buf, offset)
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.active().map_or(&self.remote, |local| &local.blob).is_ready(offset, len)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        self.active().map_or(&self.remote, |local| &local.blob).prefetch(offset, len)
    }

    // No `as_file`: whoever copies from the file past this would not come back to the remote blob.

    fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.remote.copy_at(buf, offset)
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        let Some(local) = self.active() else {
            return self.remote.distrust(offset, len);
        };
        let why = Error::corrupt(format!("{len} bytes of a local copy proved wrong"));
        self.go_back(local, &why.in_file(local.blob.name()).at(offset));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use parking_lot::Mutex;

    use super::*;
    use crate::blob::{FileBlob, MemoryBlob};
    use crate::sys::os::OsDisk;

    const LEN: usize = 10_000;

    fn remote() -> Arc<dyn Blob> {
        Arc::new(MemoryBlob::new("https://r/blob", vec![1; LEN]))
    }

    fn local() -> Arc<dyn Blob> {
        Arc::new(MemoryBlob::new("/layers/overlaybd.commit", vec![2; LEN]))
    }

    fn first(blob: &SwitchBlob) -> u8 {
        let mut buf = [0; 5000];
        blob.read_at(&mut buf, 4000).unwrap();
        assert!(buf.iter().all(|b| *b == buf[0]), "one read is answered by one of the two");
        buf[0]
    }

    fn silent() -> OnFailure {
        Box::new(|e| panic!("{e}"))
    }

    #[test]
    fn reads_go_to_the_file_from_the_switch_on() {
        let blob = SwitchBlob::new(remote());
        assert_eq!((first(&blob), blob.local().is_none()), (1, true));
        blob.switch_to(local(), silent()).unwrap();
        assert_eq!((first(&blob), blob.name()), (2, "https://r/blob"));
        assert_eq!(blob.local().unwrap().name(), "/layers/overlaybd.commit");
        let e = blob.read_at(&mut [0; 2], LEN as u64 - 1).unwrap_err();
        assert_eq!(e.kind(), Kind::OutOfBounds);
        assert_eq!(first(&blob), 2, "a wrong request says nothing of the file");
        assert_eq!(blob.switch_to(local(), silent()).unwrap_err().kind(), Kind::Exists);
    }

    #[test]
    fn another_length_is_refused() {
        let blob = SwitchBlob::new(remote());
        let short = Arc::new(MemoryBlob::new("short", vec![2; LEN - 1]));
        assert_eq!(blob.switch_to(short, silent()).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(first(&blob), 1);
        blob.switch_to(local(), silent()).unwrap();
        assert_eq!(first(&blob), 2);
    }

    #[test]
    fn a_file_that_fails_is_left_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlaybd.commit");
        std::fs::write(&path, vec![2; LEN]).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let hear = Arc::clone(&told);
        let blob = SwitchBlob::new(remote());
        let file = Arc::new(FileBlob::open(&OsDisk, &path).unwrap());
        blob.switch_to(file, Box::new(move |e| hear.lock().push(e.to_string()))).unwrap();
        assert_eq!(first(&blob), 2);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert_eq!(first(&blob), 1);
        std::fs::write(&path, vec![2; LEN]).unwrap();
        assert_eq!(first(&blob), 1, "it is not tried again");
        let told = told.lock();
        assert_eq!(told.len(), 1, "said once: {told:?}");
        assert!(told[0].contains("overlaybd.commit"), "{told:?}");
    }

    #[test]
    fn distrust_leaves_the_file_first_and_then_reaches_the_remote_blob() {
        struct Doubted(Arc<dyn Blob>, Arc<AtomicUsize>);
        impl Blob for Doubted {
            fn name(&self) -> &str {
                self.0.name()
            }
            fn len(&self) -> u64 {
                self.0.len()
            }
            fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
                self.0.read_at(buf, offset)
            }
            fn distrust(&self, _: u64, _: u64) -> Result<bool> {
                self.1.fetch_add(1, Ordering::Relaxed);
                Ok(false)
            }
        }
        let (asked, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let hear = Arc::clone(&told);
        let blob = SwitchBlob::new(Arc::new(Doubted(remote(), Arc::clone(&asked))));
        let on_failure = move |_: &Error| {
            hear.fetch_add(1, Ordering::Relaxed);
        };
        blob.switch_to(local(), Box::new(on_failure)).unwrap();
        assert!(blob.distrust(0, 10).unwrap(), "reading again gives other bytes");
        assert_eq!((first(&blob), asked.load(Ordering::Relaxed)), (1, 0));
        assert!(!blob.distrust(0, 10).unwrap());
        assert_eq!((asked.load(Ordering::Relaxed), told.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn readers_never_notice_a_switch_and_the_way_back() {
        let blob = Arc::new(SwitchBlob::new(Arc::new(MemoryBlob::new("same", vec![7; LEN]))));
        let reads = if cfg!(miri) { 3 } else { 3000 };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..reads).for_each(|_| assert_eq!(first(&blob), 7)));
            }
            blob.switch_to(Arc::new(MemoryBlob::new("copy", vec![7; LEN])), Box::new(|_| {})).unwrap();
            blob.distrust(0, 1).unwrap();
        });
        assert!(blob.local().is_none());
    }
}
