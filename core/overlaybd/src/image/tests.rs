//! The image against a flat array of bytes: every mix of writes, discards, reopening and reads.

use std::sync::{mpsc, Arc};

use proptest::prelude::*;

use super::*;
use crate::blob::{Blob, FileBlob};
use crate::device::ExtentKind;
use crate::lsmt::upper::{create, CreateOptions};
use crate::sys::os::OsDisk;

const SIZE: u64 = 64 * 1024;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize, u8),
    Discard(u64, u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SIZE, 1usize..9000, any::<u8>())
            .prop_map(|(at, len, byte)| Step::Write(at, len.min((SIZE - at) as usize), byte)),
        3 => (0..SIZE, 1u64..20000).prop_map(|(at, len)| Step::Discard(at, len.min(SIZE - at))),
        1 => Just(Step::Reopen),
    ]
}

/// Two layers, the lower one sealed with known content, the upper one being worked on.
struct Rig {
    dir: tempfile::TempDir,
    model: Vec<u8>,
    sparse: bool,
}

impl Rig {
    fn new(sparse: bool) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig { dir, model: vec![0; SIZE as usize], sparse };
        rig.create("lower", SIZE, false);
        let lower = Image::new(None, Some(rig.upper("lower"))).unwrap();
        let base: Vec<u8> = (0..SIZE / 2).map(|i| (i / 512 + 1) as u8).collect();
        lower.write_at(&base, SIZE / 4).unwrap();
        lower.upper().unwrap().seal().unwrap();
        rig.create("upper", 0, rig.sparse);
        let mut rig = rig;
        rig.model[(SIZE / 4) as usize..][..base.len()].copy_from_slice(&base);
        rig
    }

    fn create(&self, name: &str, size: u64, sparse: bool) {
        let (data, index) = (self.dir.path().join(name), self.dir.path().join(format!("{name}.index")));
        let options = CreateOptions { size, sparse, ..CreateOptions::default() };
        create(&OsDisk, &data, &index, &options).unwrap();
    }

    fn upper(&self, name: &str) -> Upper {
        Upper::open(&OsDisk, &self.dir.path().join(name), &self.dir.path().join(format!("{name}.index"))).unwrap()
    }

    fn open(&self) -> Image {
        let lower: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, &self.dir.path().join("lower")).unwrap());
        let (data, index) = (self.dir.path().join("upper"), self.dir.path().join("upper.index"));
        open(&OsDisk, vec![lower], Some((&data, &index))).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is written, discarded and reopened at whatever offsets, a read gives what a flat array holds.
    #[test]
    fn behaves_as_a_flat_array(
        sparse in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..40),
        reads in proptest::collection::vec((0..SIZE, 1usize..5000), 8),
    ) {
        let mut rig = Rig::new(sparse);
        let mut image = rig.open();
        prop_assert_eq!(image.size(), SIZE);
        for step in steps {
            match step {
                Step::Write(at, len, byte) => {
                    image.write_at(&vec![byte; len], at).unwrap();
                    rig.model[at as usize..][..len].fill(byte);
                }
                Step::Discard(at, len) => {
                    image.discard(at, len).unwrap();
                    rig.model[at as usize..][..len as usize].fill(0);
                }
                Step::Reopen => {
                    drop(image);
                    image = rig.open();
                }
            }
        }
        for (at, len) in reads {
            let len = len.min((SIZE - at) as usize);
            let mut buf = vec![0xEE; len];
            image.read_at(&mut buf, at).unwrap();
            prop_assert!(buf == rig.model[at as usize..][..len], "read of {} at {}", len, at);
        }
        let extents = image.extents(0, SIZE, usize::MAX).unwrap();
        prop_assert_eq!(extents.iter().map(|e| e.len).sum::<u64>(), SIZE);
        prop_assert!(extents.windows(2).all(|pair| pair[0].kind != pair[1].kind));
        let mut at = 0;
        for extent in extents {
            let bytes = &rig.model[at..at + extent.len as usize];
            prop_assert!(extent.kind == ExtentKind::Data || bytes.iter().all(|b| *b == 0));
            at += extent.len as usize;
        }
    }
}

