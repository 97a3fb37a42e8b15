//! Every engine gives what a plain read gives, or says that it cannot and lets the plain read do it.

use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::blob::{Blob, FileBlob};
use crate::sys::os::OsDisk;
use crate::sys::{Disk, Mode};

/// Bytes of which no page is like another.
fn content(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join(format!("{}", bytes.len()));
    std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    path
}

fn file(path: &Path) -> Arc<dyn File> {
    OsDisk.open(path, Mode::Read).unwrap()
}

/// A directory of a file system on a disk if the machine has one there, and one in memory.
fn directories() -> [tempfile::TempDir; 2] {
    [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()]
}

/// Whether this engine itself was opened, not its replacement.
fn is_real(engine: &Arc<dyn Engine>, kind: Kind) -> bool {
    let name = ["Psync", "Libaio", "PosixAio", "Uring"][kind as usize];
    format!("{engine:?}").starts_with(name)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_range_of_any_file_reads_as_it_was_written(
        len in prop_oneof![0usize..10_000, Just(4096), Just(8192), 1_000_000usize..1_200_000],
        ranges in prop::collection::vec((any::<Index>(), any::<Index>(), 0usize..4096), 1..12),
    ) {
        let bytes = content(len);
        for dir in directories() {
            let path = write(dir.path(), &bytes);
            for kind in Kind::ALL {
                let blob = FileBlob::open_with(&OsDisk, &path, kind).unwrap();
                for (a, b, shift) in &ranges {
                    let (a, b) = (a.index(len + 1), b.index(len + 1));
                    let (start, end) = (a.min(b), a.max(b));
                    let mut buf = vec![0xa5; shift + end - start];
                    blob.read_at(&mut buf[*shift..], start as u64).unwrap();
                    prop_assert!(buf[*shift..] == bytes[start..end], "{kind:?} {start}..{end} of {len}");
                    prop_assert!(buf[..*shift].iter().all(|b| *b == 0xa5), "{kind:?} wrote before the buffer");
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_file_is_seen_as_by_pread() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &content(10_000));
    for kind in Kind::ALL {
        let engine = open(kind, &file(&path));
        for (offset, room, expected) in
            [(9_999, 512, 1), (9_000, 8192, 1000), (8192, 4096, 1808), (10_000, 1, 0), (12_288, 4096, 0)]
        {
            let mut buf = vec![0; room];
            assert_eq!(engine.read_at(&mut buf, offset).unwrap(), expected, "{kind:?} at {offset}");
        }
        // A file that is shorter than when it was opened is an error, not zeros.
        let blob = FileBlob::open_with(&OsDisk, &write(dir.path(), &content(9_999)), kind).unwrap();
        std::fs::File::options().write(true).open(blob.name()).unwrap().set_len(5000).unwrap();
        let error = blob.read_at(&mut [0; 2000], 4000).unwrap_err();
        assert_eq!((error.kind(), error.what()), (crate::Kind::Corrupt, "file ends 1000 bytes early"), "{kind:?}");
        let error = blob.read_at(&mut [0; 2], 9_998).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::OutOfBounds, "{kind:?}");
    }
}

#[test]
fn a_failing_read_keeps_its_errno() {
    for kind in [Kind::Psync, Kind::PosixAio, Kind::Uring] {
        // A directory opens for reading, and fails when read.
        let engine = open(kind, &file(Path::new("/tmp")));
        let error = engine.read_at(&mut [0; 512], 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EISDIR), "{kind:?}");
    }
}

#[test]
fn many_threads_share_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(1 << 20);
    let path = write(dir.path(), &bytes);
    for kind in Kind::ALL {
        let blob = FileBlob::open_with(&OsDisk, &path, kind).unwrap();
        // More threads than there are contexts: those without one read all the same.
        std::thread::scope(|scope| {
            for thread in 0..crate::limits::MAX_ENGINE_CONTEXTS + 8 {
                let (blob, bytes) = (&blob, &bytes);
                scope.spawn(move || {
                    let mut buf = [0; 5000];
                    for turn in 0..20 {
                        let at = (thread * 7919 + turn * 104_729) % (bytes.len() - buf.len());
                        blob.read_at(&mut buf, at as u64).unwrap();
                        assert!(buf == bytes[at..at + buf.len()], "{kind:?} at {at}");
                    }
                });
            }
        });
    }
}

#[test]
fn a_file_system_without_direct_reads_is_read_all_the_same() {
    let file = file(Path::new("/proc/version"));
    let engine = open(Kind::Libaio, &file);
    assert!(is_real(&engine, Kind::Psync));
    let (mut ours, mut plain) = ([0; 512], [0; 512]);
    let n = engine.read_at(&mut ours, 0).unwrap();
    assert_eq!((n, &ours), (file.read_at(&mut plain, 0).unwrap(), &plain));
    assert!(n > 0);
}

/// Has the kernel refuse some system calls to the calling thread from now on, as a container's filter does.
fn forbid(calls: &[libc::c_long]) {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call as u32));
        program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain switches of the calling thread; the program is valid and outlives the calls.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

#[test]
fn what_the_kernel_refuses_is_read_by_pread_and_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(20_000);
    let path = write(dir.path(), &bytes);
    let whole = |engine: &dyn Engine| {
        let mut buf = vec![0; bytes.len()];
        assert_eq!(engine.read_at(&mut buf, 0).unwrap(), bytes.len());
        assert!(buf == bytes);
    };
    let before = [Kind::Libaio, Kind::Uring].map(|kind| open(kind, &file(&path)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            forbid(&[libc::SYS_io_setup, libc::SYS_io_uring_setup]);
            for kind in [Kind::Libaio, Kind::Uring] {
                let engine = open(kind, &file(&path));
                assert!(is_real(&engine, Kind::Psync), "{kind:?}");
                whole(&*engine);
                open(kind, &file(&path));
            }
            // Opened where it was allowed, used by a thread to which it is not.
            before.iter().for_each(|engine| whole(&**engine));
        });
    });
    let said = notices();
    let about = |name: &str| said.iter().filter(|line| line.contains(name)).count();
    assert!(about("io_uring") <= 1 && about("libaio") <= 1, "{said:?}");
    assert!(said.iter().all(|line| line.contains("pread is used instead")), "{said:?}");
    assert!(SAID[Kind::Uring as usize].load(Relaxed) && SAID[Kind::Libaio as usize].load(Relaxed));
}

#[test]
fn numbers_are_those_of_the_configuration() {
    assert_eq!([0, 1, 2, 3].map(|n| Kind::from_number(n).unwrap()), Kind::ALL);
    assert_eq!(Kind::from_number(4), None);
}
