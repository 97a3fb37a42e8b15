//! Stacks of random layers against a flat array of bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::disk::{Holes, Raw};
use overlaybd::lsmt::commit::{commit, merge, CommitOptions};
use overlaybd::lsmt::import::import;
use overlaybd::lsmt::upper::{create, open_as_layer, CreateOptions};
use overlaybd::lsmt::{Layer, Stack, Upper};
use overlaybd::progress::silent;
use overlaybd::sink::MemorySink;
use overlaybd::sys::{Disk, Mode};
use proptest::prelude::*;

use crate::disk::{MemDisk, Random};
use crate::support::*;

const SECTORS: u64 = 256;

/// How a writable layer becomes a read-only one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Finish {
    Commit,
    Seal,
    SealThenCommit,
}

#[derive(Clone, Debug)]
enum Step {
    /// Sector, count, byte.
    Write(u64, u64, u8),
    Discard(u64, u64),
    Flush,
    Reopen,
    /// The upper becomes a lower; a new one, sparse or not, comes on top.
    Finish(Finish, bool),
    /// So many of the topmost lowers become one.
    Merge(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SECTORS, prop_oneof![Just(1), Just(8), 1..40u64]).prop_map(|(at, n)| (at, n.min(SECTORS - at)));
    let finish = prop_oneof![Just(Finish::Commit), Just(Finish::Seal), Just(Finish::SealThenCommit)];
    prop_oneof![
        12 => (range(), any::<u8>()).prop_map(|((at, n), byte)| Step::Write(at, n, byte)),
        5 => range().prop_map(|(at, n)| Step::Discard(at, n)),
        1 => Just(Step::Flush),
        2 => Just(Step::Reopen),
        4 => (finish, any::<bool>()).prop_map(|(how, sparse)| Step::Finish(how, sparse)),
        1 => (1..6usize).prop_map(Step::Merge),
    ]
}

/// The stack under test: lowers as bytes, and the pair on top.
struct World {
    disk: MemDisk,
    lowers: Vec<Arc<Vec<u8>>>,
    upper: Option<Upper>,
    model: Vec<u8>,
}

fn files() -> (PathBuf, PathBuf) {
    pair(Path::new("/"), "top")
}

fn layer(bytes: &Arc<Vec<u8>>) -> Layer {
    Layer::open(Arc::new(MemoryBlob::new("lower", bytes.to_vec()))).unwrap()
}

impl World {
    fn new() -> World {
        let mut world = World {
            disk: MemDisk::default(),
            lowers: Vec::new(),
            upper: None,
            model: vec![0; SECTORS as usize * SECTOR],
        };
        world.new_upper(false);
        world
    }

    fn new_upper(&mut self, sparse: bool) {
        self.upper = None;
        for path in [files().0, files().1] {
            let _ = self.disk.remove(&path);
        }
        // The first layer must say how large the device is; the others inherit it.
        let size = if self.lowers.is_empty() { SECTORS * 512 } else { 0 };
        let options = CreateOptions { size, sparse, ..CreateOptions::default() };
        create(&self.disk, &files().0, &files().1, &options).unwrap();
        self.reopen();
    }

    fn reopen(&mut self) {
        self.upper = None;
        let upper = Upper::open(&self.disk, &files().0, &files().1).unwrap();
        upper.inherit_size(SECTORS * 512).unwrap();
        self.upper = Some(upper);
    }

    fn below(&self) -> Option<Stack> {
        (!self.lowers.is_empty()).then(|| Stack::new(self.lowers.iter().map(layer).collect()).unwrap())
    }

    fn finish(&mut self, how: Finish, sparse: bool) {
        let sealed = |world: &mut World| {
            world.upper.as_ref().unwrap().seal().unwrap();
            Arc::new(world.disk.content(&files().0))
        };
        let done = match how {
            Finish::Seal => sealed(self),
            Finish::SealThenCommit => Arc::new(committed(&layer(&sealed(self)))),
            Finish::Commit => {
                self.upper = None;
                Arc::new(committed(&open_as_layer(&self.disk, &files().0, &files().1).unwrap().0))
            }
        };
        self.lowers.push(done);
        self.new_upper(sparse);
    }

    fn merge(&mut self, count: usize) {
        let at = self.lowers.len().saturating_sub(count);
        let top: Vec<Layer> = self.lowers.drain(at..).map(|bytes| layer(&bytes)).collect();
        if !top.is_empty() {
            let mut sink = MemorySink::default();
            merge(top, &CommitOptions::default(), &mut sink, &mut silent).unwrap();
            self.lowers.push(Arc::new(sink.bytes));
        }
    }

