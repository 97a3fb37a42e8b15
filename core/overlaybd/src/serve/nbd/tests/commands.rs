//! Every command against a plain model, the answers to nonsense, and faults that stay where they are.

use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;

use super::super::proto::{command, flag};
use super::super::server::{Options, Shared};
use super::client::Client;
use super::{pattern, server, Device, SIZE};
use crate::device::{BlockDevice, MemoryDevice};
use crate::limits::NBD_MAX_PAYLOAD;

const MIB: u64 = 1 << 20;

#[test]
fn reads_of_all_shapes_give_the_right_bytes() {
    let server = server(&Arc::new(Device::new()));
    for structured in [false, true] {
        let mut c = Client::new(&server, structured);
        assert_eq!(c.size, SIZE);
        for (offset, len) in [(0, 1), (511, 4096), (1, 65536), (4097, 65537), (3, 3 << 20), (0, SIZE as u32), (SIZE, 0)]
        {
            assert_eq!(c.read(offset, len).unwrap(), pattern(offset, len as usize), "{len} at {offset}");
        }
        c.leave();
    }
}

#[test]
fn dont_fragment_means_one_chunk() {
    let device = Arc::new(Device::new());
    device.discard(MIB, MIB).unwrap();
    let mut c = Client::new(&server(&device), true);
    let answer = c.call(command::READ, flag::DF, 0, 3 << 20, &[]);
    assert_eq!((answer.data.len(), answer.holes.len()), (1, 0));
    let mut want = pattern(0, 3 << 20);
    want[MIB as usize..2 * MIB as usize].fill(0);
    assert_eq!(answer.bytes(0, 3 << 20, true).unwrap(), want);
    let answer = c.call(command::READ, 0, 0, 3 << 20, &[]);
    assert_eq!(answer.holes, [(MIB, 1 << 20)], "without it, zeros are not sent");
    assert_eq!(answer.bytes(0, 3 << 20, true).unwrap(), want);
    c.leave();
}

#[test]
fn nonsense_is_refused_and_the_connection_goes_on() {
    let device = Arc::new(Device::new());
    let server = server(&device);
    for structured in [false, true] {
        let mut c = Client::new(&server, structured);
        let max = NBD_MAX_PAYLOAD;
        let status_ok = if structured { 0 } else { 22 };
        let cases = [
            (command::READ, 0, SIZE, 1, 22),
            (command::READ, 0, u64::MAX, 1, 22),
            (command::READ, 0, 0, max + 1, 22),
            (command::READ, flag::NO_HOLE, 0, 1, 22),
            (command::READ, 1 << 15, 0, 1, 22),
            (command::TRIM, 0, SIZE, 1, 22),
            (command::WRITE_ZEROES, 0, SIZE - 1, 2, 28),
            (command::WRITE_ZEROES, flag::NO_HOLE | flag::FAST_ZERO, 0, 512, 95),
            (command::FLUSH, 0, 0, 1, 22),
            (command::CACHE, 0, 0, max + 1, 22),
            (command::BLOCK_STATUS, 0, 0, 0, 22),
            (command::BLOCK_STATUS, 0, 0, 512, status_ok),
            (command::BLOCK_STATUS, 0, SIZE - 1, 2, 22),
            (99, 0, 0, 0, 22),
            (u16::MAX, u16::MAX, u64::MAX, u32::MAX, 22),
        ];
        for (command, flags, offset, len, errno) in cases {
            let answer = c.call(command, flags, offset, len, &[]);
            assert_eq!(answer.error, errno, "command {command} flags {flags} at {offset} len {len}");
        }
        // Refused writes take their payload with them, however long it is.
        assert_eq!(c.write(SIZE - 1, b"ab"), 28);
        assert_eq!(c.write(0, &vec![1; SIZE as usize + 1]), 28);
        assert_eq!(c.call(command::WRITE, flag::DF, 0, 100_000, &[1; 100_000]).error, 22);
        assert_eq!(c.read(0, 4096).unwrap(), pattern(0, 4096));
        c.leave();
    }
    let mut c = Client::of(&server, "fixed", true);
    assert_eq!(c.write(0, b"x"), 1, "EPERM");
    assert_eq!(c.call(command::TRIM, 0, 0, 1, &[]).error, 1);
    assert_eq!(c.call(command::WRITE_ZEROES, 0, 0, 1, &[]).error, 1);
    assert_eq!(c.call(command::FLUSH, 0, 0, 0, &[]).error, 0);
    assert_eq!(c.read(990, 10).unwrap(), [7; 10]);
    c.leave();
}

