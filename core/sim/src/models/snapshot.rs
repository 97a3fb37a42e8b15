//! Snapshots under writes (`image/live.rs`, `lsmt/upper`): the upper is exchanged while it is written, read, flushed.
//!
//! Promised: a write lies wholly below the cut or wholly above; what was acknowledged before the call is below; reads
//! see what was acknowledged, always; a flush after the cut ends only when a restart would find what it made durable.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::device::BlockDevice;
use overlaybd::image::{self, Image, NewUpper};
use overlaybd::lsmt::upper::{create, CreateOptions};
use overlaybd::lsmt::Uuid;
use overlaybd::sync::{point, thread};
use overlaybd::{Error, Kind};

use crate::disk::ModelDisk;
use crate::Model;

pub const MODELS: &[&Model] = &[
    &Model { name: "snapshot", story: append, quick: 2, deep: 2 },
    &Model { name: "snapshot-sparse", story: sparse, quick: 1, deep: 2 },
    &Model { name: "snapshot-flush", story: flushed, quick: 1, deep: 2 },
    &Model { name: "writes", story: writes, quick: 1, deep: 2 },
    &Model { name: "writes-sparse", story: writes_sparse, quick: 1, deep: 2 },
];

const SECTOR: usize = 512;
const SIZE: u64 = 32 << 10;

struct Rig {
    disk: ModelDisk,
    image: Image,
    sparse: bool,
    published: AtomicBool,
    /// The last write that was acknowledged.
    acknowledged: AtomicU64,
}

fn names(number: u8) -> (PathBuf, PathBuf) {
    (format!("/{number}.data").into(), format!("/{number}.index").into())
}

impl Rig {
    fn new(sparse: bool) -> Arc<Rig> {
        let (disk, (data, index)) = (ModelDisk::default(), names(1));
        let options = CreateOptions { size: SIZE, sparse, uuid: Some(Uuid::NULL), ..CreateOptions::default() };
        create(&disk, &data, &index, &options).expect("an upper");
        let image = image::open(&disk, vec![], Some((&data, &index))).expect("an image");
        Arc::new(Rig { disk, image, sparse, published: AtomicBool::default(), acknowledged: AtomicU64::default() })
    }

    /// Writes two sectors.
    fn write(&self, value: u8) {
        self.image.write_at(&[value; 2 * SECTOR], 0).expect("a write");
        self.acknowledged.store(value.into(), SeqCst);
    }

    /// What the two sectors hold.
    fn read(&self) -> [u8; 2] {
        sectors(&self.image)
    }

    fn snapshot(self: &Arc<Self>) {
        let (data, index) = names(2);
        let new = NewUpper { data: &data, index: &index, sparse: self.sparse };
        let own = Arc::clone(self);
        let publish = move || {
            point();
            own.published.store(true, SeqCst);
            Ok(())
        };
        self.image.snapshot(&self.disk, &new, Box::new(publish)).expect("a snapshot");
        assert!(self.published.load(SeqCst));
    }

    /// What the two sectors hold in the sealed layer.
    fn sealed(&self) -> [u8; 2] {
        let layer = image::open(&self.disk, vec![self.layer()], None).expect("a layer");
        sectors(&layer)
    }

    fn layer(&self) -> Arc<dyn Blob> {
        Arc::new(FileBlob::open(&self.disk, &names(1).0).expect("a layer's file"))
    }

    /// What a restart would find with the new configuration.
    fn restarted(self: Arc<Self>) -> [u8; 2] {
        let layer = self.layer();
        let Rig { disk, image, .. } = Arc::into_inner(self).expect("no other owner");
        drop(image);
        let (data, index) = names(2);
        let files: (&Path, &Path) = (&data, &index);
        sectors(&image::open(&disk, vec![layer], Some(files)).expect("an image"))
    }
}

fn sectors(image: &Image) -> [u8; 2] {
    let mut bytes = [0xaa; 2 * SECTOR];
    image.read_at(&mut bytes, 0).expect("a read");
    let [first, second] = [&bytes[..SECTOR], &bytes[SECTOR..]].map(|sector| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a torn sector");
        sector[0]
    });
    [first, second]
}

