//! The command ring: takes entries that the kernel wrote, and writes completions over them, in any order.
//!
//! What is read from it is checked like anything from a peer. A completion need not stand where its command stood:
//! it is written over the oldest entry that has been taken, and names its command by id.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::region::Region;
use super::scsi::{Cdb, Sense};
use crate::error::{Error, Kind, Result};
use crate::sync::{Condvar, Instant, Mutex};

/// The mailbox at the start of the region: places of its fields.
pub mod mailbox {
    /// 16 bits.
    pub const VERSION: usize = 0;
    /// 16 bits.
    pub const FLAGS: usize = 2;
    /// Where the ring begins.
    pub const RING_OFFSET: usize = 4;
    /// Bytes of the ring.
    pub const RING_BYTES: usize = 8;
    /// Written by the kernel: where its next entry will be.
    pub const HEAD: usize = 12;
    /// Written here: where the next completion will be.
    pub const TAIL: usize = 64;
    /// Bytes of the mailbox.
    pub const BYTES: usize = 128;
    /// Flag: completions may come in any order.
    pub const OUT_OF_ORDER: u16 = 1;
    /// Flag: completions may say how much data there is.
    pub const READ_LEN: u16 = 2;
}

/// An entry: operations, and places of fields.
pub mod entry {
    /// Fills the end of the ring.
    pub const PAD: u32 = 0;
    /// A SCSI command.
    pub const CMD: u32 = 1;
    /// Names commands that are to be given up.
    pub const ABORT: u32 = 2;
    /// In such an entry: 32 bits.
    pub const IDS: usize = 12;
    /// In such an entry: ids of 16 bits.
    pub const ID_LIST: usize = 32;
    /// The low bits of the length are the operation.
    pub const OPERATION: u32 = 7;
    /// 16 bits.
    pub const ID: usize = 4;
    /// 8 bits, written here.
    pub const FLAGS: usize = 7;
    /// 32 bits.
    pub const PIECES: usize = 8;
    /// 64 bits: where the CDB is in the region.
    pub const CDB: usize = 24;
    /// Pieces: each an offset and a length, of 64 bits.
    pub const PIECE: usize = 48;
    /// In a completion: status.
    pub const STATUS: usize = 8;
    /// Bytes of a completion, and of the least command.
    pub const BYTES: usize = 112;
    /// Flag: this operation is not known here.
    pub const UNKNOWN: u8 = 1;
    /// Flag: the length of the data is valid.
    pub const LEN_VALID: u8 = 2;
}

const VERSION: u16 = 2;
/// Bytes of a piece's offset and length.
const PIECE_BYTES: usize = 16;

/// A command that has been taken, and must be completed once.
#[derive(Debug)]
pub struct Command {
    /// Names it to the kernel.
    pub id: u16,
    /// What to do.
    pub cdb: Cdb,
    /// Where its data is in the region, neighbours joined; None if the entry makes no sense.
    pub data: Option<Vec<Range<usize>>>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Well, and its data is all there.
    Good,
    /// Well, with so many bytes of data for the initiator.
    Short(u32),
    /// The initiator shall try again.
    Busy,
    /// Not well.
    Check(Sense),
}

/// A ring in its region.
pub struct Ring {
    region: Arc<Region>,
    start: usize,
    size: usize,
    /// The rest of the region, where data is.
    data: Range<usize>,
    read_len: bool,
    state: Mutex<State>,
    /// Signalled when nothing is outstanding.
    idle: Condvar,
}

struct State {
    /// Where the next completion goes, as in the mailbox.
    tail: usize,
    /// Where the next entry is taken from.
    taken: usize,
    /// Commands that have been taken and not completed.
    outstanding: usize,
    /// Ids of commands that are to be given up.
    aborted: Vec<u16>,
}

/// The first words of an entry.
#[derive(Clone, Copy)]
struct Header {
    at: usize,
    len: usize,
    operation: u32,
}

