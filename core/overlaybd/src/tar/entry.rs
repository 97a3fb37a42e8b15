//! A member of an archive, as its headers describe it.

/// What a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, sparse or not.
    #[default]
    File,
    /// Another name of a file that was there before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A moment: seconds since 1970, which may be before it, and nanoseconds after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds, below a thousand million.
    pub nanos: u32,
}

/// A member of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Where its first header lies in the uncompressed archive.
    pub offset: u64,
    /// What it is.
    pub kind: EntryKind,
    /// Its name, as the archive spells it.
    pub path: Vec<u8>,
    /// Where a link leads, as the archive spells it.
    pub link: Vec<u8>,
    /// Permissions, with set-id and sticky bits; nothing of the type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change.
    pub mtime: Time,
    /// Time of last access, if it is said.
    pub atime: Option<Time>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Bytes of a file, holes included.
    pub size: u64,
    /// Extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}
