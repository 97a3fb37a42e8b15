//! The ring and its server against the kernel's side of it: right data, any order, nothing lost, nothing leaked.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::testing::{Completion, Kernel, DATA_BYTES, STALE};
use super::{entry, mailbox, Link, Options, Region, Ring, Server};
use crate::device::{BlockDevice, MemoryDevice};
use crate::error::Kind;
use crate::limits::TCMU_MAX_UNMAP_RANGES;
use crate::serve::report::Report;
use crate::serve::test_device::{pattern, Device, SIZE};

const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 36, 0];
const READ_ERROR: (u8, u8, u8) = (3, 0x11, 0);

fn read_10(lba: u32, blocks: u16) -> [u8; 10] {
    ten(0x28, lba, blocks)
}

fn write_10(lba: u32, blocks: u16) -> [u8; 10] {
    ten(0x2a, lba, blocks)
}

fn ten(op: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let ([a, b, c, d], [e, f]) = (lba.to_be_bytes(), blocks.to_be_bytes());
    [op, 0, a, b, c, d, 0, e, f, 0]
}

/// A hearer of failures, and what it heard.
fn hearer() -> (Option<Report>, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    (Some(Arc::new(move |image: &str, error| hears.lock().push(format!("{image}: {error}")))), heard)
}

#[test]
fn a_slow_command_holds_up_no_other() {
    let device = Arc::new(Device { cold: 0..4096, ..Device::new() });
    let kernel = Kernel::new(1024);
    let server = kernel.serve(device.clone(), 4, None);
    let (slow, quick) = (kernel.place(0, 4096), kernel.place(8192, 4096));
    kernel.send(7, &read_10(0, 8), std::slice::from_ref(&slow));
    device.gate.wait_for(1);
    let rounds = if cfg!(miri) { 3 } else { 100 };
    for round in 0..rounds {
        kernel.send(8, &read_10(8 + round, 8), std::slice::from_ref(&quick));
        assert_eq!(kernel.wait_for(8), Completion::GOOD);
        assert_eq!(kernel.read(&quick), pattern(u64::from(8 + round) * 512, 4096), "round {round}");
    }
    assert!(!kernel.has_ended(7));
    assert!(server.oldest().unwrap().1.contains("reading 4096 bytes at 0"), "{:?}", server.oldest());
    device.gate.open();
    assert_eq!(kernel.wait_for(7), Completion::GOOD);
    assert_eq!(kernel.read(&slow), pattern(0, 4096));
    assert!(server.stop(Duration::from_secs(10)));
    let stats = server.stats();
    let requests = u64::from(rounds) + 1;
    assert_eq!((stats.requests, stats.read_bytes, stats.serving), (requests, requests * 4096, 0));
}

#[test]
fn data_in_pieces_is_carried_in_order() {
    let device = Arc::new(Device::new());
    let kernel = Kernel::new(8192);
    let _server = kernel.serve(device.clone(), 2, None);
    let places = [kernel.place(9000, 100), kernel.place(0, 1), kernel.place(40000, 7000), kernel.place(1, 1091)];
    assert_eq!(kernel.ask(&read_10(3, 16), &places), Completion::GOOD);
    let read: Vec<u8> = places.iter().flat_map(|place| kernel.read(place)).collect();
    assert_eq!(read, pattern(3 * 512, 8192));
    assert_eq!(kernel.ask(&write_10(100, 16), &places), Completion::GOOD);
    let mut written = vec![0; 8192];
    device.read_at(&mut written, 51200).unwrap();
    assert_eq!(written, read);
}

