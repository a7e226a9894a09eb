//! What is probed, and how: plain settings, one value for each distinct probe, so that it can be shared.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::Invalid;
use crate::answer::dns::{QueryName, RecordType};
use crate::hex;

/// Where a probe goes to, and from where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Address of the real server (keepalived: connect_ip).
    pub address: IpAddr,
    /// Its port (keepalived: connect_port); not looked at by ping.
    pub port: u16,
    /// Own address to probe from, of the same family (keepalived: bindto).
    pub source: Option<IpAddr>,
    /// Firewall mark on the probe's packets (keepalived: fwmark). Needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

/// How a real server shows that it is alive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// A TCP connection is accepted (keepalived: TCP_CHECK).
    Tcp,
    /// An HTTP request is answered as it should be (keepalived: HTTP_GET, SSL_GET).
    Http(Http),
    /// An SMTP server greets (keepalived: SMTP_CHECK).
    Smtp(Smtp),
    /// A name server answers (keepalived: DNS_CHECK).
    Dns(Dns),
    /// A datagram is not refused, or is answered (keepalived: UDP_CHECK).
    Udp(Udp),
    /// An ICMP echo request is answered (keepalived: PING_CHECK).
    Ping(Ping),
}

/// An HTTP request and what its answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http {
    /// TLS, for HTTPS.
    pub tls: Option<Tls>,
    /// Path and query.
    pub path: String,
    /// Host of the request, with a port if need be. `None`: address and port of the target.
    pub host: Option<String>,
    /// GET or HEAD.
    pub method: Method,
    /// Version of the request.
    pub version: Version,
    /// Further headers, name and value; one of the name of a header that is sent anyway takes its place.
    pub headers: Vec<(String, String)>,
    /// Status codes that pass.
    pub status: StatusCodes,
    /// Digest that the body must have.
    pub digest: Option<Digest>,
    /// Regular expression that must match in the first [`WINDOW`](crate::answer::http::WINDOW) bytes of the body.
    pub matches: Option<String>,
    /// Regular expression that must not match there.
    pub not_matches: Option<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            tls: None,
            path: "/".into(),
            host: None,
            method: Method::Get,
            version: Version::V1_1,
            headers: Vec::new(),
            status: StatusCodes::default(),
            digest: None,
            matches: None,
            not_matches: None,
        }
    }
}

/// Method of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// With a body in the answer.
    #[default]
    Get,
    /// Without.
    Head,
}

impl Method {
    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// Version of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0.
    V1_0,
    /// HTTP/1.1.
    #[default]
    V1_1,
}

/// Status codes that pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StatusCodes(Vec<RangeInclusive<u16>>);

impl Default for StatusCodes {
    /// 200 to 299, as keepalived's.
    fn default() -> Self {
        Self(vec![200..=299])
    }
}

impl StatusCodes {
    /// From codes and ranges such as `200` and `300-399`.
    ///
    /// # Errors
    ///
    /// None is given, one is neither, is outside 100 to 599, or goes from the higher to the lower.
    pub fn parse<S: AsRef<str>>(ranges: &[S]) -> Result<Self, Invalid> {
        let range = |text: &str| {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            (100 <= from && from <= to && to <= 599).then_some(from..=to)
        };
        let ranges: Option<Vec<_>> = ranges.iter().map(|text| range(text.as_ref())).collect();
        ranges.filter(|ranges| !ranges.is_empty()).map(Self).ok_or_else(|| {
            Invalid::new(
                "http.statusCodes",
                "must be codes and ranges from 100 to 599, such as 200 and 300-399",
            )
        })
    }

    /// Whether a code passes.
    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|range| range.contains(&code))
    }
}

impl std::fmt::Display for StatusCodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, range) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{}", range.start())?;
            if range.end() > range.start() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

/// Digest that a body must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Digest {
    /// MD5, as keepalived's genhash prints.
    Md5([u8; 16]),
    /// SHA-256.
    Sha256([u8; 32]),
}

impl Digest {
    /// MD5 from 32 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn md5(digits: &str) -> Result<Self, Invalid> {
        let bytes = hex::decode(digits).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self::Md5).ok_or_else(|| Invalid::new("http.digest.value", "md5 has 32 hexadecimal digits"))
    }

    /// SHA-256 from 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn sha256(digits: &str) -> Result<Self, Invalid> {
        let bytes = hex::decode(digits).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self::Sha256)
            .ok_or_else(|| Invalid::new("http.digest.value", "sha256 has 64 hexadecimal digits"))
    }
}

/// How a certificate is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Name that is asked for (SNI) and verified. `None`: the host of the request without its port.
    pub server_name: Option<String>,
    /// What is verified.
    pub verify: Verify,
}

