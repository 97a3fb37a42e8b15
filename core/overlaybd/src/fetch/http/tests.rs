//! URLs, proxies, framings and bounds of the client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::pool::Pool;
use super::proxy::{Environment, Proxy};
use super::url::Url;
use super::{Client, ClientOptions};
use crate::error::{Error, Kind};
use crate::fetch::{Http, Request, Via};

fn url(text: &str) -> Url {
    Url::parse(text).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn urls_are_taken_apart() {
    for (text, host, port, authority, path) in [
        ("http://h", "h", 80, "h", "/"),
        ("HTTPS://H.example:443/x?y=1#z", "h.example", 443, "h.example", "/x?y=1"),
        ("https://u:p@h:80/", "h", 80, "h:80", "/"),
        ("http://[::1]:5000/v2/", "::1", 5000, "[::1]:5000", "/v2/"),
        ("http://[fe80::1]?q", "fe80::1", 80, "[fe80::1]", "/?q"),
        ("http://h:/x", "h", 80, "h", "/x"),
    ] {
        let url = url(text);
        let parts = (url.host.as_str(), url.port, url.authority(), url.path.as_str());
        assert_eq!(parts, (host, port, authority.to_owned(), path), "{text}");
    }
    for bad in [
        "",
        "h",
        "ftp://h/",
        "http://",
        "http:///x",
        "http://h:x/",
        "http://h:0/",
        "http://h:99999/",
        "http://[::1/",
        "http://[h]/",
        "http://::1/",
        "http://h/a b",
        "http://h/\r\nX: y",
        "http://h/ü",
    ] {
        assert_eq!(Url::parse(bad), None, "{bad}");
    }
}

#[test]
fn proxies_come_from_the_environment_with_exceptions() {
    let variables = [
        ("http_proxy", "http://u:p%40ss@proxy:3128"),
        ("HTTPS_PROXY", "proxy6:1"),
        ("NO_PROXY", "localhost, .internal,10.0.0.0/8,host:5000,[::1]:80,fd00::/8,exact.example"),
    ];
    let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    let environment = Environment::read(get);
    assert_eq!(environment.of(&url("http://r.example/")), Some("http://u:p%40ss@proxy:3128"));
    assert_eq!(environment.of(&url("https://r.example/")), Some("proxy6:1"));
    for direct in [
        "http://localhost:5000/",
        "http://a.internal/",
        "http://10.200.3.4/",
        "http://host:5000/",
        "http://[::1]/",
        "https://[fd12::3]:5/",
        "https://exact.example/",
        "https://sub.exact.example/",
    ] {
        assert_eq!(environment.of(&url(direct)), None, "{direct}");
    }
    for not in ["http://host:5001/", "http://11.0.0.1/", "http://notlocalhost/", "http://[::1]:81/"] {
        assert!(environment.of(&url(not)).is_some(), "{not}");
    }
    let all = Environment::read(|name| (name == "no_proxy").then(|| "*".into()).or(get(name)));
    assert_eq!(all.of(&url("http://r.example/")), None);
    assert_eq!(Environment::read(|_| None).of(&url("http://r.example/")), None);

    let proxy = Proxy::parse("http://u:p%40ss@proxy:3128").unwrap();
    assert_eq!(proxy.authorization.as_deref(), Some("Basic dTpwQHNz"));
    assert_eq!(Proxy::parse("proxy6:1").unwrap().url.endpoint(), "proxy6:1");
    assert_eq!(Proxy::parse("socks5://x"), None);
}

#[test]
fn a_password_that_is_not_escaped_is_neither_shown_nor_taken_for_a_host() {
    let client = Client::new(ClientOptions::default());
    for proxy in [
        "alice:s3cr3t/pw@proxy:3128",
        "http://alice:s3cr3t/pw@proxy:3128",
        "http://alice:s3cr#3t@proxy:3128",
        "alice:1?s3cr@proxy:3128",
        "http://alice:1/s3cr@proxy:3128",
        "alice:s3cr@1/t@proxy:3128",
        "alice:s3cr3t@proxy:port",
    ] {
        let (via, time) = (Via::Proxy(proxy.into()), Duration::from_secs(20));
        let url = "http://r.example/x";
        let request = Request { url, headers: &[], via: &via, first: 0, last: 9, timeout: time, patience: time };
        let error = client.get(&request).err().unwrap();
        let text = error.to_string();
        assert_eq!(error.kind(), Kind::Invalid, "{text}");
        assert!(text.contains("not a usable proxy: …@proxy:"), "{text}");
        assert!(!text.contains("s3cr") && !text.contains("alice"), "{text}");
    }
}

/// A client and a server that answers each connection's requests with these, then closes it. What it was sent goes
/// to the channel.
fn scripted(answers: Vec<Vec<&'static str>>) -> (Client, String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for connection in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut input = BufReader::new(stream.try_clone().unwrap());
            for answer in connection {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && input.read_line(&mut head).unwrap() > 0 {}
                said.send(head).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    (Client::new(ClientOptions::default()), url, heard)
}

fn get(client: &Client, url: &str) -> Result<(u16, String), Error> {
    let headers = [("X-Test".to_owned(), "1".to_owned())];
    let time = Duration::from_secs(20);
    let (via, first, last) = (&Via::Direct, 0, 9);
    let request = Request { url, headers: &headers, via, first, last, timeout: time, patience: time };
    let mut response = client.get(&request)?;
    let mut text = String::new();
    response.body.read_to_string(&mut text).map_err(|e| Error::io("body", e))?;
    Ok((response.status, text))
}

#[test]
fn bodies_of_all_framings_are_read_and_connections_kept() {
    let (client, url, heard) = scripted(vec![
        vec![
            "HTTP/1.1 206 P\r\nContent-Length: 5\r\n\r\nfirst",
            "HTTP/1.1 100 Continue\r\n\r\n\
             HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nsec\r\n3\r\nond\r\n0\r\nT: r\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nto the end",
        ],
        vec!["HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold"],
        vec!["HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlast"],
        vec!["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore than it said", "never asked for"],
        vec!["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nless"],
    ]);
    for expected in ["first", "second", "", "to the end", "old", "last", "more"] {
        assert_eq!(get(&client, &url).unwrap().1, expected);
    }
    assert_eq!(get(&client, &url).unwrap_err().kind(), Kind::Io);
    let head = heard.recv().unwrap();
    assert!(head.starts_with("GET /x HTTP/1.1\r\nHost: 127.0.0.1:"), "{head}");
    assert!(head.contains("\r\nRange: bytes=0-9\r\n") && head.contains("\r\nX-Test: 1\r\n"), "{head}");
}

#[test]
fn heads_that_make_no_sense_are_refused() {
    for (answer, kind) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", Kind::Io),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nxy", Kind::Io),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Kind::Io),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", Kind::Io),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", Kind::Io),
        ("HTTP/1.1 999 OK\r\n\r\n", Kind::Io),
        ("SSH-2.0\r\n\r\n", Kind::Io),
        ("", Kind::Io),
    ] {
        let (client, url, _heard) = scripted(vec![vec![answer]]);
        assert_eq!(get(&client, &url).unwrap_err().kind(), kind, "{answer}");
    }
}

