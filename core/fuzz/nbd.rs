//! Fuzzes the NBD server: option phase and requests of a hostile client, over a socket pair.
#![no_main]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use overlaybd::device::{BlockDevice, Extent, MemoryDevice};
use overlaybd::serve::nbd::proto::{option, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, OPTION_MAGIC};
use overlaybd::serve::nbd::{Options, Shared};
use overlaybd::{Error, Result};

/// Large enough for a read in parts, small enough that many of them are quick.
const SIZE: u64 = (160 << 10) + 1;

/// A device of which every other 8 KiB go to the workers, and one sector fails.
struct Device(MemoryDevice);

impl Device {
    fn meet(&self, offset: u64, len: u64) -> Result<()> {
        if offset < 66_048 && offset + len > 65_536 {
            return Err(Error::corrupt("a bad sector"));
        }
        Ok(())
    }
}

impl BlockDevice for Device {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.meet(offset, buf.len() as u64)?;
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.meet(offset, buf.len() as u64)?;
        self.0.write_at(buf, offset)
    }
    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.0.discard(offset, len)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        self.0.extents(offset, len, max)
    }
    fn is_ready(&self, offset: u64, _len: u64) -> bool {
        offset % 16384 < 8192
    }
}

static SERVER: LazyLock<Arc<Shared>> = LazyLock::new(|| {
    let device = Arc::new(Device(MemoryDevice::new(SIZE).expect("a small device")));
    let exports: Vec<(String, Arc<dyn BlockDevice>)> = vec![("a".into(), device.clone()), ("b".into(), device)];
    Arc::new(Shared::new(exports, Options { workers: 2, ..Options::default() }).expect("two exports"))
});

/// A thread that is given sockets and gives back all that is said on them: to start one for each would take longer.
static READER: LazyLock<Mutex<(Sender<UnixStream>, Receiver<io::Result<Vec<u8>>>)>> = LazyLock::new(|| {
    let ((sockets, to_read), (heard, answers)) = (channel::<UnixStream>(), channel());
    std::thread::spawn(move || {
        for mut socket in to_read {
            let mut all = Vec::new();
            let read = socket.read_to_end(&mut all).map(|_| all);
            drop(socket);
            let _ = heard.send(read);
        }
    });
    Mutex::new((sockets, answers))
});

/// What a client in good faith says first: nothing, or until it has chosen an export in one of two ways.
fn prelude(mode: u8) -> Vec<u8> {
    let say = |option: u32, data: &[u8]| {
        let (magic, len) = (OPTION_MAGIC.to_be_bytes(), (data.len() as u32).to_be_bytes());
        [&magic[..], &option.to_be_bytes(), &len, data].concat()
    };
    let flags = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes().to_vec();
    let context = b"\0\0\0\x01a\0\0\0\x01\0\0\0\x0fbase:allocation";
    match mode % 4 {
        0 => [
            flags,
            say(option::STRUCTURED_REPLY, &[]),
            say(option::SET_META_CONTEXT, context),
            say(option::GO, b"\0\0\0\x01a\0\0"),
        ]
        .concat(),
        1 => [flags, say(option::EXPORT_NAME, b"b")].concat(),
        2 => flags,
        _ => Vec::new(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, said)) = bytes.split_first() else { return };
    let (mut client, server) = UnixStream::pair().expect("a socket pair");
    // 64 KiB and a little fit the socket's buffer, so that this does not wait.
    client.write_all(&prelude(*mode)).and_then(|()| client.write_all(said)).expect("room in the socket");
    client.shutdown(Shutdown::Write).expect("an open socket");
    let reader = READER.lock().expect("no panic");
    reader.0.send(client).expect("a reader");
    let _ = SERVER.serve(server.into());
    let heard = reader.1.recv().expect("a reader").expect("all that the server said, and its end");
    assert!(heard.starts_with(b"NBDMAGICIHAVEOPT"));
});
