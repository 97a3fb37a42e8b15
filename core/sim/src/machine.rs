//! The machine: its disk, its registry, and the configurations of its images.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use overlaybd::error::{Error, Kind, Result};
use overlaybd::image::{finish_snapshot, Publish};
use overlaybd::lsmt::upper::{create, CreateOptions};
use overlaybd::lsmt::Uuid;
use overlaybd::sync::sim;

use crate::disk::SimDisk;
use crate::library::{self, SECTORS};
use crate::model::Model;
use crate::net::SimRegistry;
use crate::setting::Setting;

/// Where the chunk cache is, and that of what was unpacked.
pub const CACHE: &str = "/cache";
pub const UNPACKED: &str = "/unpacked";
const UPPER: &str = "/upper";

/// What stays when a process ends.
#[derive(Clone)]
pub struct Machine {
    pub disk: SimDisk,
    pub registry: SimRegistry,
    pub setting: Arc<Setting>,
    pub devices: Arc<Vec<Device>>,
    /// Whether requests may fail just now.
    pub storm: Arc<AtomicBool>,
    /// Whether a blob was taken for longer than it is.
    pub misled: Arc<AtomicBool>,
}

/// One image. Clones are the same one.
#[derive(Clone)]
pub struct Device {
    pub number: usize,
    config: Arc<Mutex<Config>>,
    pub model: Model,
}

/// What the configuration file of an image says. Its replacement is durable at once.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Layers of the library.
    pub remote: Vec<usize>,
    /// Layers that were made here, on top of those.
    pub local: Vec<PathBuf>,
    pub upper: (PathBuf, PathBuf),
    /// The upper of a snapshot that was announced.
    pub next: Option<(PathBuf, PathBuf)>,
    pub made: u64,
}

impl Device {
    pub fn new(number: usize, remote: &[usize]) -> Device {
        let base = remote.iter().flat_map(|layer| library::layer(*layer).base.clone()).collect();
        let config = Config { remote: remote.to_vec(), ..Config::default() };
        Device { number, config: Arc::new(Mutex::new(config)), model: Model::new(SECTORS, base) }
    }

    pub fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the configuration, if the process is not one that was killed.
    pub fn change_config(&self, change: impl FnOnce(&mut Config)) {
        if !sim::is_dead() {
            change(&mut self.config.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// A name for another file of an upper, which nothing has yet.
    pub fn new_name(&self, what: &str) -> PathBuf {
        self.change_config(|config| config.made += 1);
        format!("{UPPER}/{}.{}.{what}", self.number, self.config().made).into()
    }

    /// Names for another upper.
    pub fn upper_names(&self) -> (PathBuf, PathBuf) {
        let data = self.new_name("data");
        let index = data.with_extension("index");
        (data, index)
    }
}

impl Machine {
    pub fn new(setting: Setting) -> Machine {
        let numbered = setting.devices.iter().enumerate();
        Machine {
            disk: SimDisk::new(),
            registry: SimRegistry::new(setting.habits),
            devices: Arc::new(numbered.map(|(number, remote)| Device::new(number, remote)).collect()),
            setting: Arc::new(setting),
            storm: Arc::new(AtomicBool::new(false)),
            misled: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Makes an upper of that size, 0 for the size of the lowers.
    pub fn make_upper(&self, device: &Device, size: u64) -> Result<(PathBuf, PathBuf)> {
        let (data, index) = device.upper_names();
        let options =
            CreateOptions { size, sparse: self.setting.sparse, uuid: Some(Uuid::NULL), ..CreateOptions::default() };
        create(&self.disk, &data, &index, &options)?;
        Ok((data, index))
    }

    /// An error is allowed while something may go wrong.
    pub fn may_fail(&self, what: &str, error: &Error) {
        sim::note(|| format!("{what}: {error}"));
        assert!(self.storm.load(Ordering::Relaxed) || sim::is_dead(), "{what} fails in calm weather: {error}");
    }

    /// Finishes the snapshot that a process left which died.
    pub fn finish_snapshot(&self, device: &Device) -> Result<()> {
        let Config { upper: old, next: Some(new), .. } = device.config() else { return Ok(()) };
        let mut configuration = Configuration { device: device.clone(), upper: new.clone() };
        let taken = finish_snapshot(&self.disk, (&old.0, &old.1), (&new.0, &new.1), &mut configuration);
        sim::note(|| format!("finish a snapshot: {taken:?}"));
        if !taken.inspect_err(|_| device.model.flush_failed())? {
            device.change_config(|config| config.next = None);
        }
        Ok(())
    }

    /// Whether a file is there; of an answer that the disk does not give, no.
    pub fn exists(&self, path: &Path) -> bool {
        use overlaybd::sys::{Disk, Mode};
        self.disk.open(path, Mode::Read).is_ok()
    }
}

/// Whether an error says that a file is not there.
pub fn is_missing(error: &Error) -> bool {
    error.kind() == Kind::NotFound
}

/// What the configuration file becomes.
pub struct Configuration {
    pub device: Device,
    pub upper: (PathBuf, PathBuf),
}

impl Publish for Configuration {
    fn announce(&mut self) -> Result<()> {
        sim::note(|| format!("announce {}", self.upper.0.display()));
        self.device.change_config(|config| config.next = Some(self.upper.clone()));
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        sim::note(|| format!("publish {}", self.upper.0.display()));
        self.device.change_config(|config| {
            let (old, _) = std::mem::replace(&mut config.upper, self.upper.clone());
            config.local.push(old);
            config.next = None;
        });
        Ok(())
    }
}
