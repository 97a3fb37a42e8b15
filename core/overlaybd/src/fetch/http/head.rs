//! The heads of a request and of its answer.

use std::fmt::Write as _;
use std::io;

use super::body::Framing;
use super::conn::Conn;
use crate::fetch::Headers;

/// Longest head of an answer, and fields in it.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_FIELDS: usize = 128;
/// Answers of status 1xx before the real one.
const MAX_INTERIM: usize = 8;

/// The head of an answer, and how its body ends.
pub(super) struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub framing: Framing,
    /// Whether the connection can be used again.
    pub keep: bool,
}

/// Writes the head of a request. None if a name or a value would break out of it.
pub(super) fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> Option<String> {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    for (name, value) in fields {
        let good_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        let good_value = value.bytes().all(|b| b >= b' ' && b != 0x7f || b == b'\t');
        if !good_name || !good_value {
            return None;
        }
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    Some(text)
}

/// Reads the head of an answer to a request other than HEAD.
///
/// Errors: those of the connection (`UnexpectedEof` if nothing came), `InvalidData` for what is no HTTP,
/// `FileTooLarge` beyond the limits above.
pub(super) fn answer(conn: &mut Conn) -> io::Result<Answer> {
    for _ in 0..MAX_INTERIM {
        let answer = one(conn)?;
        if answer.status >= 200 {
            return Ok(answer);
        }
        if answer.status == 101 {
            break;
        }
    }
    Err(too_much("answers of status 1xx only"))
}

fn one(conn: &mut Conn) -> io::Result<Answer> {
    let mut searched = 0usize;
    loop {
        let early = conn.early();
        let from = searched.saturating_sub(3);
        let ends = early[from..].windows(2).any(|two| two == b"\n\n" || two == b"\n\r");
        if ends || early.len() > MAX_HEAD_BYTES {
            if let Some((answer, len)) = parse(early)? {
                conn.consume(len);
                return Ok(answer);
            }
        }
        if early.len() > MAX_HEAD_BYTES {
            return Err(too_much("the head of the answer is too long"));
        }
        searched = early.len();
        if conn.read_more()? == 0 {
            let nothing = conn.early().is_empty();
            let what = if nothing { "the server closed the connection" } else { "the answer ends in its head" };
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(e) => return Err(bad(&format!("not HTTP: {e}"))),
    };
    let status = head.code.filter(|code| (100..=599).contains(code)).ok_or_else(|| bad("not an HTTP status"))?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers: Headers = head.headers.iter().map(|f| (f.name.to_owned(), text(f.value))).collect();
    let all = |name: &str| {
        let mut values = String::new();
        for (_, value) in headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
            values.push_str(if values.is_empty() { "" } else { "," });
            values.push_str(&value.to_ascii_lowercase());
        }
        values
    };
    let connection = all("connection");
    let said = |word: &str| connection.split(',').any(|each| each.trim() == word);
    let mut keep = if head.version == Some(1) { !said("close") } else { said("keep-alive") };
    let coding = all("transfer-encoding");
    let framing = if status < 200 || status == 204 || status == 304 {
        Framing::Length(0)
    } else if coding.trim() == "chunked" {
        Framing::Chunked(None)
    } else if !coding.is_empty() {
        return Err(bad("transfer coding that nobody asked for"));
    } else {
        match length(&all("content-length"))? {
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        }
    };
    if matches!(framing, Framing::Close) {
        keep = false;
    }
    Ok(Some((Answer { status, headers, framing, keep }, len)))
}

/// The one length that all fields name.
fn length(values: &str) -> io::Result<Option<u64>> {
    if values.is_empty() {
        return Ok(None);
    }
    let mut lengths = values.split(',').map(|v| {
        let v = v.trim();
        v.bytes().all(|b| b.is_ascii_digit()).then(|| v.parse::<u64>().ok()).flatten()
    });
    let first = lengths.next().flatten();
    match first {
        Some(length) if lengths.all(|other| other == first) => Ok(Some(length)),
        _ => Err(bad("malformed Content-Length")),
    }
}

fn too_much(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, what)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