#[test]
fn what_earlier_commands_left_is_never_shown() {
    let kernel = Kernel::new(8192);
    let _server = kernel.serve(Arc::new(Device::new()), 2, None);
    let places = [kernel.place(0, 20), kernel.place(100, 235)];
    let done = kernel.ask(&INQUIRY, &places);
    assert_eq!(done, Completion { len: Some(36), ..Completion::GOOD });
    let seen: Vec<u8> = places.iter().flat_map(|place| kernel.read(place)).collect();
    assert_eq!((&seen[8..16], seen[36..].iter().max()), (&b"LIO-ORG "[..], Some(&0)));
    // More room than the command has data.
    let place = kernel.place(4096, 4096);
    assert_eq!(kernel.ask(&read_10(1, 2), std::slice::from_ref(&place)).len, Some(1024));
    assert_eq!(kernel.read(&place), [pattern(512, 1024), vec![0; 3072]].concat());
    // Less room: what there is of it.
    let place = kernel.place(8192, 100);
    assert_eq!(kernel.ask(&read_10(1, 2), std::slice::from_ref(&place)), Completion::GOOD);
    assert_eq!(kernel.read(&place), pattern(512, 100));
    assert_eq!(kernel.read(&kernel.place(8292, 100)), [STALE; 100]);
}

#[test]
fn failures_are_told_with_their_reason() {
    let (report, heard) = hearer();
    let device = Device { bad: 0..512, panics: 512..1024, ..Device::new() };
    let kernel = Kernel::new(8192);
    let server = kernel.serve(Arc::new(device), 2, report);
    let place = [kernel.place(0, 512)];
    assert_eq!(kernel.ask(&read_10(0, 1), &place).sense, READ_ERROR);
    assert_eq!(kernel.ask(&write_10(0, 1), &place).sense, (3, 0x0c, 0));
    assert_eq!(kernel.ask(&read_10(1, 1), &place).sense, (4, 0x44, 0));
    assert_eq!(kernel.ask(&read_10((SIZE / 512) as u32, 1), &place).sense, (5, 0x21, 0));
    assert_eq!(kernel.ask(&write_10(4, 2), &place).sense, (5, 0x24, 0), "more to write than there is data");
    assert_eq!(kernel.ask(&read_10(2, 1), &[kernel.place(DATA_BYTES - 100, 512)]).sense, (4, 0x44, 0));
    assert_eq!(kernel.ask(&read_10(2, 1), &[0..512, kernel.place(0, 512)]).sense, (4, 0x44, 0));
    assert_eq!(kernel.ask(&read_10(2, 1), &place), Completion::GOOD, "it goes on");
    assert_eq!((server.stats().errors, server.stats().refused), (3, 4));
    let heard = heard.lock();
    assert_eq!(heard.len(), 3);
    assert_eq!(heard[0], "a/b: corrupt: at 0: reading 512 bytes at 0: expected by this test");
}

