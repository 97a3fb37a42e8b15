//! The thread of one connection: reads requests, answers the quick ones, hands on the others.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handshake::{Chosen, Handshake};
use super::input::{Input, MIN_ROOM};
use super::net::{self, Wake};
use super::out::{Out, Piece};
use super::proto::{chunk, command, Errno, Head, Request};
use super::read::{Read, PART_BYTES};
use super::server::Shared;
use super::session::Session;
use crate::error::Result;
use crate::serve::buffers::BUFFER_BYTES;

/// Reads up to this length are answered on the spot when ready, and writes too.
const QUICK_BYTES: u32 = 64 << 10;

/// Replies gathered before they are sent, so that the client can work on them meanwhile.
const BATCH_BYTES: usize = 64 << 10;

/// How long an ending connection tries to send what is left to a client that does not read it.
const LINGER: Duration = Duration::from_secs(5);

/// Serves one client on `socket` until it leaves, breaks the protocol, or the server stops.
///
/// Errors: those of the handshake; later ones only end the connection.
pub fn serve(server: &Arc<Shared>, socket: OwnedFd, wake: &Arc<Wake>) -> Result<()> {
    let mut input = Input::new(server.buffers.take(BUFFER_BYTES));
    let handshake = Handshake {
        socket: socket.as_raw_fd(),
        input: &mut input,
        wake,
        server,
        deadline: Instant::now() + server.options.handshake,
    };
    let chosen = handshake.run();
    let Ok(Some(Chosen { export, structured, base_allocation })) = chosen else {
        net::shut_down(socket.as_raw_fd());
        server.buffers.give(input.into_buffer());
        return chosen.map(|_| ());
    };
    let out = Out::new(socket, Arc::clone(wake), Arc::clone(&server.buffers));
    let server = Arc::clone(server);
    let session = Arc::new(Session { out, export, structured, base_allocation, server });
    let batch = session.out.buffers().take(BUFFER_BYTES);
    let mut connection = Connection { session, wake, input, batch, batched: 0, state: State::Requests };
    connection.run();
    connection.end();
    Ok(())
}

/// What the next bytes received are.
enum State {
    Requests,
    /// The payload of a large write, of which `filled` bytes are there.
    Payload {
        request: Request,
        payload: Vec<u8>,
        filled: usize,
    },
    /// The payload of a write that has been refused.
    Skip {
        left: usize,
    },
    /// Nothing that matters: no more requests are taken.
    Closing,
}

struct Connection<'a> {
    session: Arc<Session>,
    wake: &'a Wake,
    input: Input,
    /// Complete replies to quick requests, not yet queued for sending.
    batch: Vec<u8>,
    batched: usize,
    state: State,
}

