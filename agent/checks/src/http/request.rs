//! The bytes of a request.

use std::net::IpAddr;

use crate::{Http, Invalid, Target, Version, socket};

/// Further headers at most.
const HEADERS_MAX: usize = 16;
/// Bytes of a path at most.
const PATH_MAX: usize = 1024;
/// Bytes of the value of a header at most.
const VALUE_MAX: usize = 1024;
/// Bytes of a host at most: a name of 253, and a port.
const HOST_MAX: usize = 259;

/// Host of the request: the probe's, else address and port of the target.
pub(super) fn host(http: &Http, target: &Target) -> Result<String, Invalid> {
    if let Some(host) = &http.host {
        let fits = !host.is_empty() && host.len() <= HOST_MAX;
        let plain = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'[' | b']')
        };
        return if fits && host.bytes().all(plain) {
            Ok(host.clone())
        } else {
            Err(Invalid::new("http.host", "must be a name or an address, with a port if need be"))
        };
    }
    let address = socket::address(target);
    let default = if http.tls.is_some() { 443 } else { 80 };
    Ok(match address.ip() {
        _ if address.port() != default => address.to_string(),
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    })
}

/// A host without its port and without the brackets of an IPv6 address.
pub(super) fn without_port(host: &str) -> &str {
    if let Some((inside, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside;
    }
    match host.split_once(':') {
        // More colons than one are an IPv6 address.
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

/// The request.
pub(super) fn encode(http: &Http, host: &str) -> Result<Vec<u8>, Invalid> {
    let printable = |byte: u8| (b'!'..=b'~').contains(&byte);
    if !http.path.starts_with('/') || http.path.len() > PATH_MAX || !http.path.bytes().all(printable) {
        return Err(Invalid::new(
            "http.path",
            "must begin with / and have no blanks, at most 1024 characters",
        ));
    }
    let version = match http.version {
        Version::V1_0 => "1.0",
        Version::V1_1 => "1.1",
    };
    let mut request = format!("{} {} HTTP/{version}\r\n", http.method.name(), http.path);
    let own = [("Host", host), ("User-Agent", "Bascule"), ("Accept", "*/*"), ("Connection", "close")];
    for (name, value) in own {
        if !http.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            request += &format!("{name}: {value}\r\n");
        }
    }
    if http.headers.len() > HEADERS_MAX {
        return Err(Invalid::new("http.headers", "must be at most 16"));
    }
    for (name, value) in &http.headers {
        header(name, value)?;
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    Ok(request.into_bytes())
}

/// Whether a header can be sent: it must not end the head, nor announce a body that does not come.
fn header(name: &str, value: &str) -> Result<(), Invalid> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&byte);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return Err(Invalid::new("http.headers", "a name has letters, digits and !#$%&'*+.^_`|~- only"));
    }
    if value.len() > VALUE_MAX || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(Invalid::new("http.headers", format!("the value of {name} must be printable ASCII")));
    }
    let body = ["Content-Length", "Transfer-Encoding", "Expect", "Upgrade", "TE"];
    if body.iter().any(|other| other.eq_ignore_ascii_case(name)) {
        return Err(Invalid::new("http.headers", format!("{name} does not fit a request without a body")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Method, Tls};

    fn target(address: &str, port: u16) -> Target {
        Target { address: address.parse().unwrap(), port, source: None, mark: None }
    }

    #[test]
    fn a_request() {
        let http = Http { path: "/a?b".into(), ..Http::default() };
        let request = encode(&http, &host(&http, &target("10.0.0.1", 8080)).unwrap()).unwrap();
        let wanted = "GET /a?b HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: Bascule\r\nAccept: */*\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(request).unwrap(), wanted);
        let http = Http {
            method: Method::Head,
            version: Version::V1_0,
            headers: vec![("user-agent".into(), "me".into()), ("X-Check".into(), String::new())],
            ..Http::default()
        };
        let request = encode(&http, "www.example").unwrap();
        let wanted = "HEAD / HTTP/1.0\r\nHost: www.example\r\nAccept: */*\r\nConnection: close\r\nuser-agent: me\r\nX-Check: \r\n\r\n";
        assert_eq!(String::from_utf8(request).unwrap(), wanted);
    }

    #[test]
    fn the_default_port_is_not_named() {
        let plain = Http::default();
        let tls = Http { tls: Some(Tls::default()), ..Http::default() };
        for (http, address, port, wanted) in [
            (&plain, "10.0.0.1", 80, "10.0.0.1"),
            (&plain, "10.0.0.1", 443, "10.0.0.1:443"),
            (&tls, "fd00::1", 443, "[fd00::1]"),
            (&tls, "fd00::1", 80, "[fd00::1]:80"),
            (&plain, "::ffff:10.0.0.1", 80, "10.0.0.1"),
        ] {
            let found = host(http, &target(address, port)).unwrap();
            assert_eq!(found, wanted);
            assert!(found.starts_with(without_port(&found)) || found.starts_with('['));
        }
        for (host, name) in [("a.b:80", "a.b"), ("a.b", "a.b"), ("[::1]:80", "::1"), ("::1", "::1")] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn nothing_is_smuggled_into_a_request() {
        for path in ["", "a", "/a b", "/\r\nX: y", "/é", &format!("/{}", "a".repeat(1024))] {
            assert!(encode(&Http { path: path.into(), ..Http::default() }, "h").is_err(), "{path}");
        }
        for (name, value) in [("", "a"), ("a b", "c"), ("a", "b\r\nc"), ("a", "\0"), ("content-length", "5")]
        {
            let http = Http { headers: vec![(name.into(), value.into())], ..Http::default() };
            assert!(encode(&http, "h").is_err(), "{name}: {value}");
        }
        for bad in ["", "a b", "a\r\n", "a/b"] {
            let http = Http { host: Some(bad.into()), ..Http::default() };
            assert!(host(&http, &target("10.0.0.1", 80)).is_err(), "{bad}");
        }
    }
}
