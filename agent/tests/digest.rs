//! `bascule-agent digest` against a small server, and beside genhash where that is installed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

const BODY: &[u8] = b"<html><body><h1>It works!</h1></body></html>\n";

/// A server that shows [`BODY`] on any path but /none, and the requested host on /host.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let first = request.first().cloned().unwrap_or_default();
            let host = request.iter().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
            let (status, body) = match first.split(' ').nth(1) {
                Some("/none") => ("404 Not Found", &b"none"[..]),
                Some("/host") => ("200 OK", host.as_bytes()),
                _ => ("200 OK", BODY),
            };
            let mut out = &stream;
            if first.ends_with("1.1") && host == "chunked" {
                let head =
                    format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
                let _ = out.write_all(&[head.as_bytes(), body, b"\r\n0\r\n\r\n"].concat());
            } else {
                let _ = out.write_all(&[format!("HTTP/1.0 {status}\r\n\r\n").as_bytes(), body].concat());
            }
        }
    });
    address
}

fn digest(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bascule-agent")).arg("digest").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn a_page() {
    let address = server();
    let url = format!("http://{address}/index.html");
    let found = digest(&[&url]);
    let text = stdout(&found);
    let md5 = text.lines().find_map(|line| line.strip_prefix("md5    ")).unwrap();
    assert!(text.starts_with("status 200\nlength 45\n"), "{text}");
    // The framing of the body is no part of it.
    for more in [&["--host", "chunked"][..], &["--http-version", "1.0"]] {
        assert_eq!(stdout(&digest(&[more, &[&url]].concat())), text);
    }
    let json: serde_json::Value = serde_json::from_slice(&digest(&["-o", "json", &url]).stdout).unwrap();
    assert_eq!(json["md5"], md5);
    assert_eq!(json["status"], 200);

    let port = address.port().to_string();
    let genhash =
        Command::new("genhash").args(["-s", "127.0.0.1", "-p", &port, "-u", "/index.html"]).output();
    match genhash {
        Ok(genhash) => {
            let theirs = String::from_utf8_lossy(&genhash.stdout).into_owned();
            assert!(theirs.contains(md5), "genhash: {theirs}, {md5}");
        }
        Err(error) => eprintln!("not run here: genhash: {error}"),
    }
}

#[test]
fn the_host_of_the_request() {
    let address = server();
    let by_address = digest(&[&format!("http://{address}/host")]);
    let by_name = digest(&["--host", &address.to_string(), &format!("http://{address}/host")]);
    assert_eq!(stdout(&by_address), stdout(&by_name));
    let other = digest(&["--host", "www.example", &format!("http://{address}/host")]);
    assert!(stdout(&other).starts_with("status 200\nlength 11\n"), "{other:?}");
}

#[test]
fn a_page_with_another_status_is_a_page() {
    let output = digest(&[&format!("http://{}/none", server())]);
    assert!(stdout(&output).starts_with("status 404\nlength 4\n"), "{output:?}");
}

#[test]
fn what_fails() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = digest(&[&format!("http://{closed}/")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "bascule-agent: GET /: connection refused\n");

    let output = digest(&["--verify", "none", &format!("https://{}/", server())]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");

    for bad in [&["ftp://a/"][..], &["--verify", "some", "http://a/"], &["--timeout", "0", "http://a/"], &[]]
    {
        assert_eq!(digest(bad).status.code(), Some(2), "{bad:?}");
    }
}
