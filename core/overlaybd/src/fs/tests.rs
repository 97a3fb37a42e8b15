//! File systems as mkfs makes them, compared with the trees that they were made of; and damaged ones.

mod partitions;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::*;

/// What a tree holds, by path: contents of files, targets of links with an `@` before, `/` for directories.
type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

fn content(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A tree with what file systems keep in different ways.
fn grow(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut file = |path: &str, bytes: Vec<u8>| {
        let full = top.join(path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, &bytes).unwrap();
        tree.insert(path.into(), bytes);
    };
    for len in [0, 1, 59, 60, 61, 100, 150, 511, 1024, 4000, 4095, 4096, 4097, 8192, 70_000, 3_000_000] {
        file(&format!("sizes/{len}"), content(len));
    }
    for i in 0..1500 {
        file(&format!("many/file with a name of some length {i}"), vec![i as u8; i % 7]);
    }
    for name in ["libstdc++.so.6", "a b", "ümläut", "tilde~", "a@b:c", "comma,", "[x]", &"n".repeat(250)] {
        file(&format!("names/{name}"), content(100));
    }
    // A hole in the middle.
    let path = top.join("sizes/hole");
    let sparse = std::fs::File::create(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &content(5000), 0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &content(5000), 900_000).unwrap();
    tree.insert(b"sizes/hole".into(), std::fs::read(&path).unwrap());
    for (path, target) in [
        ("link", "sizes/4096".to_string()),
        ("names/up", "../sizes/61".into()),
        ("absolute", "/names".into()),
        ("circle", "circle".into()),
        ("out", "../../../../sizes/1".into()),
        ("long", format!("{}sizes/1", "./".repeat(50))),
    ] {
        std::os::unix::fs::symlink(&target, top.join(path)).unwrap();
        tree.insert(path.into(), format!("@{target}").into_bytes());
    }
    std::fs::create_dir(top.join("empty")).unwrap();
    for directory in ["empty", "many", "names", "sizes"] {
        tree.insert(directory.into(), b"/".into());
    }
    tree
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// How it was made, and the image.
type Image = (String, Arc<Vec<u8>>);

/// The tree, and an image of it made with each of these ways of mkfs.
fn images() -> &'static (Tree, Vec<Image>) {
    static IMAGES: OnceLock<(Tree, Vec<Image>)> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let (top, image) = (home.path().join("top"), home.path().join("image"));
        std::fs::create_dir(&top).unwrap();
        let tree = grow(&top);
        let mut images = Vec::new();
        let ext4 = [
            "-t ext4 -b 4096",
            "-t ext4 -b 1024",
            "-t ext4 -b 4096 -O ^extents,^64bit",
            "-t ext2 -b 1024",
            "-t ext4 -b 4096 -O inline_data -I 256",
        ];
        for options in ext4 {
            let _ = std::fs::remove_file(&image);
            let mut command = Command::new("/usr/sbin/mke2fs");
            command.args("-q -F -E lazy_itable_init=0".split(' ')).args(options.split(' '));
            run(command.arg("-d").arg(&top).arg(&image).arg("32M"));
            images.push((options.to_owned(), Arc::new(std::fs::read(&image).unwrap())));
        }
        for options in ["-T0", "-T0 -Eforce-inode-extended", "-T0 --chunksize=65536", "-T0 -Enoinline_data"] {
            let _ = std::fs::remove_file(&image);
            run(Command::new("/usr/bin/mkfs.erofs").args(options.split(' ')).arg(&image).arg(&top));
            images.push((options.to_owned(), Arc::new(std::fs::read(&image).unwrap())));
        }
        (tree, images)
    })
}

impl ReadAt for Arc<Vec<u8>> {
    fn len(&self) -> u64 {
        ReadAt::len(&**self)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        ReadAt::read_at(&**self, buf, offset)
    }
}

/// All that a file system holds, as far as it can be read.
fn walk(files: &FileSystem, lenient: bool) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut directories = vec![(Vec::new(), files.root()?)];
    while let Some((path, directory)) = directories.pop() {
        let mut entries = Vec::new();
        let listed = files.entries(&directory, |name, number| {
            entries.push((name.to_vec(), number));
            entries.len() < 10_000
        });
        if !lenient {
            listed?;
        }
        for (name, number) in entries {
            let path = [&path[..], if path.is_empty() { b"" } else { b"/" }, &name].concat();
            if path == b"lost+found" || path.len() > 600 || tree.len() > 20_000 {
                continue;
            }
            let read = files.node(number).and_then(|node| {
                let content = match node.kind() {
                    Type::File if lenient && node.size > 8 << 20 => Vec::new(),
                    Type::File => {
                        let mut bytes = vec![0; node.size as usize];
                        files.read_at(&node, &mut bytes, 0)?;
                        bytes
                    }
                    Type::Link => [b"@", &files.read_link(&node)?[..]].concat(),
                    Type::Directory => {
                        directories.push((path.clone(), node));
                        b"/".into()
                    }
                    Type::Other => Vec::new(),
                };
                tree.insert(path, content);
                Ok(())
            });
            if !lenient {
                read?;
            }
        }
    }
    Ok(tree)
}

