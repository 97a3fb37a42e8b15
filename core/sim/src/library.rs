//! The layers that the registries of all worlds have. Made once: that takes longer than many a world.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use flate2::write::GzEncoder;
use overlaybd::device::BlockDevice;
use overlaybd::gzip::Index;
use overlaybd::image;
use overlaybd::limits::GZIP_SPAN_BYTES;
use overlaybd::lsmt::commit::{commit, commit_meta, CommitOptions};
use overlaybd::lsmt::upper::{create, open_as_layer, open_as_meta, CreateOptions};
use overlaybd::lsmt::{Upper, Uuid};
use overlaybd::progress;
use overlaybd::sink::{MemorySink, Sink};
use overlaybd::zfile::{Algorithm, Builder, Options as ZFileOptions};

use crate::disk::SimDisk;
use crate::model::{bytes_of, Content, SECTOR};

/// Sectors of a device at first.
pub const SECTORS: u64 = 4096;

/// How many layers there are.
pub const LAYERS: usize = 18;

/// A blob of a registry.
#[derive(Clone)]
pub struct Part {
    /// Its name.
    pub digest: String,
    /// What it is.
    pub bytes: Arc<Vec<u8>>,
    /// Whether whoever reads it notices that bytes of it are wrong: it has checksums.
    pub checked: bool,
}

/// A layer: of overlaybd, or with a target of turboOCI.
pub struct Layer {
    /// The layer itself, or its metadata.
    pub stored: Part,
    /// The original layer.
    pub target: Option<Target>,
    /// What a device shows of it.
    pub base: BTreeMap<u64, Content>,
}

/// What a layer of turboOCI maps to.
pub struct Target {
    /// As it is in the registry.
    pub packed: Part,
    /// The index by which it is unpacked, if it is compressed.
    pub index: Option<Arc<Vec<u8>>>,
}

impl Layer {
    /// Its blobs.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.stored).chain(self.target.as_ref().map(|target| &target.packed))
    }
}

/// The layer of that number. To be called outside of worlds first, so that all worlds find it made.
pub fn layer(number: usize) -> &'static Layer {
    static ALL: OnceLock<Vec<Layer>> = OnceLock::new();
    &ALL.get_or_init(|| (0..LAYERS).map(make).collect())[number]
}

/// The blob of that name.
pub fn part(digest: &str) -> Option<&'static Part> {
    (0..LAYERS).flat_map(|number| layer(number).parts()).find(|part| part.digest == digest)
}

/// The SHA-256 of bytes, as blobs are called.
pub fn digest_of(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn named(bytes: Vec<u8>, checked: bool) -> Part {
    Part { digest: digest_of(&bytes), bytes: Arc::new(bytes), checked }
}

/// Numbers for what layers hold; that they are the same each time is all that is wanted of them.
struct Dice(u64);

impl Dice {
    fn draw(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Half of them zfiles, a sixth each as they are written, of turboOCI, and of turboOCI over a compressed layer.
fn make(number: usize) -> Layer {
    let (disk, mut dice) = (SimDisk::new(), Dice(number as u64));
    let [data, index] = ["data", "index"].map(PathBuf::from);
    let warp = number % 6 > 3;
    let options = CreateOptions { size: SECTORS * SECTOR as u64, uuid: Some(Uuid::NULL), warp, ..Default::default() };
    create(&disk, &data, &index, &options).expect("a new layer");
    let (mut base, mut archive) = (BTreeMap::new(), Vec::new());
    let image = match warp {
        false => image::open(&disk, vec![], Some((&data, &index))).expect("a layer to write to"),
        true => {
            let upper = Upper::open_warp(&disk, &data, &index, None, 0).expect("a layer to write to");
            image::Image::new(None, Some(upper)).expect("an image")
        }
    };
    for write in 0..8 + dice.draw(24) {
        let first = dice.draw(SECTORS - 64);
        let content = 1 + number as u64 * 100 + write;
        let sectors = first..first + 1 + dice.draw(64);
        let bytes: Vec<u8> = sectors.clone().flat_map(|sector| bytes_of(content, sector)).collect();
        if warp && write > 0 && dice.draw(4) > 0 {
            let at = archive.len() as u64;
            archive.extend(&bytes);
            image.map_remote(first * SECTOR as u64, bytes.len() as u64, at).expect("a map");
        } else {
            image.write_at(&bytes, first * SECTOR as u64).expect("a write");
        }
        base.extend(sectors.map(|sector| (sector, content)));
    }
    image.flush().expect("a flush");
    drop(image);
    let algorithm = if number.is_multiple_of(2) { Algorithm::Lz4 } else { Algorithm::Zstd };
    let zfile = || {
        Builder::new(MemorySink::default(), ZFileOptions { threads: 1, algorithm, ..Default::default() })
            .expect("a zfile")
    };
    if warp {
        let (meta, _) = open_as_meta(&disk, &data, &index).expect("the metadata");
        let mut sink = zfile();
        commit_meta(&meta, &CommitOptions::default(), &mut sink, &mut progress::silent).expect("a commit");
        sink.finish().expect("a zfile");
        let target = target(archive, number % 6 == 5);
        return Layer { stored: named(sink.into_sink().bytes, true), target: Some(target), base };
    }
    let (layer, _) = open_as_layer(&disk, &data, &index).expect("the layer");
    let (options, silent) = (CommitOptions::default(), &mut progress::silent);
    if number % 6 == 3 {
        let mut sink = MemorySink::default();
        commit(&layer, &options, &mut sink, silent).expect("a commit");
        return Layer { stored: named(sink.bytes, false), target: None, base };
    }
    let mut sink = zfile();
    commit(&layer, &options, &mut sink, silent).expect("a commit");
    sink.finish().expect("a zfile");
    Layer { stored: named(sink.into_sink().bytes, true), target: None, base }
}

fn target(mut archive: Vec<u8>, packed: bool) -> Target {
    if !packed {
        // It ends in the middle of a sector.
        archive.extend([0; 100]);
        return Target { packed: named(archive, false), index: None };
    }
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    gzip.write_all(&archive).expect("memory");
    let bytes = gzip.finish().expect("memory");
    let mut index = MemorySink::default();
    let span = *GZIP_SPAN_BYTES.start();
    Index::build(&mut &bytes[..], &mut index, span, &mut |_| Ok(())).expect("an index");
    Target { packed: named(bytes, false), index: Some(Arc::new(index.bytes)) }
}
