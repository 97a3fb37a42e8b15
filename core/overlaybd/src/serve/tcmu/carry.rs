//! Carries out requests: between the data of a command and the device.

use std::sync::LazyLock;

use super::data::Data;
use super::ring::Response;
use super::scsi::{unmap_ranges, Compare, Lun, Request, Sense, Span, MAX_LIST_BYTES};
use crate::device::BlockDevice;
use crate::error::Error;
use crate::limits::{MAX_IO_BYTES, TCMU_MAX_TRANSFER_BYTES};
use crate::serve::buffers::Buffers;

/// Where data that lies in pieces is put together, for the devices of all rings: an idle one holds no memory.
static BUFFERS: LazyLock<Buffers> = LazyLock::new(Buffers::default);

/// Bytes carried at a time where they are not carried in place.
const STEP: usize = TCMU_MAX_TRANSFER_BYTES;

/// Why a request was not carried out.
pub enum Failed {
    /// It cannot be: the initiator's fault.
    Refused(Sense),
    /// The device failed; what to tell the initiator.
    Device(Error, Sense),
    /// The server stops: the kernel will have it carried out by the next one.
    Stopped,
}

impl From<Sense> for Failed {
    fn from(sense: Sense) -> Failed {
        Failed::Refused(sense)
    }
}

type Outcome<T> = Result<T, Failed>;

/// One command's view of the device.
pub struct Carrier<'a> {
    /// What is served.
    pub device: &'a dyn BlockDevice,
    /// As what.
    pub lun: &'a Lun,
    /// The command's data.
    pub data: Data<'a>,
    /// Whether to leave off.
    pub stopping: &'a dyn Fn() -> bool,
}

