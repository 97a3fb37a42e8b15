//! Fuzzes what the kernel asks a ublk queue for: any descriptors, and what a naive disk would hold afterwards.
#![no_main]

#[allow(dead_code)]
#[path = "input.rs"]
mod input;

use std::sync::{Arc, LazyLock};

use input::Input;
use libfuzzer_sys::fuzz_target;
use overlaybd::device::{BlockDevice, MemoryDevice};
use overlaybd::serve::ublk::fuzzing::Served;

const SECTORS: u64 = 24;
const SECTOR: usize = 512;
const BUFFER: usize = 4096;
const REQUESTS: usize = 12;

/// Errnos of Linux.
const EIO: i32 = 5;
const EOPNOTSUPP: i32 = 95;

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 2;
const DISCARD: u8 = 3;
const ZEROES: u8 = 5;

static SERVED: LazyLock<(Arc<MemoryDevice>, Served)> = LazyLock::new(|| {
    let device = Arc::new(MemoryDevice::new(SECTORS * SECTOR as u64).expect("memory"));
    let served = Served::new(device.clone(), BUFFER).expect("memory");
    (device, served)
});

fuzz_target!(|bytes: &[u8]| {
    let (device, served) = &*SERVED;
    let size = SECTORS as usize * SECTOR;
    device.write_at(&vec![0; size], 0).expect("memory");
    let mut input = Input(bytes);
    let mut asked = Vec::new();
    while input.is_left() && asked.len() < REQUESTS {
        // The usual ones more often than others; flags likewise.
        let how = input.byte();
        let op = if how & 0x80 == 0 { [READ, WRITE, FLUSH, DISCARD, ZEROES][usize::from(how % 5)] } else { how };
        let flags = if how & 0x40 == 0 { u32::from(input.byte()) << 8 } else { input.number() as u32 };
        let (sectors, start) = (input.number() as u32, input.number());
        asked.push((u32::from(op) | flags & !0xff, sectors, start, [input.byte(); BUFFER]));
    }
    let list: Vec<_> = asked.iter().map(|(op, sectors, start, data)| (*op, *sectors, *start, &data[..])).collect();
    let answers = served.ask(&list).expect("a kernel that is well");
    assert_eq!(answers.len(), asked.len(), "each request is answered");
    let mut model = vec![0; size];
    for ((op, sectors, start, data), (result, buffer)) in list.into_iter().zip(answers) {
        let len = sectors as usize * SECTOR;
        if result < 0 {
            assert!([-EIO, -EOPNOTSUPP].contains(&result), "an errno that nobody expects: {result}");
            let right = start < SECTORS && u64::from(sectors) <= SECTORS - start && sectors > 0 && len <= BUFFER;
            let known = [READ, WRITE, FLUSH, DISCARD, ZEROES].contains(&(op as u8));
            assert!(!(right && known), "a good request is refused");
            continue;
        }
        if op as u8 == FLUSH {
            continue;
        }
        let place = start as usize * SECTOR;
        match op as u8 {
            READ => assert!(buffer[..len] == model[place..place + len] && result as usize == len, "read {place}"),
            WRITE => model[place..place + len].copy_from_slice(&data[..len]),
            DISCARD | ZEROES => model[place..place + len].fill(0),
            op => panic!("operation {op}, which is not known, is carried out"),
        }
    }
    let mut held = vec![1; size];
    device.read_at(&mut held, 0).expect("memory");
    assert!(held == model, "the device is not what it should be");
});