impl Ring {
    /// Looks at the mailbox.
    ///
    /// Errors: `Unsupported` for another version or a kernel that wants completions in order; `Corrupt` for a ring
    /// that does not fit its region.
    pub fn new(region: Arc<Region>) -> Result<Ring> {
        let version = region.get_u16(mailbox::VERSION)?;
        let flags = region.get_u16(mailbox::FLAGS)?;
        if version != VERSION || flags & mailbox::OUT_OF_ORDER == 0 {
            let what = format!("TCMU ring of version {version} with flags {flags:#x}: Linux 4.9 or newer is needed");
            return Err(Error::new(Kind::Unsupported, what));
        }
        let start = region.get_u32(mailbox::RING_OFFSET)? as usize;
        let size = region.get_u32(mailbox::RING_BYTES)? as usize;
        let tail = region.load_acquire(mailbox::TAIL)? as usize;
        let end = start.checked_add(size).filter(|end| *end <= region.bytes());
        let aligned = [start, size, tail].iter().all(|n| n.is_multiple_of(8));
        let Some(end) = end.filter(|_| aligned && start >= mailbox::BYTES && size >= entry::BYTES && tail < size)
        else {
            return Err(Error::corrupt(format!("TCMU ring of {size} bytes at {start}, tail {tail}")));
        };
        let data = end..region.bytes();
        let state = Mutex::new(State { tail, taken: tail, outstanding: 0, aborted: Vec::new() });
        let read_len = flags & mailbox::READ_LEN != 0;
        Ok(Ring { region, start, size, data, read_len, state, idle: Condvar::new() })
    }

    /// The memory that it is in.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Bytes of data that all commands together can have.
    pub fn data_bytes(&self) -> usize {
        self.data.len()
    }

    /// Commands that have been taken and not completed.
    pub fn outstanding(&self) -> usize {
        self.state.lock().outstanding
    }

    /// The next command. None when all have been taken.
    ///
    /// Errors: `Corrupt` if the ring makes no sense; nothing more can be done with it then.
    pub fn take(&self) -> Result<Option<Command>> {
        let mut state = self.state.lock();
        let head = self.head()?;
        while state.taken != head {
            let header = self.header(state.taken, head)?;
            let command = match header.operation {
                entry::CMD => Some(self.command(header)?),
                entry::PAD => None,
                entry::ABORT => {
                    let ids = self.ids(header)?;
                    state.aborted.extend(ids);
                    None
                }
                _ => {
                    self.region.put(header.at + entry::FLAGS, &[entry::UNKNOWN])?;
                    None
                }
            };
            state.taken = self.after(state.taken, header);
            if command.is_some() {
                state.outstanding += 1;
                return Ok(command);
            }
            self.pass(&mut state)?;
        }
        Ok(None)
    }

    /// The commands that the initiator wants to be given up, as far as it said so in what has been taken.
    pub fn aborted(&self) -> Vec<u16> {
        std::mem::take(&mut self.state.lock().aborted)
    }

    /// Completes a command. The kernel has to be told of it.
    ///
    /// Errors: `Invalid` if none is outstanding; `Corrupt` as for `take`.
    pub fn complete(&self, id: u16, response: &Response) -> Result<()> {
        let mut state = self.state.lock();
        if state.outstanding == 0 {
            return Err(Error::new(Kind::Invalid, "no command is outstanding"));
        }
        self.pass(&mut state)?;
        let header = self.header(state.tail, state.taken)?;
        if header.operation != entry::CMD {
            return Err(Error::corrupt("the TCMU ring has changed behind its head").at(state.tail as u64));
        }
        self.region.put(header.at + entry::ID, &id.to_ne_bytes())?;
        let (flags, body) = self.completion(response);
        self.region.put(header.at + entry::FLAGS, &[flags])?;
        self.region.put(header.at + entry::STATUS, &body)?;
        state.tail = self.after(state.tail, header);
        state.outstanding -= 1;
        self.pass(&mut state)?;
        self.region.store_release(mailbox::TAIL, state.tail as u32)?;
        if state.outstanding == 0 {
            self.idle.notify_all();
        }
        Ok(())
    }

