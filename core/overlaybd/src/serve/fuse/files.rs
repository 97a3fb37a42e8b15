//! What the kernel asks of the directory and its files.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::session::Options;
use crate::device::{BlockDevice, ExtentKind};
use crate::error::{Error, Kind, Result};
use crate::limits::{FUSE_MAX_BACKGROUND, FUSE_MAX_IO, FUSE_MAX_QUEUE, SECTOR};
use crate::serve::buffers::Buffers;
use crate::serve::pool::Pool;
use crate::serve::report::Reporter;
use crate::serve::{guarded, is_ready, pool_of, write_is_quick};

/// How long the kernel may keep names and attributes: it is told when a device has grown. It wants the size of a loop
/// device's file when that is replaced, even if whoever could answer has died.
const TTL: Duration = Duration::from_secs(1 << 31);

/// Longest file name.
const MAX_NAME: usize = 255;

/// Extents looked at in one step of a search for data or a hole.
const SEEK_RUNS: usize = 1024;

/// An image as a file.
pub struct File {
    name: String,
    device: Arc<dyn BlockDevice>,
    /// Workers for its slow requests.
    pub pool: Pool,
    reporter: Reporter,
}

/// The directory.
pub struct Files {
    files: Vec<Arc<File>>,
    buffers: Arc<Buffers>,
    allow_other: bool,
    user: u32,
    group: u32,
    since: SystemTime,
}

impl File {
    /// Checks the names.
    pub fn all(files: Vec<(String, Arc<dyn BlockDevice>)>, options: &Options) -> Result<Vec<Arc<File>>> {
        let mut all: Vec<Arc<File>> = Vec::new();
        for (name, device) in files {
            if name.is_empty() || name.len() > MAX_NAME || name.contains(['/', '\0']) || name == "." || name == ".." {
                return Err(Error::new(Kind::Invalid, format!("{name:?} is no file name")));
            }
            if all.iter().any(|f| f.name == name) {
                return Err(Error::new(Kind::Exists, format!("two files are named {name:?}")));
            }
            let pool = pool_of(&device, "fuse-worker", options.workers, FUSE_MAX_QUEUE);
            let reporter = Reporter::new(options.report.clone());
            all.push(Arc::new(File { name, device, pool, reporter }));
        }
        Ok(all)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Answers with an error, then tells of it: whoever is told may itself wait for this answer.
    fn fail(&self, error: Error, answer: impl FnOnce(Errno)) {
        answer(match error.kind() {
            Kind::ReadOnly => Errno::EROFS,
            Kind::NoSpace => Errno::ENOSPC,
            Kind::OutOfBounds | Kind::Invalid => Errno::EINVAL,
            Kind::Unsupported => Errno::EOPNOTSUPP,
            _ => Errno::EIO,
        });
        self.tell(error);
    }

    /// Tells of an error.
    pub fn tell(&self, error: Error) {
        self.reporter.report(&self.name, error);
    }

    fn read(&self, buffers: &Buffers, offset: u64, len: usize, reply: ReplyData) {
        let mut buffer = buffers.take(len);
        match guarded(|| self.device.read_at(&mut buffer[..len], offset)) {
            Ok(()) => reply.data(&buffer[..len]),
            Err(e) => self.fail(e.context(format!("reading {len} bytes")).at(offset), |e| reply.error(e)),
        }
        buffers.give(buffer);
    }

    fn write(&self, data: &[u8], offset: u64, reply: ReplyWrite) {
        match guarded(|| self.device.write_at(data, offset)) {
            // At most `FUSE_MAX_IO` bytes.
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => self.fail(e.context(format!("writing {} bytes", data.len())).at(offset), |e| reply.error(e)),
        }
    }

    /// The first data (or hole, or the end) at or after `offset`; None if there is no more data.
    fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        let size = self.device.size();
        let mut at = offset;
        while at < size {
            for run in self.device.extents(at, size - at, SEEK_RUNS)? {
                if (run.kind == ExtentKind::Data) == data {
                    return Ok(Some(at));
                }
                at += run.len;
            }
        }
        Ok((!data).then_some(size))
    }
}

impl Files {
    /// The directory of `files`.
    pub fn new(files: Vec<Arc<File>>, allow_other: bool) -> Files {
        // SAFETY: these calls cannot fail and touch no memory.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        Files { files, buffers: Arc::default(), allow_other, user, group, since: SystemTime::now() }
    }

