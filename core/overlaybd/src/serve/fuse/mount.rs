//! Mounts and unmounts: by system calls where they are allowed, else by `fusermount3`.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Kind, Result};

const HELPER: &str = "fusermount3";

/// The number of a file system's device: major, minor. Unique while the file system lives.
pub type Device = (u32, u32);

/// The file system that is visible at `dir` now.
pub fn device(dir: &Path) -> io::Result<Device> {
    // Without synchronising: a server that has gone cannot be asked.
    let stat = statx(dir, libc::AT_STATX_DONT_SYNC)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor))
}

/// Whether what is mounted at `dir` is a FUSE file system whose server has gone.
pub fn is_dead(dir: &Path) -> bool {
    statx(dir, libc::AT_STATX_FORCE_SYNC).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
}

/// Has the kernel ask whoever serves the file `path` for its size.
pub fn ask_size(path: &Path) -> Result<()> {
    statx(path, libc::AT_STATX_FORCE_SYNC).map(drop).map_err(|e| Error::io("asking for its size", e).in_file(path))
}

fn statx(path: &Path, sync: i32) -> io::Result<libc::statx> {
    let path = c_path(path)?;
    // SAFETY: an all-zero statx is valid.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = sync | libc::AT_NO_AUTOMOUNT;
    // SAFETY: `path` ends with a zero byte, and `stat` is a statx.
    match unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_INO | libc::STATX_SIZE, &mut stat) } {
        0 => Ok(stat),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Mounts on `dir` and gives the connection to the kernel: by `given`, an open `/dev/fuse`, unless it takes a helper.
///
/// Errors: `Denied` where neither the system nor `fusermount3` allows it, `NotFound` without `/dev/fuse`.
pub fn mount(dir: &Path, allow_other: bool, given: Option<OwnedFd>) -> Result<OwnedFd> {
    match mount_directly(dir, allow_other, given) {
        Ok(connection) => Ok(connection),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
            mount_by_helper(dir, allow_other).map_err(|e| e.in_file(dir))
        }
        Err(e) => Err(Error::io("mounting FUSE", e).in_file(dir)),
    }
}

fn mount_directly(dir: &Path, allow_other: bool, given: Option<OwnedFd>) -> io::Result<OwnedFd> {
    let connection = match given {
        Some(given) => given,
        None => fs::File::options().read(true).write(true).open("/dev/fuse")?.into(),
    };
    // SAFETY: these calls cannot fail and touch no memory.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let fd = connection.as_raw_fd();
    let other = if allow_other { ",allow_other" } else { "" };
    let options = format!("fd={fd},rootmode=40000,user_id={user},group_id={group},default_permissions{other}");
    let (target, options) = (c_path(dir)?, CString::new(options)?);
    let (source, kind): (&CStr, &CStr) = (c"overlaybd", c"fuse.overlaybd");
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: all strings end with a zero byte and outlive the call.
    let done = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(connection)
}

/// Has the setuid helper mount; it sends the connection over a socket pair.
fn mount_by_helper(dir: &Path, allow_other: bool) -> Result<OwnedFd> {
    let failed = |e: io::Error| Error::io(format!("mounting FUSE by {HELPER}"), e);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let other = if allow_other { ",allow_other" } else { "" };
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(format!("nosuid,nodev,default_permissions,fsname=overlaybd,subtype=overlaybd{other}"));
    command.arg("--").arg(dir).env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let passed = theirs.as_raw_fd();
    // SAFETY: between fork and exec only fcntl is called, which is allowed there.
    unsafe {
        command.pre_exec(move || match libc::fcntl(passed, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let mut child = command.spawn().map_err(failed)?;
    drop(theirs);
    let connection = receive_descriptor(&ours).map_err(failed)?;
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(1000).read_to_string(&mut said);
    }
    let status = child.wait().map_err(failed)?;
    match connection {
        Some(connection) if status.success() => Ok(connection),
        _ => Err(Error::new(Kind::Denied, format!("mounting FUSE by {HELPER}: {}", said.trim().replace('\n', "; ")))),
    }
}

/// The descriptor that comes over a socket; None if it is closed before.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // Aligned as a control message's header must be, and roomy enough for one descriptor.
    let mut control = [0u64; 8];
    // SAFETY: an all-zero msghdr is valid; the fields that matter are set below.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&mut part, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), std::mem::size_of_val(&control));
    loop {
        // SAFETY: `message` names a buffer of one byte and one of 64 for control messages.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
        if n >= 0 {
            break;
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
    // SAFETY: `message` is as the kernel filled it.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: not null, so it points to a whole header inside `control`.
    if header.is_null() || unsafe { (*header).cmsg_type != libc::SCM_RIGHTS } {
        return Ok(None);
    }
    // SAFETY: a message of that type holds at least one descriptor, which is ours from now on.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()) }))
}

/// Unmounts `dir`. Busy is an error (EBUSY), unless forced: then the mount goes at once, and whoever
/// still uses it gets errors.
pub fn unmount(dir: &Path, device: Device, force: bool) -> Result<()> {
    let failed = |e: io::Error| Error::io("unmounting FUSE", e).in_file(dir);
    let path = c_path(dir).map_err(failed)?;
    let flags = if force { libc::MNT_FORCE | libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` ends with a zero byte.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    if e.raw_os_error() != Some(libc::EPERM) {
        return Err(failed(e));
    }
    let mut command = Command::new(HELPER);
    command.arg(if force { "-uz" } else { "-u" }).arg("--").arg(dir).stdin(Stdio::null());
    let output = command.output().map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        let cause = if said.contains("busy") { libc::EBUSY } else { libc::EPERM };
        return Err(failed(io::Error::from_raw_os_error(cause)).context(said));
    }
    if force {
        // Where this file is missing, the connection lives until its last user has gone.
        let _ = fs::write(format!("/sys/fs/fuse/connections/{}/abort", device.1), "1");
    }
    Ok(())
}

/// Lets the kernel read ahead that far, where this process may say so.
pub fn set_readahead((major, minor): Device, bytes: u32) {
    let _ = fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), (bytes / 1024).to_string());
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
