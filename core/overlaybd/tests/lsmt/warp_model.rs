//! Stacks of random layers, some of turboOCI with targets of their own, against a flat array of bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::device::{BlockDevice, ExtentKind};
use overlaybd::image::{open_stored, Image, Stored, UpperFiles};
use overlaybd::lsmt::commit::{commit, merge, CommitOptions};
use overlaybd::lsmt::upper::{create, open_as_layer, open_as_meta, CreateOptions};
use overlaybd::lsmt::warp;
use overlaybd::lsmt::{Layer, Stack, Upper};
use overlaybd::progress::silent;
use overlaybd::sink::{MemorySink, Sink};
use overlaybd::sys::Disk;
use overlaybd::tar::TarSink;
use overlaybd::zfile::{Builder, Options};
use proptest::prelude::*;

use crate::crash::Expected;
use crate::disk::{MemDisk, Random};
use crate::support::{flatten_upper, nothing_below, pair, SECTOR};
use crate::warp::committed;

const SECTORS: u64 = 192;
/// Bytes of a target: it ends in the middle of a sector.
const TARGET: usize = 64 * SECTOR - 100;

#[derive(Clone, Debug)]
enum Step {
    /// Sector, count, byte.
    Write(u64, u64, u8),
    Discard(u64, u64),
    /// Sector, count, sector of the target; in a plain upper this is passed over.
    Map(u64, u64, u64),
    Reopen,
    /// The upper becomes a lower, stored in this way; the next one is of turboOCI or not, with a size or without.
    Commit(Wrap, bool, bool),
    /// All lowers become one, which needs no target.
    Flatten,
}

/// How a layer is stored.
#[derive(Clone, Copy, Debug)]
enum Wrap {
    Raw,
    ZFile,
    TarOfZFile,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SECTORS, prop_oneof![Just(1), Just(8), 1..40u64]).prop_map(|(at, n)| (at, n.min(SECTORS - at)));
    let wrap = prop_oneof![Just(Wrap::Raw), Just(Wrap::ZFile), Just(Wrap::TarOfZFile)];
    prop_oneof![
        8 => (range(), any::<u8>()).prop_map(|((at, n), byte)| Step::Write(at, n, byte)),
        4 => range().prop_map(|(at, n)| Step::Discard(at, n)),
        8 => (range(), 0..64u64).prop_map(|((at, n), from)| Step::Map(at, n.min(64 - from), from)),
        2 => Just(Step::Reopen),
        3 => (wrap, prop::bool::weighted(0.7), any::<bool>()).prop_map(|(wrap, turbo, sized)| {
            Step::Commit(wrap, turbo, sized)
        }),
        1 => Just(Step::Flatten),
    ]
}

/// A committed layer as it is stored, and its target.
type Lower = (Arc<Vec<u8>>, Option<Arc<Vec<u8>>>);

struct World {
    disk: MemDisk,
    lowers: Vec<Lower>,
    /// That of the upper, if it is of turboOCI.
    target: Option<Arc<Vec<u8>>>,
    image: Option<Image>,
    model: Vec<u8>,
    made: u8,
}

fn files() -> (PathBuf, PathBuf) {
    pair(Path::new("/"), "top")
}

fn blob(name: &str, bytes: &Arc<Vec<u8>>) -> Arc<dyn Blob> {
    Arc::new(MemoryBlob::new(name, bytes.to_vec()))
}

fn opened((layer, target): &Lower) -> Layer {
    let layer = overlaybd::layer::unwrap(blob("lower", layer)).unwrap();
    match target {
        Some(target) => warp::open(layer, blob("target", target), |joined| joined).unwrap(),
        None => Layer::open(layer).unwrap(),
    }
}