#[test]
fn requests_have_a_largest_size() {
    let len = NBD_MAX_PAYLOAD as usize;
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(2 * len as u64).unwrap());
    let server = Arc::new(Shared::new(vec![("disk".into(), device)], Options::default()).unwrap());
    let mut c = Client::new(&server, true);
    let data = pattern(0, len + 1);
    assert_eq!(c.write(5, &data), 22, "and its payload is read over");
    assert_eq!(c.read(5, len as u32 + 1), Err(22));
    assert_eq!(c.call(command::CACHE, 0, 5, len as u32 + 1, &[]).error, 22);
    assert_eq!(c.write(5, &data[..len]), 0);
    assert_eq!(c.read(5, len as u32).unwrap(), data[..len]);
    assert_eq!(c.call(command::TRIM, 0, 5, len as u32 + 1, &[]).error, 0, "no payload, no limit");
    c.leave();
}

#[test]
fn a_stream_that_is_no_nbd_closes_the_connection() {
    let server = server(&Arc::new(Device::new()));
    let mut c = Client::new(&server, true);
    c.stream.write_all(&[0; 28]).unwrap();
    assert_eq!(c.stream.read(&mut [0]).unwrap(), 0);
    c.thread.join().unwrap().unwrap();
}

#[test]
fn a_request_cut_anywhere_changes_nothing() {
    let device = Arc::new(Device::new());
    let server = server(&device);
    for len in [100, 100_000] {
        let mut request = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0];
        request.extend_from_slice(&(len as u32).to_be_bytes());
        request.resize(28 + len, 0xee);
        for cut in (0..40).chain([28 + len - 1]) {
            let mut c = Client::new(&server, true);
            c.stream.write_all(&request[..cut]).unwrap();
            c.stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(c.stream.read(&mut [0]).unwrap(), 0, "no answer to a part of a request");
            c.thread.join().unwrap().unwrap();
        }
    }
    let mut bytes = vec![0; 200_000];
    device.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, pattern(0, 200_000));
}

#[test]
fn a_half_closed_client_still_gets_its_answers() {
    let server = server(&Arc::new(Device::new()));
    let mut c = Client::new(&server, true);
    for i in 0..50 {
        c.send(command::READ, 0, i * 4096, 200_000, &[]);
    }
    c.stream.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..50 {
        let (cookie, answer) = c.receive();
        let offset = (cookie - 1) * 4096;
        assert_eq!(answer.bytes(offset, 200_000, true).unwrap(), pattern(offset, 200_000));
    }
    assert_eq!(c.stream.read(&mut [0]).unwrap(), 0);
    c.thread.join().unwrap().unwrap();
}

#[test]
fn faults_reach_only_the_requests_concerned() {
    let (bad, panics) = (2 * MIB..2 * MIB + 1, 5 * MIB..5 * MIB + 1);
    let device = Arc::new(Device { bad, panics, ..Device::new() });
    let server = server(&device);
    for structured in [false, true] {
        let mut c = Client::new(&server, structured);
        let mut want = std::collections::HashMap::new();
        for i in 0..128u64 {
            let (offset, len) = (i % 64 * 131_072, if i < 64 { 131_072 } else { 4096 });
            let broken = offset == 2 * MIB || offset == 5 * MIB;
            want.insert(c.send(command::READ, 0, offset, len, &[]), (offset, len, broken));
        }
        for _ in 0..128 {
            let (cookie, answer) = c.receive();
            let (offset, len, broken) = want.remove(&cookie).unwrap();
            let bytes = answer.bytes(offset, len, structured);
            assert_eq!(bytes, if broken { Err(5) } else { Ok(pattern(offset, len as usize)) }, "{offset}");
        }
        let answer = c.call(command::READ, 0, MIB, 2 << 20, &[]);
        assert_eq!((answer.error, answer.error_offset), (5, structured.then_some(2 * MIB)));
        for (command, payload) in
            [(command::WRITE, &[1u8; 512][..]), (command::TRIM, &[]), (command::WRITE_ZEROES, &[])]
        {
            assert_eq!(c.call(command, 0, 2 * MIB, 512, payload).error, 5);
            assert_eq!(c.call(command, flag::FUA, 5 * MIB, 512, payload).error, 5);
        }
        assert_eq!(c.read(MIB, 1 << 20).unwrap(), pattern(MIB, 1 << 20));
        c.leave();
    }
}