#[test]
fn a_map_has_no_more_runs_than_asked_for_and_is_true_of_what_it_covers() {
    let rig = Rig::new(false);
    let image = rig.open();
    image.discard(20480, 4096).unwrap();
    let whole = image.extents(0, SIZE, usize::MAX).unwrap();
    for max in 1..=whole.len() {
        assert_eq!(image.extents(0, SIZE, max).unwrap(), whole[..max], "at most {max} runs");
    }
    assert_eq!(image.extents(100, 1000, 9).unwrap(), [Extent { len: 1000, kind: ExtentKind::Hole }]);
}

#[test]
fn requests_beyond_the_end_and_writes_without_an_upper_are_refused() {
    let rig = Rig::new(false);
    let image = rig.open();
    let mut buf = [0; 512];
    for (offset, len) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 512)] {
        assert_eq!(image.read_at(&mut buf[..len], offset).unwrap_err().kind(), Kind::OutOfBounds);
        assert_eq!(image.write_at(&buf[..len], offset).unwrap_err().kind(), Kind::OutOfBounds);
        assert_eq!(image.discard(offset, len as u64).unwrap_err().kind(), Kind::OutOfBounds);
    }
    assert_eq!(image.statistics().snapshot()[6], ("errors", 12));
    let lower: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, &rig.dir.path().join("lower")).unwrap());
    let image = open(&OsDisk, vec![lower], None).unwrap();
    assert!(image.read_only());
    assert_eq!(image.write_at(&buf, 0).unwrap_err().kind(), Kind::ReadOnly);
}

#[test]
fn a_broken_layer_is_named_by_its_number() {
    let rig = Rig::new(false);
    let path = rig.dir.path().join("broken");
    std::fs::write(&path, vec![7; 20000]).unwrap();
    let blob = |name: &str| Arc::new(FileBlob::open(&OsDisk, &rig.dir.path().join(name)).unwrap()) as Arc<dyn Blob>;
    let error = open(&OsDisk, vec![blob("lower"), blob("broken"), blob("lower")], None).err().unwrap();
    assert_eq!((error.kind(), error.file()), (Kind::Corrupt, Some(path.as_path())));
    assert!(error.what().starts_with("layer 2: "), "{error}");
    assert_eq!(open(&OsDisk, vec![], None).err().unwrap().kind(), Kind::Invalid);
}

/// A blob whose next read, once armed, says that it has begun and waits to be let go on.
struct Gate {
    inner: Arc<dyn Blob>,
    armed: parking_lot::Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl Blob for Gate {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if let Some((begun, go_on)) = self.armed.lock().take() {
            begun.send(()).unwrap();
            go_on.recv().unwrap();
        }
        self.inner.read_at(buf, offset)
    }
}

#[test]
fn a_write_to_a_part_of_a_sector_brings_back_nothing_old_around_it() {
    let rig = Rig::new(false);
    let inner: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, &rig.dir.path().join("lower")).unwrap());
    let gate = Arc::new(Gate { inner, armed: Default::default() });
    let (data, index) = (rig.dir.path().join("upper"), rig.dir.path().join("upper.index"));
    let image = open(&OsDisk, vec![gate.clone() as Arc<dyn Blob>], Some((&data, &index))).unwrap();
    let (at, (begun, has_begun), (go_on, may_go_on)) = (SIZE / 4, mpsc::channel(), mpsc::channel());
    *gate.armed.lock() = Some((begun, may_go_on));
    std::thread::scope(|scope| {
        scope.spawn(|| image.write_at(&[0xAA; 100], at).unwrap());
        has_begun.recv().unwrap();
        // The small write has not got the rest of its sector yet. A write of all of it now must last.
        let (done, is_done) = mpsc::channel();
        let image = &image;
        scope.spawn(move || {
            image.write_at(&[0xBB; 512], at).unwrap();
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(std::time::Duration::from_millis(200));
        go_on.send(()).unwrap();
    });
    let mut rest = [0; 412];
    image.read_at(&mut rest, at + 100).unwrap();
    assert_eq!(rest, [0xBB; 412]);
}