fn append() {
    cut(false);
}

fn sparse() {
    cut(true);
}

/// One writes, one reads, and the snapshot comes between.
fn cut(sparse: bool) {
    let rig = Rig::new(sparse);
    rig.write(1);
    let (writing, reading) = (Arc::clone(&rig), Arc::clone(&rig));
    let writer = thread::Builder::new().spawn(move || {
        writing.write(2);
        assert_eq!(writing.read(), [2, 2], "what was acknowledged is read");
    });
    let reader = thread::Builder::new().spawn(move || {
        let before = reading.acknowledged.load(SeqCst) as u8;
        let seen = reading.read();
        assert!(seen.iter().all(|value| (before..=2).contains(value)), "{seen:?} is read after {before}");
    });
    let before = rig.acknowledged.load(SeqCst) as u8;
    rig.snapshot();
    let below = rig.sealed();
    assert!(below[0] == below[1] && (before..=2).contains(&below[0]), "{below:?} lies below a cut after {before}");
    for thread in [writer, reader] {
        thread.expect("a thread").join().expect("a thread that ends well");
    }
    assert_eq!(rig.read(), [2, 2]);
    assert_eq!(rig.sealed(), below, "a layer does not change");
    rig.image.flush().expect("a flush");
    assert_eq!(rig.restarted(), [2, 2]);
}

/// Flushes while the snapshot is taken, whose configuration cannot be put in place at first.
fn flushed() {
    let rig = Rig::new(false);
    let writing = Arc::clone(&rig);
    let writer = thread::Builder::new().spawn(move || {
        writing.write(1);
        // A flush may fail, as long as it does not say that all is well.
        let durable = writing.image.flush().is_ok();
        durable && !writing.published.load(SeqCst)
    });
    let (data, index) = names(2);
    let new = NewUpper { data: &data, index: &index, sparse: false };
    let (own, tries) = (Arc::clone(&rig), AtomicU64::new(0));
    let publish = move || {
        point();
        if tries.fetch_add(1, SeqCst) == 0 {
            return Err(Error::new(Kind::NoSpace, "not now"));
        }
        own.published.store(true, SeqCst);
        Ok(())
    };
    let taken = rig.image.snapshot(&rig.disk, &new, Box::new(publish)).is_ok();
    let only_below = writer.expect("a thread").join().expect("a writer that ends well");
    if only_below {
        // Nobody would look into the new upper after a restart at that moment.
        assert_eq!(rig.sealed(), [1, 1], "flushed, but to where nobody would find it");
    }
    assert!(taken || rig.image.flush().is_ok(), "the next flush finishes it");
    assert!(rig.published.load(SeqCst) && !rig.image.is_unfinished());
    assert_eq!(rig.restarted(), [1, 1]);
}

fn writes() {
    edges(false);
}

fn writes_sparse() {
    edges(true);
}

/// A write of a part of a sector, one of the whole, one of its neighbour, and a discard: in some order.
fn edges(sparse: bool) {
    let rig = Rig::new(sparse);
    rig.write(1);
    let threads: Vec<_> = [
        Box::new(|image: &Image| image.write_at(&[2; 100], 0)) as Box<dyn Fn(&Image) -> overlaybd::Result<()> + Send>,
        Box::new(|image: &Image| image.write_at(&[3; SECTOR], SECTOR as u64)),
        Box::new(|image: &Image| image.discard(2 * SECTOR as u64, SECTOR as u64)),
    ]
    .into_iter()
    .map(|change| {
        let rig = Arc::clone(&rig);
        thread::Builder::new().spawn(move || change(&rig.image).expect("a change")).expect("a thread")
    })
    .collect();
    for thread in threads {
        thread.join().expect("a writer that ends well");
    }
    let mut bytes = [0xaa; 3 * SECTOR];
    rig.image.read_at(&mut bytes, 0).expect("a read");
    let right = [vec![2; 100], vec![1; SECTOR - 100], vec![3; SECTOR], vec![0; SECTOR]].concat();
    assert!(bytes[..] == right[..], "a change was lost");
}
