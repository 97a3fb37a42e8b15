//! What is fetched in advance: the files that a list names, the ranges that a trace says, and what stops that.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::list::list;
use super::{Piece, Prefetch, PrefetchOptions, PrefetchStats, Record};
use crate::blob::testing::Asked;
use crate::limits::MAX_LIST_NOTES;
use crate::lsmt::testing::layer_of;
use crate::lsmt::{Layer, Stack};

const MINUTE: Duration = Duration::from_secs(60);

/// A layer that holds `device`.
fn layer(device: &[u8]) -> Arc<Asked> {
    Arc::new(Asked::new(layer_of(device)))
}

/// Layers, bottom first, as a stack.
fn stack(layers: &[Arc<Asked>]) -> Arc<Stack> {
    let layers = layers.iter().map(|blob| Layer::open(blob.clone()).unwrap()).collect();
    Arc::new(Stack::new(layers).unwrap())
}

/// Files, by their path: so large that no two of them are fetched together for what lies between.
const FILES: [&str; 5] = ["etc/passwd", "usr/lib/a.so", "usr/lib/b.so", "usr/lib/c.txt", "usr/lib/deep/d.so"];

fn content(path: &str) -> Vec<u8> {
    (0..).flat_map(|i| format!("{path} {i}\n").into_bytes()).take(150_000).collect()
}

fn grow(top: &Path) {
    for path in FILES {
        let full = top.join(path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, content(path)).unwrap();
    }
    std::fs::create_dir(top.join("empty")).unwrap();
    std::os::unix::fs::symlink("usr/lib", top.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", top.join("dead")).unwrap();
    std::os::unix::fs::symlink("loop", top.join("loop")).unwrap();
}

/// A layer with an ext4 of these files.
fn image() -> Arc<Asked> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = IMAGE.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let (top, image) = (home.path().join("top"), home.path().join("image"));
        grow(&top);
        let mut command = Command::new("/usr/sbin/mke2fs");
        command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-E", "lazy_itable_init=0", "-d"]);
        let done = command.arg(&top).arg(&image).arg("8M").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        layer_of(&std::fs::read(&image).unwrap())
    });
    Arc::new(Asked::new(bytes.clone()))
}

/// The files all of which lies in `pieces` of the bottom layer.
fn covered(layer: &Asked, pieces: &[Piece]) -> BTreeSet<&'static str> {
    let has = |at: u64| pieces.iter().any(|p| p.layer == 0 && (p.offset..p.offset + p.len).contains(&at));
    let whole = |path: &&str| {
        let content = content(path);
        let first = layer.bytes.chunks(512).position(|sector| *sector == content[..512]).unwrap() * 512;
        assert!(layer.bytes[first..].starts_with(&content), "{path} is in one piece");
        (first..first + content.len()).step_by(512).all(|at| has(at as u64))
    };
    FILES.into_iter().filter(whole).collect()
}

