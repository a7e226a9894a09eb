//! Small values of the scenario language that are written as strings: durations, addresses with a prefix, names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use super::quantity::{BitRate, Percent};

/// A duration as Kubernetes' Gateway API writes it (GEP-2257): `100ms`, `1m30s`; whole numbers of `h`, `m`, `s`, `ms`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

impl Span {
    /// A span of whole milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// A span of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The length.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a duration; write whole numbers with units, such as `500ms`, `2s` or `1m30s`"
            )
        };
        let mut total = Duration::ZERO;
        let mut rest = text;
        let mut last = u64::MAX;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if digits == 0 || digits > 8 {
                return Err(wrong());
            }
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
            let unit: u64 = match &rest[..letters] {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1000,
                "ms" => 1,
                _ => return Err(wrong()),
            };
            // Each unit once, from the largest down.
            if unit >= last {
                return Err(wrong());
            }
            last = unit;
            total += Duration::from_millis(number * unit);
            rest = &rest[letters..];
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut milliseconds = self.0.as_millis();
        if milliseconds == 0 {
            return f.write_str("0s");
        }
        for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")] {
            if milliseconds >= unit {
                write!(f, "{}{name}", milliseconds / unit)?;
                milliseconds %= unit;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address with the length of its network's prefix: `172.16.193.10/16`. Without a length, the host alone (`/32`, `/128`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The address, host bits kept.
    pub address: IpAddr,
    /// 0–32 for IPv4, 0–128 for IPv6.
    pub length: u8,
}

impl Prefix {
    /// Whether `address` is in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(mine), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.length);
                shift == 32 || mine.to_bits() >> shift == other.to_bits() >> shift
            }
            (IpAddr::V6(mine), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.length);
                shift == 128 || mine.to_bits() >> shift == other.to_bits() >> shift
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not an address with a prefix, such as `172.16.193.10/16` or `2001:db8::1/64`"
            )
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse().map_err(|_| wrong())?,
            None => most,
        };
        if length > most {
            return Err(wrong());
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The destination of a route: `default` (of the gateway's family) or a network, `172.16.0.0/16`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Destination {
    /// Everything.
    Default,
    /// One network.
    Network(Prefix),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "default" {
            return Ok(Self::Default);
        }
        let prefix: Prefix = text
            .parse()
            .map_err(|_| format!("`{text}` is neither `default` nor a network such as `172.16.0.0/16`"))?;
        Ok(Self::Network(prefix))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Network(prefix) => prefix.fmt(f),
        }
    }
}

/// A hardware address: `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is not the unicast hardware address of a station, such as `02:00:00:00:00:01`")
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if index > 0 { ":" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a server listens: a port, or `ADDRESS:PORT` (`[ADDRESS]:PORT` for IPv6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Listen {
    /// None: all addresses of both families.
    pub address: Option<IpAddr>,
    /// 1–65535.
    pub port: u16,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is neither a port (`80`) nor an address and a port (`172.16.193.10:80`)");
        let listen = if let Ok(port) = text.parse() {
            Self { address: None, port }
        } else {
            let socket: std::net::SocketAddr = text.parse().map_err(|_| wrong())?;
            Self { address: Some(socket.ip()), port: socket.port() }
        };
        if listen.port == 0 {
            return Err(wrong());
        }
        Ok(listen)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => std::net::SocketAddr::new(address, self.port).fmt(f),
            None => self.port.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // YAML reads `80` as a number and `172.16.193.10:80` as a string.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Port(u16),
            Text(String),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Port(port) => port.to_string(),
            Form::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.address {
            None => serializer.serialize_u16(self.port),
            Some(_) => serializer.collect_str(self),
        }
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Listen".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where a server listens: a port, or `ADDRESS:PORT` (`[ADDRESS]:PORT` for IPv6).",
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "format": "listen", "maxLength": 64},
            ],
        })
    }
}

macro_rules! as_string {
    ($type:ident, $format:literal, $description:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "description": $description, "type": "string", "format": $format, "maxLength": 64,
                })
            }
        }
    };
}

as_string!(Span, "duration", "A duration in whole units: `100ms`, `2s`, `1m30s`.");
as_string!(Prefix, "prefix", "An address with the length of its network's prefix: `172.16.193.10/16`.");
as_string!(Destination, "destination", "`default`, or a network: `172.16.0.0/16`.");
as_string!(Mac, "mac", "A unicast hardware address: `02:00:00:00:00:01`.");

pub(super) use as_string;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, milliseconds) in
            [("0s", 0), ("500ms", 500), ("1m30s", 90_000), ("1h", 3_600_000), ("2s50ms", 2050)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.get(), Duration::from_millis(milliseconds), "{text}");
            assert_eq!(span.to_string(), text);
        }
        for text in ["", "5", "1.5s", "-1s", "1s1m", "1s1s", "1d", "s", "999999999s", "1 s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_read_print_and_contain() {
        let prefix: Prefix = "172.16.193.10/16".parse().unwrap();
        assert_eq!(prefix.to_string(), "172.16.193.10/16");
        assert!(prefix.contains("172.16.1.1".parse().unwrap()));
        assert!(!prefix.contains("172.17.1.1".parse().unwrap()));
        assert!(!prefix.contains("::1".parse().unwrap()));
        assert_eq!("192.16.193.30".parse::<Prefix>().unwrap().length, 32);
        assert!("0.0.0.0/0".parse::<Prefix>().unwrap().contains("8.8.8.8".parse().unwrap()));
        assert!("::/0".parse::<Prefix>().unwrap().contains("::1".parse().unwrap()));
        for text in ["172.16.193.10/33", "172.16.193/16", "::1/129", "", "1.2.3.4/", "1.2.3.4/a"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn hardware_addresses_are_of_stations() {
        assert_eq!("02:00:00:00:00:0A".parse::<Mac>().unwrap().to_string(), "02:00:00:00:00:0a");
        for text in [
            "01:00:5e:00:00:12",
            "00:00:00:00:00:00",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn listeners_are_ports_or_sockets() {
        assert_eq!("80".parse::<Listen>().unwrap().to_string(), "80");
        assert_eq!("[::1]:80".parse::<Listen>().unwrap().to_string(), "[::1]:80");
        assert_eq!(serde_json::from_str::<Listen>("80").unwrap().port, 80);
        for text in ["0", "70000", "1.2.3.4", "1.2.3.4:0", "::1:80:"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
