//! From a command to what it asks of the device: all fields checked, nothing done yet.

use std::fmt;
use std::sync::atomic::Ordering;

use super::opcodes::{self, op, GET_LBA_STATUS};
use super::words::{Cdb, Sense};
use super::{capacity, Lun};
use crate::device::BlockDevice;
use crate::limits::TCMU_MAX_STATUS_BYTES;

/// A range of the device, inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// What VERIFY compares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Nothing: what is there must be readable.
    Nothing,
    /// As many bytes from the initiator.
    All,
    /// One sector from the initiator, with each.
    Sector,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing.
    Nothing,
    /// This answer.
    Answer(Vec<u8>),
    /// To read.
    Read(Span),
    /// To write the data; durably if `durable`.
    Write {
        /// Where.
        span: Span,
        /// Whether it must be on disk when this is answered.
        durable: bool,
    },
    /// To write the second half of the data where the first is found, without another write in between.
    CompareAndWrite {
        /// Where.
        span: Span,
        /// Whether it must be on disk when this is answered.
        durable: bool,
    },
    /// To tell which sectors from the start of a range on are stored, in an answer of so many bytes.
    Status(Span, u32),
    /// To check what is there.
    Verify(Span, Compare),
    /// To make all that was written durable.
    Flush,
    /// To discard the ranges of a list, of so many bytes in the data.
    Unmap(usize),
    /// To write one sector, the data or zeros, to all of a range.
    WriteSame {
        /// Where.
        span: Span,
        /// Whether zeros may be a hole.
        unmap: bool,
        /// Whether there is no data, and zeros are meant.
        zeros: bool,
    },
    /// To set mode pages from a list of so many bytes in the data; `long` for the form of ten bytes.
    ModeSelect {
        /// Bytes of the list.
        len: usize,
        /// Whether it has the longer header.
        long: bool,
    },
}

impl fmt::Display for Request {
    /// In words, for reports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (doing, span) = match self {
            Request::Read(span) => ("reading", span),
            Request::Write { span, .. } => ("writing", span),
            Request::CompareAndWrite { span, .. } => ("comparing and writing", span),
            Request::Verify(span, _) => ("verifying", span),
            Request::WriteSame { span, .. } => ("writing a sector all over", span),
            Request::Status(span, _) => ("telling what is stored of", span),
            Request::Flush => return f.write_str("flushing"),
            Request::Unmap(_) => return f.write_str("unmapping"),
            Request::Nothing | Request::Answer(_) | Request::ModeSelect { .. } => return f.write_str("answering"),
        };
        write!(f, "{doing} {} bytes at {}", span.len, span.offset)
    }
}

impl Lun {
    /// What a command asks for.
    ///
    /// Errors: sense data for what is not known, not allowed or outside the device.
    pub fn request(&self, cdb: &Cdb, device: &dyn BlockDevice) -> Result<Request, Sense> {
        if !opcodes::is_known(cdb) {
            return Err(Sense::INVALID_COMMAND);
        }
        if !cdb.is_whole() {
            return Err(Sense::INVALID_FIELD);
        }
        let patient = matches!(cdb.op(), op::INQUIRY | op::REPORT_LUNS | op::REQUEST_SENSE);
        if !patient && self.told_size.load(Ordering::Relaxed) != device.size() {
            self.told_size.store(device.size(), Ordering::Relaxed);
            return Err(Sense::CAPACITY_CHANGED);
        }
        match cdb.op() {
            op::TEST_UNIT_READY => Ok(Request::Nothing),
            op::REQUEST_SENSE => answer(capacity::sense(cdb), cdb.number::<1>(4)),
            op::INQUIRY => answer(self.inquiry(cdb, device), cdb.number::<2>(3)),
            op::MODE_SENSE_6 => answer(self.mode_sense(cdb, device), cdb.number::<1>(4)),
            op::MODE_SENSE_10 => answer(self.mode_sense(cdb, device), cdb.number::<2>(7)),
            op::MODE_SELECT_6 => mode_select(cdb, cdb.number::<1>(4), false),
            op::MODE_SELECT_10 => mode_select(cdb, cdb.number::<2>(7), true),
            op::START_STOP => start_stop(cdb),
            op::READ_CAPACITY_10 => answer(self.capacity_10(cdb, device), 8),
            op::SERVICE_ACTION_IN if cdb.service_action() == GET_LBA_STATUS => {
                let span = self.span_of(cdb.number::<8>(2), 1, device)?;
                let len = (device.size() - span.offset).min(TCMU_MAX_STATUS_BYTES);
                Ok(Request::Status(Span { len, ..span }, cdb.number::<4>(10) as u32))
            }
            op::SERVICE_ACTION_IN => answer(Ok(self.capacity_16(device)), cdb.number::<4>(10)),
            op::REPORT_LUNS => answer(capacity::luns(cdb), cdb.number::<4>(6)),
            op::MAINTENANCE_IN => answer(opcodes::report(cdb), cdb.number::<4>(6)),
            op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => {
                no_protection(cdb)?;
                Ok(Request::Read(self.span(cdb, device)?))
            }
            op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 => {
                no_protection(cdb)?;
                let compare = match cdb.byte(1) >> 1 & 3 {
                    0 => Compare::Nothing,
                    1 => Compare::All,
                    3 => Compare::Sector,
                    _ => return Err(Sense::INVALID_FIELD),
                };
                Ok(Request::Verify(self.span(cdb, device)?, compare))
            }
            op::SYNCHRONIZE_CACHE_10 | op::SYNCHRONIZE_CACHE_16 => {
                self.span(cdb, device)?;
                Ok(Request::Flush)
            }
            // What is left writes.
            _ if device.read_only() => Err(Sense::WRITE_PROTECTED),
            op::UNMAP if cdb.byte(1) & 1 != 0 => Err(Sense::INVALID_FIELD),
            op::UNMAP => Ok(Request::Unmap(cdb.number::<2>(7) as usize)),
            op::WRITE_SAME_10 | op::WRITE_SAME_16 => self.write_same(cdb, device),
            op::COMPARE_AND_WRITE => {
                no_protection(cdb)?;
                let blocks = cdb.number::<1>(13);
                if blocks > u64::from(self.max_compare_blocks()) {
                    return Err(Sense::INVALID_FIELD);
                }
                let span = self.span_of(cdb.number::<8>(2), blocks, device)?;
                Ok(Request::CompareAndWrite { span, durable: cdb.byte(1) & 8 != 0 })
            }
            _ => {
                no_protection(cdb)?;
                let durable = cdb.op() != op::WRITE_6 && cdb.byte(1) & 8 != 0;
                Ok(Request::Write { span: self.span(cdb, device)?, durable })
            }
        }
    }

