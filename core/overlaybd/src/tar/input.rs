//! Where an archive's bytes come from: plain, gzip or zstd, decoded by a thread of its own, and digested if wanted.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use flate2::bufread::GzDecoder;
use ring::digest::{Context, SHA256};
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::error::{Error, Kind, Result};

/// Bytes handed over at a time, and how many such pieces may wait.
const PIECE: usize = 256 << 10;
const WAITING: usize = 4;
/// Time after which whoever reads is asked whether to go on.
const PATIENCE: Duration = Duration::from_millis(200);

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip, of any number of members.
    Gzip,
    /// zstd, of any number of frames.
    Zstd,
}

impl Compression {
    /// How a file is compressed that begins with `head`, four bytes or all that it has; None if it is not.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1F, 0x8B, ..] => Some(Compression::Gzip),
            // The second are frames that are to be skipped.
            [0x28, 0xB5, 0x2F, 0xFD] | [0x50..=0x5F, 0x2A, 0x4D, 0x18] => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// Plain bytes of an archive, which a thread reads, decodes and digests ahead of their use, within a bound.
pub struct Input<'a> {
    said: Receiver<Said>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
    digest: Option<[u8; 32]>,
    compressed: Option<Compression>,
    checked: bool,
    going_on: Box<dyn FnMut() -> Result<()> + 'a>,
    /// When that was asked last.
    asked: Instant,
}

impl<'a> Input<'a> {
    /// Looks at the first bytes of `raw` to tell how it is compressed. With `digest` the SHA-256 of the plain bytes is
    /// known at their end. `going_on` is called now and then while bytes are read, or waited for, as with a pipe; what
    /// it fails with, reading fails with.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn open(
        raw: impl Read + Send + 'static,
        digest: bool,
        going_on: impl FnMut() -> Result<()> + 'a,
    ) -> io::Result<Self> {
        let (say, said) = sync_channel(WAITING);
        // It ends at the end of the input, or when nobody listens any more. It is not waited for: it may wait for a
        // pipe whose writer is gone for good.
        std::thread::Builder::new().name("tar-input".into()).spawn(move || {
            let mut raw = BufReader::with_capacity(PIECE, Uninterrupted(raw));
            let mut head = Vec::with_capacity(4);
            let decoder = raw.by_ref().take(4).read_to_end(&mut head).and_then(|_| decoder(head, raw, &say));
            match decoder {
                Ok((decoder, compressed)) => decode(decoder, compressed, digest, &say),
                Err(e) => drop(say.send(Said::Failed(e))),
            }
        })?;
        let (piece, going_on, asked) = (Vec::new(), Box::new(going_on), Instant::now());
        let (at, ended, compressed) = (0, false, None);
        Ok(Input { said, piece, at, ended, digest: None, compressed, checked: digest, going_on, asked })
    }

    /// SHA-256 of all plain bytes, if it was wanted and all were read.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    /// Whether there are more bytes than are stored; known once some were read.
    pub fn is_compressed(&self) -> bool {
        self.compressed.is_some()
    }

    /// How it is compressed; known likewise.
    pub fn compression(&self) -> Option<Compression> {
        self.compressed
    }

    /// Whether the bytes after the archive's end are of use: they complete a check.
    pub fn is_checked(&self) -> bool {
        self.checked || self.compressed.is_some()
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            if self.asked.elapsed() >= PATIENCE {
                (self.going_on)().map_err(io::Error::other)?;
                self.asked = Instant::now();
            }
            match self.said.recv_timeout(PATIENCE) {
                Ok(Said::Compressed(how)) => self.compressed = Some(how),
                Ok(Said::Bytes(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(Said::End(digest)) => (self.digest, self.ended) = (digest, true),
                Ok(Said::Failed(e)) => return Err(e),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the thread that decodes the archive is gone"));
                }
            }
        }
        let n = buf.len().min(self.piece.len() - self.at);
        buf[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// What decodes an input that begins with `head`, and whether it is compressed.
fn decoder(
    head: Vec<u8>,
    raw: BufReader<impl Read + Send + 'static>,
    say: &SyncSender<Said>,
) -> io::Result<(Box<dyn Read + Send>, bool)> {
    let compression = Compression::of(&head);
    let all = io::Cursor::new(head).chain(raw);
    let (decoder, how): (Box<dyn Read + Send>, _) = match compression {
        Some(Compression::Gzip) => (Box::new(Gzip { member: Some(GzDecoder::new(all)) }), Compression::Gzip),
        Some(Compression::Zstd) => (Box::new(Zstd::new(all)?), Compression::Zstd),
        None => return Ok((Box::new(all), false)),
    };
    // If nobody listens any more the next word will tell.
    let _ = say.send(Said::Compressed(how));
    Ok((decoder, true))
}

/// What the thread says: how the input is compressed, bytes, the digest of all at the end, or why it cannot go on.
enum Said {
    Compressed(Compression),
    Bytes(Vec<u8>),
    End(Option<[u8; 32]>),
    Failed(io::Error),
}

fn decode(mut decoder: Box<dyn Read + Send>, compressed: bool, digest: bool, say: &SyncSender<Said>) {
    let mut context = digest.then(|| Context::new(&SHA256));
    loop {
        let mut piece = vec![0; PIECE];
        let mut len = 0;
        // A full piece each time, since to hand one over costs something; but a pipe may say no more for long.
        let end = loop {
            match decoder.read(&mut piece[len..]) {
                Ok(0) => break Some(Ok(())),
                Ok(n) => len += n,
                Err(e) => break Some(Err(e)),
            }
            if len == piece.len() || !compressed {
                break None;
            }
        };
        piece.truncate(len);
        if let Some(context) = &mut context {
            context.update(&piece);
        }
        if say.send(Said::Bytes(piece)).is_err() {
            return;
        }
        let last = match end {
            None => continue,
            Some(Ok(())) => Said::End(context.map(|context| {
                let mut sum = [0; 32];
                sum.copy_from_slice(context.finish().as_ref());
                sum
            })),
            Some(Err(e)) => Said::Failed(e),
        };
        let _ = say.send(last);
        return;
    }
}

/// Reads again what a signal interrupts: what decodes is not made to go on after an error.
struct Uninterrupted<R>(R);

impl<R: Read> Read for Uninterrupted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// All members of a gzip file, and zeros behind them, as tapes have.
struct Gzip<R> {
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            let n = member.read(buf)?;
            if n > 0 {
                return Ok(n);
            }
            let Some(mut rest) = self.member.take().map(GzDecoder::into_inner) else { break };
            loop {
                let there = rest.fill_buf()?;
                let zeros = there.iter().take_while(|b| **b == 0).count();
                match there.get(zeros) {
                    None if there.is_empty() => return Ok(0),
                    Some(0x1F) if zeros == 0 => break,
                    Some(_) => return Err(io::Error::other(Error::corrupt("what follows a gzip member is no gzip"))),
                    None => rest.consume(zeros),
                }
            }
            self.member = Some(GzDecoder::new(rest));
        }
        Ok(0)
    }
}

