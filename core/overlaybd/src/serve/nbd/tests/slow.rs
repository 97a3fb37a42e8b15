//! A device that waits: it must hold up only the requests that touch what it waits for.

use std::io::{Read, Write};
use std::sync::Arc;

use super::super::proto::{command, Request};
use super::super::server::{Options, Server};
use super::client::{take, Client};
use super::{pattern, server, Device, SIZE};
use crate::device::BlockDevice;
use crate::limits::{NBD_MAX_IN_FLIGHT, NBD_MAX_IN_FLIGHT_BYTES};

const MIB: u64 = 1 << 20;

fn cold() -> Arc<Device> {
    Arc::new(Device { cold: 0..MIB, ..Device::new() })
}

#[test]
fn cached_reads_overtake_a_slow_one() {
    for structured in [false, true] {
        let device = cold();
        let server = server(&device);
        let mut c = Client::new(&server, structured);
        let slow = c.send(command::READ, 0, MIB - 4096, 8192, &[]);
        device.gate.wait_for(1);
        for (offset, len) in [(MIB, 512), (4 * MIB, 2 << 20), (MIB, 64 << 10)] {
            let quick = c.send(command::READ, 0, offset, len, &[]);
            let (cookie, answer) = c.receive();
            assert_eq!(cookie, quick);
            assert_eq!(answer.bytes(offset, len, structured).unwrap(), pattern(offset, len as usize));
        }
        assert_eq!(c.write(2 * MIB, &[1; 4096]), 0);
        device.gate.open();
        let (cookie, answer) = c.receive();
        assert_eq!(cookie, slow);
        assert_eq!(answer.bytes(MIB - 4096, 8192, structured).unwrap(), pattern(MIB - 4096, 8192));
        c.leave();
    }
}

#[test]
fn a_write_that_has_to_read_first_is_overtaken_too() {
    let device = cold();
    let mut c = Client::new(&server(&device), true);
    let slow = c.send(command::WRITE, 0, 512, 512, &[3; 512]);
    device.gate.wait_for(1);
    assert_eq!(c.read(2 * MIB, 4096).unwrap(), pattern(2 * MIB, 4096));
    device.gate.open();
    assert_eq!(c.receive().0, slow);
    assert_eq!(c.read(512, 512).unwrap(), [3; 512]);
    c.leave();
}

#[test]
fn all_workers_waiting_still_leaves_cached_reads_and_other_exports() {
    let device = cold();
    let server = server(&device);
    let mut c = Client::new(&server, true);
    let slow: Vec<_> = (0..40).map(|i| c.send(command::READ, 0, i * 512, 512, &[])).collect();
    device.gate.wait_for(4);
    assert_eq!(c.read(3 * MIB, 1 << 20).unwrap(), pattern(3 * MIB, 1 << 20));
    let mut other = Client::of(&server, "fixed", false);
    // A flush goes to the workers, each export's own.
    assert_eq!(other.call(command::FLUSH, 0, 0, 0, &[]).error, 0);
    other.leave();
    device.gate.open();
    let mut answered: Vec<_> = slow.iter().map(|_| c.receive().0).collect();
    answered.sort_unstable();
    assert_eq!(answered, slow);
    c.leave();
}

#[test]
fn a_client_that_does_not_read_its_replies_holds_up_nobody() {
    let device = Arc::new(Device::new());
    let server = server(&device);
    let mut greedy = Client::new(&server, true);
    // 96 MiB of replies, far more than may be under way: the server stops reading from it.
    for i in 0..24 {
        greedy.send(command::READ, 0, i, 4 << 20, &[]);
    }
    let mut other = Client::new(&server, false);
    for i in 0..20 {
        assert_eq!(other.read(i * 4096, 1 << 20).unwrap(), pattern(i * 4096, 1 << 20));
        assert_eq!(other.call(command::FLUSH, 0, 0, 0, &[]).error, 0);
    }
    other.leave();
    for _ in 0..24 {
        let (cookie, answer) = greedy.receive();
        assert_eq!(answer.bytes(cookie - 1, 4 << 20, true).unwrap(), pattern(cookie - 1, 4 << 20));
    }
    greedy.leave();
}

