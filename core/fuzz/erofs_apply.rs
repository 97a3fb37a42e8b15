//! Fuzzes what reads the file system below a layer: an EROFS of our own or one of mkfs.erofs, with some of its bytes
//! changed, to which a layer is applied that touches everything.
#![no_main]

#[path = "device.rs"]
mod device;

use std::sync::{Arc, LazyLock};

use device::Device;
use libfuzzer_sys::fuzz_target;
use overlaybd::apply::apply;
use overlaybd::device::BlockDevice;
use overlaybd::erofs::Erofs;
use overlaybd::fs::FileSystem;
use overlaybd::tar::Archive;
use overlaybd::Result;

const LOWER: &[u8] = include_bytes!("erofs_apply/lower.tar");
const UPPER: &[u8] = include_bytes!("erofs_apply/upper.tar");
/// The tree of `LOWER` in compact inodes.
const FOREIGN: &[u8] = include_bytes!("erofs_apply/mkfs.erofs");
const SIZE: u64 = 256 << 10;

/// What may be below.
static BELOW: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let device = Device::new(&[], SIZE);
    layer(&device, LOWER).expect("nothing is damaged");
    let mut own = vec![0; SIZE as usize];
    BlockDevice::read_at(&device, &mut own, 0).expect("memory");
    own.truncate(own.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
    [own, FOREIGN.to_vec()]
});

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, changes)) = bytes.split_first() else { return };
    let below = &BELOW[usize::from(*kind) % BELOW.len()];
    let device = Device::new(below, SIZE);
    // Each change has five bytes: a place, and what is there then.
    for change in changes.chunks_exact(5) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        let len = below.len().saturating_sub(at).min(3);
        device.write_at(&change[2..2 + len], at as u64).expect("memory");
    }
    if layer(&device, UPPER).is_ok() {
        let files = FileSystem::open(Arc::new(device.clone())).expect("what was written can be opened");
        files.root().expect("a root");
        // What was made of something damaged may be damaged, but not so that it does harm. Now and then, for it
        // takes long.
        if bytes.len().is_multiple_of(4) {
            let _ = layer(&device, UPPER);
        }
    }
});

fn layer(device: &Device, archive: &[u8]) -> Result<()> {
    let mut erofs = Erofs::open(Arc::new(device.clone()))?;
    apply(&mut erofs, &mut Archive::new(archive), &mut |_, _| Ok(()))?;
    erofs.close()
}
