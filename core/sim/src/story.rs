//! One run: a machine with a registry, caches and writable devices, used by several threads while all goes wrong.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use overlaybd::device::BlockDevice;
use overlaybd::error::Result;
use overlaybd::sync::sim;

use crate::disk::Faults;
use crate::library;
use crate::machine::{Device, Machine, CACHE, UNPACKED};
use crate::model::SECTOR;
use crate::net::Weather;
use crate::setting::{Caching, Setting};

/// Runs the story of a seed; it panics where a promise is broken.
pub fn story() {
    let setting = Setting::draw();
    sim::note(|| format!("{setting:?}"));
    let machine = Machine::new(setting);
    for device in machine.devices.iter() {
        let upper = machine.make_upper(device, 0).expect("on a disk where nothing goes wrong");
        device.change_config(|config| config.upper = upper);
    }
    for _ in 0..1 + sim::draw(3) {
        machine.live_and_die();
    }
    machine.calm();
    machine.in_process("last", |machine| machine.devices.iter().for_each(|device| machine.read_all(device, false)));
}

impl Machine {
    /// A time in which the devices are used, things go wrong, and which ends in some way.
    fn live_and_die(&self) {
        self.storm();
        let numbers: Vec<usize> = (0..self.devices.len()).collect();
        let groups = if self.setting.apart { numbers.chunks(1) } else { numbers.chunks(numbers.len()) };
        let processes: Vec<_> = groups
            .map(|devices| {
                let (living, devices) = (self.clone(), devices.to_vec());
                sim::spawn_process("daemon", move || living.serve(&devices))
            })
            .collect();
        let mut left = Duration::from_millis(sim::draw(60_000));
        while !left.is_zero() {
            let part = left.min(Duration::from_millis(1 + sim::draw(20_000)));
            sim::sleep(part);
            left -= part;
            match sim::draw(8) {
                0 => self.registry.expire(),
                1 => self.storm(),
                2 => {
                    self.disk.rot(|path| self.may_rot(path));
                }
                3 => {
                    sim::note(|| "the registry is away".into());
                    let away = Some(sim::draw(4) == 0);
                    self.registry.set_weather(Weather { away, ..Weather::default() });
                    sim::sleep(Duration::from_millis(sim::draw(20_000)));
                    self.storm();
                }
                _ => {}
            }
        }
        let end = sim::draw(4);
        for process in &processes {
            if end == 3 || end > 0 && sim::draw(3) > 0 {
                sim::note(|| "kill".into());
                sim::kill(*process);
                // Those that live on may do something with what it leaves.
                if sim::draw(2) == 0 {
                    self.disk.close_all(*process);
                }
            }
        }
        for process in processes {
            sim::wait_for_process(process);
            self.disk.close_all(process);
        }
        if end == 3 {
            sim::note(|| "the power is lost".into());
            self.disk.lose_power();
            self.devices.iter().for_each(|device| device.model.lose_power());
            self.calm();
            self.in_process("settle", |machine| {
                machine.devices.iter().for_each(|device| machine.read_all(device, true));
            });
        }
        if sim::draw(4) == 0 {
            sim::note(|| "the caches are damaged".into());
            let cached = |path: &Path| {
                let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".download"));
                path.starts_with(CACHE) || path.starts_with(UNPACKED) || hidden
            };
            self.disk.damage(cached);
            self.disk.rot(cached);
        }
        if sim::draw(4) == 0 {
            self.storm();
            self.commit_offline(sim::draw(self.devices.len() as u64) as usize);
        }
    }

    /// Whether bits of a file may flip while it is in use: what has been checked once is not checked again, but for
    /// what has checksums of its own.
    fn may_rot(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let digest = name.strip_suffix(".map").unwrap_or(&name);
        match self.setting.caching {
            Caching::Pool => self.setting.is_checked() && path.starts_with(CACHE),
            _ => path.starts_with(CACHE) && library::part(digest).is_some_and(|part| part.checked),
        }
    }

    /// Weather and faults as they come.
    fn storm(&self) {
        let rate = |most: u64| if sim::draw(2) == 0 { 0 } else { sim::draw(most) };
        let weather = Weather { bad: rate(500), away: None, latency: Duration::from_millis(sim::draw(100)) };
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

    /// Does something in a process of its own, to its end.
    fn in_process(&self, name: &str, body: impl FnOnce(&Machine) + Send + 'static) {
        let machine = self.clone();
        let process = sim::spawn_process(name, move || body(&machine));
        sim::wait_for_process(process);
        self.disk.close_all(process);
    }

    /// Reads a whole device, and checks all of it. After a loss of power what it left is what counts from now on.
    fn read_all(&self, device: &Device, settle: bool) {
        self.misled.store(false, Ordering::Relaxed);
        let done = match self.try_read_all(device, settle) {
            // What an earlier answer had of the length of a blob was found wrong by this, and is not believed again.
            Err(e) if self.misled.swap(false, Ordering::Relaxed) => {
                sim::note(|| format!("misled: {e}"));
                self.try_read_all(device, settle)
            }
            done => done,
        };
        done.unwrap_or_else(|e| panic!("device {} in calm weather: {e}", device.number));
    }

    fn try_read_all(&self, device: &Device, settle: bool) -> Result<()> {
        let caches = self.open_caches()?;
        let image = self.open(&caches, device, 0)?.image;
        let sectors = image.size() / SECTOR as u64;
        for first in (0..sectors).step_by(128) {
            let mut bytes = vec![0; 128.min(sectors - first) as usize * SECTOR];
            let begun = device.model.moment();
            image.read_at(&mut bytes, first * SECTOR as u64)?;
            let checked = device.model.check(first, &bytes, begun);
            checked.unwrap_or_else(|why| panic!("device {} in the end: {why}", device.number));
            if settle {
                device.model.settle(first, &bytes);
            }
        }
        image.flush()
    }
}