#[test]
fn all_files_are_found_and_read() {
    let (tree, images) = images();
    for (how, image) in images {
        let files = FileSystem::open(Arc::new(Arc::clone(image))).unwrap();
        let mut found = match walk(&files, false) {
            Err(e) if how.contains("inline_data -I") && e.kind() == Kind::Unsupported => continue,
            found => found.unwrap_or_else(|e| panic!("{how}: {e}")),
        };
        for (path, bytes) in tree {
            let shown = String::from_utf8_lossy(path);
            let read = found.remove(path).unwrap_or_else(|| panic!("{how}: {shown} is missing"));
            assert!(read == *bytes, "{how}: {shown}: {} bytes instead of {}", read.len(), bytes.len());
        }
        assert!(found.is_empty(), "{how}: {:?}", found.keys());
    }
}

#[test]
fn content_kept_in_inodes_is_found_or_refused() {
    let (_, images) = images();
    let (_, image) = images.iter().find(|(how, _)| how.contains("inline_data -I")).unwrap();
    let files = FileSystem::open(Arc::new(Arc::clone(image))).unwrap();
    for (path, kind) in [("sizes/59", None), ("sizes/60", None), ("sizes/100", Some(Kind::Unsupported))] {
        let node = files.resolve(path.as_bytes());
        let read = node.and_then(|node| {
            let mut bytes = vec![0; node.size as usize];
            files.read_at(&node, &mut bytes, 0)?;
            assert_eq!(bytes, content(bytes.len()));
            Ok(())
        });
        assert_eq!(read.err().map(|e| e.kind()), kind, "{path}");
    }
}

#[test]
fn paths_lead_over_links_and_never_out_or_in_circles() {
    let (tree, images) = images();
    for (how, image) in [&images[0], &images[5]] {
        let files = FileSystem::open(Arc::new(Arc::clone(image))).unwrap();
        let size = |path: &str| files.resolve(path.as_bytes()).map(|node| node.size).map_err(|e| e.kind());
        for (path, len) in [
            ("/link", 4096),
            ("link", 4096),
            ("//sizes/./../sizes//150", 150),
            ("absolute/a b", 100),
            ("absolute/up", 61),
            ("out", 1),
            ("../../sizes/1", 1),
            ("long", 1),
            ("names/libstdc++.so.6", 100),
        ] {
            assert_eq!(size(path), Ok(len), "{how}: {path}");
        }
        assert_eq!(size("circle"), Err(Kind::Limit));
        assert_eq!(size("circle/x"), Err(Kind::Limit));
        assert_eq!(size("absent"), Err(Kind::NotFound));
        assert_eq!(size("link/x"), Err(Kind::NotFound));
        assert_eq!(size(&"many/../".repeat(9000)), Err(Kind::Limit));
        let node = files.resolve(b"sizes/70000").unwrap();
        let mut part = [0; 1000];
        files.read_at(&node, &mut part, 65_000).unwrap();
        assert_eq!(part[..], tree[&b"sizes/70000"[..]][65_000..66_000]);
        assert_eq!(files.read_at(&node, &mut part, 69_001).unwrap_err().kind(), Kind::OutOfBounds);
        let hole: u64 = files.extents(&files.resolve(b"sizes/hole").unwrap()).unwrap().iter().map(|e| e.len).sum();
        assert!((10_000..900_000).contains(&hole) || how.starts_with("-T0"), "{how}: {hole} bytes of a file of holes");
    }
}

#[test]
fn what_is_no_file_system_is_refused() {
    for len in [0, 1000, 2048, 1 << 20] {
        let error = FileSystem::open(Arc::new(vec![0; len])).err().unwrap();
        assert_eq!(error.kind(), Kind::Unsupported);
    }
}

#[test]
fn damage_is_an_error_or_harmless() {
    let (_, images) = images();
    let mut random = 0x9e37_79b9_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    for (how, image) in images {
        // Where metadata lies, more or less; and anywhere.
        let meta = if how.starts_with("-T0") { 200_000 } else { 600_000 };
        for round in 0..12 {
            let mut bad = image.to_vec();
            for _ in 0..40 {
                let (at, byte) = (next(if round % 3 == 0 { bad.len() } else { meta }), next(256) as u8);
                bad[at] = byte;
            }
            if round % 4 == 1 {
                let len = next(bad.len());
                bad.truncate(len);
            }
            if let Ok(files) = FileSystem::open(Arc::new(bad)) {
                let _ = walk(&files, true);
                let _ = files.resolve(b"absolute/up");
            }
        }
    }
}
