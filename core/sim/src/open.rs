//! Opens the caches of a process and the images of a machine, as the program does.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use overlaybd::blob::{Blob, FileBlob, MemoryBlob, SparingBlob, SwitchBlob};
use overlaybd::cache::{CachedBlob, ChunkCache, Opened, Options};
use overlaybd::device::BlockDevice;
use overlaybd::error::Result;
use overlaybd::fetch::{FetchStats, RemoteBlob, Source};
use overlaybd::gzip::{Index, View};
use overlaybd::image::{self, Image, Stored, UpperFiles};
use overlaybd::sync::sim;

use crate::download::{Remote, COMMIT, PARTIAL};
use crate::library::{self, Part};
use crate::machine::{Device, Machine, CACHE, UNPACKED};
use crate::net::SimClock;
use crate::setting::Caching;

/// What the devices of a process share.
pub struct Caches {
    chunks: Arc<ChunkCache>,
    unpacked: Option<Arc<ChunkCache>>,
}

/// An image, and those of its parts that are remote.
pub struct OpenImage {
    pub image: Arc<Image>,
    pub remote: Vec<Remote>,
}

impl Machine {
    pub fn open_caches(&self) -> Result<Caches> {
        let setting = &self.setting;
        let cache = |directory: &str, pool: bool| {
            let directory = PathBuf::from(directory);
            let options = Options {
                chunk_bytes: setting.chunk_bytes,
                pool_line_bytes: pool.then_some(4096),
                min_free_bytes: 0,
                write_behind_bytes: setting.behind,
                notice: Arc::new(|line| sim::note(|| format!("notice: {line}"))),
                ..Options::new(directory, setting.cache_bytes)
            };
            ChunkCache::open(options, Arc::new(self.disk.clone()), Arc::new(SimClock))
        };
        let chunks = match setting.caching {
            Caching::Layers => cache("", false)?,
            caching => cache(CACHE, caching == Caching::Pool)?,
        };
        Ok(Caches { chunks, unpacked: if setting.unpacked { Some(cache(UNPACKED, false)?) } else { None } })
    }

    /// Opens a device; remote layers endure so many seconds without their registry.
    pub fn open(&self, caches: &Caches, device: &Device, endure_s: u64) -> Result<OpenImage> {
        self.finish_snapshot(device)?;
        let config = device.config();
        let (mut lowers, mut remote) = (Vec::new(), Vec::new());
        for number in &config.remote {
            let layer = library::layer(*number);
            let directory = PathBuf::from(format!("/layers/{number}"));
            let blob = self.open_part(caches, &layer.stored, &directory, endure_s, &mut remote)?;
            let target = match &layer.target {
                None => None,
                Some(target) => {
                    let packed =
                        self.open_part(caches, &target.packed, &directory.join("target"), endure_s, &mut remote)?;
                    Some(match &target.index {
                        None => packed,
                        Some(index) => self.unpack(caches, packed, &target.packed, index)?,
                    })
                }
            };
            lowers.push(Stored { blob, target });
        }
        for path in &config.local {
            lowers.push(Stored::from(Arc::new(FileBlob::open(&self.disk, path)?) as Arc<dyn Blob>));
        }
        let upper = UpperFiles { data: &config.upper.0, index: &config.upper.1, target: None };
        let image = Arc::new(image::open_stored(&self.disk, lowers, Some(upper))?);
        device.model.check_size(image.size()).unwrap_or_else(|why| panic!("device {}: {why}", device.number));
        Ok(OpenImage { image, remote })
    }

    /// A blob of the registry, or the file that was downloaded of it.
    fn open_part(
        &self,
        caches: &Caches,
        part: &Part,
        directory: &Path,
        endure_s: u64,
        remote: &mut Vec<Remote>,
    ) -> Result<Arc<dyn Blob>> {
        let commit = directory.join(COMMIT);
        if self.exists(&commit) {
            self.check_commit(&commit, part);
            return Ok(Arc::new(FileBlob::open(&self.disk, &commit)?));
        }
        let http = Arc::new(self.registry.clone());
        let stats = Arc::new(FetchStats::default());
        let source = Source::new(&part.digest, http, self.registry.locate(&part.digest), Arc::new(SimClock), stats);
        source.outage().endure(Duration::from_secs(endure_s));
        // Of some the length is known; the others' is asked for.
        let len = (sim::draw(4) > 0).then_some(part.bytes.len() as u64);
        let is_media = self.setting.caching == Caching::Layers && len.is_some();
        let Opened { blob, cached } = match sim::draw(8) {
            _ if is_media => {
                CachedBlob::open_in_layer(&caches.chunks, &directory.join(PARTIAL), &part.digest, source, len)?
            }
            0 => Opened { blob: Arc::new(RemoteBlob::open(source, len)?), cached: None },
            _ if self.setting.caching == Caching::Layers => {
                Opened { blob: Arc::new(RemoteBlob::open(source, len)?), cached: None }
            }
            _ => CachedBlob::open(&caches.chunks, &part.digest, source, len)?,
        };
        if blob.len() != part.bytes.len() as u64 {
            // Nobody can tell, if the first answer of all was wrong. It must not stay so.
            assert!(len.is_none(), "{} has a length of its own", part.digest);
            sim::note(|| format!("{} is taken to have {} bytes", part.digest, blob.len()));
            self.misled.store(true, Ordering::Relaxed);
        }
        let blob = Arc::new(SwitchBlob::new(blob));
        remote.push(Remote {
            part: part.clone(),
            directory: directory.to_owned(),
            blob: Arc::clone(&blob),
            cached,
            is_media,
        });
        Ok(if sim::draw(8) == 0 { Arc::new(SparingBlob::new(blob)) } else { blob })
    }

    fn unpack(
        &self,
        caches: &Caches,
        packed: Arc<dyn Blob>,
        part: &Part,
        index: &Arc<Vec<u8>>,
    ) -> Result<Arc<dyn Blob>> {
        let index = Arc::new(Index::open(Arc::new(MemoryBlob::new("index", index.to_vec())))?);
        let view: Arc<dyn Blob> = Arc::new(View::new(packed, Arc::clone(&index))?);
        match &caches.unpacked {
            None => Ok(view),
            Some(cache) => Ok(CachedBlob::over(cache, &index.key(&part.digest)?, view)?.blob),
        }
    }

    /// What bears the name of a finished download is one.
    pub fn check_commit(&self, path: &Path, part: &Part) {
        if let Some(bytes) = self.disk.peek(path) {
            assert!(bytes == *part.bytes, "{} is not what it is called", path.display());
        }
    }
}
