//! Fuzzes what writes to a foreign ext4: an image of our own with some of its bytes changed, to which a layer is
//! applied that touches everything. libext2fs reads it, too.
#![no_main]

#[path = "device.rs"]
mod device;
#[allow(dead_code)]
#[path = "input.rs"]
mod input;

use std::sync::{Arc, LazyLock};

use device::Device;
use input::Input;
use libfuzzer_sys::fuzz_target;
use overlaybd::apply::apply;
use overlaybd::device::BlockDevice;
use overlaybd::ext4::Ext4;
use overlaybd::fs::FileSystem;
use overlaybd::tar::Archive;
use overlaybd::Result;

const LOWER: &[u8] = include_bytes!("erofs_apply/lower.tar");
const UPPER: &[u8] = include_bytes!("erofs_apply/upper.tar");
const SIZE: u64 = 2 << 20;

/// A file system of our own, with the files of `LOWER`.
static OWN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let device = Device::new(&[], SIZE);
    Ext4::create(Arc::new(device.clone())).and_then(Ext4::close).expect("libext2fs");
    layer(&device, LOWER).expect("nothing is damaged");
    let mut bytes = vec![0; SIZE as usize];
    BlockDevice::read_at(&device, &mut bytes, 0).expect("memory");
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    bytes
});

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let device = Device::new(&OWN, SIZE);
    while input.is_left() {
        // Where metadata is: the first blocks. A block, a place in it, and what is there then.
        let at = (usize::from(input.byte() % 64) << 12) + usize::from(input.word() % 4096);
        let len = 1 + usize::from(input.byte() % 4);
        device.write_at(input.bytes(len), at as u64).expect("memory");
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
    let mut ext4 = Ext4::open(Arc::new(device.clone()))?;
    apply(&mut ext4, &mut Archive::new(archive), &mut |_, _| Ok(()))?;
    ext4.close()
}