#[test]
fn what_only_a_server_names_may_not_be_near() {
    let (client, url, heard) = scripted(vec![vec!["HTTP/1.1 204 No\r\n\r\n"]]);
    assert_eq!(get(&client, &url).unwrap().0, 204);
    let port = url.rsplit(':').next().unwrap();
    let time = Duration::from_secs(20);
    // The first has a connection that is kept, the second has to be looked up.
    for host in ["127.0.0.1", "localhost", "169.254.169.254", "[::1]", "0"] {
        let url = format!("http://{host}:{port}");
        let via = &Via::Abroad;
        let request = Request { url: &url, headers: &[], via, first: 0, last: 9, timeout: time, patience: time };
        let error = client.get(&request).err().unwrap();
        assert_eq!(error.kind(), Kind::Denied, "{error}");
        assert!(error.to_string().contains("which only a configuration may name"), "{error}");
    }
    assert_eq!(heard.try_iter().count(), 1);
}

#[test]
fn one_host_gets_so_many_requests_at_a_time() {
    let pool = Pool::default();
    let soon = || Instant::now() + Duration::from_millis(5);
    let mut slots: Vec<_> = std::iter::from_fn(|| pool.enter("h", soon())).take(1000).collect();
    assert_eq!(slots.len(), 64);
    assert!(pool.enter("other", soon()).is_some());
    slots.pop();
    std::thread::scope(|scope| {
        let _taken = pool.enter("h", soon()).unwrap();
        let waiting = scope.spawn(|| pool.enter("h", Instant::now() + Duration::from_secs(60)).is_some());
        slots.pop();
        assert!(waiting.join().unwrap());
    });
}