fn wrapped(wrap: Wrap, layer: &[u8]) -> Vec<u8> {
    /// Keeps what a sink of another kind writes at its end.
    struct Shared(Arc<parking_lot::Mutex<MemorySink>>);
    impl Sink for Shared {
        fn write(&mut self, bytes: &[u8]) -> overlaybd::Result<()> {
            self.0.lock().write(bytes)
        }
        fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> overlaybd::Result<bool> {
            self.0.lock().rewrite(offset, bytes)
        }
        fn position(&self) -> u64 {
            self.0.lock().position()
        }
        fn finish(&mut self) -> overlaybd::Result<()> {
            Ok(())
        }
    }
    let memory = Arc::new(parking_lot::Mutex::new(MemorySink::default()));
    let file = Box::new(Shared(memory.clone()));
    let mut sink: Box<dyn Sink> = match wrap {
        Wrap::Raw => file,
        Wrap::ZFile => Box::new(Builder::new(file, Options::default()).unwrap()),
        Wrap::TarOfZFile => {
            Box::new(Builder::new(Box::new(TarSink::new(file).unwrap()) as Box<dyn Sink>, Options::default()).unwrap())
        }
    };
    sink.write(layer).unwrap();
    sink.finish().unwrap();
    let bytes = std::mem::take(&mut memory.lock().bytes);
    bytes
}

impl World {
    fn new() -> World {
        let model = vec![0; SECTORS as usize * SECTOR];
        let mut world = World { disk: MemDisk::default(), lowers: vec![], target: None, image: None, model, made: 0 };
        world.new_upper(true, true);
        world
    }

    fn new_upper(&mut self, warp: bool, sized: bool) {
        self.image = None;
        for path in [files().0, files().1] {
            let _ = self.disk.remove(&path);
        }
        let size = if sized || self.lowers.is_empty() { SECTORS * 512 } else { 0 };
        create(&self.disk, &files().0, &files().1, &CreateOptions { size, warp, ..CreateOptions::default() }).unwrap();
        self.made = self.made.wrapping_add(1);
        let byte = |at: usize| (at / SECTOR) as u8 ^ self.made.wrapping_mul(73);
        self.target = warp.then(|| Arc::new((0..TARGET).map(byte).collect()));
        self.reopen();
    }

    fn reopen(&mut self) {
        self.image = None;
        let lowers = self.lowers.iter().map(|(layer, target)| Stored {
            blob: blob("lower", layer),
            target: target.as_ref().map(|target| blob("target", target)),
        });
        let (data, index) = files();
        let target = self.target.as_ref().map(|target| blob("upper's target", target));
        let upper = UpperFiles { data: &data, index: &index, target };
        self.image = Some(open_stored(&self.disk, lowers.collect(), Some(upper)).unwrap());
    }

    fn commit(&mut self, wrap: Wrap) {
        self.image = None;
        let layer = if self.target.is_some() {
            let (meta, cut) = open_as_meta(&self.disk, &files().0, &files().1).unwrap();
            assert_eq!(cut, 0);
            committed(&meta)
        } else {
            let layer = open_as_layer(&self.disk, &files().0, &files().1).unwrap().0;
            let mut sink = MemorySink::default();
            commit(&layer, &CommitOptions::default(), &mut sink, &mut silent).unwrap();
            sink.bytes
        };
        self.lowers.push((Arc::new(wrapped(wrap, &layer)), self.target.take()));
    }

    fn step(&mut self, step: &Step) {
        let image = self.image.as_ref().unwrap();
        let range = |at: u64, n: u64| at as usize * SECTOR..(at + n) as usize * SECTOR;
        match *step {
            Step::Write(at, n, byte) => {
                image.write_at(&vec![byte; n as usize * SECTOR], at * 512).unwrap();
                self.model[range(at, n)].fill(byte);
            }
            Step::Discard(at, n) => {
                image.discard(at * 512, n * 512).unwrap();
                self.model[range(at, n)].fill(0);
            }
            Step::Map(at, n, from) => {
                let Some(target) = &self.target else { return };
                // Readers could not tell a layer without any metadata of its own.
                if image.upper().unwrap().segments().is_empty() {
                    image.write_at(&[0xEE; SECTOR], 0).unwrap();
                    self.model[..SECTOR].fill(0xEE);
                }
                image.map_remote(at * 512, n * 512, from * 512).unwrap();
                let mut content = target[from as usize * SECTOR..TARGET.min((from + n) as usize * SECTOR)].to_vec();
                content.resize(n as usize * SECTOR, 0);
                self.model[range(at, n)].copy_from_slice(&content);
            }
            Step::Reopen => self.reopen(),
            Step::Commit(wrap, turbo, sized) => {
                let all_remote = image.upper().unwrap().segments().iter().all(|s| s.tag == warp::REMOTE);
                if self.target.is_some() && all_remote {
                    return;
                }
                self.commit(wrap);
                self.new_upper(turbo, sized);
            }
            Step::Flatten if self.lowers.is_empty() => {}
            Step::Flatten => {
                let mut sink = MemorySink::default();
                let layers = self.lowers.iter().map(opened).collect();
                merge(layers, &CommitOptions::default(), &mut sink, &mut silent).unwrap();
                self.lowers = vec![(Arc::new(sink.bytes), None)];
                self.reopen();
            }
        }
    }

