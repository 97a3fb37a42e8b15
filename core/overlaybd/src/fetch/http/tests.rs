//! What must hold of URLs, proxies and bodies before a byte is sent.

use super::proxy::{Environment, Proxy};
use super::url::Url;

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
