//! A system that has no thread to spare: images open all the same.

use std::process::Command;
use std::sync::Arc;

use overlaybd::blob::Blob;
use overlaybd::device::BlockDevice;
use overlaybd::image::open;
use overlaybd::sys::os::OsDisk;

use crate::support::golden_blob;

/// Says that this process is the one that is to run short of room for stacks.
const SHORT: &str = "SHORT_OF_THREADS";

#[test]
fn an_image_opens_when_no_thread_can_be_started() {
    if std::env::var_os(SHORT).is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "threads::an_image_opens_when_no_thread_can_be_started";
        let done = Command::new(me).args([name, "--exact", "--nocapture"]).env(SHORT, "1").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        return;
    }
    let layers: Vec<Arc<dyn Blob>> = (0..8).map(|_| golden_blob("a.commit")).collect();
    // Room for what an open takes, but not for a stack.
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
    if pages > 1 << 28 {
        println!("left out: a sanitiser, which has taken a TiB, does not stand a limit");
        return;
    }
    let limit = pages * 4096 + (1 << 20);
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: plain system call; `limit` outlives it.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "no thread can be started");
    assert!(open(&OsDisk, layers, None).unwrap().size() > 0);
}