    fn step(&mut self, step: &Step) {
        let bytes = |at: &u64, n: &u64| *at as usize * SECTOR..(at + n) as usize * SECTOR;
        let below = self.below();
        let upper = self.upper.as_ref().unwrap();
        match step {
            Step::Write(at, n, byte) => {
                let buf = vec![*byte; *n as usize * SECTOR];
                upper.write_at(&buf, at * 512, |part, at| fill_below(part, at, below.as_ref())).unwrap();
                self.model[bytes(at, n)].fill(*byte);
            }
            Step::Discard(at, n) => {
                upper.discard(at * 512, n * 512).unwrap();
                self.model[bytes(at, n)].fill(0);
            }
            Step::Flush => upper.flush().unwrap(),
            Step::Reopen => self.reopen(),
            Step::Finish(how, sparse) if self.lowers.len() < 40 => self.finish(*how, *sparse),
            Step::Finish(..) => {}
            Step::Merge(count) => self.merge(*count),
        }
    }

    fn check(&self) {
        let device = flatten_upper(self.upper.as_ref().unwrap(), self.below().as_ref());
        assert!(device == self.model, "differs from sector {:?} on", first_difference(&device, &self.model));
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(x, y)| x != y).map(|at| at / SECTOR)
}

fn committed(layer: &Layer) -> Vec<u8> {
    let mut sink = MemorySink::default();
    commit(layer, &CommitOptions::default(), &mut sink, &mut silent).unwrap();
    sink.bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_reads_as_a_flat_device(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.check();
        world.reopen();
        world.check();
    }

    #[test]
    fn an_imported_image_reads_as_itself(
        runs in proptest::collection::vec((0..SECTORS, 1..20u64, any::<u8>()), 0..12),
    ) {
        let mut image = vec![0; SECTORS as usize * SECTOR];
        for (at, n, byte) in runs {
            image[at as usize * SECTOR..(at + n).min(SECTORS) as usize * SECTOR].fill(byte);
        }
        let disk = MemDisk::default();
        disk.put(Path::new("/raw"), &image);
        let source = Raw::new(disk.open(Path::new("/raw"), Mode::Read).unwrap()).unwrap();
        let mut sink = MemorySink::default();
        let done = import(&source, Holes::Zeros, &CommitOptions::default(), &mut sink, &mut silent).unwrap();
        let stored = image.chunks(4096).filter(|unit| unit.iter().any(|b| *b != 0)).count() * 4096;
        prop_assert_eq!(done.data_bytes, stored as u64);
        let stack = Stack::new(vec![layer(&Arc::new(sink.bytes))]).unwrap();
        prop_assert!(flatten(&stack) == image);
    }
}

#[test]
fn a_stack_of_forty_layers_reads_as_a_flat_device() {
    let mut random = Random(20_26);
    let mut world = World::new();
    for round in 0..40 {
        for _ in 0..30 {
            let n = 1 + random.below(24);
            let at = random.below(SECTORS - n);
            match random.below(4) {
                0 => world.step(&Step::Discard(at, n)),
                _ => world.step(&Step::Write(at, n, random.below(256) as u8)),
            }
        }
        world.check();
        let how = [Finish::Commit, Finish::Seal, Finish::SealThenCommit][round % 3];
        world.step(&Step::Finish(how, round % 2 == 0));
        world.check();
    }
    assert_eq!(world.lowers.len(), 40);
    world.step(&Step::Merge(39));
    assert_eq!(world.lowers.len(), 2);
    world.check();
}

#[test]
fn a_device_that_shrinks_and_grows_shows_nothing_old() {
    for sparse in [false, true] {
        let disk = MemDisk::default();
        let options = CreateOptions { size: SECTORS * 512, sparse, ..CreateOptions::default() };
        create(&disk, &files().0, &files().1, &options).unwrap();
        let open = || Upper::open(&disk, &files().0, &files().1).unwrap();
        let upper = open();
        upper.write_at(&vec![7; SECTORS as usize * SECTOR], 0, nothing_below).unwrap();
        upper.resize(64 * 512).unwrap();
        assert_eq!(
            upper.write_at(&[1; SECTOR], 64 * 512, nothing_below).unwrap_err().kind(),
            overlaybd::Kind::OutOfBounds
        );
        drop(upper);
        let upper = open();
        assert_eq!(upper.virtual_size(), 64 * 512);
        upper.resize(SECTORS * 512).unwrap();
        for upper in [upper, open()] {
            let device = flatten_upper(&upper, None);
            assert!(device[..64 * SECTOR].iter().all(|b| *b == 7) && device[64 * SECTOR..].iter().all(|b| *b == 0));
        }
        let blob: Arc<dyn Blob> = Arc::new(MemoryBlob::new("sealed", {
            open().seal().unwrap();
            disk.content(&files().0)
        }));
        assert_eq!(Layer::open(blob).unwrap().trailer().virtual_size, SECTORS * 512);
    }
}
