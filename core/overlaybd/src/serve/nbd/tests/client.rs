//! A small NBD client that checks every field it gets.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::super::proto::{chunk, command, option, reply, u16_at, u32_at, u64_at, Request};
use super::super::proto::{CHUNK_DONE, INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC};
use super::super::proto::{FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, STRUCTURED_REPLY_MAGIC};
use super::super::server::{Server, Shared};
use super::connect;
use crate::error::Result;

/// A connection in the transmission phase.
pub struct Client {
    pub stream: UnixStream,
    pub thread: JoinHandle<Result<()>>,
    pub structured: bool,
    pub size: u64,
    cookie: u64,
    /// Payload sizes of the requests under way whose simple replies carry data.
    reads: HashMap<u64, usize>,
    /// Chunks of requests that are not complete yet.
    partial: HashMap<u64, Answer>,
}

/// A complete answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub error: u32,
    /// Where an error was said to be.
    pub error_offset: Option<u64>,
    /// Runs of data, as (offset, bytes), in the order of arrival; offset 0 for a simple reply.
    pub data: Vec<(u64, Vec<u8>)>,
    /// Runs of zeros, as (offset, length).
    pub holes: Vec<(u64, u32)>,
    /// Block status, as (length, flags).
    pub status: Vec<(u32, u32)>,
}

pub fn take(stream: &mut UnixStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

pub fn greet(stream: &mut UnixStream, flags: u16) {
    let hello = take(stream, 18);
    assert_eq!((u64_at(&hello, 0), u64_at(&hello, 8)), (INIT_MAGIC, OPTION_MAGIC));
    assert_eq!(u16_at(&hello, 16), FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    stream.write_all(&u32::from(flags).to_be_bytes()).unwrap();
}

pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let (magic, len) = (OPTION_MAGIC.to_be_bytes(), (data.len() as u32).to_be_bytes());
    [&magic[..], &option.to_be_bytes(), &len, data].concat()
}

/// Sends an option and gathers its replies up to the acknowledgement or error.
pub fn negotiate(stream: &mut UnixStream, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    stream.write_all(&option_bytes(option, data)).unwrap();
    let mut replies = Vec::new();
    loop {
        let head = take(stream, 20);
        assert_eq!((u64_at(&head, 0), u32_at(&head, 8)), (OPTION_REPLY_MAGIC, option));
        let kind = u32_at(&head, 12);
        replies.push((kind, take(stream, u32_at(&head, 16) as usize)));
        if kind == reply::ACK || kind >= 1 << 31 {
            return replies;
        }
    }
}

/// A name with its length.
pub fn string(name: &str) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes()[..], name.as_bytes()].concat()
}

/// The data of INFO and GO.
pub fn go(name: &str, infos: &[u16]) -> Vec<u8> {
    let infos: Vec<u8> = [infos.len() as u16].iter().chain(infos).flat_map(|i| i.to_be_bytes()).collect();
    [string(name), infos].concat()
}

/// The data of SET and LIST_META_CONTEXT.
pub fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = (queries.len() as u32).to_be_bytes().to_vec();
    [string(name), count, queries.iter().flat_map(|q| string(q)).collect()].concat()
}

impl Client {
    /// Connects and chooses the export "disk"; with structured replies, also base:allocation.
    pub fn new(server: &Arc<Shared>, structured: bool) -> Client {
        Self::of(server, "disk", structured)
    }

    pub fn of(server: &Arc<Shared>, name: &str, structured: bool) -> Client {
        let (stream, thread) = connect(server);
        Self::choose(stream, thread, name, structured)
    }

    /// Connects to where a server listens and chooses its default export.
    pub fn over(server: &Server, structured: bool) -> Client {
        let stream = match server.address().strip_prefix("unix:") {
            Some(path) => UnixStream::connect(path).unwrap(),
            None => OwnedFd::from(TcpStream::connect(server.address()).unwrap()).into(),
        };
        Self::choose(stream, std::thread::spawn(|| Ok(())), "", structured)
    }