#[test]
fn a_cut_off_or_unknown_command_is_refused() {
    let kernel = Kernel::new(8192);
    let _server = kernel.serve(Arc::new(Device::new()), 2, None);
    for cdb in [&[0x7f; 40][..], &[0xc0; 16], &[0xff; 16], &[0x60], &[0xa3, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(kernel.ask(cdb, &[]).sense, (5, 0x20, 0), "{cdb:x?}");
    }
    // The entry ends where the block does: what lies behind is not part of it.
    let pieces = [kernel.place(0, 8), kernel.place(16, 8), kernel.place(32, 8), kernel.place(48, 8)];
    assert_eq!(kernel.ask(&[0x88; 8], &pieces).sense, (5, 0x24, 0));
}

#[test]
fn other_entries_are_passed_over() {
    let kernel = Kernel::new(8192);
    let server = kernel.serve(Arc::new(Device::new()), 2, None);
    let place = [kernel.place(0, 512)];
    let unknown = [kernel.put_other(3, 40), kernel.put_other(7, 8)];
    kernel.put_other(entry::PAD, 16);
    assert_eq!(kernel.ask(&read_10(0, 1), &place), Completion::GOOD);
    for at in unknown {
        assert_eq!(kernel.read(&(at + entry::FLAGS..at + entry::FLAGS + 1)), [entry::UNKNOWN]);
    }
    // Behind the last command too, so that the ring counts as empty.
    kernel.put_other(entry::ABORT, 40);
    kernel.send(1, &read_10(0, 1), &place);
    kernel.put_other(entry::ABORT, 40);
    kernel.ring();
    kernel.wait_for(1);
    assert!(server.stop(Duration::from_secs(10)));
}

#[test]
fn several_completions_are_told_at_once() {
    let kernel = Kernel::new(8192);
    for id in 1..=50 {
        kernel.put(id, &read_10(u32::from(id), 1), &[kernel.place(usize::from(id) * 512, 512)]);
    }
    let server = kernel.serve(Arc::new(Device::new()), 2, None);
    for id in 1..=50 {
        assert_eq!(kernel.wait_for(id), Completion::GOOD);
        assert_eq!(kernel.read(&kernel.place(usize::from(id) * 512, 512)), pattern(u64::from(id) * 512, 512));
    }
    server.stop(Duration::ZERO);
    assert!(kernel.kicks() <= 50 / 4 + 1, "{}", kernel.kicks());
}

#[test]
fn a_stop_leaves_what_has_not_begun() {
    let device = Arc::new(Device { cold: 0..4096, ..Device::new() });
    let kernel = Kernel::new(8192);
    let server = Arc::new(kernel.serve(device.clone(), 1, None));
    kernel.send(1, &read_10(0, 1), &[kernel.place(0, 512)]);
    device.gate.wait_for(1);
    kernel.send(2, &read_10(1, 1), &[kernel.place(512, 512)]);
    kernel.send(3, &read_10(100, 1), &[kernel.place(1024, 512)]);
    kernel.wait_for(3); // so the second waits for the worker
    let stops = Arc::clone(&server);
    let stop = std::thread::spawn(move || stops.stop(Duration::ZERO));
    while kernel.region.load_acquire(mailbox::TAIL).is_ok() && !stop.is_finished() && server.stats().serving > 0 {
        std::thread::yield_now();
    }
    device.gate.open();
    assert!(!stop.join().unwrap(), "a command is left");
    assert_eq!(kernel.wait_for(1), Completion::GOOD);
    assert!(!kernel.has_ended(2));
    assert!(server.stop(Duration::ZERO), "stopping again does nothing");
}

#[test]
fn what_fails_during_a_stop_is_left_to_the_next_server() {
    let device = Arc::new(Device { cold: 0..4096, bad: 0..4096, ..Device::new() });
    let kernel = Kernel::new(8192);
    let (report, heard) = hearer();
    let server = kernel.serve(device.clone(), 1, report);
    kernel.send(1, &read_10(0, 1), &[kernel.place(0, 512)]);
    device.gate.wait_for(1);
    server.cease(Duration::ZERO);
    device.gate.open();
    assert!(!server.stop(Duration::ZERO), "a command is left");
    assert!(!kernel.has_ended(1) && heard.lock().is_empty());
}

#[test]
fn what_is_aborted_is_not_begun() {
    let device = Arc::new(Device { cold: 0..4096, ..Device::new() });
    let kernel = Kernel::new(8192);
    let server = kernel.serve(device.clone(), 1, None);
    kernel.send(1, &read_10(0, 1), &[kernel.place(0, 512)]);
    device.gate.wait_for(1);
    kernel.send(2, &read_10(1, 1), &[kernel.place(512, 512)]);
    kernel.send(3, &read_10(2, 1), &[kernel.place(1024, 512)]);
    let at = kernel.reserve(40);
    // As many ids as there is room for, whatever is said of their number.
    for (place, bytes) in [(entry::IDS, &[2, 0, 1, 1][..]), (entry::ID_LIST, &[1, 0, 2, 0, 99, 0, 0, 0])] {
        kernel.region.put(at + place, bytes).unwrap();
    }
    kernel.put_other(entry::ABORT, 40);
    kernel.send(4, &read_10(100, 1), &[kernel.place(1536, 512)]);
    assert_eq!(kernel.wait_for(4), Completion::GOOD, "so the entry before has been seen");
    device.gate.open();
    assert_eq!(kernel.wait_for(1), Completion::GOOD, "it was begun before");
    assert_eq!(kernel.wait_for(2), Completion::check(0x0b, 0, 0));
    assert_eq!(kernel.wait_for(3), Completion::GOOD);
    assert!(server.stop(Duration::from_secs(10)));
}

#[test]
fn an_abort_does_not_mean_a_later_command_of_the_same_id() {
    let device = Arc::new(Device { cold: 0..4096, ..Device::new() });
    let kernel = Kernel::new(8192);
    let server = kernel.serve(device.clone(), 1, None);
    kernel.send(1, &read_10(0, 1), &[kernel.place(0, 512)]);
    device.gate.wait_for(1);
    let at = kernel.reserve(40);
    for (place, bytes) in [(entry::IDS, &[1, 0, 0, 0][..]), (entry::ID_LIST, &[2, 0, 0, 0, 0, 0, 0, 0])] {
        kernel.region.put(at + place, bytes).unwrap();
    }
    kernel.put_other(entry::ABORT, 40);
    kernel.put(2, &read_10(1, 1), &[kernel.place(512, 512)]);
    kernel.send(4, &read_10(100, 1), &[kernel.place(1536, 512)]);
    assert_eq!(kernel.wait_for(4), Completion::GOOD, "so the entries before have been seen");
    device.gate.open();
    assert_eq!(kernel.wait_for(2), Completion::GOOD);
    assert!(server.stop(Duration::from_secs(10)));
}

#[test]
fn a_compare_and_write_writes_where_it_finds_what_it_expects() {
    let device = Arc::new(MemoryDevice::new(1 << 20).unwrap());
    let kernel = Kernel::new(8192);
    let _server = kernel.serve(device.clone(), 2, None);
    let place = kernel.place(0, 2048);
    let ask = |expected: u8, new: u8| {
        kernel.write(&place, &[[expected; 1024], [new; 1024]].concat());
        kernel.ask(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0], std::slice::from_ref(&place))
    };
    assert_eq!(ask(0, 7), Completion::GOOD);
    assert_eq!(ask(0, 8), Completion::check(0x0e, 0x1d, 0));
    assert_eq!(ask(7, 9), Completion::GOOD);
    let mut found = [0; 2048];
    device.read_at(&mut found, 1024).unwrap();
    assert!(found[..512] == [0; 512] && found[512..1536] == [9; 1024] && found[1536..] == [0; 512]);
    let short = kernel.place(0, 1024);
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0];
    assert_eq!(kernel.ask(&cdb, &[short]), Completion::check(5, 0x24, 0));
}

