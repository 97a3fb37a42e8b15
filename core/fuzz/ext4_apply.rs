//! Fuzzes what writes to a foreign ext4: an image of our own with some of its bytes changed, to which a layer is
//! applied that touches everything. libext2fs reads it, too.
#![no_main]

#[allow(dead_code)]
#[path = "input.rs"]
mod input;

use std::sync::{Arc, LazyLock};

use input::Input;
use libfuzzer_sys::fuzz_target;
use overlaybd::apply::apply;
use overlaybd::device::{BlockDevice, MemoryDevice};
use overlaybd::ext4::Ext4;
use overlaybd::fs::FileSystem;
use overlaybd::tar::Archive;
use overlaybd::Result;

const LOWER: &[u8] = include_bytes!("erofs_apply/lower.tar");
const UPPER: &[u8] = include_bytes!("erofs_apply/upper.tar");
const SIZE: u64 = 2 << 20;

/// A file system of our own, with the files of `LOWER`.
static OWN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let device = Arc::new(MemoryDevice::new(SIZE).expect("memory"));
    Ext4::create(device.clone()).and_then(Ext4::close).expect("libext2fs");
    layer(&device, LOWER).expect("nothing is damaged");
    bytes_of(&device)
});

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut image = OWN.clone();
    while input.is_left() {
        // Where metadata is: the first blocks. A block, a place in it, and what is there then.
        let at = (usize::from(input.byte() % 64) << 12) + usize::from(input.word() % 4096);
        let len = 1 + usize::from(input.byte() % 4);
        for (place, byte) in image[at..].iter_mut().zip(input.bytes(len)) {
            *place = *byte;
        }
    }
    let device = Arc::new(MemoryDevice::new(SIZE).expect("memory"));
    device.write_at(&image, 0).expect("memory");
    if layer(&device, UPPER).is_ok() {
        let files = FileSystem::open(Arc::new(bytes_of(&device))).expect("what was written can be opened");
        files.root().expect("a root");
        // What was made of something damaged may be damaged, but not so that it does harm.
        let _ = layer(&device, UPPER);
    }
});

fn bytes_of(device: &MemoryDevice) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    device.read_at(&mut bytes, 0).expect("memory");
    bytes
}

fn layer(device: &Arc<MemoryDevice>, archive: &[u8]) -> Result<()> {
    let mut ext4 = Ext4::open(device.clone())?;
    apply(&mut ext4, &mut Archive::new(archive), &mut |_, _| Ok(()))?;
    ext4.close()
}
