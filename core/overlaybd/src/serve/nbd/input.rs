//! What comes in on one connection: received in large gulps, consumed request by request.

use std::io;
use std::os::fd::RawFd;

use super::net;
use crate::serve::buffers::BUFFER_BYTES;

/// Room that there is at least for the next gulp, and so the most that `bytes` can be asked to hold.
pub const MIN_ROOM: usize = BUFFER_BYTES / 2;

/// Bytes received and not yet consumed.
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// Empty, around a buffer of at least `BUFFER_BYTES`.
    pub fn new(buffer: Vec<u8>) -> Self {
        assert!(buffer.len() >= BUFFER_BYTES);
        Input { buffer, start: 0, end: 0 }
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Forgets the first `n` bytes of what is there.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.end - self.start);
        self.start += n;
    }

    /// Receives more. None if nothing is there yet, 0 at the end of the stream.
    pub fn receive(&mut self, socket: RawFd) -> io::Result<Option<usize>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < MIN_ROOM {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let received = net::receive(socket, &mut self.buffer[self.end..])?;
        self.end += received.unwrap_or(0);
        Ok(received)
    }

    /// Gives the buffer back.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}