    /// Waits until all that the kernel has written has been completed; false if `deadline` came first.
    pub fn wait_idle(&self, deadline: Instant) -> bool {
        // Commands that nobody has taken yet announce themselves to another thread: looked for now and then.
        const LOOK: Duration = Duration::from_millis(10);
        let mut state = self.state.lock();
        loop {
            if self.head().is_ok_and(|head| head == state.tail) {
                return true;
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            self.idle.wait_for(&mut state, deadline.saturating_duration_since(now).min(LOOK));
        }
    }

    fn head(&self) -> Result<usize> {
        let head = self.region.load_acquire(mailbox::HEAD)? as usize;
        if head >= self.size || !head.is_multiple_of(8) {
            return Err(Error::corrupt(format!("TCMU head {head} in a ring of {}", self.size)));
        }
        Ok(head)
    }

    /// Moves the tail past entries that need no completion.
    fn pass(&self, state: &mut State) -> Result<()> {
        let before = state.tail;
        while state.tail != state.taken {
            let header = self.header(state.tail, state.taken)?;
            if header.operation == entry::CMD {
                break;
            }
            state.tail = self.after(state.tail, header);
        }
        if state.tail != before {
            self.region.store_release(mailbox::TAIL, state.tail as u32)?;
        }
        Ok(())
    }

    fn after(&self, place: usize, header: Header) -> usize {
        (place + header.len) % self.size
    }

    /// The entry at `place`. It ends at `end` or before: else entries that miss it would go round for ever.
    fn header(&self, place: usize, end: usize) -> Result<Header> {
        let at = self.start + place;
        let word = self.region.get_u32(at)?;
        let (len, operation) = ((word & !entry::OPERATION) as usize, word & entry::OPERATION);
        let least = if operation == entry::CMD { entry::BYTES } else { 8 };
        let room = (end + self.size - place) % self.size;
        if len < least || place + len > self.size || len > room {
            let what = format!("TCMU entry of {len} bytes, operation {operation}, room for {room} in {}", self.size);
            return Err(Error::corrupt(what).at(place as u64));
        }
        Ok(Header { at, len, operation })
    }

    /// What an entry that aborts commands names; no more than it has room for.
    fn ids(&self, header: Header) -> Result<Vec<u16>> {
        let Some(room) = header.len.checked_sub(entry::ID_LIST) else { return Ok(Vec::new()) };
        let count = self.region.get_u32(header.at + entry::IDS)? as usize;
        (0..count.min(room / 2)).map(|n| self.region.get_u16(header.at + entry::ID_LIST + 2 * n)).collect()
    }

    fn command(&self, header: Header) -> Result<Command> {
        let id = self.region.get_u16(header.at + entry::ID)?;
        let pieces = self.region.get_u32(header.at + entry::PIECES)? as usize;
        let cdb_at = self.region.get_u64(header.at + entry::CDB)?;
        let end = header.at + header.len;
        let list_end = pieces.checked_mul(PIECE_BYTES).and_then(|len| len.checked_add(header.at + entry::PIECE));
        let cdb_at = usize::try_from(cdb_at).unwrap_or(usize::MAX);
        if list_end.is_none_or(|list_end| list_end > cdb_at) || cdb_at >= end {
            return Ok(Command { id, cdb: Cdb::default(), data: None });
        }
        let mut bytes = [0; Cdb::MAX_BYTES];
        let given = (end - cdb_at).min(Cdb::MAX_BYTES);
        self.region.get(cdb_at, &mut bytes[..given])?;
        let mut data: Option<Vec<Range<usize>>> = Some(Vec::new());
        for at in (header.at + entry::PIECE..).step_by(PIECE_BYTES).take(pieces) {
            let (base, len) = (self.region.get_u64(at)?, self.region.get_u64(at + 8)?);
            data = data.and_then(|list| self.add_piece(list, base, len));
        }
        Ok(Command { id, cdb: Cdb::new(&bytes[..given]), data })
    }

    /// Adds a piece to a list; None if it lies outside the data area.
    fn add_piece(&self, mut list: Vec<Range<usize>>, base: u64, len: u64) -> Option<Vec<Range<usize>>> {
        let start = usize::try_from(base).ok()?;
        let end = usize::try_from(base.checked_add(len)?).ok()?;
        if start < self.data.start || end > self.data.end {
            return None;
        }
        match list.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.end == start => last.end = end,
            _ => list.push(start..end),
        }
        Some(list)
    }

    /// Flags, and the bytes of a completion from its status on.
    fn completion(&self, response: &Response) -> (u8, [u8; entry::BYTES - entry::STATUS]) {
        const LEN: usize = 12 - entry::STATUS;
        const SENSE: usize = 16 - entry::STATUS;
        let mut body = [0; entry::BYTES - entry::STATUS];
        let mut flags = 0;
        match response {
            Response::Good => {}
            Response::Short(len) if self.read_len => {
                flags = entry::LEN_VALID;
                body[LEN..LEN + 4].copy_from_slice(&len.to_ne_bytes());
            }
            Response::Short(_) => {}
            Response::Busy => body[0] = 0x08,
            Response::Check(sense) => {
                body[0] = 0x02;
                body[SENSE..SENSE + Sense::BYTES].copy_from_slice(&sense.fixed());
            }
        }
        (flags, body)
    }
}