    fn choose(mut stream: UnixStream, thread: JoinHandle<Result<()>>, name: &str, structured: bool) -> Client {
        greet(&mut stream, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        if structured {
            assert_eq!(negotiate(&mut stream, option::STRUCTURED_REPLY, &[]), [(reply::ACK, vec![])]);
            let set = negotiate(&mut stream, option::SET_META_CONTEXT, &contexts(name, &["base:allocation"]));
            assert_eq!(set[0], (reply::META_CONTEXT, [&[0, 0, 0, 1], &b"base:allocation"[..]].concat()));
        }
        let replies = negotiate(&mut stream, option::GO, &go(name, &[]));
        assert_eq!((replies[0].0, replies.last().unwrap().0), (reply::INFO, reply::ACK));
        let size = u64_at(&replies[0].1, 2);
        let (reads, partial) = (HashMap::new(), HashMap::new());
        Client { stream, thread, structured, size, cookie: 0, reads, partial }
    }

    /// Sends a request; its cookie.
    pub fn send(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> u64 {
        self.cookie += 1;
        let request = Request { flags, command, cookie: self.cookie, offset, len };
        self.stream.write_all(&[&request.encode(), payload].concat()).unwrap();
        if command == command::READ {
            self.reads.insert(self.cookie, len as usize);
        }
        self.cookie
    }

    /// The next complete answer, with its cookie.
    pub fn receive(&mut self) -> (u64, Answer) {
        loop {
            let magic = u32_at(&take(&mut self.stream, 4), 0);
            if magic == SIMPLE_REPLY_MAGIC {
                let head = take(&mut self.stream, 12);
                let (error, cookie) = (u32_at(&head, 0), u64_at(&head, 4));
                let len = self.reads.remove(&cookie).filter(|_| error == 0);
                assert!(!(self.structured && len.is_some()), "a read must be answered in chunks");
                let data = len.map(|len| (0, take(&mut self.stream, len))).into_iter().collect();
                return (cookie, Answer { error, data, ..Answer::default() });
            }
            assert!(self.structured && magic == STRUCTURED_REPLY_MAGIC, "magic {magic:#x}");
            let head = take(&mut self.stream, 16);
            let (flags, kind, cookie) = (u16_at(&head, 0), u16_at(&head, 2), u64_at(&head, 4));
            let payload = take(&mut self.stream, u32_at(&head, 12) as usize);
            let answer = self.partial.entry(cookie).or_default();
            match kind {
                chunk::NONE => assert!(payload.is_empty() && flags == CHUNK_DONE),
                chunk::OFFSET_DATA => answer.data.push((u64_at(&payload, 0), payload[8..].to_vec())),
                chunk::OFFSET_HOLE => answer.holes.push((u64_at(&payload, 0), u32_at(&payload, 8))),
                chunk::BLOCK_STATUS => {
                    assert_eq!(u32_at(&payload, 0), 1);
                    answer.status = payload[4..].chunks(8).map(|d| (u32_at(d, 0), u32_at(d, 4))).collect();
                }
                chunk::ERROR | chunk::ERROR_OFFSET => {
                    assert_eq!(u16_at(&payload, 4), 0);
                    answer.error = u32_at(&payload, 0);
                    answer.error_offset = (kind == chunk::ERROR_OFFSET).then(|| u64_at(&payload, 6));
                }
                other => panic!("chunk type {other}"),
            }
            if flags & CHUNK_DONE != 0 {
                self.reads.remove(&cookie);
                return (cookie, self.partial.remove(&cookie).unwrap());
            }
        }
    }

    /// Sends a request and waits for its answer, the only one under way.
    pub fn call(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> Answer {
        let cookie = self.send(command, flags, offset, len, payload);
        let (answered, answer) = self.receive();
        assert_eq!(answered, cookie);
        answer
    }

    /// Reads a range; the error's number if it fails.
    pub fn read(&mut self, offset: u64, len: u32) -> std::result::Result<Vec<u8>, u32> {
        self.call(command::READ, 0, offset, len, &[]).bytes(offset, len, self.structured)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.call(command::WRITE, 0, offset, data.len() as u32, data).error
    }

    /// Leaves in good order and waits until the server has finished with this client.
    pub fn leave(mut self) {
        self.send(command::DISC, 0, 0, 0, &[]);
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        self.thread.join().unwrap().unwrap();
    }
}

impl Answer {
    /// The bytes of a read, every one of which must have come exactly once.
    pub fn bytes(self, offset: u64, len: u32, structured: bool) -> std::result::Result<Vec<u8>, u32> {
        if self.error != 0 {
            return Err(self.error);
        }
        let mut bytes = vec![0; len as usize];
        let mut seen = vec![false; len as usize];
        let base = if structured { offset } else { 0 };
        let zeros = self.holes.iter().map(|(at, len)| (*at, vec![0; *len as usize]));
        for (at, data) in self.data.iter().cloned().chain(zeros) {
            let start = (at - base) as usize;
            assert!(seen[start..start + data.len()].iter().all(|s| !s), "bytes sent twice");
            seen[start..start + data.len()].fill(true);
            bytes[start..start + data.len()].copy_from_slice(&data);
        }
        assert!(seen.iter().all(|s| *s), "bytes left out");
        Ok(bytes)
    }
}