/// All frames of a zstd file.
struct Zstd<R> {
    context: DCtx<'static>,
    input: R,
    /// Whether a frame has begun that has not ended.
    inside: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> io::Result<Self> {
        let context = DCtx::try_create().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Zstd { context, input, inside: false })
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let there = self.input.fill_buf()?;
            if there.is_empty() && !self.inside {
                return Ok(0);
            }
            let at_end = there.is_empty();
            let mut from = InBuffer::around(there);
            let mut to = OutBuffer::around(&mut *buf);
            let hint = self.context.decompress_stream(&mut to, &mut from).map_err(|code| {
                let name = zstd_safe::get_error_name(code);
                io::Error::other(Error::corrupt(format!("zstd: {name}")))
            })?;
            let (used, made) = (from.pos(), to.pos());
            self.inside = hint != 0;
            self.input.consume(used);
            if made > 0 {
                return Ok(made);
            }
            if at_end {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the zstd frame is cut off"));
            }
        }
    }
}

/// The error that an input failed with: ours where one is inside, else by what the system says.
pub(super) fn error_of(e: io::Error) -> Error {
    if let Some(inner) = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return inner.again();
    }
    match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::new(Kind::Corrupt, "the compressed archive is cut off"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Error::new(Kind::Corrupt, "the compressed archive is damaged").because(e)
        }
        _ => Error::io("read of the archive", e),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn whoever_waits_for_a_pipe_can_give_up() {
        let (reader, _writer) = io::pipe().unwrap();
        let stop = || Err(Error::new(Kind::Interrupted, "enough"));
        let error = Input::open(reader, false, stop).unwrap().read(&mut [0]).map_err(error_of).unwrap_err();
        assert_eq!((error.kind(), error.what()), (Kind::Interrupted, "enough"));
    }

    #[test]
    fn what_a_pipe_has_given_is_there_before_it_ends() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"some bytes").unwrap();
        let mut bytes = [0; 10];
        Input::open(reader, false, || Ok(())).unwrap().read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"some bytes");
    }

    #[test]
    fn whoever_reads_what_does_not_end_can_give_up() {
        let stop = || Err(Error::new(Kind::Interrupted, "enough"));
        let mut input = Input::open(io::repeat(0), false, stop).unwrap();
        let error = io::copy(&mut input, &mut io::sink()).map_err(error_of).unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
    }
}
