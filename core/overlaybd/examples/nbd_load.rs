//! Puts a load on any NBD server and says how fast it answered: one connection, a fixed queue depth.
//!
//! usage: nbd_load ADDRESS [export=NAME] [mode=randread|seqread|randwrite] [depth=N] [size=BYTES]
//!                 [seconds=N] [verify=FILE] [simple]
//!
//! ADDRESS is unix:PATH or HOST:PORT. With `verify` every byte read is compared with that file. Prints one
//! line of JSON: iops, mib_s, and the median and 99th percentile of the time to answer in microseconds.

use std::collections::HashMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use overlaybd::serve::nbd::proto::{self, chunk, command, option, reply, u16_at, u32_at, u64_at, Request};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Room for what is received at once.
const BUFFER: usize = 1 << 20;

struct Arguments {
    address: String,
    export: String,
    mode: String,
    depth: usize,
    size: u32,
    seconds: f64,
    verify: Option<Vec<u8>>,
    simple: bool,
}

fn arguments() -> Outcome<Arguments> {
    let mut args = std::env::args().skip(1);
    let address = args.next().ok_or("usage: nbd_load ADDRESS [key=value...]")?;
    let mut a = Arguments {
        address,
        export: String::new(),
        mode: "randread".into(),
        depth: 1,
        size: 4096,
        seconds: 2.0,
        verify: None,
        simple: false,
    };
    for arg in args {
        let (key, value) = arg.split_once('=').unwrap_or((&arg, ""));
        match key {
            "export" => a.export = value.into(),
            "mode" => a.mode = value.into(),
            "depth" => a.depth = value.parse()?,
            "size" => a.size = value.parse()?,
            "seconds" => a.seconds = value.parse()?,
            "verify" => a.verify = Some(std::fs::read(value)?),
            "simple" => a.simple = true,
            _ => return Err(format!("unknown argument {key}").into()),
        }
    }
    Ok(a)
}

/// Connects and chooses the export; its size in bytes.
fn negotiate(a: &Arguments) -> Outcome<(UnixStream, u64)> {
    let mut stream = match a.address.strip_prefix("unix:") {
        Some(path) => UnixStream::connect(path)?,
        None => {
            let stream = TcpStream::connect(&a.address)?;
            stream.set_nodelay(true)?;
            // Only read and written from here on, for which the kind of socket makes no difference.
            OwnedFd::from(stream).into()
        }
    };
    let mut hello = [0; 18];
    stream.read_exact(&mut hello)?;
    stream.write_all(&3u32.to_be_bytes())?;
    let mut go = (a.export.len() as u32).to_be_bytes().to_vec();
    go.extend_from_slice(a.export.as_bytes());
    go.extend_from_slice(&[0, 0]);
    let options = [(option::STRUCTURED_REPLY, vec![]), (option::GO, go)];
    let mut size = 0;
    for (option, data) in options.iter().skip(usize::from(a.simple)) {
        let head = [&proto::OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &(data.len() as u32).to_be_bytes()];
        stream.write_all(&[&head.concat()[..], data].concat())?;
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            let mut data = vec![0; u32_at(&head, 16) as usize];
            stream.read_exact(&mut data)?;
            match u32_at(&head, 12) {
                reply::ACK => break,
                reply::INFO if u16_at(&data, 0) == 0 => size = u64_at(&data, 2),
                reply::INFO => {}
                error => return Err(format!("option {option} refused: {error:#x}").into()),
            }
        }
    }
    Ok((stream, size))
}

/// A reply's head: its length, the cookie, whether it is the last, offset and length of the data that follows.
type Head = (usize, u64, bool, u64, usize);

struct Load {
    arguments: Arguments,
    stream: UnixStream,
    /// Requests that fit the device.
    places: u64,
    random: u64,
    next: u64,
    /// Requests under way: cookie to place and start.
    under_way: HashMap<u64, (u64, Instant)>,
    times: Vec<u32>,
    outgoing: Vec<u8>,
}

impl Load {
    fn place(&mut self) -> u64 {
        if self.arguments.mode == "seqread" {
            return self.next % self.places;
        }
        // xorshift64*: the same places for every server.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) % self.places
    }

    fn request(&mut self) {
        let size = self.arguments.size;
        let offset = self.place() * u64::from(size);
        let write = self.arguments.mode == "randwrite";
        let command = if write { command::WRITE } else { command::READ };
        self.next += 1;
        let request = Request { flags: 0, command, cookie: self.next, offset, len: size };
        self.outgoing.extend_from_slice(&request.encode());
        if write {
            let start = self.outgoing.len();
            self.outgoing.resize(start + size as usize, 0);
            // Neither zeros nor the same everywhere.
            for (i, byte) in self.outgoing[start..].chunks_mut(16).enumerate() {
                byte[0] = (i as u64 ^ self.next) as u8 | 1;
            }
        }
        self.under_way.insert(self.next, (offset, Instant::now()));
    }

