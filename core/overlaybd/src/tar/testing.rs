//! Archives written for tests, in two dialects.

/// A member: what its entry must say, and its content.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub path: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: (i64, u32),
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub content: Vec<u8>,
}

impl Member {
    pub fn new(path: &str, kind: u8) -> Self {
        Member {
            path: path.into(),
            kind,
            link: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (1_700_000_000, 0),
            xattrs: Vec::new(),
            content: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Dialect {
    Gnu,
    Pax,
}

/// Writes an archive.
pub(crate) fn build(members: &[Member], dialect: Dialect) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        match dialect {
            Dialect::Gnu => {
                for (kind, name) in [(b'L', &member.path), (b'K', &member.link)] {
                    if name.len() > 100 {
                        let long = [name.as_slice(), b"\0"].concat();
                        out.extend(header(b"././@LongLink", kind, long.len() as u64, b"", b"ustar  \0", |_| ()));
                        push(&mut out, &long);
                    }
                }
            }
            Dialect::Pax => {
                let mut body = record("path", &member.path);
                body.extend(record("linkpath", &member.link));
                body.extend(record("uid", member.uid.to_string().as_bytes()));
                body.extend(record("gid", member.gid.to_string().as_bytes()));
                body.extend(record("mtime", pax_time(member.mtime).as_bytes()));
                for (name, value) in &member.xattrs {
                    body.extend(record(&format!("SCHILY.xattr.{name}"), value));
                }
                out.extend(header(b"pax", b'x', body.len() as u64, b"", b"ustar\x0000", |_| ()));
                push(&mut out, &body);
            }
        }
        let magic = if dialect == Dialect::Gnu { b"ustar  \0" } else { b"ustar\x0000" };
        let (path, link) = (cut(&member.path), cut(&member.link));
        out.extend(header(path, member.kind, member.content.len() as u64, link, magic, |block| {
            block[100..107].copy_from_slice(format!("{:07o}", member.mode).as_bytes());
            if dialect == Dialect::Gnu {
                base256(&mut block[108..116], member.uid as i64);
                base256(&mut block[116..124], member.gid as i64);
                base256(&mut block[136..148], member.mtime.0);
            }
        }));
        push(&mut out, &member.content);
    }
    out.extend([0; 1024]);
    out
}

fn cut(name: &[u8]) -> &[u8] {
    &name[..name.len().min(100)]
}

pub(super) fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
}

pub(super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut len = rest.len() + 1;
    while len != rest.len() + len.to_string().len() {
        len += 1;
    }
    [len.to_string().as_bytes(), &rest].concat()
}

fn pax_time((seconds, nanos): (i64, u32)) -> String {
    match (seconds, nanos) {
        (seconds, 0) => seconds.to_string(),
        (seconds, nanos) if seconds >= 0 => format!("{seconds}.{nanos:09}"),
        (seconds, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    }
}

pub(super) fn base256(field: &mut [u8], value: i64) {
    let len = field.len();
    field.fill(if value < 0 { 0xFF } else { 0 });
    field[len - 7..].copy_from_slice(&value.to_be_bytes()[1..]);
    field[0] |= 0x80;
}

pub(super) fn header(
    name: &[u8],
    kind: u8,
    size: u64,
    link: &[u8],
    magic: &[u8; 8],
    more: impl Fn(&mut [u8]),
) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name);
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(magic);
    more(&mut block);
    sum(&mut block);
    block
}

pub(super) fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}