#[test]
fn a_ring_that_makes_no_sense_is_refused() {
    let wrong: [(usize, u32, Kind); 6] = [
        (mailbox::VERSION, 3 | 1 << 16, Kind::Unsupported),
        (mailbox::VERSION, 2 | 2 << 16, Kind::Unsupported),
        (mailbox::RING_OFFSET, 64, Kind::Corrupt),
        (mailbox::RING_BYTES, u32::MAX, Kind::Corrupt),
        (mailbox::RING_BYTES, 0, Kind::Corrupt),
        (mailbox::TAIL, 8192, Kind::Corrupt),
    ];
    for (at, value, kind) in wrong {
        let kernel = Kernel::new(8192);
        kernel.region.store_release(at, value).unwrap();
        let outcome = Ring::new(Arc::clone(&kernel.region)).map(drop);
        assert_eq!(outcome.unwrap_err().kind(), kind, "{at} {value:#x}");
    }
    assert!(Ring::new(Arc::new(Region::in_memory(8).unwrap())).is_err());
}

#[test]
fn entries_that_miss_the_head_do_not_go_round_for_ever() {
    for (operation, len) in [(entry::PAD, 16), (entry::CMD, 128), (7, 16)] {
        let kernel = Kernel::new(8192);
        let put = |at: usize, word: u32| kernel.region.store_release(at, word).unwrap();
        (0..8192 / len).for_each(|number| put(mailbox::BYTES + number * len, len as u32 | operation));
        // The second entry ends behind it.
        put(mailbox::HEAD, len as u32 + 8);
        let ring = Ring::new(Arc::clone(&kernel.region)).unwrap();
        let outcome = ring.take().and_then(|_| ring.take());
        assert_eq!(outcome.map(drop).unwrap_err().kind(), Kind::Corrupt);
    }
}

