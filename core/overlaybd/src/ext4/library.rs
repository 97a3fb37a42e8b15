//! libext2fs, loaded when it is first needed: its functions, and the few structures that it shares with us.
//!
//! What is declared here is the library's documented binary interface, which has been the same since 1.43; sizes and
//! places are checked when this is compiled, and the version when the library is loaded.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_ulonglong, c_void, CStr};
use std::mem::{offset_of, size_of};
use std::sync::OnceLock;

use crate::error::{Error, Kind, Result};

/// The file that is loaded, and the Debian package that has it.
const FILE: &CStr = c"libext2fs.so.2";
const PACKAGE: &str = "libext2fs2";
/// The oldest version taken, as the library counts: 1.45, whose functions are all that are used.
const OLDEST: c_int = 145;

pub(super) type Code = c_long;
pub(super) type Fs = *mut FileSystem;
/// What is called instead of printing what the library finds wrong; its arguments are of no use here.
pub(super) type Hook = extern "C" fn();
/// What is called with the name of each attribute, its value, the value's length, and what was handed in.
pub(super) type Each = extern "C" fn(*mut c_char, *mut c_char, usize, *mut c_void) -> c_int;

pub(super) const MAGIC_CHANNEL: Code = 0x7F2B_B705;
pub(super) const MAGIC_MANAGER: Code = 0x7F2B_B707;
const BAD_MAGIC: Code = 0x7F2B_B713;
const NO_BLOCK: Code = 0x7F2B_B748;
const NO_INODE: Code = 0x7F2B_B749;
const NO_ATTRIBUTE_SPACE: Code = 0x7F2B_B7A3;

pub(super) const OPEN_WRITE: c_int = 0x1;
pub(super) const OPEN_64BIT: c_int = 0x2_0000;
/// Flags of an open file system: what is to be written when it closes.
pub(super) const CHANGED: c_int = 0x2 | 0x4;

/// The start of `struct struct_ext2_filsys`.
#[repr(C)]
pub(super) struct FileSystem {
    pub magic: Code,
    pub io: *mut Channel,
    pub flags: c_int,
    pub device_name: *mut c_char,
    pub super_block: *mut [u8; 1024],
    pub block_size: c_uint,
    pub fragment_size: c_int,
    pub groups: u32,
    pub descriptor_blocks: c_ulong,
    pub descriptors: *mut c_void,
    pub inode_blocks_per_group: c_uint,
    pub inode_map: *mut c_void,
    pub block_map: *mut c_void,
    pub callbacks: [*mut c_void; 5],
    pub bad_blocks: *mut c_void,
    pub directories: *mut c_void,
    pub stride: u32,
    pub original_super: *mut c_void,
    pub image_header: *mut c_void,
    pub umask: u32,
    pub now: i64,
}

/// `struct struct_io_channel`.
#[repr(C)]
pub(super) struct Channel {
    pub magic: Code,
    pub manager: *const Manager,
    pub name: *mut c_char,
    pub block_size: c_int,
    pub read_error: *mut c_void,
    pub write_error: *mut c_void,
    pub references: c_int,
    pub flags: c_int,
    pub reserved: [c_long; 14],
    pub private: *mut c_void,
    pub application: *mut c_void,
    pub align: c_int,
}

/// `struct struct_io_manager`.
#[repr(C)]
pub(super) struct Manager {
    pub magic: Code,
    pub name: *const c_char,
    pub open: extern "C" fn(*const c_char, c_int, *mut *mut Channel) -> Code,
    pub close: extern "C" fn(*mut Channel) -> Code,
    pub set_block_size: extern "C" fn(*mut Channel, c_int) -> Code,
    pub read: extern "C" fn(*mut Channel, c_ulong, c_int, *mut c_void) -> Code,
    pub write: extern "C" fn(*mut Channel, c_ulong, c_int, *const c_void) -> Code,
    pub flush: extern "C" fn(*mut Channel) -> Code,
    pub write_byte: Option<extern "C" fn(*mut Channel, c_ulong, c_int, *const c_void) -> Code>,
    pub set_option: *mut c_void,
    pub get_stats: *mut c_void,
    pub read64: extern "C" fn(*mut Channel, c_ulonglong, c_int, *mut c_void) -> Code,
    pub write64: extern "C" fn(*mut Channel, c_ulonglong, c_int, *const c_void) -> Code,
    pub discard: *mut c_void,
    pub read_ahead: *mut c_void,
    pub zero: extern "C" fn(*mut Channel, c_ulonglong, c_ulonglong) -> Code,
    pub reserved: [c_long; 14],
}

/// `struct ext2fs_extent`.
#[repr(C)]
pub(super) struct Extent {
    pub device: u64,
    pub file: u64,
    pub len: u32,
    pub flags: u32,
}

