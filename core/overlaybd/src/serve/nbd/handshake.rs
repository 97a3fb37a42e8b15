//! The option phase: fixed newstyle negotiation (document: "The NBD protocol", section "Handshake
//! phase"), until the client has chosen an export, leaves, or runs out of time.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use super::input::Input;
use super::net::{self, Wake};
use super::proto::{can, info, option, reply, u16_at, u32_at, u64_at};
use super::proto::{BASE_ALLOCATION, BASE_ALLOCATION_ID, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES};
use super::proto::{INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC};
use super::server::{Export, Shared};
use crate::error::{Error, Kind, Result};
use crate::limits::{NBD_MAX_NAME, NBD_MAX_OPTION, NBD_MAX_OPTIONS, NBD_MAX_PAYLOAD};

/// What a client has settled on.
pub struct Chosen {
    /// The export.
    pub export: Arc<Export>,
    /// Replies may be structured, and those to reads are.
    pub structured: bool,
    /// Block status may be asked for.
    pub base_allocation: bool,
}

/// One client in the option phase.
pub struct Handshake<'a> {
    /// Its socket.
    pub socket: RawFd,
    /// What it sent; holds the first requests afterwards.
    pub input: &'a mut Input,
    /// Signalled when the server stops.
    pub wake: &'a Wake,
    /// The server.
    pub server: &'a Shared,
    /// The latest moment to be done.
    pub deadline: Instant,
}

/// What was agreed so far.
#[derive(Default)]
struct Agreed {
    no_zeroes: bool,
    structured: bool,
    /// The export for which base:allocation was asked.
    context_for: Option<Vec<u8>>,
}

type Answer = (u32, Vec<u8>);

