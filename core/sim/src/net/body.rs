//! Bodies of answers: whole ones, and such as end too soon or come slowly.

use std::io::{self, Read};
use std::time::Duration;

use overlaybd::fetch::{Body, Headers, Response};
use overlaybd::sync::sim;

/// How a body ends, or comes.
#[derive(Clone, Copy)]
pub enum End {
    /// The connection is closed.
    Close,
    /// It is reset.
    Reset,
    /// Nothing more comes, until the reader has had enough.
    Stall(Duration),
    /// It comes in pieces, with pauses, and may stop.
    Slow,
}

/// An answer with its whole body.
pub fn answer(status: u64, headers: Headers, bytes: Vec<u8>) -> Response {
    response(status as u16, headers, bytes, End::Close)
}

/// An answer of status 206 whose body is all there is before `end`.
pub fn broken(headers: Headers, bytes: Vec<u8>, end: End) -> Response {
    response(206, headers, bytes, end)
}

fn response(status: u16, headers: Headers, bytes: Vec<u8>, end: End) -> Response {
    Response { status, headers, body: Box::new(Coming { bytes: io::Cursor::new(bytes), end }), slot: None }
}

struct Coming {
    bytes: io::Cursor<Vec<u8>>,
    end: End,
}

impl Read for Coming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        sim::step();
        if sim::is_dead() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let at_end = self.bytes.position() == self.bytes.get_ref().len() as u64;
        match self.end {
            End::Reset if at_end => Err(io::ErrorKind::ConnectionReset.into()),
            End::Stall(patience) if at_end => {
                sim::sleep(patience);
                Err(io::ErrorKind::TimedOut.into())
            }
            End::Slow => {
                sim::sleep(Duration::from_millis(sim::draw(500)));
                if sim::is_dead() || sim::draw(10) == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let len = buf.len().min(1 + sim::draw(8192) as usize);
                self.bytes.read(&mut buf[..len])
            }
            _ => self.bytes.read(buf),
        }
    }
}

impl Body for Coming {
    fn renew(&mut self, _: Duration, patience: Duration) {
        if let End::Stall(old) = &mut self.end {
            *old = patience;
        }
    }
}
