//! One bad moment of disk or lock must cost that moment, and nothing after it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::ahead::wait_for;
use super::care::digest_of;
use super::*;
use crate::sys::{File, Mode};

/// What a disk is asked to do.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Open,
    Read,
}

type Hook = Arc<dyn Fn(Act, &Path) -> io::Result<()> + Send + Sync>;

/// A disk that asks a hook before it opens or reads a file.
struct Hooked(Hook);

struct HookedFile(Arc<dyn File>, Hook);

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl std::fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Disk for Hooked {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>> {
        (self.0)(Act::Open, path).map_err(|e| Error::io("open", e).in_file(path))?;
        Ok(Arc::new(HookedFile(OsDisk.open(path, mode)?, Arc::clone(&self.0))))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        OsDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        OsDisk.sync_dir(dir)
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        OsDisk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        OsDisk.free_bytes(dir)
    }
}

impl File for HookedFile {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (self.1)(Act::Read, self.path())?;
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.0.allocated_bytes()
    }

    fn links(&self) -> io::Result<u64> {
        self.0.links()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch_hole(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.0.next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        self.0.next_hole(offset)
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.0.try_lock(exclusive)
    }
}

/// A disk that opens no file whose name ends so, or that cannot read it, as long as the list names it.
fn failing(act: Act, names: &Arc<Mutex<Vec<&'static str>>>) -> Arc<dyn Disk> {
    let names = Arc::clone(names);
    Arc::new(Hooked(Arc::new(move |asked, path: &Path| {
        let fails = asked == act && names.lock().iter().any(|name| path.to_string_lossy().ends_with(name));
        if fails {
            Err(io::Error::from_raw_os_error(libc::EMFILE))
        } else {
            Ok(())
        }
    })))
}

#[test]
fn a_blob_is_opened_through_the_cache_while_another_process_checks_it() {
    let bench = Bench::new();
    let server = Server::new(pattern(10 * CHUNK));
    let digest = digest_of(&server.bytes);
    let opened = |cache: &Arc<ChunkCache>| {
        CachedBlob::open(cache, &digest, source(&server), Some(server.bytes.len() as u64)).unwrap()
    };
    check(&*opened(&bench.cache()).blob, &server, 0, 10 * CHUNK);
    let (media, user, seen): (PathBuf, _, Arc<Mutex<Vec<bool>>>) =
        (bench.dir.path().join(&digest), bench.cache(), Arc::default());
    let (cached, name, server_of) = (Arc::clone(&seen), digest.clone(), Arc::clone(&server));
    let checking = bench.cache_on(Arc::new(Hooked(Arc::new(move |act, path: &Path| {
        if act == Act::Read && path == media && cached.lock().is_empty() {
            let len = Some(server_of.bytes.len() as u64);
            let opened = CachedBlob::open(&user, &name, source(&server_of), len).unwrap();
            cached.lock().push(opened.cached.is_some());
        }
        Ok(())
    }))));
    let found = checking.check(&digest, true).unwrap();
    assert!(found.is_right() && found.digest_matches == Some(true) && found.checked == 10);
    assert_eq!(*seen.lock(), [true], "whoever opens it meanwhile reads it uncached");
}

#[test]
fn a_blob_whose_files_could_not_be_opened_is_cached_later() {
    let bench = Bench::new();
    let server = Server::new(pattern(10 * CHUNK));
    let names = Arc::new(Mutex::new(vec![".map"]));
    let cache = bench.cache_on(failing(Act::Open, &names));
    let opened = CachedBlob::open(&cache, DIGEST, source(&server), Some(server.bytes.len() as u64)).unwrap();
    assert!(opened.cached.is_none() && bench.notices.lock()[0].contains("is read uncached"));
    let blob = opened.blob;
    names.lock().clear();
    for requests in [1, 2] {
        check(&*blob, &server, 0, CHUNK);
        assert_eq!(server.requests(), requests, "nothing is tried at once");
    }
    cache.shared.clock.sleep(Duration::from_secs(10));
    check(&*blob, &server, 0, CHUNK);
    wait_for(|| bench.notices.lock().iter().any(|line| line.ends_with("is cached from now on")));
    check(&*blob, &server, 0, CHUNK);
    check(&*blob, &server, 0, CHUNK);
    assert_eq!((server.requests(), blob.is_ready(0, CHUNK as u64)), (4, true));
}

#[test]
fn what_cannot_be_opened_or_read_just_now_is_not_evicted() {
    for (act, name) in [(Act::Open, ".map"), (Act::Open, ".pin"), (Act::Open, "0b"), (Act::Read, ".map")] {
        let bench = Bench::new();
        let server = Server::new(pattern(10 * CHUNK));
        for digest in ["sha256:0a", "sha256:0b"] {
            let cache = bench.cache();
            cache.pin(digest, true).unwrap();
            let blob = CachedBlob::open(&cache, digest, source(&server), Some(server.bytes.len() as u64)).unwrap().blob;
            check(&*blob, &server, 0, server.bytes.len());
        }
        let names = Arc::new(Mutex::new(vec![name]));
        let cache = bench.cache_on(failing(act, &names));
        cache.shrink(0).unwrap();
        assert_eq!(fs::read_dir(bench.dir.path()).unwrap().count(), 6, "{name}");
        assert!(bench.notices.lock().iter().any(|line| line.contains("left alone")), "{:?}", bench.notices.lock());
        // What is neither pinned nor in the way goes once it can be looked at.
        names.lock().clear();
        cache.pin("sha256:0b", false).unwrap();
        cache.shrink(0).unwrap();
        assert_eq!(fs::read_dir(bench.dir.path()).unwrap().count(), 3, "{name}");
    }
}

#[test]
fn a_map_that_cannot_be_read_just_now_does_not_empty_its_media() {
    let bench = Bench::new();
    let server = Server::new(pattern(10 * CHUNK));
    check(&*open(&bench.cache(), &server), &server, 0, 10 * CHUNK);
    let names = Arc::new(Mutex::new(vec![".map"]));
    let cache = bench.cache_on(failing(Act::Read, &names));
    check(&*open(&cache, &server), &server, 0, CHUNK);
    names.lock().clear();
    check(&*open(&cache, &server), &server, 0, 10 * CHUNK);
    assert_eq!(server.requests(), 2, "what was there is fetched again");
}
