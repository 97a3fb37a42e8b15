//! A server for benchmarks: every answer comes after a delay, as from far away. It must not be the limit itself.
//!
//! `slow_server DELAY_MS BLOB_BYTES` listens on a free port of the loopback and prints it. Any path is the blob, whose
//! bytes are words that count up through it; `/requests` is the number of requests for it so far.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

struct Server {
    delay: Duration,
    blob: Vec<u8>,
    requests: AtomicU64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut number = |what| args.next().ok_or(format!("{what} is missing"))?.parse::<u64>().map_err(|e| e.to_string());
    let (delay, size) = (Duration::from_millis(number("DELAY_MS")?), number("BLOB_BYTES")?);
    let blob = (0..size / 8).flat_map(|word| (word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let server = Arc::new(Server { delay, blob, requests: AtomicU64::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    for stream in listener.incoming() {
        let (server, stream) = (Arc::clone(&server), stream?);
        std::thread::spawn(move || {
            // A client that goes away ends its connection, no more.
            let _ = serve(&server, stream);
        });
    }
    Ok(())
}

fn serve(server: &Server, mut stream: TcpStream) -> Result<(), Box<dyn Error>> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    loop {
        let mut range = None;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let counts = line.starts_with("GET /requests ");
        while line.trim() != "" {
            line.clear();
            input.read_line(&mut line)?;
            if let Some((_, value)) = line.split_once(": bytes=") {
                range = value.trim().split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned()));
            }
        }
        if counts {
            let text = server.requests.load(Ordering::Relaxed).to_string();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
            continue;
        }
        server.requests.fetch_add(1, Ordering::Relaxed);
        let (first, last) = range.ok_or("only ranges are served")?;
        let (first, last) = (first.parse::<usize>()?, last.parse::<usize>()?.min(server.blob.len() - 1));
        std::thread::sleep(server.delay);
        let body = server.blob.get(first..=last).ok_or("beyond the blob")?;
        let (len, all) = (body.len(), server.blob.len());
        let head =
            format!("HTTP/1.1 206 P\r\nContent-Range: bytes {first}-{last}/{all}\r\nContent-Length: {len}\r\n\r\n");
        // In one piece as far as the kernel takes it: the head must not travel alone.
        let n = stream.write_vectored(&[std::io::IoSlice::new(head.as_bytes()), std::io::IoSlice::new(body)])?;
        stream.write_all(&body[n.checked_sub(head.len()).ok_or("no room for a head")?..])?;
    }
}