    fn completed(&mut self, cookie: u64, error: u32) -> Outcome<()> {
        let (offset, start) = self.under_way.remove(&cookie).ok_or("an answer to nothing")?;
        if error != 0 {
            return Err(format!("request at {offset} failed: {error}").into());
        }
        self.times.push(start.elapsed().as_micros() as u32);
        Ok(())
    }

    fn check(&self, bytes: &[u8], offset: u64) -> Outcome<()> {
        match &self.arguments.verify {
            Some(model) if model[offset as usize..offset as usize + bytes.len()] != *bytes => {
                Err(format!("wrong bytes at {offset}").into())
            }
            _ => Ok(()),
        }
    }

    fn run(&mut self) -> Outcome<Duration> {
        let start = Instant::now();
        let end = start + Duration::from_secs_f64(self.arguments.seconds);
        for _ in 0..self.arguments.depth {
            self.request();
        }
        let mut buffer = vec![0; BUFFER];
        // Bytes of the buffer that are filled, and the data still to come: (offset, bytes, cookie if last).
        let (mut filled, mut data) = (0, (0u64, 0usize, None));
        while !self.under_way.is_empty() {
            self.stream.write_all(&self.outgoing)?;
            self.outgoing.clear();
            let n = self.stream.read(&mut buffer[filled..])?;
            if n == 0 {
                return Err("the server closed the connection".into());
            }
            filled += n;
            let mut at = 0;
            loop {
                let there = &buffer[at..filled];
                if data.1 > 0 {
                    let take = data.1.min(there.len());
                    self.check(&there[..take], data.0)?;
                    data = (data.0 + take as u64, data.1 - take, data.2);
                    at += take;
                    if data.1 > 0 {
                        break;
                    }
                    if let Some(cookie) = data.2.take() {
                        self.completed(cookie, 0)?;
                        if Instant::now() < end {
                            self.request();
                        }
                    }
                    continue;
                }
                let Some((used, cookie, done, offset, len)) = self.head(there)? else { break };
                at += used;
                data = (offset, len, Some(cookie).filter(|_| done));
                if len == 0 && done {
                    data.2 = None;
                    self.completed(cookie, 0)?;
                    if Instant::now() < end {
                        self.request();
                    }
                }
            }
            buffer.copy_within(at..filled, 0);
            filled -= at;
        }
        Ok(start.elapsed())
    }

    /// Reads a head; None if it is not all there.
    fn head(&self, there: &[u8]) -> Outcome<Option<Head>> {
        if there.len() < 16 {
            return Ok(None);
        }
        if u32_at(there, 0) == proto::SIMPLE_REPLY_MAGIC {
            let (error, cookie) = (u32_at(there, 4), u64_at(there, 8));
            let offset = self.under_way.get(&cookie).ok_or("an answer to nothing")?.0;
            if error != 0 {
                return Err(format!("request at {offset} failed: {error}").into());
            }
            let len = if self.arguments.mode == "randwrite" { 0 } else { self.arguments.size as usize };
            return Ok(Some((16, cookie, true, offset, len)));
        }
        if there.len() < 20 {
            return Ok(None);
        }
        let (flags, kind, cookie, len) = (u16_at(there, 4), u16_at(there, 6), u64_at(there, 8), u32_at(there, 16));
        let fixed = match kind {
            chunk::OFFSET_DATA => 8,
            chunk::OFFSET_HOLE | chunk::NONE => len as usize,
            _ => return Err(format!("chunk of type {kind:#x}").into()),
        };
        if there.len() < 20 + fixed {
            return Ok(None);
        }
        let offset = if kind == chunk::NONE { 0 } else { u64_at(there, 20) };
        Ok(Some((20 + fixed, cookie, flags & proto::CHUNK_DONE != 0, offset, len as usize - fixed)))
    }
}

fn main() -> Outcome<()> {
    let arguments = arguments()?;
    let (stream, size) = negotiate(&arguments)?;
    let places = size / u64::from(arguments.size);
    if places == 0 {
        return Err("the device is smaller than a request".into());
    }
    let bytes = f64::from(arguments.size);
    let mut load = Load {
        arguments,
        stream,
        places,
        random: 0x9e37_79b9_7f4a_7c15,
        next: 0,
        under_way: HashMap::new(),
        times: Vec::new(),
        outgoing: Vec::new(),
    };
    let elapsed = load.run()?.as_secs_f64();
    load.times.sort_unstable();
    let count = load.times.len();
    let (p50, p99) = (load.times[count / 2], load.times[count * 99 / 100]);
    let iops = count as f64 / elapsed;
    let mib_s = iops * bytes / f64::from(1 << 20);
    println!(r#"{{"iops": {iops:.0}, "mib_s": {mib_s:.1}, "p50_us": {p50}, "p99_us": {p99}, "count": {count}}}"#);
    Ok(())
}
