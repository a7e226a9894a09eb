//! `digest`: what keepalived's genhash prints, and more.

use std::io::Write as _;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use bascule_checks::{Http, Page, Prober, Settings, Target, Tls, Verify, Version};

use super::args::{Digest, HttpVersion, Output, TlsVerify};
use super::fail;

/// Where a page is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    https: bool,
    /// A name or an address, without brackets.
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected http://HOST[:PORT]/PATH or https://…, not {text}");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() || host.contains('@') {
            return Err(wrong());
        }
        let default = if https { 443 } else { 80 };
        let port = port.map_or(Ok(default), |port| port.parse().map_err(|_| wrong()))?;
        Ok(Self { https, host: host.to_owned(), port, path })
    }
}

impl Url {
    /// The address of the host; the first one, if a name has several.
    fn address(&self) -> Result<IpAddr, String> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let mut addresses = found.map_err(|error| format!("{} has no address: {error}", self.host))?;
        addresses.next().map(|address| address.ip()).ok_or_else(|| format!("{} has no address", self.host))
    }

    /// Host of the request, unless told.
    fn request_host(&self) -> Option<String> {
        if self.host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let default = if self.https { 443 } else { 80 };
        Some(if self.port == default { self.host.clone() } else { format!("{}:{}", self.host, self.port) })
    }
}

pub(super) fn digest(args: &Digest) -> ExitCode {
    match fetch(args) {
        Ok(page) => print(args.output, &page),
        Err(message) => fail(message, 1),
    }
}

fn fetch(args: &Digest) -> Result<Page, String> {
    let url = &args.url;
    let http = Http {
        tls: url.https.then(|| Tls {
            server_name: args.sni.clone(),
            verify: match args.verify {
                TlsVerify::Full => Verify::System,
                TlsVerify::None => Verify::Nothing,
            },
        }),
        path: url.path.clone(),
        host: args.host.clone().or_else(|| url.request_host()),
        version: match args.http_version {
            HttpVersion::V1_0 => Version::V1_0,
            HttpVersion::V1_1 => Version::V1_1,
        },
        ..Http::default()
    };
    let target = Target { address: url.address()?, port: url.port, source: None, mark: None };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let prober = Prober::new(Settings { helo: String::new() });
    let timeout = Duration::from_secs(args.timeout.into());
    runtime.block_on(prober.fetch(&http, &target, timeout)).map_err(|error| error.to_string())
}

fn print(output: Output, page: &Page) -> ExitCode {
    let Page { status, length, md5, sha256 } = page;
    let text = match output {
        Output::Text => format!("status {status}\nlength {length}\nmd5    {md5}\nsha256 {sha256}\n"),
        Output::Json => {
            let document =
                serde_json::json!({"status": status, "length": length, "md5": md5, "sha256": sha256});
            format!("{document:#}\n")
        }
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(https: bool, host: &str, port: u16, path: &str) -> Url {
        Url { https, host: host.into(), port, path: path.into() }
    }

    #[test]
    fn urls() {
        for (text, wanted) in [
            ("http://a.example", url(false, "a.example", 80, "/")),
            ("HTTPS://a.example/b?c#d", url(true, "a.example", 443, "/b?c")),
            ("http://10.0.0.1:8080?x", url(false, "10.0.0.1", 8080, "/?x")),
            ("http://[fd00::1]/", url(false, "fd00::1", 80, "/")),
            ("https://[fd00::1]:1/", url(true, "fd00::1", 1, "/")),
        ] {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        for bad in [
            "",
            "a",
            "a.example/",
            "ftp://a/",
            "http://",
            "http://:80/",
            "http://a:b/",
            "http://u@a/",
            "http://[::1/",
            "http://[::1]x/",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_host_that_is_asked_for() {
        let host = |text: &str| text.parse::<Url>().unwrap().request_host();
        assert_eq!(host("http://a.example/"), Some("a.example".into()));
        assert_eq!(host("http://a.example:443/"), Some("a.example:443".into()));
        assert_eq!(host("https://a.example:443/"), Some("a.example".into()));
        assert_eq!(host("http://[::1]:80/"), None);
    }
}