    fn find(&self, inode: INodeNo) -> Option<&Arc<File>> {
        // The directory is 1, the files follow.
        self.files.get(usize::try_from(inode.0.checked_sub(2)?).ok()?)
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, size, perm) = match self.find(inode) {
            Some(file) => {
                let perm = if file.device.read_only() { 0o400 } else { 0o600 };
                (FileType::RegularFile, file.device.size(), if self.allow_other { perm | 0o044 } else { perm })
            }
            None if inode == INodeNo::ROOT => (FileType::Directory, 0, if self.allow_other { 0o555 } else { 0o500 }),
            None => return None,
        };
        let time = self.since;
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(SECTOR),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: self.user,
            gid: self.group,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A refusal carries the most that the kernel takes.
        if let Err(most) = config.set_max_readahead(FUSE_MAX_IO) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_write(FUSE_MAX_IO);
        let _ = config.set_max_background(FUSE_MAX_BACKGROUND);
        // Older kernels lack some of these; all are for speed, except mapping a file that is not cached.
        for flag in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP] {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.iter().position(|f| parent == INodeNo::ROOT && OsStr::new(&f.name) == name);
        let inode = found.map(|i| INodeNo(i as u64 + 2));
        match inode.and_then(|inode| self.attributes(inode)) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Times are ignored; the size is the device's.
        match self.attributes(inode) {
            None => reply.error(Errno::ENOENT),
            Some(now) if size.is_some_and(|s| s != now.size) => reply.error(Errno::EINVAL),
            Some(_) if mode.is_some() || user.is_some() || group.is_some() => reply.error(Errno::EPERM),
            Some(now) => reply.attr(&TTL, &now),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if inode != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [(1, FileType::Directory, "."), (1, FileType::Directory, "..")];
        let files = self.files.iter().zip(2..).map(|(f, i)| (i, FileType::RegularFile, f.name.as_str()));
        for (number, (inode, kind, name)) in (1..).zip(dots.into_iter().chain(files)).skip(offset as usize) {
            if reply.add(INodeNo(inode), number, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let bytes = self.files.iter().fold(0u64, |sum, f| sum.saturating_add(f.device.size()));
        reply.statfs(bytes.div_ceil(4096), 0, 0, self.files.len() as u64 + 1, 0, 4096, MAX_NAME as u32, 4096);
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(file) = self.find(inode) else { return reply.error(Errno::EISDIR) };
        let how = if !file.device.read_only() {
            // Not cached here: the loop device or the file system on it has a cache already, and what is
            // written by another front end must be seen.
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        } else if flags.acc_mode() != fuser::OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        } else {
            // It never changes, so the kernel may keep what it has for the next one who opens it.
            FopenFlags::FOPEN_KEEP_CACHE
        };
        reply.opened(FileHandle(0), how | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.find(inode) else { return reply.error(Errno::EBADF) };
        let len = u64::from(size).min(file.device.size().saturating_sub(offset)) as usize;
        if len == 0 {
            return reply.data(&[]); // beyond the end too, where the device has no such place
        }
        if is_ready(&*file.device, offset, len as u64) {
            return file.read(&self.buffers, offset, len, reply);
        }
        let (worker, buffers) = (Arc::clone(file), Arc::clone(&self.buffers));
        // If the pool is closed the reply is dropped, which answers EIO; so below.
        let _ = file.pool.submit(move || worker.read(&buffers, offset, len, reply));
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(file) = self.find(inode) else { return reply.error(Errno::EBADF) };
        let len = (data.len() as u64).min(file.device.size().saturating_sub(offset)) as usize;
        if len == 0 && !data.is_empty() {
            return reply.error(Errno::ENOSPC);
        }
        let data = &data[..len];
        if write_is_quick(&*file.device, offset, len as u64) {
            return file.write(data, offset, reply);
        }
        // Has to read what is around it, which may take long.
        let (worker, data) = (Arc::clone(file), data.to_vec());
        let _ = file.pool.submit(move || worker.write(&data, offset, reply));
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let Some(file) = self.find(inode) else { return reply.error(Errno::EBADF) };
        let worker = Arc::clone(file);
        let _ = file.pool.submit(move || match guarded(|| worker.device.flush()) {
            Ok(()) => reply.ok(),
            Err(e) => worker.fail(e.context("flushing"), |e| reply.error(e)),
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(file) = self.find(inode) else { return reply.error(Errno::EBADF) };
        if !matches!(mode & !libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let inside = file.device.size().saturating_sub(offset);
        if length > inside && mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
            return reply.error(Errno::EFBIG);
        }
        let (worker, length) = (Arc::clone(file), length.min(inside));
        let _ = file.pool.submit(move || match guarded(|| worker.device.discard(offset, length)) {
            Ok(()) => reply.ok(),
            Err(e) => worker.fail(e.context(format!("discarding {length} bytes")).at(offset), |e| reply.error(e)),
        });
    }

    fn lseek(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let Some(file) = self.find(inode) else { return reply.error(Errno::EBADF) };
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Some(offset) = u64::try_from(offset).ok().filter(|at| *at < file.device.size()) else {
            return reply.error(Errno::ENXIO);
        };
        let worker = Arc::clone(file);
        let _ = file.pool.submit(move || match guarded(|| worker.seek(offset, data)) {
            Ok(Some(at)) => reply.offset(at as i64),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(e) => worker.fail(e.context("looking for data").at(offset), |e| reply.error(e)),
        });
    }
}
