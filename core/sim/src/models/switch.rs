//! Switch-over (`blob/switch.rs`): a downloaded file takes the place of the cache, and fails.
//!
//! Promised: every read is answered, with bytes of one of the two; who begins to read after the switch reads the file,
//! who begins after its failure was told never does; that is told once.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;

use overlaybd::blob::{Blob, FileBlob, MemoryBlob, SwitchBlob};
use overlaybd::error::{Error, Kind, Result};
use overlaybd::sync::{point, sim, thread};
use overlaybd::sys::{Disk, Mode};

use crate::disk::ModelDisk;
use crate::source::{check, Remote, CHUNK};
use crate::Model;

pub const MODELS: &[&Model] = &[
    &Model { name: "switch", story: there_and_back, quick: 2, deep: 3 },
    &Model { name: "switch-download", story: download, quick: 1, deep: 2 },
];

/// Like the remote blob, but fails from some moment on.
struct Failing {
    reads_left: AtomicUsize,
    told: Arc<AtomicUsize>,
}

impl Blob for Failing {
    fn name(&self) -> &str {
        "file"
    }

    fn len(&self) -> u64 {
        CHUNK as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        point();
        if self.reads_left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_err() {
            return Err(Error::new(Kind::Io, "the file fails"));
        }
        buf.copy_from_slice(&Remote::right(offset, buf.len()));
        Ok(())
    }
}

/// Two readers; the file takes over, and fails at its second read.
fn there_and_back() {
    let told = Arc::new(AtomicUsize::new(0));
    let local = Arc::new(Failing { reads_left: AtomicUsize::new(1), told: Arc::clone(&told) });
    let remote = Arc::new(MemoryBlob::new("remote", Remote::right(0, CHUNK)));
    let blob = Arc::new(SwitchBlob::new(remote as Arc<dyn Blob>));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (blob, local) = (Arc::clone(&blob), Arc::clone(&local));
            let reads = move || {
                for _ in 0..2 {
                    let told = local.told.load(SeqCst);
                    let active = blob.local().is_some();
                    assert!(told == 0 || !active, "a file that failed is in use");
                    read(&*blob);
                }
            };
            thread::Builder::new().spawn(reads).expect("a thread")
        })
        .collect();
    let hear = Arc::clone(&told);
    let on_failure = move |_: &Error| {
        hear.fetch_add(1, SeqCst);
    };
    blob.switch_to(Arc::clone(&local) as Arc<dyn Blob>, Box::new(on_failure)).expect("a switch");
    let in_use = blob.local().is_some();
    assert!(in_use || told.load(SeqCst) > 0 || local.reads_left.load(SeqCst) == 0, "the switch was lost");
    for reader in readers {
        reader.join().expect("a reader that ends well");
    }
    // Two more reads: the file fails at the latest now.
    read(&*blob);
    read(&*blob);
    assert_eq!(told.load(SeqCst), 1, "told once");
    assert!(blob.local().is_none(), "left for good");
}

fn read(blob: &dyn Blob) {
    let mut bytes = vec![0xaa; 512];
    blob.read_at(&mut bytes, 512).unwrap_or_else(|e| panic!("a read: {e}"));
    assert!(bytes == Remote::right(512, 512), "wrong bytes");
}

/// A download as it is: copied past the cache, renamed, switched to, while one reads through the cache.
fn download() {
    let (disk, remote) = (ModelDisk::default(), Remote::new(2));
    let (_cache, cached) = remote.cached(1 << 20, 0);
    let blob = Arc::new(SwitchBlob::new(cached as Arc<dyn Blob>));
    let other = Arc::clone(&blob);
    let reader = thread::Builder::new().spawn(move || {
        check(&*other, 0..1);
        let switched = other.local().is_some();
        check(&*other, 0..2);
        assert!(!switched || other.local().is_some(), "it stays switched");
    });
    let (part, name) = (Path::new("/layer/.download"), Path::new("/layer/overlaybd.commit"));
    let file = disk.open(part, Mode::New).expect("a file");
    for chunk in 0..2 {
        let at = chunk * CHUNK as u64;
        let mut bytes = vec![0; CHUNK];
        // It may fetch what a reader does, for its own.
        blob.remote().read_at(&mut bytes, at).expect("a copy");
        overlaybd::sys::write_all(&*file, &bytes, at).expect("a write");
    }
    disk.rename(part, name).expect("a name");
    let local = Arc::new(FileBlob::open(&disk, name).expect("the copy"));
    blob.switch_to(local, Box::new(|e| panic!("{e}"))).expect("a switch");
    let fetches = remote.fetches();
    check(&*blob, 0..2);
    reader.expect("a thread").join().expect("a reader that ends well");
    assert!(remote.fetches() <= fetches, "nothing is fetched once the file is there");
    sim::note(|| format!("{fetches} fetches"));
}
