//! Addresses: what may be listened on, who may connect.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use super::super::server::{Options, Server};
use super::client::Client;
use crate::device::{BlockDevice, MemoryDevice};
use crate::error::{Kind, Result};

fn start(address: &str) -> Result<Server> {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(1 << 20)?);
    Server::start(vec![("d".into(), device)], address, Options::default())
}

#[test]
fn a_unix_socket_is_private_and_replaces_a_dead_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let address = format!("unix:{}", path.display());
    drop(UnixListener::bind(&path).unwrap());
    let server = start(&address).unwrap();
    assert_eq!(server.address(), address);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(start(&address).err().unwrap().kind(), Kind::Exists, "a living one stays");
    Client::over(&server, true).leave();
    drop(server);
    assert!(!path.exists());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(start(&format!("unix:{}", path.display())).err().unwrap().kind(), Kind::Exists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn tcp_takes_a_free_port_of_this_machine() {
    let server = start(":0").unwrap();
    let address = server.address().to_string();
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{address}");
    let mut c = Client::over(&server, true);
    assert_eq!(c.write(1, b"abc"), 0);
    assert_eq!(c.read(0, 5).unwrap(), b"\0abc\0");
    assert_eq!(start(&address).err().unwrap().kind(), Kind::Exists);
    c.leave();
    assert_eq!(server.stats().written_bytes, 3);
}

#[test]
fn nonsense_is_no_address() {
    for address in ["", "x", "unix:", "host:port", &format!("unix:/{}", "x".repeat(200))] {
        assert_eq!(start(address).err().map(|e| e.kind()), Some(Kind::Invalid), "{address}");
    }
}