impl Carrier<'_> {
    /// Carries out a request.
    ///
    /// Errors: as in [`Failed`]; what was begun may be done in part, as with any disk.
    pub fn carry_out(&mut self, request: &Request) -> Outcome<Response> {
        match request {
            Request::Nothing => {}
            Request::Answer(answer) => return self.answer(answer),
            Request::Read(span) => return self.read(*span),
            Request::Write { span, durable } => {
                self.write(*span)?;
                if *durable {
                    self.flush()?;
                }
            }
            Request::CompareAndWrite { span, durable } => {
                self.compare_and_write(*span)?;
                if *durable {
                    self.flush()?;
                }
            }
            Request::Status(span, room) => {
                let answer = self.lun.status(*span, *room, self.device).map_err(read_failed)?;
                return self.answer(&answer);
            }
            Request::Verify(span, compare) => self.verify(*span, *compare)?,
            Request::Flush => self.flush()?,
            Request::Unmap(len) => self.unmap(*len)?,
            Request::WriteSame { span, unmap, zeros } => self.write_same(*span, *unmap, *zeros)?,
            Request::ModeSelect { len, long } => {
                let list = self.list(*len)?;
                self.lun.mode_select(&list, *long, self.device)?;
            }
        }
        Ok(Response::Good)
    }

    fn answer(&mut self, answer: &[u8]) -> Outcome<Response> {
        let filled = self.data.fill(0, answer).map_err(broken)?;
        self.finish(filled as u64)
    }

    /// So much data is there; the rest is not left as it was.
    fn finish(&mut self, filled: u64) -> Outcome<Response> {
        if filled == self.data.bytes() {
            return Ok(Response::Good);
        }
        self.data.clear(filled).map_err(broken)?;
        Ok(Response::Short(u32::try_from(filled).unwrap_or(u32::MAX)))
    }

    fn read(&mut self, span: Span) -> Outcome<Response> {
        let len = span.len.min(self.data.bytes());
        let whole = usize::try_from(len).map_or(Ok(None), |len| self.data.whole(len)).map_err(broken)?;
        match whole {
            Some(to) => {
                let mut at = span.offset;
                for part in to.chunks_mut(MAX_IO_BYTES) {
                    self.device.read_at(part, at).map_err(read_failed)?;
                    at += part.len() as u64;
                }
            }
            None => {
                let data = &mut self.data;
                steps(Span { len, ..span }, |buffer, at| {
                    self.device.read_at(buffer, at).map_err(read_failed)?;
                    data.fill(at - span.offset, buffer).map(drop).map_err(broken)
                })?;
            }
        }
        self.finish(len)
    }

    /// Writes the second half of the data if the first is what is there.
    fn compare_and_write(&self, span: Span) -> Outcome<()> {
        let len = usize::try_from(span.len).unwrap_or(usize::MAX);
        if self.data.bytes() < 2 * span.len {
            return Err(Sense::INVALID_FIELD.into());
        }
        let (mut expected, mut present) = (vec![0; len], vec![0; len]);
        self.data.copy(0, &mut expected).map_err(broken)?;
        // Once before, so that nobody waits for what is to be fetched.
        self.device.read_at(&mut present, span.offset).map_err(read_failed)?;
        let _no_other_write = self.lun.writes.write();
        self.device.read_at(&mut present, span.offset).map_err(read_failed)?;
        if present != expected {
            return Err(Sense::MISCOMPARE.into());
        }
        self.data.copy(span.len, &mut present).map_err(broken)?;
        self.device.write_at(&present, span.offset).map_err(write_failed)
    }

    fn write(&mut self, span: Span) -> Outcome<()> {
        let _beside_others = self.lun.writes.read();
        if self.data.bytes() < span.len {
            return Err(Sense::INVALID_FIELD.into());
        }
        let whole = usize::try_from(span.len).map_or(Ok(None), |len| self.data.whole(len)).map_err(broken)?;
        if let Some(from) = whole {
            let mut at = span.offset;
            for part in from.chunks(MAX_IO_BYTES) {
                self.device.write_at(part, at).map_err(write_failed)?;
                at += part.len() as u64;
            }
            return Ok(());
        }
        steps(span, |buffer, at| {
            self.data.copy(at - span.offset, buffer).map_err(broken)?;
            self.device.write_at(buffer, at).map_err(write_failed)
        })
    }

    fn flush(&self) -> Outcome<()> {
        if self.device.read_only() {
            return Ok(());
        }
        self.device.flush().map_err(write_failed)
    }

    fn verify(&self, span: Span, compare: Compare) -> Outcome<()> {
        let unit = self.lun.block_bytes() as usize;
        let given = match compare {
            Compare::Nothing => 0,
            Compare::All => span.len,
            Compare::Sector => unit as u64,
        };
        if self.data.bytes() < given {
            return Err(Sense::INVALID_FIELD.into());
        }
        let mut expected = if compare == Compare::Sector { self.sector()? } else { Vec::new() };
        steps(span, |buffer, at| {
            if (self.stopping)() {
                return Err(Failed::Stopped);
            }
            self.device.read_at(buffer, at).map_err(read_failed)?;
            let same = match compare {
                Compare::Nothing => true,
                Compare::Sector => buffer.chunks(unit).all(|sector| sector == expected),
                Compare::All => {
                    expected.resize(buffer.len(), 0);
                    self.data.copy(at - span.offset, &mut expected).map_err(broken)?;
                    *buffer == expected
                }
            };
            if same {
                Ok(())
            } else {
                Err(Sense::MISCOMPARE.into())
            }
        })
    }

    fn unmap(&self, len: usize) -> Outcome<()> {
        let list = self.list(len)?;
        let _beside_others = self.lun.writes.read();
        for span in unmap_ranges(self.lun, &list, self.device)? {
            self.device.discard(span.offset, span.len).map_err(write_failed)?;
        }
        Ok(())
    }

    fn write_same(&self, span: Span, unmap: bool, zeros: bool) -> Outcome<()> {
        let sector = if zeros { vec![0; self.lun.block_bytes() as usize] } else { self.sector()? };
        let _beside_others = self.lun.writes.read();
        if unmap && sector.iter().all(|byte| *byte == 0) {
            return self.device.discard(span.offset, span.len).map_err(write_failed);
        }
        steps(span, |buffer, at| {
            for part in buffer.chunks_mut(sector.len()) {
                part.copy_from_slice(&sector);
            }
            self.device.write_at(buffer, at).map_err(write_failed)
        })
    }

    /// The one sector that a command brings.
    fn sector(&self) -> Outcome<Vec<u8>> {
        let mut sector = vec![0; self.lun.block_bytes() as usize];
        if self.data.copy(0, &mut sector).map_err(broken)? < sector.len() {
            return Err(Sense::INVALID_FIELD.into());
        }
        Ok(sector)
    }

    /// The list of `len` bytes that a command brings, cut where nothing more of it would be looked at.
    fn list(&self, len: usize) -> Outcome<Vec<u8>> {
        let mut list = vec![0; len.min(MAX_LIST_BYTES)];
        if self.data.copy(0, &mut list).map_err(broken)? < list.len() {
            return Err(Sense::LIST_LENGTH.into());
        }
        Ok(list)
    }
}

/// Goes through a range in steps with a buffer of each step's length, whose content is left over.
fn steps(span: Span, mut step: impl FnMut(&mut [u8], u64) -> Outcome<()>) -> Outcome<()> {
    let mut buffer = BUFFERS.take(span.len.min(STEP as u64) as usize);
    let end = span.offset + span.len;
    let mut at = span.offset;
    let mut outcome = Ok(());
    while at < end && outcome.is_ok() {
        let len = (end - at).min(STEP as u64);
        outcome = step(&mut buffer[..len as usize], at);
        at += len;
    }
    BUFFERS.give(buffer);
    outcome
}

fn read_failed(error: Error) -> Failed {
    let sense = Sense::of(&error, Sense::READ_ERROR);
    Failed::Device(error, sense)
}

fn write_failed(error: Error) -> Failed {
    let sense = Sense::of(&error, Sense::WRITE_ERROR);
    Failed::Device(error, sense)
}

fn broken(error: Error) -> Failed {
    Failed::Device(error, Sense::INTERNAL)
}
