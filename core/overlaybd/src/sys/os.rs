//! The real machine: Linux files, directories and clock.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::{Clock, Disk, File, Mode};
use crate::error::{Error, Result};

/// The file systems of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// The same file systems, for files that a crash of the machine may take: nothing waits for the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScratchDisk;

/// A file of this machine.
#[derive(Debug)]
pub struct OsFile {
    file: fs::File,
    path: PathBuf,
    scratch: bool,
}

impl OsFile {
    /// Wraps a file that is open already; `path` is only for messages.
    pub fn new(file: fs::File, path: impl Into<PathBuf>) -> Self {
        OsFile { file, path: path.into(), scratch: false }
    }

    fn open(path: &Path, mode: Mode, scratch: bool) -> Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).mode(0o644);
        match mode {
            Mode::Read => &mut options,
            Mode::Write => options.write(true),
            Mode::Create => options.write(true).create(true).truncate(false),
            Mode::New => options.write(true).create_new(true),
        };
        let file = options.open(path).map_err(|e| Error::io("open", e).in_file(path))?;
        Ok(Arc::new(OsFile { file, path: path.into(), scratch }))
    }

    fn seek(&self, offset: u64, whence: i32) -> io::Result<Option<u64>> {
        let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: plain system call on a descriptor that `self` keeps open; the position it moves is never used.
        let at = unsafe { libc::lseek(self.file.as_raw_fd(), offset, whence) };
        if at >= 0 {
            return Ok(Some(at as u64));
        }
        let e = io::Error::last_os_error();
        if e.raw_os_error() == Some(libc::ENXIO) {
            Ok(None)
        } else {
            Err(e)
        }
    }
}

fn check(ret: i32) -> io::Result<()> {
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl File for OsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        let metadata = self.file.metadata()?;
        if metadata.file_type().is_block_device() {
            return Ok(self.seek(0, libc::SEEK_END)?.unwrap_or(0));
        }
        Ok(metadata.len())
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn block_bytes(&self) -> u64 {
        self.file.metadata().map_or(4096, |m| m.blksize())
    }

    fn links(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.nlink())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        // SAFETY: plain system call on a descriptor that `self` keeps open.
        match check(unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, len as i64) }) {
            // Room is found when it is written to.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.scratch {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn start_write_back(&self) {
        // SAFETY: plain system call on a descriptor that `self` keeps open. That it fails changes nothing.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: plain system call on a descriptor that `self` keeps open.
        check(unsafe { libc::fallocate(self.file.as_raw_fd(), flags, offset as i64, len as i64) })
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.seek(offset, libc::SEEK_DATA)
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match self.seek(offset, libc::SEEK_HOLE)? {
            Some(at) => Ok(at),
            None => self.len(),
        }
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        // SAFETY: an all-zero flock is valid; the fields that matter are set below.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        // SAFETY: `lock` outlives the call, and the descriptor is open.
        let ret = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
        match check(ret) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn copy_to(&self, offset: u64, len: u64, to: &dyn File, to_offset: u64) -> io::Result<Option<()>> {
        let Some(to_fd) = to.fd() else { return Ok(None) };
        let (mut from, mut dest, mut left) = (offset as i64, to_offset as i64, len as usize);
        while left > 0 {
            // SAFETY: both offsets outlive the call, and both descriptors are open.
            let n = unsafe { libc::copy_file_range(self.file.as_raw_fd(), &mut from, to_fd, &mut dest, left, 0) };
            if n > 0 {
                left -= n as usize;
                continue;
            }
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let e = io::Error::last_os_error();
            match e.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EXDEV | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::EBADF | libc::EPERM)
                    if left == len as usize =>
                {
                    return Ok(None);
                }
                _ => return Err(e),
            }
        }
        Ok(Some(()))
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }
}

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>> {
        OsFile::open(path, mode, false)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|e| Error::io(format!("rename from {}", from.display()), e).in_file(to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|e| Error::io("remove", e).in_file(path))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync directory", e).in_file(dir))
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(|e| Error::io("create directory", e).in_file(dir))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let fail = |e| Error::io("list directory", e).in_file(dir);
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(fail)? {
            names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        let name = std::ffi::CString::new(dir.as_os_str().as_bytes())
            .map_err(|e| Error::new(crate::Kind::Invalid, "path with a NUL byte").because(e))?;
        // SAFETY: an all-zero statvfs is a valid value to be overwritten.
        let mut st: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: `name` and `st` outlive the call.
        check(unsafe { libc::statvfs(name.as_ptr(), &mut st) }).map_err(|e| Error::io("statvfs", e).in_file(dir))?;
        Ok(st.f_bavail * st.f_frsize)
    }

    fn boot(&self) -> u64 {
        static BOOT: OnceLock<u64> = OnceLock::new();
        // A random UUID: its first 55 bits are as good as all.
        let read = || {
            let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
            let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
            u64::from_str_radix(&digits, 16).ok()
        };
        *BOOT.get_or_init(|| read().unwrap_or(0) >> 9)
    }
}

impl Disk for ScratchDisk {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>> {
        OsFile::open(path, mode, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        OsDisk.remove(path)
    }

    fn sync_dir(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        OsDisk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        OsDisk.free_bytes(dir)
    }
}

/// The monotonic clock of this machine.
#[derive(Clone, Copy, Debug)]
pub struct OsClock {
    start: Instant,
}

impl Default for OsClock {
    fn default() -> Self {
        OsClock { start: Instant::now() }
    }
}

impl Clock for OsClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_locks_and_exclusive_creation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = OsDisk.open(&path, Mode::New).unwrap();
        assert_eq!(OsDisk.open(&path, Mode::New).unwrap_err().kind(), crate::Kind::Exists);
        file.write_at(&[1; 4096], 1 << 20).unwrap();
        assert_eq!(file.next_data(0).unwrap(), Some(1 << 20));
        assert_eq!(file.next_data((1 << 20) + 4096).unwrap(), None);
        let other = OsDisk.open(&path, Mode::Write).unwrap();
        assert!(file.try_lock(false).unwrap() && other.try_lock(false).unwrap());
        assert!(!file.try_lock(true).unwrap(), "a shared lock of another handle must hold off an exclusive one");
        drop(other);
        assert!(file.try_lock(true).unwrap());
    }

    #[test]
    fn the_kernel_copies_from_file_to_file_or_nothing_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| OsDisk.open(&dir.path().join(name), Mode::New).unwrap();
        let (from, to) = (open("from"), open("to"));
        from.write_at(b"0123456789", 0).unwrap();
        let copied = from.copy_to(3, 5, &*to, 100).unwrap().is_some();
        to.start_write_back();
        let copy = std::fs::read(to.path()).unwrap();
        assert_eq!(copy, if copied { [&[0; 100][..], b"34567"].concat() } else { vec![] });
        assert!(from.copy_to(8, 5, &*to, 0).is_err() || !copied, "there are two bytes left, not five");
    }

    #[test]
    fn scratch_files_are_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = ScratchDisk.open(&path, Mode::New).unwrap();
        file.write_at(b"text", 0).unwrap();
        file.sync_data().unwrap();
        ScratchDisk.sync_dir(dir.path()).unwrap();
        assert_eq!(ScratchDisk.list(dir.path()).unwrap(), ["f"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
        ScratchDisk.remove(&path).unwrap();
    }
}
