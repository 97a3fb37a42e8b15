//! One run: a machine with a registry, a cache and a writable device, used by several threads while all goes wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlaybd::device::BlockDevice;
use overlaybd::error::Result;
use overlaybd::image;
use overlaybd::lsmt::commit::{commit, CommitOptions};
use overlaybd::lsmt::upper::{create, open_as_layer, CreateOptions};
use overlaybd::lsmt::Uuid;
use overlaybd::progress;
use overlaybd::sink::{MemorySink, Sink};
use overlaybd::sync::sim;
use overlaybd::zfile::{Builder, Options as ZFileOptions};

use crate::disk::{Faults, SimDisk};
use crate::machine::{Config, Machine, CACHE};
use crate::model::{bytes_of, Content, Model, SECTOR};
use crate::net::{SimRegistry, Weather};

/// Sectors of the device.
pub const SECTORS: u64 = 4096;

/// Runs the story of a seed; it panics where a promise is broken.
pub fn story() {
    let disk = SimDisk::new();
    let registry = SimRegistry::default();
    let mut base = BTreeMap::new();
    let remote = (0..1 + sim::draw(3)).map(|n| make_layer(&disk, &registry, n, &mut base)).collect();
    let config = Config {
        remote,
        local: vec![],
        upper: (PathBuf::new(), PathBuf::new()),
        next: None,
        made: 0,
        sparse: sim::draw(2) == 0,
        pool: sim::draw(4) == 0,
        behind: [0, 64 << 10, 64 << 20][sim::draw(3) as usize],
        cache_bytes: [64 << 10, 512 << 10, 64 << 20][sim::draw(3) as usize],
    };
    sim::note(|| format!("{config:?}"));
    let machine = Machine {
        disk,
        registry,
        config: Arc::new(Mutex::new(config)),
        model: Model::new(base),
        storm: Arc::new(AtomicBool::new(false)),
    };
    machine.new_upper().expect("on a disk where nothing goes wrong");
    for _ in 0..1 + sim::draw(4) {
        machine.live_and_die();
    }
    machine.calm();
    let last = machine.clone();
    let process = sim::spawn_process("last", move || last.read_all().expect("all is well again"));
    sim::wait_for_process(process);
}

/// Writes a layer of its own, commits it as zfile and puts it into the registry; its name.
fn make_layer(disk: &SimDisk, registry: &SimRegistry, number: u64, base: &mut BTreeMap<u64, Content>) -> String {
    let [data, index] = ["data", "index"].map(|what| PathBuf::from(format!("/build/{number}.{what}")));
    let options = CreateOptions { size: SECTORS * SECTOR as u64, uuid: Some(Uuid::NULL), ..CreateOptions::default() };
    create(disk, &data, &index, &options).expect("a new layer");
    let image = image::open(disk, vec![], Some((&data, &index))).expect("a layer to write to");
    for write in 0..8 + sim::draw(24) {
        let first = sim::draw(SECTORS - 64);
        let content = 1 + number * 100 + write;
        let sectors = first..first + 1 + sim::draw(64);
        let bytes: Vec<u8> = sectors.clone().flat_map(|sector| bytes_of(content, sector)).collect();
        image.write_at(&bytes, first * SECTOR as u64).expect("a write");
        base.extend(sectors.map(|sector| (sector, content)));
    }
    image.flush().expect("a flush");
    drop(image);
    let (layer, _) = open_as_layer(disk, &data, &index).expect("the layer");
    let options = ZFileOptions { threads: 1, ..ZFileOptions::default() };
    let mut sink = Builder::new(MemorySink::default(), options).expect("a zfile");
    commit(&layer, &CommitOptions::default(), &mut sink, &mut progress::silent).expect("a commit");
    sink.finish().expect("a zfile");
    let name = format!("sha256:{number:064x}");
    registry.add(&name, sink.into_sink().bytes);
    name
}

impl Machine {
    /// A time in which the device is used, things go wrong, and which ends in some way.
    fn live_and_die(&self) {
        self.storm();
        let living = self.clone();
        let process = sim::spawn_process("daemon", move || living.serve());
        let mut left = Duration::from_millis(sim::draw(60_000));
        while !left.is_zero() {
            let part = left.min(Duration::from_millis(1 + sim::draw(20_000)));
            sim::sleep(part);
            left -= part;
            match sim::draw(8) {
                0 => self.registry.expire(),
                1 => self.storm(),
                2 => {
                    self.disk.rot(Path::new(CACHE));
                }
                3 => {
                    sim::note(|| "the registry is away".into());
                    self.registry.set_weather(Weather { away: true, ..Weather::default() });
                    sim::sleep(Duration::from_millis(sim::draw(20_000)));
                    self.storm();
                }
                _ => {}
            }
        }
        let end = sim::draw(4);
        if end > 0 {
            sim::note(|| "kill".into());
            sim::kill(process);
        }
        sim::wait_for_process(process);
        self.disk.close_all();
        if end == 3 {
            sim::note(|| "the power is lost".into());
            self.disk.lose_power();
            self.model.lose_power();
            self.settle();
        }
        if sim::draw(4) == 0 {
            sim::note(|| "the cache is damaged".into());
            self.disk.damage(Path::new(CACHE));
        }
    }

    /// Weather and faults as they come.
    fn storm(&self) {
        let rate = |most: u64| if sim::draw(2) == 0 { 0 } else { sim::draw(most) };
        let weather = Weather { bad: rate(500), away: false, latency: Duration::from_millis(sim::draw(100)) };
        let faults = Faults {
            reads: rate(20),
            writes: rate(20),
            short: rate(100),
            flushes: rate(50),
            latency: Duration::from_micros(sim::draw(20_000)),
            capacity: if sim::draw(4) == 0 { 1 << (21 + sim::draw(4)) } else { u64::MAX },
        };
        sim::note(|| format!("{weather:?} {faults:?}"));
        self.storm.store(true, Ordering::Relaxed);
        self.registry.set_weather(weather);
        self.disk.set_faults(faults);
    }

    fn calm(&self) {
        sim::note(|| "calm".into());
        self.storm.store(false, Ordering::Relaxed);
        self.registry.set_weather(Weather::default());
        self.disk.set_faults(Faults { capacity: u64::MAX, ..Faults::default() });
    }

    /// What a loss of power left is what counts from now on.
    fn settle(&self) {
        self.calm();
        let machine = self.clone();
        let process = sim::spawn_process("settle", move || {
            let image = machine.open(0).expect("what is on the disk opens");
            let mut bytes = vec![0; SECTORS as usize * SECTOR];
            image.read_at(&mut bytes, 0).expect("all can be read");
            let begun = machine.model.moment();
            machine.model.check(0, &bytes, begun).unwrap_or_else(|why| panic!("after a loss of power: {why}"));
            machine.model.settle(0, &bytes);
        });
        sim::wait_for_process(process);
    }

    /// Reads the whole device, and checks all of it.
    fn read_all(&self) -> Result<()> {
        let image = self.open(0)?;
        let mut bytes = vec![0; 64 * SECTOR];
        for first in (0..SECTORS).step_by(64) {
            let begun = self.model.moment();
            image.read_at(&mut bytes, first * SECTOR as u64)?;
            self.model.check(first, &bytes, begun).unwrap_or_else(|why| panic!("at the end: {why}"));
        }
        image.flush()
    }
}
