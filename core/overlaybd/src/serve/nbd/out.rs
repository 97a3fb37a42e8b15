//! What goes out on one connection: replies of several threads, in one stream, without blocking any.
//!
//! Whoever completes a request queues its reply and, unless another thread is at it, sends all that
//! is queued by one system call. When the socket is full the rest is left to the connection's own
//! thread, so that a client that does not read its replies never holds a worker.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use super::net::{self, Wake};
use super::proto::Head;
use crate::limits::{NBD_MAX_IN_FLIGHT, NBD_MAX_IN_FLIGHT_BYTES};
use crate::serve::buffers::Buffers;

/// Pieces handed to one system call.
const MAX_PIECES: usize = 64;

/// A run of bytes to send: a head, and the first `len` bytes of a buffer.
pub struct Piece {
    /// Comes first.
    pub head: Head,
    /// Comes after; given back to the stock once sent.
    pub body: Vec<u8>,
    /// Bytes of `body` that count.
    pub len: usize,
}

impl From<Head> for Piece {
    fn from(head: Head) -> Piece {
        Piece { head, body: Vec::new(), len: 0 }
    }
}

impl Piece {
    fn bytes(&self) -> usize {
        self.head.as_slice().len() + self.len
    }
}

/// The sending side of a connection, shared by all threads that work for it.
pub struct Out {
    socket: OwnedFd,
    wake: Arc<Wake>,
    buffers: Arc<Buffers>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Piece>,
    /// Bytes of the first piece that were sent already.
    sent: usize,
    queued_bytes: usize,
    /// Requests with workers, and their bytes.
    requests: usize,
    request_bytes: usize,
    /// A thread is sending what is or will be queued.
    sending: bool,
    /// The socket was full; the connection's thread waits for room.
    blocked: bool,
    /// The peer has gone; nothing will be sent any more.
    dead: bool,
    /// The connection's thread waits for something to be finished.
    awaited: bool,
}

/// What the connection's own thread has to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// There are replies that wait for room in the socket.
    pub blocked: bool,
    /// So much is under way that no more requests should be read.
    pub full: bool,
    /// Nothing is with workers.
    pub idle: bool,
    /// Nothing waits to be sent.
    pub empty: bool,
    /// The peer has gone.
    pub dead: bool,
}

impl Out {
    /// A sending side; `wake` wakes the connection's own thread.
    pub fn new(socket: OwnedFd, wake: Arc<Wake>, buffers: Arc<Buffers>) -> Out {
        Out { socket, wake, buffers, state: Mutex::default() }
    }

    /// The socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Where buffers come from.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Notes that a request with `bytes` of payload, either way, went to a worker.
    pub fn begin(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.requests += 1;
        state.request_bytes += bytes;
    }

    /// Sends pieces.
    pub fn send(&self, pieces: impl IntoIterator<Item = Piece>) {
        self.update(|queue| {
            queue.extend(pieces);
            None
        });
    }

    /// Sends the last pieces of a request that `begin` announced with `bytes`.
    pub fn finish(&self, bytes: usize, pieces: impl IntoIterator<Item = Piece>) {
        self.update(|queue| {
            queue.extend(pieces);
            Some(bytes)
        });
    }

    /// Sends what `change` queues. It runs under the lock, and returns the bytes of the request, as told to
    /// `begin`, if it thereby finished one.
    pub fn update(&self, change: impl FnOnce(&mut VecDeque<Piece>) -> Option<usize>) {
        let mut state = self.state.lock();
        let before = state.queue.len();
        let finished = change(&mut state.queue);
        if state.dead {
            state.queue.clear();
        } else {
            let added: usize = state.queue.iter().skip(before).map(Piece::bytes).sum();
            state.queued_bytes += added;
        }
        if let Some(bytes) = finished {
            state.requests -= 1;
            state.request_bytes -= bytes;
            if std::mem::take(&mut state.awaited) {
                self.wake.signal();
            }
        }
        drop(state);
        self.flush(false);
    }

    /// Sends what is queued, until the socket is full; `unblocked` says that it has room again.
    pub fn flush(&self, unblocked: bool) {
        let mut state = self.state.lock();
        state.blocked &= !unblocked;
        if state.sending || state.blocked {
            return;
        }
        let mut batch = VecDeque::new();
        while !state.queue.is_empty() {
            state.sending = true;
            std::mem::swap(&mut batch, &mut state.queue);
            let skip = state.sent;
            drop(state);
            let outcome = self.send_batch(&batch, skip);
            state = self.state.lock();
            state.sending = false;
            match outcome {
                Ok(Some(n)) => {
                    state.queued_bytes -= n;
                    state.sent = self.drop_sent(&mut batch, skip + n);
                    batch.append(&mut state.queue);
                    std::mem::swap(&mut batch, &mut state.queue);
                    if std::mem::take(&mut state.awaited) {
                        self.wake.signal();
                    }
                }
                Ok(None) => {
                    batch.append(&mut state.queue);
                    std::mem::swap(&mut batch, &mut state.queue);
                    state.blocked = true;
                    self.wake.signal();
                    return;
                }
                Err(_) => {
                    state.queue.clear();
                    state.queued_bytes = 0;
                    state.dead = true;
                    self.wake.signal();
                    return;
                }
            }
        }
    }

    fn send_batch(&self, batch: &VecDeque<Piece>, mut skip: usize) -> std::io::Result<Option<usize>> {
        let mut slices = [IoSlice::new(&[]); 2 * MAX_PIECES];
        let mut count = 0;
        for piece in batch.iter().take(MAX_PIECES) {
            for part in [piece.head.as_slice(), &piece.body[..piece.len]] {
                let skipped = skip.min(part.len());
                skip -= skipped;
                if skipped < part.len() {
                    slices[count] = IoSlice::new(&part[skipped..]);
                    count += 1;
                }
            }
        }
        net::send(self.socket.as_raw_fd(), &slices[..count])
    }

    /// Drops the pieces that `sent` bytes cover; how much of the new first one was sent.
    fn drop_sent(&self, batch: &mut VecDeque<Piece>, mut sent: usize) -> usize {
        while let Some(piece) = batch.front() {
            if sent < piece.bytes() {
                break;
            }
            sent -= piece.bytes();
            if let Some(piece) = batch.pop_front() {
                self.buffers.give(piece.body);
            }
        }
        sent
    }

    /// How things stand. With `awaited`, any progress after this wakes the connection's thread.
    pub fn status(&self, awaited: impl FnOnce(Status) -> bool) -> Status {
        let mut state = self.state.lock();
        let status = Status {
            blocked: state.blocked,
            full: state.requests >= NBD_MAX_IN_FLIGHT
                || state.request_bytes + state.queued_bytes >= NBD_MAX_IN_FLIGHT_BYTES,
            idle: state.requests == 0,
            empty: state.queue.is_empty() && !state.sending,
            dead: state.dead,
        };
        state.awaited = awaited(status);
        status
    }
}