#[test]
fn a_list_names_files_directories_and_patterns() {
    let image = image();
    let stack = stack(&[Arc::clone(&image)]);
    let all = &FILES[1..];
    let rows: [(&str, &[&str], &[&str]); 20] = [
        ("/etc/passwd\n", &["etc/passwd"], &[]),
        ("# etc/passwd\n\n   \n  etc//passwd  \r\n", &["etc/passwd"], &[]),
        ("/usr/lib/b.so\n/etc/passwd", &["etc/passwd", "usr/lib/b.so"], &[]),
        ("/usr/lib/\n", all, &[]),
        ("/\n", &FILES, &[]),
        ("/empty/", &[], &[]),
        ("/usr/lib", &[], &["line 1: /usr/lib: a directory"]),
        ("\n/etc/passwd/", &[], &["line 2: /etc/passwd/: not a directory"]),
        ("/link/b.so", &["usr/lib/b.so"], &[]),
        ("/link/", all, &[]),
        ("/usr/lib/*.so", &["usr/lib/a.so", "usr/lib/b.so"], &[]),
        ("/usr/*/c.*", &["usr/lib/c.txt"], &[]),
        ("/usr/lib/*", &["usr/lib/a.so", "usr/lib/b.so", "usr/lib/c.txt"], &[]),
        ("/usr/lib/de*", &[], &["a directory"]),
        ("/usr/lib/x*", &[], &["no such file"]),
        ("/etc/passwd/*", &[], &["no such file"]),
        ("/etc/passwd/x\n/loop", &[], &["line 1: /etc/passwd/x: no such file", "line 2: /loop: symbolic links"]),
        ("/*/lib/b.so", &["usr/lib/b.so"], &[]),
        ("/usr/*/", all, &[]),
        ("/nothing\n/dead\n/usr/lib/c.txt", &["usr/lib/c.txt"], &["line 1: /nothing", "line 2: /dead"]),
    ];
    for (text, files, words) in rows {
        let (mut pieces, mut notes) = (Vec::new(), Vec::new());
        let mut feed = |piece| {
            pieces.push(piece);
            true
        };
        list(&stack, text.as_bytes(), &mut feed, &mut |note| notes.push(note)).unwrap();
        assert_eq!(covered(&image, &pieces), files.iter().copied().collect(), "{text:?}");
        assert_eq!(pieces.is_empty(), files.is_empty(), "{text:?}");
        assert_eq!(notes.len(), words.len(), "{text:?}: {notes:?}");
        assert!(notes.iter().zip(words).all(|(note, word)| note.contains(word)), "{text:?}: {notes:?}");
    }
    // More than are put together before they are fetched.
    let many = "/usr/lib/a.so\n".repeat(4096);
    let mut pieces = Vec::new();
    let mut feed = |piece| {
        pieces.push(piece);
        true
    };
    list(&stack, format!("{many}/etc/passwd\n").as_bytes(), &mut feed, &mut |note| panic!("{note}")).unwrap();
    assert_eq!(covered(&image, &pieces), BTreeSet::from(["etc/passwd", "usr/lib/a.so"]));
    let mut fed = 0;
    let mut refuse = |_| {
        fed += 1;
        false
    };
    list(&stack, b"/usr/lib/a.so\n/etc/passwd\n", &mut refuse, &mut |note| panic!("{note}")).unwrap();
    assert_eq!(fed, 1, "it stops when nothing more is wanted");
    fed = 0;
    let mut refuse = |_| {
        fed += 1;
        false
    };
    list(&stack, format!("{many}/etc/passwd\n/nothing").as_bytes(), &mut refuse, &mut |note| panic!("{note}")).unwrap();
    assert_eq!(fed, 1, "nor is anything looked at then");
}

#[test]
fn a_damaged_directory_that_contains_itself_is_gone_through_once() {
    let good = image();
    let mut bytes = good.bytes.clone();
    // The entry of `deep` in `/usr/lib`: number, length, length of the name, type, name. `.` comes first there.
    let entry = bytes.windows(6).position(|bytes| bytes == b"\x04\x02deep").unwrap() - 6;
    let block = (0..=entry).rev().find(|at| bytes[*at + 6..].starts_with(b"\x01\x02.\0")).unwrap();
    bytes.copy_within(block..block + 4, entry);
    let image = Arc::new(Asked::new(bytes));
    let (mut pieces, mut notes) = (Vec::new(), Vec::new());
    let mut feed = |piece| {
        pieces.push(piece);
        true
    };
    list(&stack(&[Arc::clone(&image)]), b"/usr/lib/", &mut feed, &mut |note| notes.push(note)).unwrap();
    assert_eq!((covered(&image, &pieces), notes), (FILES[1..4].iter().copied().collect(), vec![]));
}

#[test]
fn no_more_notes_are_kept_than_people_read() {
    let image = image();
    let text: String = (0..MAX_LIST_NOTES + 5).map(|i| format!("/nothing{i}\n")).collect();
    let stats = outcome(&Prefetch::list(&stack(&[image]), text.into_bytes(), EAGER).unwrap());
    assert_eq!((stats.skipped, stats.notes.len()), (MAX_LIST_NOTES as u64 + 5, MAX_LIST_NOTES));
}