impl Handshake<'_> {
    /// Talks until the client has chosen. None if it left in good order.
    ///
    /// Errors: `Corrupt` if what it sends is not this protocol, `Limit` if it asks for too much, `TimedOut`,
    /// `Interrupted` when the server stops, `NotFound` for an unknown name given by EXPORT_NAME.
    pub fn run(mut self) -> Result<Option<Chosen>> {
        let flags = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES;
        self.send(&[&INIT_MAGIC.to_be_bytes(), &OPTION_MAGIC.to_be_bytes(), &flags.to_be_bytes()])?;
        let flags = u32_at(&self.take(4)?, 0);
        if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
            return Err(Error::corrupt(format!("unknown client flags {flags:#x}")));
        }
        let mut agreed = Agreed { no_zeroes: flags & u32::from(FLAG_NO_ZEROES) != 0, ..Agreed::default() };
        for _ in 0..NBD_MAX_OPTIONS {
            let head = self.take(16)?;
            if u64_at(&head, 0) != OPTION_MAGIC {
                return Err(Error::corrupt("wrong magic of an option"));
            }
            let (option, len) = (u32_at(&head, 8), u32_at(&head, 12));
            if len > NBD_MAX_OPTION {
                self.answer(option, &[(reply::ERR_TOO_BIG, Vec::new())])?;
                return Err(Error::new(Kind::Limit, format!("option {option} of {len} bytes")));
            }
            let data = self.take(len as usize)?;
            match option {
                option::EXPORT_NAME => return self.export_name(&data, &agreed).map(Some),
                option::ABORT => {
                    // The client may have closed already.
                    let _ = self.answer(option, &[(reply::ACK, Vec::new())]);
                    return Ok(None);
                }
                option::INFO | option::GO => {
                    let (answers, export) = self.info(&data, &agreed);
                    self.answer(option, &answers)?;
                    if let (Some(export), option::GO) = (export, option) {
                        return Ok(Some(self.chosen(export, &agreed, &data[4..4 + u32_at(&data, 0) as usize])));
                    }
                }
                _ => {
                    let answers = self.other(option, &data, &mut agreed);
                    self.answer(option, &answers)?;
                }
            }
        }
        Err(Error::new(Kind::Limit, format!("more than {NBD_MAX_OPTIONS} options")))
    }

    fn chosen(&self, export: Arc<Export>, agreed: &Agreed, name: &[u8]) -> Chosen {
        let base_allocation = agreed.structured && agreed.context_for.as_deref() == Some(name);
        Chosen { export, structured: agreed.structured, base_allocation }
    }

    /// The old way to choose: no way to say no but to close.
    fn export_name(&mut self, name: &[u8], agreed: &Agreed) -> Result<Chosen> {
        let export =
            self.server.find(name).ok_or_else(|| Error::new(Kind::NotFound, "a client asked for an unknown export"))?;
        let (size, flags) = (export.device.size(), transmission_flags(&export, agreed.structured));
        let zeroes: &[u8] = if agreed.no_zeroes { &[] } else { &[0; 124] };
        self.send(&[&size.to_be_bytes(), &flags.to_be_bytes(), zeroes])?;
        Ok(self.chosen(export, agreed, name))
    }

    /// Answers to INFO and GO, and the export if there is one.
    fn info(&self, data: &[u8], agreed: &Agreed) -> (Vec<Answer>, Option<Arc<Export>>) {
        let Some((name, rest)) = split_string(data) else { return (one(reply::ERR_INVALID), None) };
        if name.len() > NBD_MAX_NAME || rest.len() < 2 || rest.len() - 2 != 2 * usize::from(u16_at(rest, 0)) {
            return (one(reply::ERR_INVALID), None);
        }
        let Some(export) = self.server.find(name) else { return (one(reply::ERR_UNKNOWN), None) };
        let mut fields = info::EXPORT.to_be_bytes().to_vec();
        fields.extend_from_slice(&export.device.size().to_be_bytes());
        fields.extend_from_slice(&transmission_flags(&export, agreed.structured).to_be_bytes());
        let mut answers = vec![(reply::INFO, fields)];
        let asked = |kind: u16| rest[2..].chunks_exact(2).any(|b| u16_at(b, 0) == kind);
        if asked(info::NAME) {
            let mut fields = info::NAME.to_be_bytes().to_vec();
            fields.extend_from_slice(export.name.as_bytes());
            answers.push((reply::INFO, fields));
        }
        if asked(info::BLOCK_SIZE) {
            let mut fields = info::BLOCK_SIZE.to_be_bytes().to_vec();
            for size in [1, 4096, NBD_MAX_PAYLOAD] {
                fields.extend_from_slice(&size.to_be_bytes());
            }
            answers.push((reply::INFO, fields));
        }
        answers.push((reply::ACK, Vec::new()));
        (answers, Some(export))
    }

    fn other(&self, option: u32, data: &[u8], agreed: &mut Agreed) -> Vec<Answer> {
        match option {
            option::LIST | option::STRUCTURED_REPLY if !data.is_empty() => one(reply::ERR_INVALID),
            option::LIST => {
                let mut answers = Vec::new();
                for name in self.server.names() {
                    let mut fields = (name.len() as u32).to_be_bytes().to_vec();
                    fields.extend_from_slice(name.as_bytes());
                    answers.push((reply::SERVER, fields));
                }
                answers.push((reply::ACK, Vec::new()));
                answers
            }
            option::STRUCTURED_REPLY => {
                agreed.structured = true;
                one(reply::ACK)
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(option, data, agreed),
            _ => one(reply::ERR_UNSUP),
        }
    }

    fn meta_context(&self, option: u32, data: &[u8], agreed: &mut Agreed) -> Vec<Answer> {
        let set = option == option::SET_META_CONTEXT;
        if set {
            agreed.context_for = None;
        }
        let Some((name, queries)) = split_string(data).and_then(|(name, rest)| Some((name, queries(rest)?))) else {
            return one(reply::ERR_INVALID);
        };
        if !agreed.structured || name.len() > NBD_MAX_NAME {
            return one(reply::ERR_INVALID);
        }
        if self.server.find(name).is_none() {
            return one(reply::ERR_UNKNOWN);
        }
        let list_all = !set && queries.is_empty();
        // `base:` asks for all contexts of that name space, where listing; setting needs the full name.
        let asks = |q: &&[u8]| *q == BASE_ALLOCATION.as_bytes() || !set && *q == b"base:";
        if !list_all && !queries.iter().any(asks) {
            return one(reply::ACK);
        }
        // When listing, the number means nothing and must be zero.
        let mut fields = (if set { BASE_ALLOCATION_ID } else { 0 }).to_be_bytes().to_vec();
        fields.extend_from_slice(BASE_ALLOCATION.as_bytes());
        if set {
            agreed.context_for = Some(name.to_vec());
        }
        vec![(reply::META_CONTEXT, fields), (reply::ACK, Vec::new())]
    }

    fn answer(&mut self, option: u32, answers: &[Answer]) -> Result<()> {
        let mut bytes = Vec::new();
        for (kind, data) in answers {
            bytes.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
            bytes.extend_from_slice(&option.to_be_bytes());
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
            bytes.extend_from_slice(data);
        }
        self.send(&[&bytes])
    }

    /// Exactly `n` bytes, at most [`NBD_MAX_OPTION`].
    fn take(&mut self, n: usize) -> Result<Vec<u8>> {
        while self.input.bytes().len() < n {
            match self.input.receive(self.socket).map_err(|e| Error::io("receiving", e))? {
                Some(0) => return Err(Error::corrupt("the client closed the connection in the handshake")),
                Some(_) => {}
                None => self.wait(libc::POLLIN)?,
            }
        }
        let bytes = self.input.bytes()[..n].to_vec();
        self.input.consume(n);
        Ok(bytes)
    }

    fn send(&mut self, parts: &[&[u8]]) -> Result<()> {
        let bytes = parts.concat();
        let mut sent = 0;
        while sent < bytes.len() {
            match net::send(self.socket, &[IoSlice::new(&bytes[sent..])]).map_err(|e| Error::io("sending", e))? {
                Some(n) => sent += n,
                None => self.wait(libc::POLLOUT)?,
            }
        }
        Ok(())
    }

    fn wait(&self, events: i16) -> Result<()> {
        let fds = [(self.socket, events), (self.wake.as_raw_fd(), libc::POLLIN)];
        let [ready, _] = net::poll(fds, Some(self.deadline)).map_err(|e| Error::io("waiting for a client", e))?;
        if self.server.stopping() {
            return Err(Error::new(Kind::Interrupted, "the server stops"));
        }
        if ready == 0 && Instant::now() >= self.deadline {
            return Err(Error::new(Kind::TimedOut, "the handshake took too long"));
        }
        Ok(())
    }
}

fn one(kind: u32) -> Vec<Answer> {
    vec![(kind, Vec::new())]
}

/// What an export can do, in the client's eyes.
fn transmission_flags(export: &Export, structured: bool) -> u16 {
    // All connections share one device and its flush covers the writes of all: hence MULTI_CONN.
    let mut flags = can::HAS_FLAGS | can::FLUSH | can::MULTI_CONN | can::CACHE;
    if structured {
        flags |= can::DF;
    }
    if export.device.read_only() {
        flags | can::READ_ONLY
    } else {
        flags | can::FUA | can::TRIM | can::WRITE_ZEROES | can::FAST_ZERO
    }
}

/// A string with its length before it, and what follows.
fn split_string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_at_checked(4)?;
    rest.split_at_checked(u32_at(len, 0) as usize)
}

/// A count and as many strings, and nothing else.
fn queries(data: &[u8]) -> Option<Vec<&[u8]>> {
    let (count, mut rest) = data.split_at_checked(4)?;
    let mut queries = Vec::new();
    // Each takes four bytes at least, so that the data's length bounds the loop.
    for _ in 0..u32_at(count, 0) {
        let (query, after) = split_string(rest)?;
        queries.push(query);
        rest = after;
    }
    rest.is_empty().then_some(queries)
}
