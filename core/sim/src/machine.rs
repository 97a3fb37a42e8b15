//! The machine: its disk, its registry, and the configuration of the one image that it has.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::cache::{CachedBlob, ChunkCache, Options};
use overlaybd::error::Result;
use overlaybd::fetch::{FetchStats, RemoteBlob, Source};
use overlaybd::image::{self, finish_snapshot, Image, Publish};
use overlaybd::lsmt::upper::{create, CreateOptions};
use overlaybd::lsmt::Uuid;
use overlaybd::sync::sim;

use crate::disk::SimDisk;
use crate::model::Model;
use crate::net::{SimClock, SimRegistry};

/// Where the chunk cache is.
pub const CACHE: &str = "/cache";
const UPPER: &str = "/upper";

/// What stays when a process ends.
#[derive(Clone)]
pub struct Machine {
    pub disk: SimDisk,
    pub registry: SimRegistry,
    pub config: Arc<Mutex<Config>>,
    pub model: Model,
    /// Whether reads may fail just now.
    pub storm: Arc<AtomicBool>,
}

/// What the configuration file of the image says. Its replacement is durable at once.
#[derive(Clone, Debug)]
pub struct Config {
    pub remote: Vec<String>,
    pub local: Vec<PathBuf>,
    pub upper: (PathBuf, PathBuf),
    /// The upper of a snapshot that was announced.
    pub next: Option<(PathBuf, PathBuf)>,
    pub made: u64,
    pub sparse: bool,
    pub pool: bool,
    pub behind: usize,
    pub cache_bytes: u64,
}

impl Machine {
    pub fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn change_config(&self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Names for another upper.
    pub fn upper_names(&self) -> (PathBuf, PathBuf) {
        self.change_config(|config| config.made += 1);
        let number = self.config().made;
        (format!("{UPPER}/{number}.data").into(), format!("{UPPER}/{number}.index").into())
    }

    pub fn new_upper(&self) -> Result<()> {
        let (data, index) = self.upper_names();
        let options =
            CreateOptions { sparse: self.config().sparse, uuid: Some(Uuid::NULL), ..CreateOptions::default() };
        create(&self.disk, &data, &index, &options)?;
        self.change_config(|config| config.upper = (data, index));
        Ok(())
    }

    /// Opens the device; remote layers endure so many seconds without their registry.
    pub fn open(&self, endure_s: u64) -> Result<Image> {
        self.finish_snapshot()?;
        let config = self.config();
        let options = Options {
            chunk_bytes: 4096,
            pool_line_bytes: config.pool.then_some(4096),
            min_free_bytes: 0,
            write_behind_bytes: config.behind,
            notice: Arc::new(|line| sim::note(|| format!("notice: {line}"))),
            ..Options::new(CACHE, config.cache_bytes)
        };
        let cache = ChunkCache::open(options, Arc::new(self.disk.clone()), Arc::new(SimClock))?;
        let mut lowers: Vec<Arc<dyn Blob>> = Vec::new();
        for name in &config.remote {
            let http = Arc::new(self.registry.clone());
            let stats = Arc::new(FetchStats::default());
            let source = Source::new(name, http, self.registry.locate(name), Arc::new(SimClock), stats);
            source.outage().endure(Duration::from_secs(endure_s));
            let len = self.registry.blob(name).len() as u64;
            lowers.push(match sim::draw(8) {
                0 => Arc::new(RemoteBlob::open(source, Some(len))?),
                _ => CachedBlob::open(&cache, name, source, Some(len))?.blob,
            });
        }
        for path in &config.local {
            lowers.push(Arc::new(FileBlob::open(&self.disk, path)?));
        }
        image::open(&self.disk, lowers, Some((&config.upper.0, &config.upper.1)))
    }

    /// Finishes the snapshot that a process left which died.
    pub fn finish_snapshot(&self) -> Result<()> {
        let Config { upper: old, next: Some(new), .. } = self.config() else { return Ok(()) };
        let mut configuration = Configuration { machine: self.clone(), upper: new.clone() };
        let taken = finish_snapshot(&self.disk, (&old.0, &old.1), (&new.0, &new.1), &mut configuration);
        sim::note(|| format!("finish a snapshot: {taken:?}"));
        if !taken.inspect_err(|_| self.model.flush_failed())? && !sim::is_dead() {
            self.change_config(|config| config.next = None);
        }
        Ok(())
    }
}

/// What the configuration file becomes.
pub struct Configuration {
    pub machine: Machine,
    pub upper: (PathBuf, PathBuf),
}

impl Publish for Configuration {
    fn announce(&mut self) -> Result<()> {
        if !sim::is_dead() {
            sim::note(|| format!("announce {}", self.upper.0.display()));
            self.machine.change_config(|config| config.next = Some(self.upper.clone()));
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        if !sim::is_dead() {
            sim::note(|| format!("publish {}", self.upper.0.display()));
            self.machine.change_config(|config| {
                let (old, _) = std::mem::replace(&mut config.upper, self.upper.clone());
                config.local.push(old);
                config.next = None;
            });
        }
        Ok(())
    }
}