#[test]
fn a_list_for_no_file_system_is_refused() {
    let stack = stack(&[layer(&[7; 1 << 20])]);
    let e = list(&stack, b"/etc/passwd", &mut |_| true, &mut |_| ()).unwrap_err();
    assert!(e.to_string().contains("the file system of the image"), "{e}");
    let run = Prefetch::list(&stack, b"/etc/passwd".to_vec(), EAGER).unwrap();
    assert!(run.wait(MINUTE));
    assert_eq!((run.stats().skipped, run.stats().notes.len(), run.stats().done), (1, 1, true));
}

const EAGER: PrefetchOptions = PrefetchOptions { workers: 3, max_bytes: u64::MAX };

/// What came of a run, which is over.
fn outcome(run: &Prefetch) -> PrefetchStats {
    assert!(run.wait(MINUTE), "it does not end");
    run.stats()
}

#[test]
fn what_a_list_names_is_fetched_once() {
    let image = image();
    let stack = stack(&[Arc::clone(&image)]);
    image.take();
    let run = Prefetch::list(&stack, b"/usr/lib/a.so\n/nothing\n/usr/lib/a.so".to_vec(), EAGER).unwrap();
    let stats = outcome(&run);
    let fetched: Vec<_> = image.take().into_iter().filter(|seen| seen.0 == "prefetch").collect();
    assert_eq!((stats.pieces, stats.fetched_bytes), (fetched.len() as u64, fetched.iter().map(|seen| seen.2).sum()));
    assert!((150_000..160_000).contains(&stats.fetched_bytes), "{stats:?}");
    assert_eq!((stats.skipped, stats.failed, stats.done, stats.first_error), (1, 0, true, None));
    assert!(stats.notes[0].starts_with("line 2: /nothing: "), "{:?}", stats.notes);
}

/// Two layers, and records of them far from one another.
fn replayed() -> (Vec<Arc<Asked>>, Arc<Stack>, Vec<Record>) {
    let layers = [layer(&[1; 1 << 20]), layer(&[2; 2 << 20])].to_vec();
    let stack = stack(&layers);
    layers.iter().for_each(|layer| drop(layer.take()));
    let record = |layer, offset| Record { layer, offset, len: 4096 };
    let records = vec![record(1, 1 << 20), record(0, 8192), record(1, 300_000), record(2, 0), record(0, u64::MAX - 9)];
    (layers, stack, records)
}

#[test]
fn a_replay_fetches_what_the_trace_says_in_its_order() {
    let (layers, stack, records) = replayed();
    let run = Prefetch::trace(&stack, records, PrefetchOptions { workers: 1, ..EAGER }).unwrap();
    let stats = outcome(&run);
    assert_eq!((stats.pieces, stats.fetched_bytes, stats.skipped, stats.failed), (3, 3 * 4096, 2, 0));
    assert_eq!(layers[0].take(), [("prefetch", 8192, 4096)]);
    assert_eq!(layers[1].take(), [("prefetch", 1 << 20, 4096), ("prefetch", 300_000, 4096)]);
}

#[test]
fn what_cannot_be_fetched_is_told_and_keeps_nothing_else_from_it() {
    let (layers, stack, records) = replayed();
    layers[0].broken.store(true, Ordering::Relaxed);
    let stats = outcome(&Prefetch::trace(&stack, records, EAGER).unwrap());
    assert_eq!((stats.pieces, stats.fetched_bytes, stats.failed), (2, 2 * 4096, 1));
    let error = stats.first_error.unwrap();
    assert!(error.contains("layer 1") && error.contains("asked") && error.contains("broken"), "{error}");
}

#[test]
fn no_fetch_begins_after_the_bytes_that_were_allowed() {
    for (max_bytes, pieces) in [(0, 0), (1, 1), (4096, 1), (4097, 2), (u64::MAX, 3)] {
        let (_, stack, records) = replayed();
        let run = Prefetch::trace(&stack, records, PrefetchOptions { workers: 1, max_bytes }).unwrap();
        assert_eq!(outcome(&run).pieces, pieces, "{max_bytes}");
    }
}

#[test]
fn a_run_that_is_stopped_ends() {
    let (_, stack, records) = replayed();
    let run = Prefetch::trace(&stack, records.repeat(50_000), EAGER).unwrap();
    run.stop();
    assert!(outcome(&run).done);
}
