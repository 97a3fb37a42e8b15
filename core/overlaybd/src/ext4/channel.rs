//! The I/O manager that libext2fs is given: its blocks are those of [`Pages`].

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_ulonglong, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::null_mut;
use std::rc::Rc;

use super::library::{Channel, Code, Manager, MAGIC_CHANNEL, MAGIC_MANAGER};
use super::pages::Pages;
use crate::error::{Error, Result};

pub(super) type Shared = Rc<RefCell<Pages>>;

/// The manager, which never changes.
pub(super) static MANAGER: Table = Table(Manager {
    magic: MAGIC_MANAGER,
    name: c"overlaybd".as_ptr(),
    open,
    close,
    set_block_size,
    read,
    write,
    flush,
    write_byte: Some(write_byte),
    set_option: null_mut(),
    get_stats: null_mut(),
    read64,
    write64,
    discard: null_mut(),
    read_ahead: null_mut(),
    zero,
    reserved: [0; 14],
});

pub(super) struct Table(pub Manager);
// SAFETY: the table is only read, and what its pointers lead to is constant too.
unsafe impl Sync for Table {}

thread_local! {
    /// What the next `open` of this thread is to open: the library hands on nothing but a name.
    static NEXT: RefCell<Option<Shared>> = const { RefCell::new(None) };
}

/// Runs `call`, in which the library opens `pages`.
pub(super) fn offering<T>(pages: &Shared, call: impl FnOnce() -> T) -> T {
    NEXT.with(|next| next.replace(Some(pages.clone())));
    let result = call();
    NEXT.with(|next| next.take());
    result
}

extern "C" fn open(_name: *const c_char, _flags: c_int, channel: *mut *mut Channel) -> Code {
    let Some(pages) = NEXT.with(|next| next.take()) else { return c_long::from(libc::EINVAL) };
    let opened = Box::new(Channel {
        magic: MAGIC_CHANNEL,
        manager: &MANAGER.0,
        name: null_mut(),
        block_size: 1024,
        read_error: null_mut(),
        write_error: null_mut(),
        references: 1,
        flags: 0,
        reserved: [0; 14],
        private: Rc::into_raw(pages).cast_mut().cast(),
        application: null_mut(),
        align: 0,
    });
    // SAFETY: the library passes the place that it wants the channel in.
    unsafe { *channel = Box::into_raw(opened) };
    0
}

extern "C" fn close(channel: *mut Channel) -> Code {
    // SAFETY: a channel that `open` made; the library does not use it after its last reference is closed.
    unsafe {
        (*channel).references -= 1;
        if (*channel).references <= 0 {
            drop(Rc::from_raw((*channel).private.cast::<RefCell<Pages>>()));
            drop(Box::from_raw(channel));
        }
    }
    0
}

extern "C" fn set_block_size(channel: *mut Channel, size: c_int) -> Code {
    if size <= 0 {
        return c_long::from(libc::EINVAL);
    }
    // SAFETY: a channel that `open` made and `close` has not ended.
    unsafe { (*channel).block_size = size };
    0
}

extern "C" fn read(channel: *mut Channel, block: c_ulong, count: c_int, data: *mut c_void) -> Code {
    read64(channel, block, count, data)
}

extern "C" fn write(channel: *mut Channel, block: c_ulong, count: c_int, data: *const c_void) -> Code {
    write64(channel, block, count, data)
}

extern "C" fn read64(channel: *mut Channel, block: c_ulonglong, count: c_int, data: *mut c_void) -> Code {
    with(channel, |pages, block_size| {
        let (offset, len) = range(block, count, block_size)?;
        // SAFETY: the library's buffer is as large as it asks to read.
        let buf = unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), len) };
        pages.read(buf, offset)
    })
}

extern "C" fn write64(channel: *mut Channel, block: c_ulonglong, count: c_int, data: *const c_void) -> Code {
    with(channel, |pages, block_size| {
        let (offset, len) = range(block, count, block_size)?;
        // SAFETY: the library's buffer is as large as it asks to write.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) };
        pages.write(bytes, offset)
    })
}

extern "C" fn write_byte(channel: *mut Channel, offset: c_ulong, len: c_int, data: *const c_void) -> Code {
    with(channel, |pages, _| {
        let len = usize::try_from(len).map_err(|_| nonsense())?;
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) };
        pages.write(bytes, offset)
    })
}

extern "C" fn zero(channel: *mut Channel, block: c_ulonglong, count: c_ulonglong) -> Code {
    with(channel, |pages, block_size| {
        let offset = block.checked_mul(block_size).ok_or_else(nonsense)?;
        pages.zero(offset, count.checked_mul(block_size).ok_or_else(nonsense)?)
    })
}

/// Nothing to do: what is written is made durable when all is done.
extern "C" fn flush(_channel: *mut Channel) -> Code {
    0
}

/// Offset and length in bytes of blocks; a negative count is a number of bytes.
fn range(block: u64, count: c_int, block_size: u64) -> Result<(u64, usize)> {
    let len = if count < 0 { u64::from(count.unsigned_abs()) } else { count as u64 * block_size };
    Ok((block.checked_mul(block_size).ok_or_else(nonsense)?, len as usize))
}

fn nonsense() -> Error {
    Error::corrupt("a block number that makes no sense")
}

/// Runs `work` on the pages of a channel; its error is kept for whoever called the library.
fn with(channel: *mut Channel, work: impl FnOnce(&mut Pages, u64) -> Result<()>) -> Code {
    // SAFETY: a channel that `open` made and `close` has not ended, whose pages it holds a reference to.
    let (pages, block_size) =
        unsafe { (&*(*channel).private.cast::<RefCell<Pages>>(), (*channel).block_size as c_uint) };
    let Ok(mut pages) = pages.try_borrow_mut() else { return c_long::from(libc::EBUSY) };
    // A panic must not pass through the library.
    match catch_unwind(AssertUnwindSafe(|| work(&mut pages, block_size.into()))) {
        Ok(Ok(())) => 0,
        Ok(Err(e)) => {
            let code = e.errno();
            pages.failed.get_or_insert(e);
            c_long::from(code)
        }
        Err(_) => c_long::from(libc::EIO),
    }
}