#[test]
fn entries_that_make_no_sense_end_the_service() {
    for word in [0, 1, 8 | 1, 104 | 1, 9000 | 1, 16384, u32::MAX] {
        let (report, heard) = hearer();
        let kernel = Kernel::new(8192);
        let at = kernel.put_other(entry::CMD, 112);
        kernel.region.store_release(at, word).unwrap();
        kernel.end();
        let options = Options { block_bytes: 512, serial: "1".into(), name: "n".into(), workers: 1, report };
        let ring = Ring::new(Arc::clone(&kernel.region)).unwrap();
        let link = Arc::clone(&kernel) as Arc<dyn Link>;
        let stats = Server::serve(Arc::new(Device::new()), ring, link, options).unwrap();
        assert!(stats.serving == 0 && heard.lock()[0].contains("TCMU entry of"), "{word:#x}: {:?}", heard.lock());
    }
}

#[test]
fn what_must_be_durable_is_flushed_before_it_is_answered() {
    let device = Arc::new(Device::new());
    let kernel = Kernel::new(8192);
    let _server = kernel.serve(device.clone(), 2, None);
    let flushes = |cdb: &[u8]| {
        assert_eq!(kernel.ask(cdb, &[kernel.place(0, 512)]), Completion::GOOD);
        device.flushes.swap(0, Ordering::SeqCst)
    };
    let durable = |mut cdb: [u8; 10]| {
        cdb[1] = 8;
        cdb
    };
    assert_eq!(flushes(&write_10(0, 1)), 0, "there is a write cache");
    assert_eq!(flushes(&durable(write_10(0, 1))), 1);
    assert_eq!(flushes(&durable(read_10(0, 1))), 0);
    assert_eq!(flushes(&ten(0x35, 0, 0)), 1);
    assert_eq!(flushes(&[0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 1);
    assert_eq!(flushes(&[0x1b, 0, 0, 0, 0, 0]), 1, "a disk that is stopped may be switched off");
}

/// Something that initiators do.
#[derive(Clone, Debug)]
enum Act {
    Read { lba: u32, blocks: u16 },
    Write { lba: u32, blocks: u16, seed: u8, durable: bool },
    Unmap(Vec<(u32, u16)>),
    WriteSame { lba: u32, blocks: u16, seed: u8, unmap: bool },
}

const BLOCKS: u32 = 256;

fn acts() -> impl Strategy<Value = Act> {
    let (lba, blocks) = (0..BLOCKS + 8, 0..40u16);
    let ranges = prop::collection::vec((lba.clone(), blocks.clone()), 0..4);
    prop_oneof![
        (lba.clone(), blocks.clone()).prop_map(|(lba, blocks)| Act::Read { lba, blocks }),
        (lba.clone(), blocks.clone(), 1..=255u8, any::<bool>()).prop_map(|(lba, blocks, seed, durable)| Act::Write {
            lba,
            blocks,
            seed,
            durable
        }),
        ranges.prop_map(Act::Unmap),
        (lba, blocks, 0..3u8, any::<bool>()).prop_map(|(lba, blocks, seed, unmap)| Act::WriteSame {
            lba,
            blocks,
            seed,
            unmap
        }),
    ]
}

/// A plain disk.
struct Model(Vec<u8>);

impl Model {
    fn range(&mut self, lba: u32, blocks: u16) -> Option<&mut [u8]> {
        let (start, end) = (lba as usize * 512, (lba as usize + usize::from(blocks)) * 512);
        self.0.get_mut(start..end)
    }
}

fn check(kernel: &Kernel, model: &mut Model, act: &Act, cut: usize) -> std::result::Result<(), TestCaseError> {
    let out_of_range = Completion::check(5, 0x21, 0);
    let place = |len: usize| match cut.min(len) {
        0 => vec![kernel.place(0, len)],
        cut => vec![kernel.place(100_000, cut), kernel.place(0, len - cut)],
    };
    let give = |places: &[std::ops::Range<usize>], bytes: &[u8]| {
        let mut at = 0;
        for place in places {
            kernel.write(place, &bytes[at..at + place.len()]);
            at += place.len();
        }
    };
    match act {
        Act::Read { lba, blocks } => {
            let places = place(usize::from(*blocks) * 512);
            let done = kernel.ask(&read_10(*lba, *blocks), &places);
            match model.range(*lba, *blocks) {
                None => prop_assert_eq!(done, out_of_range),
                Some(expected) => {
                    prop_assert_eq!(done, Completion::GOOD);
                    let read: Vec<u8> = places.iter().flat_map(|place| kernel.read(place)).collect();
                    prop_assert!(read == *expected);
                }
            }
        }
        Act::Write { lba, blocks, seed, durable } => {
            let bytes: Vec<u8> = (0..usize::from(*blocks) * 512).map(|n| seed.wrapping_mul(n as u8)).collect();
            let places = place(bytes.len());
            give(&places, &bytes);
            let mut cdb = write_10(*lba, *blocks);
            cdb[1] = if *durable { 8 } else { 0 };
            let done = kernel.ask(&cdb, &places);
            let expected = model.range(*lba, *blocks).map(|range| range.copy_from_slice(&bytes));
            prop_assert_eq!(done, expected.map_or(out_of_range, |()| Completion::GOOD));
        }
        Act::Unmap(ranges) => {
            let mut list = vec![0; 8];
            list[3] = ranges.len() as u8 * 16;
            for (lba, blocks) in ranges {
                list.extend(u64::from(*lba).to_be_bytes());
                list.extend(u32::from(*blocks).to_be_bytes());
                list.extend([0; 4]);
            }
            let places = place(list.len());
            give(&places, &list);
            let done = kernel.ask(&[0x42, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], &places);
            let inside = ranges.iter().all(|(lba, blocks)| model.range(*lba, *blocks).is_some());
            prop_assert_eq!(done, if inside { Completion::GOOD } else { out_of_range });
            for (lba, blocks) in ranges.iter().filter(|_| inside) {
                model.range(*lba, *blocks).unwrap().fill(0);
            }
        }
        Act::WriteSame { lba, blocks, seed, unmap } => {
            let places = place(512);
            give(&places, &[*seed; 512]);
            let mut cdb = ten(0x41, *lba, *blocks);
            cdb[1] = if *unmap { 8 } else { 0 };
            let done = kernel.ask(&cdb, &places);
            let expected = match model.range(*lba, *blocks) {
                None => out_of_range,
                Some([]) => Completion::check(5, 0x24, 0),
                Some(range) => {
                    range.fill(*seed);
                    Completion::GOOD
                }
            };
            prop_assert_eq!(done, expected);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]

    /// Whatever initiators do, in a ring that goes round all the time, is what a plain disk would make of it.
    #[test]
    fn it_is_a_disk(acts in prop::collection::vec((acts(), 0..1500usize), 1..60)) {
        let device = Arc::new(MemoryDevice::new(u64::from(BLOCKS) * 512).unwrap());
        let mut model = Model(vec![0; BLOCKS as usize * 512]);
        let kernel = Kernel::new(688);
        let server = kernel.serve(device, 2, None);
        for (act, cut) in &acts {
            check(&kernel, &mut model, act, *cut)?;
        }
        prop_assert!(server.stop(Duration::ZERO));
    }
}

#[test]
fn lists_are_bounded() {
    let kernel = Kernel::new(8192);
    let _server = kernel.serve(Arc::new(Device::new()), 2, None);
    let ask = |said: usize, given: usize, count: usize| {
        let place = kernel.place(0, given);
        let mut list = vec![0; given];
        if given >= 4 {
            list[2..4].copy_from_slice(&(count as u16 * 16).to_be_bytes());
        }
        kernel.write(&place, &list);
        let [high, low] = (said as u16).to_be_bytes();
        kernel.ask(&[0x42, 0, 0, 0, 0, 0, 0, high, low, 0], &[place])
    };
    let full = 8 + 16 * TCMU_MAX_UNMAP_RANGES;
    assert_eq!(ask(full, full, TCMU_MAX_UNMAP_RANGES), Completion::GOOD);
    assert_eq!(ask(0, 0, 0), Completion::GOOD);
    assert_eq!(ask(7, 7, 0).sense, (5, 0x1a, 0));
    assert_eq!(ask(24, 8, 0).sense, (5, 0x1a, 0), "said to be longer than it is");
    assert_eq!(ask(24, 24, 2).sense, (5, 0x1a, 0), "cut off");
    assert_eq!(ask(full + 16, full + 16, TCMU_MAX_UNMAP_RANGES + 1).sense, (5, 0x26, 0));
    assert_eq!(ask(65535, 65535, 4095).sense, (5, 0x26, 0));
}
