//! Names, and a real mount where the machine allows one (`tests/e2e` has loop devices and file systems).

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{mount, Mount, Options};
use crate::device::{BlockDevice, MemoryDevice};
use crate::error::Kind;
use crate::serve::test_device::{pattern, Device, SIZE};

/// A mount of a test device as "disk" and a read-only one as "fixed"; None where FUSE is not to be had.
fn mounted(device: &Arc<Device>, options: &Options) -> Option<(tempfile::TempDir, Mount)> {
    let dir = tempfile::tempdir().unwrap();
    let fixed: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::read_only(pattern(0, 1 << 20)));
    let files = vec![("disk".to_string(), Arc::clone(device) as Arc<dyn BlockDevice>), ("fixed".into(), fixed)];
    match Mount::start(files, dir.path(), options) {
        Ok(mount) => Some((dir, mount)),
        Err(e) if matches!(e.kind(), Kind::Denied | Kind::NotFound) => {
            // Not captured, so that a run without these tests shows.
            let _ = writeln!(std::io::stderr(), "SKIPPED: no FUSE on this machine: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

fn open(path: PathBuf) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Unmounts. A program that another test starts just then has all our files open, from its fork to its exec.
fn stop(mount: &Mount) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match mount.stop(false) {
            Err(e) if e.errno() == libc::EBUSY && Instant::now() < end => thread::sleep(Duration::from_millis(10)),
            done => return done.unwrap(),
        }
    }
}

#[test]
fn names_must_be_file_names() {
    let device = || Arc::new(MemoryDevice::new(512).unwrap()) as Arc<dyn BlockDevice>;
    let dir = tempfile::tempdir().unwrap();
    for name in ["", ".", "..", "a/b", "a\0", &"x".repeat(256)] {
        let failed = Mount::start(vec![(name.into(), device())], dir.path(), &Options::default());
        assert_eq!(failed.err().map(|e| e.kind()), Some(Kind::Invalid), "{name:?}");
    }
    let twice = vec![("a".into(), device()), ("a".into(), device())];
    let failed = Mount::start(twice, dir.path(), &Options::default());
    assert_eq!(failed.err().map(|e| e.kind()), Some(Kind::Exists));
}

#[test]
fn files_behave_like_disks() {
    let device = Arc::new(Device::new());
    let Some((dir, mount)) = mounted(&device, &Options::default()) else { return };
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["disk", "fixed"]);
    let disk = open(dir.path().join("disk"));
    assert_eq!(disk.metadata().unwrap().len(), SIZE);

    let mut buf = vec![0; 300_000];
    disk.read_exact_at(&mut buf, 12_345).unwrap();
    assert_eq!(buf, pattern(12_345, 300_000));
    disk.write_all_at(&[9; 70_001], 77).unwrap();
    disk.sync_all().unwrap();
    device.read_at(&mut buf[..70_001], 77).unwrap();
    assert_eq!(buf[..70_001], [9; 70_001]);
    device.write_at(&[8; 10], 100).unwrap();
    disk.read_exact_at(&mut buf[..10], 100).unwrap();
    assert_eq!(buf[..10], [8; 10], "what others wrote is seen");

    assert_eq!(disk.read_at(&mut buf, SIZE - 5).unwrap(), 5, "short only at the end");
    assert_eq!(disk.read_at(&mut buf, SIZE).unwrap(), 0);
    assert_eq!(disk.read_at(&mut buf, SIZE + 4096).unwrap(), 0, "nor is it an error beyond it");
    assert_eq!(disk.write_at(&[1; 10], SIZE - 5).unwrap(), 5);
    assert_eq!(disk.write_at(&[1], SIZE).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(disk.set_len(0).unwrap_err().raw_os_error(), Some(libc::EINVAL));

    let read_only = File::options().write(true).open(dir.path().join("fixed"));
    assert_eq!(read_only.unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read(dir.path().join("fixed")).unwrap(), pattern(0, 1 << 20));
    assert!(fs::write(dir.path().join("new"), "x").is_err());
    assert!(fs::remove_file(dir.path().join("disk")).is_err());
    drop(disk);
    stop(&mount);
    mount.wait().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn holes_are_punched_and_found() {
    use crate::sys::{os::OsFile, File as _};
    let device = Arc::new(Device::new());
    let Some((dir, mount)) = mounted(&device, &Options::default()) else { return };
    let disk = OsFile::new(open(dir.path().join("disk")), "disk");
    disk.punch_hole(1 << 20, 1 << 20).unwrap();
    disk.punch_hole(SIZE - 512, 1 << 20).unwrap();
    let mut buf = vec![1; (1 << 20) + 2];
    disk.read_at(&mut buf, (1 << 20) - 1).unwrap();
    assert_eq!((buf[0], buf[(1 << 20) + 1]), (pattern((1 << 20) - 1, 1)[0], pattern(2 << 20, 1)[0]));
    assert!(buf[1..=1 << 20].iter().all(|b| *b == 0));
    assert_eq!(disk.next_hole(0).unwrap(), 1 << 20);
    assert_eq!(disk.next_data(1 << 20).unwrap(), Some(2 << 20));
    assert_eq!(disk.next_hole(2 << 20).unwrap(), SIZE - 512);
    assert_eq!(disk.next_data(SIZE - 512).unwrap(), None);
    drop(disk);
    stop(&mount);
}

#[test]
fn faults_reach_only_the_requests_concerned_and_are_told() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let report = move |name: &str, e: crate::Error| hear.lock().push((name.to_string(), e.kind()));
    let options = Options { report: Some(Arc::new(report)), ..Options::default() };
    let device = Arc::new(Device { bad: 4096..8192, panics: 1 << 20..(1 << 20) + 1, ..Device::new() });
    let Some((dir, mount)) = mounted(&device, &options) else { return };
    let disk = open(dir.path().join("disk"));
    let mut buf = [0; 4096];
    for bad in [4096, 1 << 20] {
        assert_eq!(disk.read_at(&mut buf, bad).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(disk.write_at(&buf, bad).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    disk.read_exact_at(&mut buf, 8192).unwrap();
    assert_eq!(buf[..], pattern(8192, 4096));
    drop(disk);
    stop(&mount);
    let told = told.lock();
    assert!(told.len() == 4 && told.iter().all(|(name, _)| name == "disk"), "{told:?}");
    assert_eq!(told.iter().filter(|(_, kind)| *kind == Kind::Corrupt).count(), 2);
}

#[test]
fn a_slow_file_holds_up_neither_cached_reads_nor_others() {
    let device = Arc::new(Device { cold: 0..1 << 20, ..Device::new() });
    let Some((dir, mount)) = mounted(&device, &Options { workers: 2, ..Options::default() }) else { return };
    let disk = Arc::new(open(dir.path().join("disk")));
    let slow: Vec<_> = (0..8u64)
        .map(|i| {
            let disk = Arc::clone(&disk);
            thread::spawn(move || {
                let mut buf = [0; 4096];
                disk.read_exact_at(&mut buf, i * 4096).unwrap();
                assert_eq!(buf[..], pattern(i * 4096, 4096));
            })
        })
        .collect();
    device.gate.wait_for(2);
    let mut buf = vec![0; 1 << 20];
    disk.read_exact_at(&mut buf, 2 << 20).unwrap();
    assert_eq!(buf, pattern(2 << 20, 1 << 20));
    assert_eq!(fs::read(dir.path().join("fixed")).unwrap(), pattern(0, 1 << 20));
    device.gate.open();
    slow.into_iter().for_each(|t| t.join().unwrap());
    drop(disk);
    stop(&mount);
}

#[test]
fn busy_is_an_error_unless_forced() {
    let device = Arc::new(Device { cold: 0..4096, ..Device::new() });
    let Some((dir, mount)) = mounted(&device, &Options::default()) else { return };
    let disk = Arc::new(open(dir.path().join("disk")));
    let waiting = {
        let disk = Arc::clone(&disk);
        thread::spawn(move || disk.read_at(&mut [0; 4096], 0))
    };
    device.gate.wait_for(1);
    assert_eq!(mount.stop(false).unwrap_err().errno(), libc::EBUSY);
    disk.read_exact_at(&mut [0; 512], 8192).unwrap();
    let stopping = thread::spawn(move || {
        mount.stop(true).unwrap();
        mount.wait().unwrap();
    });
    assert!(waiting.join().unwrap().is_err(), "a request under way is cut off");
    assert!(disk.read_at(&mut [0; 512], 8192).is_err());
    device.gate.open();
    stopping.join().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_session_that_fails_leaves_no_mount_behind_that_nobody_serves() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let report = move |name: &str, e: crate::Error| {
        assert_ne!(e.kind(), Kind::Corrupt, "expected by this test");
        hear.lock().push((name.to_string(), e.to_string()));
    };
    let options = Options { report: Some(Arc::new(report)), ..Options::default() };
    let device = Arc::new(Device { bad: 0..512, ..Device::new() });
    let Some((dir, mount)) = mounted(&device, &options) else { return };
    let shown = mount::device(dir.path()).unwrap();
    let disk = open(dir.path().join("disk"));
    // Each is the end of one of its threads; that of the first is seen.
    while mount.wait_for(Duration::from_millis(10)).is_ok() {
        assert!(disk.read_at(&mut [0; 512], 0).is_err());
    }
    assert_ne!(mount::device(dir.path()).unwrap(), shown, "unmounted");
    let told = told.lock();
    assert!(told.iter().any(|(name, line)| name == "disk" && line.contains("not served any more")), "{told:?}");
}

#[test]
fn an_unmounting_from_outside_ends_the_wait_and_a_later_mount_is_left_alone() {
    let device = Arc::new(Device::new());
    let Some((dir, mount)) = mounted(&device, &Options::default()) else { return };
    let unmounted = std::process::Command::new("umount").arg(dir.path()).status().unwrap();
    assert!(unmounted.success());
    mount.wait().unwrap();
    let fixed: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::read_only(vec![5; 512]));
    let second = Mount::start(vec![("second".into(), fixed)], dir.path(), &Options::default()).unwrap();
    mount.stop(true).unwrap();
    drop(mount);
    assert_eq!(fs::read(dir.path().join("second")).unwrap(), [5; 512]);
    drop(second);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "dropping unmounts");
}