    fn write_same(&self, cdb: &Cdb, device: &dyn BlockDevice) -> Result<Request, Sense> {
        /// Anchored blocks, and data that differs from sector to sector: neither is had here.
        const ANCHOR_PBDATA_LBDATA: u8 = 0x16;
        no_protection(cdb)?;
        let span = self.span(cdb, device)?;
        let blocks = span.len / u64::from(self.block_bytes);
        let wrong = cdb.byte(1) & ANCHOR_PBDATA_LBDATA != 0 || blocks == 0 || blocks > self.max_write_same_blocks();
        if wrong {
            return Err(Sense::INVALID_FIELD);
        }
        let zeros = cdb.op() == op::WRITE_SAME_16 && cdb.byte(1) & 1 != 0;
        Ok(Request::WriteSame { span, unmap: cdb.byte(1) & 8 != 0, zeros })
    }

    /// The range that a command names.
    fn span(&self, cdb: &Cdb, device: &dyn BlockDevice) -> Result<Span, Sense> {
        let (lba, blocks) = cdb.range();
        self.span_of(lba, blocks, device)
    }

    /// A range in bytes.
    ///
    /// Errors: `OUT_OF_RANGE`.
    pub(super) fn span_of(&self, lba: u64, blocks: u64, device: &dyn BlockDevice) -> Result<Span, Sense> {
        let unit = u64::from(self.block_bytes);
        if lba.checked_add(blocks).is_none_or(|end| end > device.size() / unit) {
            return Err(Sense::OUT_OF_RANGE);
        }
        Ok(Span { offset: lba * unit, len: blocks * unit })
    }
}

/// An answer, cut to what the initiator has room for.
fn answer(data: Result<Vec<u8>, Sense>, room: u64) -> Result<Request, Sense> {
    let mut data = data?;
    data.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    Ok(Request::Answer(data))
}

/// There is no protection information to check or write.
fn no_protection(cdb: &Cdb) -> Result<(), Sense> {
    let asked = cdb.byte(1) & 0xe0 != 0 && Cdb::len_of(cdb.op()) != Some(6);
    if asked {
        return Err(Sense::INVALID_FIELD);
    }
    Ok(())
}

fn mode_select(cdb: &Cdb, len: u64, long: bool) -> Result<Request, Sense> {
    const PAGE_FORMAT: u8 = 0x10;
    const SAVE: u8 = 1;
    if cdb.byte(1) & (PAGE_FORMAT | SAVE) != PAGE_FORMAT {
        return Err(Sense::INVALID_FIELD);
    }
    Ok(Request::ModeSelect { len: len as usize, long })
}

fn start_stop(cdb: &Cdb) -> Result<Request, Sense> {
    const START: u8 = 1;
    const EJECT: u8 = 2;
    const POWER_CONDITION: u8 = 0xf0;
    match cdb.byte(4) {
        how if how & (EJECT | POWER_CONDITION) != 0 => Err(Sense::INVALID_FIELD),
        how if how & START != 0 => Ok(Request::Nothing),
        _ => Ok(Request::Flush),
    }
}
