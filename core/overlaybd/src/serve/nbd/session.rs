//! One client that has chosen an export: checks its requests, carries them out, answers them.
//!
//! Everything here may be called by the connection's thread and by workers alike.

use std::sync::Arc;

use super::out::{Out, Piece};
use super::proto::{chunk, command, flag, Errno, Head, Request, BASE_ALLOCATION_ID, STATE_HOLE_ZERO};
use super::server::{Export, Shared};
use crate::device::{BlockDevice, ExtentKind};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_IO_BYTES, NBD_MAX_EXTENTS, NBD_MAX_PAYLOAD};
use crate::serve::{guarded, is_ready, write_is_quick};

/// What a connection and its workers share.
pub struct Session {
    /// The sending side.
    pub out: Out,
    /// What the client chose.
    pub export: Arc<Export>,
    /// Whether reads are answered in chunks.
    pub structured: bool,
    /// Whether the client may ask for block status.
    pub base_allocation: bool,
    /// The server, for its counters.
    pub server: Arc<Shared>,
}

/// Commands of [`command`], with the flags that each may have.
const COMMANDS: [(u16, u16); 7] = [
    (command::READ, flag::DF | flag::FUA),
    (command::WRITE, flag::FUA),
    (command::FLUSH, flag::FUA),
    (command::TRIM, flag::FUA),
    (command::CACHE, flag::FUA),
    (command::WRITE_ZEROES, flag::FUA | flag::NO_HOLE | flag::FAST_ZERO),
    (command::BLOCK_STATUS, flag::FUA | flag::REQ_ONE),
];

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Session {
    /// The device.
    pub fn device(&self) -> &dyn BlockDevice {
        &*self.export.device
    }

    /// Whether a request makes sense here; what to answer if not.
    pub fn check(&self, request: &Request) -> std::result::Result<(), Errno> {
        let Request { flags, command, offset, len, .. } = *request;
        match COMMANDS.iter().find(|(known, _)| *known == command) {
            Some((_, allowed)) if flags & !allowed == 0 => {}
            _ => return Err(Errno::Inval),
        }
        let writes = matches!(command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if writes && self.device().read_only() {
            return Err(Errno::Perm);
        }
        if offset.checked_add(u64::from(len)).is_none_or(|end| end > self.device().size()) {
            let grows = matches!(command, command::WRITE | command::WRITE_ZEROES);
            return Err(if grows { Errno::NoSpc } else { Errno::Inval });
        }
        let sensible = match command {
            command::READ => len <= NBD_MAX_PAYLOAD && (self.structured || !request.has(flag::DF)),
            command::WRITE | command::CACHE => len <= NBD_MAX_PAYLOAD,
            command::FLUSH => offset == 0 && len == 0,
            command::BLOCK_STATUS => self.base_allocation && len > 0,
            command::WRITE_ZEROES if request.has(flag::NO_HOLE) && request.has(flag::FAST_ZERO) => {
                return Err(Errno::NotSup);
            }
            _ => true,
        };
        if sensible {
            Ok(())
        } else {
            Err(Errno::Inval)
        }
    }

    /// Whether a write can be carried out on the spot.
    pub fn write_is_quick(&self, request: &Request) -> bool {
        !request.has(flag::FUA) && write_is_quick(self.device(), request.offset, u64::from(request.len))
    }

    /// Whether reading the range needs no network.
    pub fn is_ready(&self, request: &Request) -> bool {
        is_ready(self.device(), request.offset, u64::from(request.len))
    }

    /// Fills `buf`; counts and reports a failure.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> std::result::Result<(), Errno> {
        let done = guarded(|| self.device().read_at(buf, offset));
        done.map_err(|e| self.failed(e.context(format!("reading {} bytes", buf.len())).at(offset)))
    }

    /// Carries out any request but a read, and gives the answer.
    pub fn execute(&self, request: &Request, payload: &[u8]) -> Piece {
        let done = guarded(|| self.try_execute(request, payload));
        match done {
            Ok(piece) => piece,
            Err(e) => {
                let doing = format!("command {} of {} bytes", request.command, request.len);
                let errno = self.failed(e.context(doing).at(request.offset));
                self.refusal(request, errno)
            }
        }
    }

    fn try_execute(&self, request: &Request, payload: &[u8]) -> Result<Piece> {
        let Request { cookie, offset, .. } = *request;
        let (device, len) = (self.device(), u64::from(request.len));
        match request.command {
            command::WRITE => {
                device.write_at(payload, offset)?;
                self.server.stats.written(len);
            }
            command::TRIM => device.discard(offset, len)?,
            command::WRITE_ZEROES if request.has(flag::NO_HOLE) => write_zeros(device, offset, len)?,
            command::WRITE_ZEROES => device.discard(offset, len)?,
            command::FLUSH => device.flush()?,
            command::CACHE => self.fetch(offset, len)?,
            command::BLOCK_STATUS => return self.block_status(request),
            other => return Err(Error::new(Kind::Invalid, format!("command {other}"))),
        }
        if request.has(flag::FUA) && request.command != command::CACHE {
            device.flush()?;
        }
        Ok(Head::simple(cookie, None).into())
    }

    /// Makes a range ready by reading it.
    fn fetch(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset + len;
        let mut scratch = self.out.buffers().take(len.min(MAX_IO_BYTES as u64) as usize);
        let mut done = Ok(());
        let mut at = offset;
        while at < end && done.is_ok() {
            let step = (end - at).min(scratch.len() as u64);
            if !self.device().is_ready(at, step) {
                done = self.device().read_at(&mut scratch[..step as usize], at);
            }
            at += step;
        }
        self.out.buffers().give(scratch);
        done
    }

    fn block_status(&self, request: &Request) -> Result<Piece> {
        let max = if request.has(flag::REQ_ONE) { 1 } else { NBD_MAX_EXTENTS };
        let runs = self.device().extents(request.offset, u64::from(request.len), max)?;
        let mut body = Vec::with_capacity(runs.len() * 8);
        let mut last = None;
        for run in runs {
            let state = if run.kind == ExtentKind::Data { 0 } else { STATE_HOLE_ZERO };
            // At most the request's length in all, which is 32 bits.
            let len = run.len as u32;
            match &mut last {
                Some((run_len, run_state)) if *run_state == state => *run_len += len,
                _ => {
                    push_descriptor(&mut body, last);
                    last = Some((len, state));
                }
            }
        }
        push_descriptor(&mut body, last);
        let mut head = Head::chunk(request.cookie, chunk::BLOCK_STATUS, 4 + body.len() as u32).done();
        head.put(&BASE_ALLOCATION_ID.to_be_bytes());
        Ok(Piece { head, len: body.len(), body })
    }

    /// The answer to a request that fails as a whole.
    pub fn refusal(&self, request: &Request, errno: Errno) -> Piece {
        if self.structured {
            Head::error(request.cookie, errno, None).done().into()
        } else {
            Head::simple(request.cookie, Some(errno)).into()
        }
    }

    /// Counts and reports a failure of the device; what to tell the client.
    pub fn failed(&self, error: Error) -> Errno {
        let errno = Errno::from(&error);
        self.server.stats.failed();
        self.export.reporter.report(&self.export.name, error);
        errno
    }
}

fn push_descriptor(body: &mut Vec<u8>, run: Option<(u32, u32)>) {
    if let Some((len, state)) = run {
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(&state.to_be_bytes());
    }
}

fn write_zeros(device: &dyn BlockDevice, offset: u64, len: u64) -> Result<()> {
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let step = (end - at).min(ZEROS.len() as u64);
        device.write_at(&ZEROS[..step as usize], at)?;
        at += step;
    }
    Ok(())
}