#[cfg(all(target_pointer_width = "64", target_endian = "little"))]
const _: () = {
    assert!(offset_of!(FileSystem, super_block) == 32);
    assert!(offset_of!(FileSystem, block_map) == 88);
    assert!(offset_of!(FileSystem, now) == 184);
    assert!(size_of::<Channel>() == 192);
    assert!(size_of::<Manager>() == 240);
    assert!(size_of::<Extent>() == 24);
};

/// Declares the table of functions, and how it is filled from the library.
macro_rules! functions {
    ($($field:ident = $name:literal : fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions that are used, by what they do.
        pub(super) struct Library {
            $(pub $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            /// SAFETY: `handle` is of a library whose functions of these names have these types.
            unsafe fn fill(handle: *mut c_void) -> std::result::Result<Self, &'static CStr> {
                Ok(Library {
                    $($field: {
                        // SAFETY: an open library and a name that ends in NUL.
                        let found = unsafe { libc::dlsym(handle, $name.as_ptr()) };
                        if found.is_null() {
                            return Err($name);
                        }
                        type Function = unsafe extern "C" fn($($argument),*) $(-> $result)?;
                        // SAFETY: a function of that name has this type, as the caller promises.
                        unsafe { std::mem::transmute::<*mut c_void, Function>(found) }
                    },)*
                })
            }
        }
    };
}

functions! {
    version = c"ext2fs_get_library_version": fn(*mut *const c_char, *mut *const c_char) -> c_int;
    message = c"error_message": fn(Code) -> *const c_char;
    init_messages = c"initialize_ext2_error_table": fn();
    open = c"ext2fs_open2": fn(*const c_char, *const c_char, c_int, c_int, c_uint, *const Manager, *mut Fs) -> Code;
    initialize = c"ext2fs_initialize": fn(*const c_char, c_int, *mut [u8; 1024], *const Manager, *mut Fs) -> Code;
    allocate_tables = c"ext2fs_allocate_tables": fn(Fs) -> Code;
    create_resize_inode = c"ext2fs_create_resize_inode": fn(Fs) -> Code;
    read_bitmaps = c"ext2fs_read_bitmaps": fn(Fs) -> Code;
    close = c"ext2fs_close2": fn(Fs, c_int) -> Code;
    free = c"ext2fs_free": fn(Fs);
    read_inode = c"ext2fs_read_inode_full": fn(Fs, u32, *mut u8, c_int) -> Code;
    write_inode = c"ext2fs_write_inode_full": fn(Fs, u32, *mut u8, c_int) -> Code;
    new_inode = c"ext2fs_new_inode": fn(Fs, u32, c_int, *mut c_void, *mut u32) -> Code;
    count_inode = c"ext2fs_inode_alloc_stats2": fn(Fs, u32, c_int, c_int);
    free_blocks = c"ext2fs_bg_free_blocks_count": fn(Fs, u32) -> u32;
    free_inodes = c"ext2fs_bg_free_inodes_count": fn(Fs, u32) -> u32;
    new_range = c"ext2fs_new_range": fn(Fs, c_int, u64, u64, *mut c_void, *mut u64, *mut u64) -> Code;
    count_range = c"ext2fs_block_alloc_stats_range": fn(Fs, u64, u32, c_int);
    map_block = c"ext2fs_bmap2": fn(Fs, u32, *mut u8, *mut c_char, c_int, u64, *mut c_int, *mut u64) -> Code;
    punch = c"ext2fs_punch": fn(Fs, u32, *mut u8, *mut c_char, u64, u64) -> Code;
    open_extents = c"ext2fs_extent_open2": fn(Fs, u32, *mut u8, *mut *mut c_void) -> Code;
    insert_extent = c"ext2fs_extent_insert": fn(*mut c_void, c_int, *mut Extent) -> Code;
    fix_parents = c"ext2fs_extent_fix_parents": fn(*mut c_void) -> Code;
    free_extents = c"ext2fs_extent_free": fn(*mut c_void);
    read_directory = c"ext2fs_read_dir_block4": fn(Fs, u64, *mut u8, c_int, u32) -> Code;
    write_directory = c"ext2fs_write_dir_block4": fn(Fs, u64, *mut u8, c_int, u32) -> Code;
    hash = c"ext2fs_dirhash": fn(c_int, *const u8, c_int, *const u32, *mut u32, *mut u32) -> Code;
    open_attributes = c"ext2fs_xattrs_open": fn(Fs, u32, *mut *mut c_void) -> Code;
    read_attributes = c"ext2fs_xattrs_read": fn(*mut c_void) -> Code;
    each_attribute = c"ext2fs_xattrs_iterate": fn(*mut c_void, Each, *mut c_void) -> Code;
    remove_attribute = c"ext2fs_xattr_remove": fn(*mut c_void, *const c_char) -> Code;
    set_attribute = c"ext2fs_xattr_set": fn(*mut c_void, *const c_char, *const u8, usize) -> Code;
    close_attributes = c"ext2fs_xattrs_close": fn(*mut *mut c_void) -> Code;
    free_attributes = c"ext2fs_free_ext_attr": fn(Fs, u32, *mut u8) -> Code;
    first_free = c"ext2fs_find_first_zero_block_bitmap2": fn(*mut c_void, u64, u64, *mut u64) -> Code;
    first_used = c"ext2fs_find_first_set_block_bitmap2": fn(*mut c_void, u64, u64, *mut u64) -> Code;
    new_map = c"ext2fs_allocate_block_bitmap": fn(Fs, *const c_char, *mut *mut c_void) -> Code;
    free_map = c"ext2fs_free_block_bitmap": fn(*mut c_void);
    mark_descriptors = c"ext2fs_reserve_super_and_bgd": fn(Fs, u32, *mut c_void) -> c_int;
    block_map_at = c"ext2fs_block_bitmap_loc": fn(Fs, u32) -> u64;
    inode_map_at = c"ext2fs_inode_bitmap_loc": fn(Fs, u32) -> u64;
    inodes_at = c"ext2fs_inode_table_loc": fn(Fs, u32) -> u64;
    set_complaint_hook = c"set_com_err_hook": fn(Hook) -> *mut c_void;
}

/// The library, loaded at the first call.
///
/// # Errors
/// `Unsupported` if this machine does not have it, or one that is too old.
pub(super) fn get() -> Result<&'static Library> {
    static LOADED: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(|why| Error::new(Kind::Unsupported, why.clone()))
}