#[test]
fn no_more_is_read_for_a_client_than_may_be_under_way_however_much_it_asks_for() {
    let device = Arc::new(Device { cold: 0..SIZE, ..Device::new() });
    let server = server(&device);
    let mut greedy = Client::new(&server, true);
    for _ in 0..100 {
        greedy.send(command::READ, 0, 0, 4 << 20, &[]);
    }
    device.gate.open();
    // Behind what the workers are given to do meanwhile.
    let mut other = Client::new(&server, true);
    for _ in 0..500 {
        assert_eq!(other.call(command::FLUSH, 0, 0, 0, &[]).error, 0);
    }
    other.leave();
    // A request of the largest size excepted, and what is in the socket.
    let most = NBD_MAX_IN_FLIGHT_BYTES as u64 + (8 << 20);
    assert!(server.stats.get(0).read_bytes <= most, "{:?}", server.stats.get(0));
    for _ in 0..100 {
        assert_eq!(greedy.receive().1.error, 0);
    }
    greedy.leave();
}

#[test]
fn requests_beyond_what_may_be_under_way_are_answered_though_the_client_sends_no_more() {
    let device = Arc::new(Device { cold: 0..SIZE, ..Device::new() });
    let mut c = Client::new(&server(&device), false);
    let asked = 6 * NBD_MAX_IN_FLIGHT;
    let request = |cookie| Request { flags: 0, command: command::READ, cookie, offset: 0, len: 512 };
    let requests: Vec<_> = (0..asked as u64).flat_map(|cookie| request(cookie).encode()).collect();
    c.stream.write_all(&requests).unwrap();
    device.gate.wait_for(4);
    device.gate.open();
    take(&mut c.stream, asked * (16 + 512));
    c.leave();
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let device = cold();
    let server = server(&device);
    let mut c = Client::new(&server, true);
    for i in 0..10 {
        c.send(command::READ, 0, i, 4096, &[]);
    }
    device.gate.wait_for(4);
    drop(c.stream);
    device.gate.open();
    c.thread.join().unwrap().unwrap();
    Client::new(&server, true).leave();
}

#[test]
fn a_stop_answers_what_is_under_way() {
    let device = cold();
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("s").display());
    let exports = vec![("disk".to_string(), Arc::clone(&device) as Arc<dyn BlockDevice>)];
    let server = Arc::new(Server::start(exports, &address, Options::default()).unwrap());
    let mut c = Client::over(&server, true);
    let idle = Client::over(&server, false);
    let slow = c.send(command::READ, 0, 0, 4096, &[]);
    device.gate.wait_for(1);
    let stopper = {
        let server = Arc::clone(&server);
        std::thread::spawn(move || server.stop())
    };
    // The idle connection closes at once; the stop itself waits for the read.
    assert_eq!((&idle.stream).read(&mut [0]).unwrap(), 0);
    assert!(!stopper.is_finished());
    device.gate.open();
    let (cookie, answer) = c.receive();
    assert_eq!(cookie, slow);
    assert_eq!(answer.bytes(0, 4096, true).unwrap(), pattern(0, 4096));
    assert_eq!(c.stream.read(&mut [0]).unwrap(), 0);
    stopper.join().unwrap();
    assert!(!dir.path().join("s").exists(), "the socket's name is gone");
    assert_eq!(Arc::strong_count(&device), 1, "the device is free");
    let stats = server.stats();
    assert_eq!((stats.active, stats.connections, stats.read_bytes), (0, 2, 4096));
}

#[test]
fn a_stop_does_not_wait_for_ever_for_a_client_that_does_not_read() {
    let server = server(&Arc::new(Device::new()));
    let mut c = Client::new(&server, true);
    for _ in 0..64 {
        c.send(command::READ, 0, 0, 4 << 20, &[]);
    }
    server.end_connections();
    c.thread.join().unwrap().unwrap();
}