    fn check(&self) {
        let image = self.image.as_ref().unwrap();
        assert_eq!(image.size(), SECTORS * 512);
        let mut device = vec![0xDD; self.model.len()];
        for (number, piece) in device.chunks_mut(41 * SECTOR).enumerate() {
            image.read_at(piece, (number * 41 * SECTOR) as u64).unwrap();
        }
        let differs = device.iter().zip(&self.model).position(|(a, b)| a != b).map(|at| at / SECTOR);
        assert_eq!(differs, None, "first sector that differs");
        let mut at = 0;
        for extent in image.extents(0, image.size(), usize::MAX).unwrap() {
            let range = at..at + extent.len as usize;
            assert!(extent.kind == ExtentKind::Data || self.model[range.clone()].iter().all(|b| *b == 0), "{range:?}");
            at = range.end;
        }
        assert_eq!(at, self.model.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_stack_with_turbo_oci_layers_reads_as_a_flat_device(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.check();
        world.reopen();
        world.check();
        if !world.lowers.is_empty() {
            let stack = Stack::new(world.lowers.iter().map(opened).collect()).unwrap();
            assert_eq!(stack.blobs().len(), world.lowers.len());
        }
    }
}

/// Runs, loses power, opens again: what was flushed holds.
#[test]
fn what_was_flushed_survives_power_failures() {
    for seed in 1..60 {
        let (mut random, disk) = (Random(seed * 0x9e37_79b9), MemDisk::default());
        let options = CreateOptions { size: SECTORS * 512, warp: true, ..CreateOptions::default() };
        create(&disk, &files().0, &files().1, &options).unwrap();
        let target = Arc::new((0..64 * SECTOR).map(|at| 200 + (at / SECTOR) as u8 % 50).collect::<Vec<u8>>());
        let open = || Upper::open_warp(&disk, &files().0, &files().1, Some(blob("target", &target)), 0).unwrap();
        let mut expected = Expected((0..SECTORS).map(|_| vec![0]).collect());
        // Zeros, and whatever stood in a sector once, may be there instead of what was not flushed.
        let mut once: Vec<Vec<u8>> = vec![vec![0]; SECTORS as usize];
        for life in 0..8 {
            let upper = open();
            let device = flatten_upper(&upper, None);
            for (values, once) in expected.0.iter_mut().zip(&once).filter(|(values, _)| values.len() > 1) {
                values.extend(once);
            }
            expected.check(&device, &format!("seed {seed}, life {life}"));
            expected = Expected(device.chunks(SECTOR).map(|s| vec![s[0]]).collect());
            upper.flush().unwrap();
            for round in 0..random.below(30) {
                let (count, value) = (1 + random.below(20), 1 + (life * 30 + round) as u8 % 199);
                let (at, from) = (random.below(SECTORS - count), random.below(64 - count));
                match random.below(8) {
                    0 => {
                        upper.flush().unwrap();
                        expected.settle();
                    }
                    1 | 2 => {
                        upper.discard(at * 512, count * 512).unwrap();
                        expected.set(at, count, 0);
                    }
                    3 | 4 => {
                        upper.map_remote(at * 512, count * 512, from * 512).unwrap();
                        (0..count).for_each(|n| expected.set(at + n, 1, target[(from + n) as usize * SECTOR]));
                    }
                    _ => {
                        let bytes = vec![value; count as usize * SECTOR];
                        upper.write_at(&bytes, at * 512, nothing_below).unwrap();
                        expected.set(at, count, value);
                        once[at as usize..(at + count) as usize].iter_mut().for_each(|values| values.push(value));
                    }
                }
            }
            let device = flatten_upper(&upper, None);
            for (sector, values) in device.chunks(SECTOR).zip(&expected.0) {
                assert_eq!(Some(&sector[0]), values.last(), "what was acknowledged is read at once");
            }
            drop(upper);
            disk.crash(&mut random);
        }
    }
}