/// Which version of the library this is, as it says itself: `1.47.0`.
///
/// # Errors
/// Those of [`get`].
pub fn version() -> Result<String> {
    let library = get()?;
    let mut text = std::ptr::null();
    // SAFETY: a place for the text, which is a constant of the library; null for what is not wanted.
    unsafe { (library.version)(&mut text, std::ptr::null_mut()) };
    // SAFETY: the function has put a string that ends in NUL there.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

fn load() -> std::result::Result<Library, String> {
    let file = FILE.to_string_lossy();
    if !cfg!(all(target_pointer_width = "64", target_endian = "little")) {
        return Err("ext4 is written only on little-endian machines of 64 bits".into());
    }
    // SAFETY: a name that ends in NUL; the library's initialisers are those of a C library.
    let handle = unsafe { libc::dlopen(FILE.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(format!("ext4 is written by {file}, which is not there: install {PACKAGE}"));
    }
    // SAFETY: that file name is of the one library whose functions these are. It stays loaded for good.
    let library = unsafe { Library::fill(handle) }
        .map_err(|name| format!("{file} has no {}: install a newer {PACKAGE}", name.to_string_lossy()))?;
    // SAFETY: the function takes null for what is not wanted.
    let version = unsafe { (library.version)(std::ptr::null_mut(), std::ptr::null_mut()) };
    if version < OLDEST {
        return Err(format!("{file} of version {version}, which is too old: install a newer {PACKAGE}"));
    }
    // SAFETY: it takes nothing; once, since this runs once.
    unsafe { (library.init_messages)() };
    // SAFETY: the hook looks at none of its arguments, so it does not matter how they are handed over.
    unsafe { (library.set_complaint_hook)(complain) };
    Ok(library)
}

thread_local! {
    static COMPLAINED: Cell<bool> = const { Cell::new(false) };
}

/// In the place of the library's printing to stderr: some functions have no other way to say that something is wrong.
extern "C" fn complain() {
    COMPLAINED.set(true);
}

/// Whether the library has found something wrong in this thread since this was last asked.
pub(super) fn complained() -> bool {
    COMPLAINED.take()
}

impl Library {
    /// The error for a code that is not 0; `doing` says what failed.
    pub fn error(&self, code: Code, doing: &str) -> Error {
        let kind = match code {
            BAD_MAGIC => return Error::new(Kind::Unsupported, "there is no ext4 file system on it: make one first"),
            NO_BLOCK | NO_INODE | NO_ATTRIBUTE_SPACE => Kind::NoSpace,
            _ if code > 0 && code < 4096 => {
                return Error::io(doing, std::io::Error::from_raw_os_error(code as i32));
            }
            _ => Kind::Corrupt,
        };
        // SAFETY: the function knows every code, and answers with text that stays as it is until its next call.
        let text = unsafe { CStr::from_ptr((self.message)(code)) };
        Error::new(kind, format!("{doing}: {}", text.to_string_lossy()))
    }
}