impl Connection<'_> {
    fn run(&mut self) {
        let mut deadline = None;
        loop {
            let held = self.take_input();
            self.flush_batch();
            let closing = matches!(self.state, State::Closing);
            let status = self.session.out.status(|s| closing || s.full);
            if held && !status.full {
                continue; // what it was held for has gone meanwhile, and nobody announces that again
            }
            if status.dead {
                self.state = State::Closing;
            }
            if closing && status.idle && (status.empty || status.dead) {
                return;
            }
            if closing && status.idle {
                // Only sending is left, which is up to the client.
                let at = *deadline.get_or_insert_with(|| Instant::now() + LINGER);
                if Instant::now() >= at {
                    return;
                }
            }
            if self.wait(closing || status.full, status.blocked && !status.dead, deadline).is_err() {
                self.state = State::Closing;
            }
        }
    }

    /// Waits for something to do, and receives what is there.
    fn wait(&mut self, deaf: bool, blocked: bool, deadline: Option<Instant>) -> io::Result<()> {
        let socket = self.session.out.socket().as_raw_fd();
        let events = if deaf { 0 } else { libc::POLLIN } | if blocked { libc::POLLOUT } else { 0 };
        // A descriptor of -1 is left out; an ended peer would be reported for ever otherwise.
        let watched = if events == 0 { -1 } else { socket };
        let [ready, woken] = net::poll([(watched, events), (self.wake.as_raw_fd(), libc::POLLIN)], deadline)?;
        if woken != 0 {
            self.wake.clear();
        }
        if self.session.server.stopping() && !matches!(self.state, State::Closing) {
            self.refuse_rest();
        }
        if blocked && ready & !libc::POLLIN != 0 {
            self.session.out.flush(true);
        }
        if !deaf && ready & !libc::POLLOUT != 0 {
            self.receive(socket)?;
        }
        Ok(())
    }

    fn receive(&mut self, socket: i32) -> io::Result<()> {
        let received = match &mut self.state {
            State::Payload { payload, request, filled } if self.input.bytes().is_empty() => {
                let received = net::receive(socket, &mut payload[*filled..request.len as usize])?;
                *filled += received.unwrap_or(0);
                received
            }
            State::Closing => None,
            _ => self.input.receive(socket)?,
        };
        if received == Some(0) {
            self.state = State::Closing;
        }
        Ok(())
    }

    /// Acts on what was received, as far as it is complete and no limit is reached. True if a limit is.
    fn take_input(&mut self) -> bool {
        loop {
            let bytes = self.input.bytes();
            match &mut self.state {
                State::Closing => return false,
                State::Skip { left } => {
                    let n = bytes.len().min(*left);
                    *left -= n;
                    let done = *left == 0;
                    self.input.consume(n);
                    if !done {
                        return false;
                    }
                    self.state = State::Requests;
                }
                State::Payload { request, payload, filled } => {
                    let n = bytes.len().min(request.len as usize - *filled);
                    payload[*filled..*filled + n].copy_from_slice(&bytes[..n]);
                    *filled += n;
                    self.input.consume(n);
                    if *filled < request.len as usize {
                        return false;
                    }
                    let (request, payload) = (*request, std::mem::take(payload));
                    self.state = State::Requests;
                    self.hand_on(request, payload);
                }
                State::Requests => {
                    // Before each: thousands of requests may be there, and what is under way be finished one by one.
                    if self.session.out.status(|_| false).full {
                        return true;
                    }
                    let Some(request) = self.next_request() else { return false };
                    if !self.take_request(request) {
                        return false;
                    }
                }
            }
        }
    }

    /// The request whose header is the first of the input, which keeps it. None if it is not all there; after
    /// a wrong one the connection closes.
    fn next_request(&mut self) -> Option<Request> {
        let request = Request::parse(self.input.bytes().first_chunk()?);
        if request.is_none_or(|r| r.command == command::DISC) {
            self.state = State::Closing;
            return None;
        }
        request
    }

    /// Acts on a request whose header is the first of the input. False if it must wait for more input.
    fn take_request(&mut self, request: Request) -> bool {
        let len = request.len as usize;
        if let Err(errno) = self.session.check(&request) {
            self.refuse(&request, errno);
            return true;
        }
        let is_write = request.command == command::WRITE;
        let is_small = request.len <= QUICK_BYTES;
        if is_write && is_small && self.input.bytes().len() < Request::BYTES + len {
            return false;
        }
        self.input.consume(Request::BYTES);
        self.session.server.stats.requested();
        if request.command == command::READ {
            self.read(request);
        } else if !is_write {
            self.hand_on(request, Vec::new());
        } else if !is_small {
            let payload = self.session.out.buffers().take(len);
            self.state = State::Payload { request, payload, filled: 0 };
        } else if self.session.write_is_quick(&request) {
            let answer = self.session.execute(&request, &self.input.bytes()[..len]);
            self.input.consume(len);
            self.answer(&answer.head);
        } else {
            let mut payload = self.session.out.buffers().take(len);
            payload[..len].copy_from_slice(&self.input.bytes()[..len]);
            self.input.consume(len);
            self.hand_on(request, payload);
        }
        true
    }

    fn refuse(&mut self, request: &Request, errno: Errno) {
        self.input.consume(Request::BYTES);
        self.session.server.stats.requested();
        self.answer(&self.session.refusal(request, errno).head);
        let left = if request.command == command::WRITE { request.len as usize } else { 0 };
        self.state = State::Skip { left };
    }

    /// Refuses the requests that have arrived, and takes no more.
    fn refuse_rest(&mut self) {
        self.take_input();
        while matches!(self.state, State::Requests) {
            let Some(request) = self.next_request() else { break };
            self.refuse(&request, Errno::Shutdown);
            self.take_input();
        }
        self.state = State::Closing;
    }

    fn read(&mut self, request: Request) {
        if request.len == 0 {
            return self.answer(&if self.session.structured {
                Head::chunk(request.cookie, chunk::NONE, 0).done()
            } else {
                Head::simple(request.cookie, None)
            });
        }
        let ready = self.session.is_ready(&request);
        if ready && request.len <= QUICK_BYTES {
            return self.quick_read(&request);
        }
        self.flush_batch();
        let read = Read::begin(Arc::clone(&self.session), request, ready);
        let pool = &self.session.export.pool;
        if ready {
            for _ in 1..read.parts().min(self.session.server.cpus) {
                let helper = Arc::clone(&read);
                if !pool.try_submit(move || helper.work()) {
                    break;
                }
            }
            read.work();
        } else {
            let worker = Arc::clone(&read);
            if pool.submit(move || worker.work()).is_err() {
                read.refuse(Errno::Shutdown);
            }
        }
    }

    /// Reads straight into the batch of replies.
    fn quick_read(&mut self, request: &Request) {
        let len = request.len as usize;
        let head = if self.session.structured {
            Head::data(request.cookie, request.offset, request.len).done()
        } else {
            Head::simple(request.cookie, None)
        };
        let start = self.make_room(head.as_slice().len() + len) + head.as_slice().len();
        match self.session.read(&mut self.batch[start..start + len], request.offset) {
            Ok(()) => {
                self.session.server.stats.read(u64::from(request.len));
                self.batch[self.batched..start].copy_from_slice(head.as_slice());
                self.batched = start + len;
            }
            Err(errno) => self.answer(&self.session.refusal(request, errno).head),
        }
    }

    /// Puts a reply without a body in the batch.
    fn answer(&mut self, head: &Head) {
        let bytes = head.as_slice();
        let start = self.make_room(bytes.len());
        self.batch[start..start + bytes.len()].copy_from_slice(bytes);
        self.batched += bytes.len();
    }

    /// Where in the batch the next `len` bytes go; sends what is there before if it is much.
    fn make_room(&mut self, len: usize) -> usize {
        if self.batched >= BATCH_BYTES || self.batched + len > self.batch.len() {
            self.flush_batch();
        }
        self.batched
    }

    fn flush_batch(&mut self) {
        if self.batched > 0 {
            let body = std::mem::replace(&mut self.batch, self.session.out.buffers().take(BUFFER_BYTES));
            let len = std::mem::take(&mut self.batched);
            self.session.out.send([Piece { head: Head::NONE, body, len }]);
        }
    }

    /// Gives a request, checked, to the export's workers; waits for room in their queue.
    fn hand_on(&mut self, request: Request, payload: Vec<u8>) {
        self.flush_batch();
        let len = if request.command == command::WRITE { request.len as usize } else { 0 };
        self.session.out.begin(len);
        let session = Arc::clone(&self.session);
        let job = move || {
            let answer = session.execute(&request, &payload[..len]);
            session.out.buffers().give(payload);
            session.out.finish(len, [answer]);
        };
        if self.session.export.pool.submit(job).is_err() {
            self.session.out.finish(len, [self.session.refusal(&request, Errno::Shutdown)]);
        }
    }

    fn end(self) {
        net::shut_down(self.session.out.socket().as_raw_fd());
        let buffers = &self.session.server.buffers;
        buffers.give(self.input.into_buffer());
        buffers.give(self.batch);
    }
}

const _: () = assert!(Request::BYTES + QUICK_BYTES as usize <= MIN_ROOM && PART_BYTES as usize <= BUFFER_BYTES);