/// What is verified of a certificate. In every case the server must prove that it has the certificate's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verify {
    /// Chain, dates and name, against the system's authorities.
    #[default]
    System,
    /// Chain, dates and name, against these authorities, in PEM.
    Authorities(Arc<str>),
    /// Nothing (keepalived's SSL_GET).
    Nothing,
}

/// An SMTP server greets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Smtp {
    /// Name given in HELO or EHLO, or an address in brackets (keepalived: helo_name). `None`: that of
    /// [`Settings`](crate::Settings).
    pub helo: Option<String>,
    /// Whether STARTTLS must succeed (RFC 3207). The certificate is not verified: servers of mail seldom have one that
    /// could be, and those who send mail do not look either (RFC 7435).
    pub start_tls: bool,
}

/// A name server answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dns {
    /// Name to ask for (keepalived: name). Default: `.`.
    pub name: QueryName,
    /// Type to ask for (keepalived: type). Default: SOA.
    pub record_type: RecordType,
    /// UDP or TCP.
    pub transport: Transport,
}

/// Transport of a DNS query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    #[default]
    Udp,
    /// A connection.
    Tcp,
}

/// A datagram is not refused, or is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Udp {
    /// What is sent, at most 1024 bytes (keepalived: payload).
    pub payload: Vec<u8>,
    /// Whether silence is a failure (keepalived: require_reply). Otherwise only an ICMP error is.
    pub require_reply: bool,
    /// How a reply must begin.
    pub reply: Option<Pattern>,
}

impl Udp {
    /// What is sent, from hexadecimal digits.
    ///
    /// # Errors
    ///
    /// It is something else, or longer than 1024 bytes.
    pub fn payload(digits: &str) -> Result<Vec<u8>, Invalid> {
        hex::decode(digits).filter(|bytes| bytes.len() <= UDP_MAX).ok_or_else(|| {
            Invalid::new("udp.payload", "must be an even number of hexadecimal digits, at most 2048")
        })
    }
}

/// Bytes of a payload and of a pattern at most.
pub(crate) const UDP_MAX: usize = 1024;

/// How a reply must begin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Each byte and which of its bits count.
    bytes: Vec<(u8, u8)>,
}

impl Pattern {
    /// From hexadecimal digits; `?` stands for any digit. At most 1024 bytes.
    ///
    /// # Errors
    ///
    /// It is something else, empty, or too long.
    pub fn parse(digits: &str) -> Result<Self, Invalid> {
        hex::decode_pattern(digits)
            .filter(|bytes| (1..=UDP_MAX).contains(&bytes.len()))
            .map(|bytes| Self { bytes })
            .ok_or_else(|| {
                Invalid::new("udp.reply", "must be an even number of hexadecimal digits or ?, at most 2048")
            })
    }

    /// Whether a reply begins so.
    pub fn matches(&self, reply: &[u8]) -> bool {
        reply.len() >= self.bytes.len()
            && self.bytes.iter().zip(reply).all(|((wanted, mask), byte)| byte & mask == wanted & mask)
    }
}

/// An ICMP echo request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ping {
    /// Bytes of payload, 0 to 65507. Default: 56.
    pub size: u16,
}

impl Default for Ping {
    fn default() -> Self {
        Self { size: 56 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes() {
        let codes = StatusCodes::parse(&["200", "301-302"]).unwrap();
        assert_eq!(codes.to_string(), "200, 301-302");
        assert!(codes.contains(200) && codes.contains(302) && !codes.contains(201) && !codes.contains(303));
        assert_eq!(StatusCodes::default().to_string(), "200-299");
        for bad in ["", "2xx", "99", "600", "299-200", "200-", "-200", "200-300-400"] {
            assert!(StatusCodes::parse(&[bad]).is_err(), "{bad}");
        }
        assert!(StatusCodes::parse::<&str>(&[]).is_err());
    }

    #[test]
    fn digests_have_their_length() {
        assert!(Digest::md5(&"0f".repeat(16)).is_ok());
        assert!(Digest::sha256(&"0F".repeat(32)).is_ok());
        for bad in ["", "0f", &"0f".repeat(32), &"0g".repeat(16)] {
            assert!(Digest::md5(bad).is_err(), "{bad}");
        }
        assert!(Digest::sha256(&"0f".repeat(16)).is_err());
    }

    #[test]
    fn patterns_of_replies() {
        let pattern = Pattern::parse("4f?B??00").unwrap();
        assert!(pattern.matches(b"\x4f\x0b\xff\x00"));
        assert!(pattern.matches(b"\x4f\xfb\x00\x00more"));
        assert!(!pattern.matches(b"\x4f\xfc\x00\x00"));
        assert!(!pattern.matches(b"\x4f\xfb\x00"), "too short");
        for bad in ["", "4", "4f?", "zz", &"?".repeat(2050)] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