#[test]
fn all_connections_see_one_device() {
    let server = server(&Arc::new(Device::new()));
    let mut clients: Vec<_> = (0..4).map(|i| Client::new(&server, i % 2 == 0)).collect();
    for i in 0..40usize {
        assert_eq!(clients[i % 4].write(i as u64 * 999, &[i as u8; 999]), 0);
        assert_eq!(clients[(i + 1) % 4].read(i as u64 * 999, 999).unwrap(), [i as u8; 999]);
    }
    clients.into_iter().for_each(Client::leave);
}

/// One request of the model test.
#[derive(Clone, Debug)]
enum Step {
    Read(u64, u32),
    Write(u64, u32, u8, bool),
    Zero(u64, u32, u16),
    Trim(u64, u32),
    Flush,
    Status(u64, u32, bool),
    Cache(u64, u32),
}

fn range() -> impl Strategy<Value = (u64, u32)> {
    let len = prop_oneof![0..100u32, Just(4096), 60_000..70_000u32, 0..1_500_000u32];
    (0..SIZE, len).prop_map(|(offset, len)| (offset, len.min((SIZE - offset) as u32)))
}

fn step() -> impl Strategy<Value = Step> {
    let zero_flags = prop_oneof![Just(0), Just(flag::NO_HOLE), Just(flag::FUA), Just(flag::FAST_ZERO)];
    prop_oneof![
        3 => range().prop_map(|(o, l)| Step::Read(o, l)),
        3 => (range(), any::<u8>(), any::<bool>()).prop_map(|((o, l), b, fua)| Step::Write(o, l, b, fua)),
        1 => (range(), zero_flags).prop_map(|((o, l), f)| Step::Zero(o, l, f)),
        1 => range().prop_map(|(o, l)| Step::Trim(o, l)),
        1 => Just(Step::Flush),
        1 => (range(), any::<bool>()).prop_map(|((o, l), one)| Step::Status(o, l.max(1), one)),
        1 => range().prop_map(|(o, l)| Step::Cache(o, l)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_matches_a_plain_model(steps in prop::collection::vec(step(), 1..30), structured: bool) {
        let server = server(&Arc::new(Device::new()));
        let mut c = Client::new(&server, structured);
        let mut model = pattern(0, SIZE as usize);
        let slice = |o: u64, l: u32| o as usize..o as usize + l as usize;
        for step in steps {
            match step {
                Step::Read(o, l) => prop_assert_eq!(&c.read(o, l).unwrap(), &model[slice(o, l)]),
                Step::Write(o, l, byte, fua) => {
                    model[slice(o, l)].fill(byte);
                    let flags = if fua { flag::FUA } else { 0 };
                    prop_assert_eq!(c.call(command::WRITE, flags, o, l, &vec![byte; l as usize]).error, 0);
                }
                Step::Zero(o, l, flags) => {
                    model[slice(o, l)].fill(0);
                    prop_assert_eq!(c.call(command::WRITE_ZEROES, flags, o, l, &[]).error, 0);
                }
                Step::Trim(o, l) => {
                    model[slice(o, l)].fill(0);
                    prop_assert_eq!(c.call(command::TRIM, 0, o, l, &[]).error, 0);
                }
                Step::Flush => prop_assert_eq!(c.call(command::FLUSH, 0, 0, 0, &[]).error, 0),
                Step::Cache(o, l) => prop_assert_eq!(c.call(command::CACHE, 0, o, l, &[]).error, 0),
                Step::Status(o, l, one) => {
                    let flags = if one { flag::REQ_ONE } else { 0 };
                    let answer = c.call(command::BLOCK_STATUS, flags, o, l, &[]);
                    if !structured {
                        prop_assert_eq!(answer.error, 22);
                        continue;
                    }
                    prop_assert!(!answer.status.is_empty() && (!one || answer.status.len() == 1));
                    prop_assert!(answer.status.windows(2).all(|w| w[0].1 != w[1].1), "neighbours differ");
                    let mut at = o;
                    for (len, state) in answer.status {
                        prop_assert!(len > 0 && (state == 0 || state == 3));
                        if state == 3 {
                            prop_assert!(model[slice(at, len)].iter().all(|b| *b == 0));
                        }
                        at += u64::from(len);
                    }
                    prop_assert!(at <= o + u64::from(l));
                }
            }
        }
        prop_assert_eq!(&c.read(0, SIZE as u32).unwrap(), &model);
        c.leave();
    }
}
