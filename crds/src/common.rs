//! Types that several kinds share: durations, addresses, names, references, programs.
//!
//! The types in [`shape`] exist only for the schema: they say what a string may look like, with a bound on its length
//! (the cost of a CEL rule is computed from the bounds), and have no values.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The API group of every kind.
pub const GROUP: &str = "bascule.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every manifest.
pub const API_VERSION: &str = "bascule.dev/v1alpha1";

/// Longest message of a condition in any status, in characters; whoever writes one cuts it.
pub const MAX_CONDITION_MESSAGE: usize = 1024;

/// One CEL rule of a schema: the words are what a person reads when it is violated.
pub(crate) fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// A CEL rule whose violation is reported at a field below the place where the rule stands.
pub(crate) fn rule_at(field_path: &str, rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message, "fieldPath": field_path})
}

/// Bounds of a duration field, as a CEL rule on the string itself.
pub(crate) fn between(low: &str, high: &str) -> Vec<Value> {
    vec![rule(
        &format!("duration(self) >= duration('{low}') && duration(self) <= duration('{high}')"),
        &format!("must be from {low} to {high}"),
    )]
}

/// Exactly one of some optional fields of the object is set.
pub(crate) fn exactly_one(fields: &[&str]) -> Value {
    let has: Vec<String> = fields.iter().map(|field| format!("has(self.{field})")).collect();
    let (last, others) = fields.split_last().expect("a union has fields");
    rule(
        &format!("[{}].filter(x, x).size() == 1", has.join(", ")),
        &format!("exactly one of {} and {last} must be set", others.join(", ")),
    )
}

/// A length of time, written as in the Gateway API (GEP-2257): `100ms`, `1m30s`; no decimals, no sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

impl Duration {
    /// So many milliseconds, the finest unit there is.
    pub const fn from_millis(milliseconds: u64) -> Duration {
        Duration(std::time::Duration::from_millis(milliseconds))
    }

    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Duration {
        Duration(std::time::Duration::from_secs(seconds))
    }

    /// The same length of time for the standard library.
    pub const fn as_std(self) -> std::time::Duration {
        self.0
    }

    /// True of `0s`.
    pub const fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        if milliseconds == 0 {
            return f.write_str("0s");
        }
        let parts = [
            (milliseconds / 3_600_000, "h"),
            (milliseconds / 60_000 % 60, "m"),
            (milliseconds / 1000 % 60, "s"),
            (milliseconds % 1000, "ms"),
        ];
        parts.iter().filter(|(count, _)| *count > 0).try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Duration, String> {
        let bad = || format!("{text:?} is not a duration such as 500ms or 1m30s");
        let (mut rest, mut parts, mut total) = (text, 0, 0_u64);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let count: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            // "ms" before "m": the longer unit first.
            let (unit, length) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
                .into_iter()
                .find(|(unit, _)| rest.starts_with(unit))
                .ok_or_else(bad)?;
            rest = &rest[unit.len()..];
            parts += 1;
            if digits > 5 || parts > 4 {
                return Err(bad());
            }
            total += count * length;
        }
        if parts == 0 { Err(bad()) } else { Ok(Duration::from_millis(total)) }
    }
}

/// Serde by [`fmt::Display`] and [`FromStr`].
macro_rules! string_serde {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
string_serde!(Duration);
string_serde!(AddressOrRange);
string_serde!(AddressPrefix);

/// An address, or all addresses from one to another: `192.16.193.30`, `10.0.0.1-10.0.0.8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressOrRange {
    /// The (first) address.
    pub first: IpAddr,
    /// The last address, equal to `first` for a single one; of the same family and not below it.
    pub last: IpAddr,
}

impl AddressOrRange {
    /// A single address.
    pub const fn single(address: IpAddr) -> AddressOrRange {
        AddressOrRange { first: address, last: address }
    }

    /// The family of all its addresses.
    pub const fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Every address, from the first to the last. What the schema accepts has at most 256.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, last) = (number(self.first), number(self.last));
        let family = self.family();
        (first..=last).map(move |number| match family {
            // The number came from an Ipv4Addr: it fits.
            Family::IPv4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
            Family::IPv6 => IpAddr::V6(Ipv6Addr::from(number)),
        })
    }

    /// True when the address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family()
            && (number(self.first)..=number(self.last)).contains(&number(address))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl From<IpAddr> for AddressOrRange {
    fn from(address: IpAddr) -> Self {
        AddressOrRange::single(address)
    }
}

impl fmt::Display for AddressOrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last == self.first { Ok(()) } else { write!(f, "-{}", self.last) }
    }
}

impl FromStr for AddressOrRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is neither an address nor a range A-B of addresses");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = AddressOrRange {
            first: first.parse().map_err(|_| bad())?,
            last: last.parse().map_err(|_| bad())?,
        };
        let ordered = Family::of(range.last) == range.family() && number(range.first) <= number(range.last);
        if ordered { Ok(range) } else { Err(bad()) }
    }
}

/// An address with the length of its prefix: `192.16.193.30/32`. Without a length it is the address alone (/32, /128).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressPrefix {
    /// The address, host bits and all.
    pub address: IpAddr,
    /// Bits of the prefix: at most 32 for IPv4 and 128 for IPv6.
    pub length: u8,
}

impl AddressPrefix {
    /// The family of the address.
    pub const fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// True when the address lies in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let width = self.family().width();
        Family::of(address) == self.family()
            && (self.length == 0
                || number(address) >> (width - self.length) == number(self.address) >> (width - self.length))
    }
}

impl fmt::Display for AddressPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for AddressPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an address with a prefix length such as 192.0.2.1/24");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let width = Family::of(address).width();
        let length = length.map_or(Ok(width), str::parse).map_err(|_| bad())?;
        if length <= width { Ok(AddressPrefix { address, length }) } else { Err(bad()) }
    }
}

/// A transport protocol that IPVS balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Family {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::IPv4,
            IpAddr::V6(_) => Family::IPv6,
        }
    }

    /// Bits of an address.
    pub const fn width(self) -> u8 {
        match self {
            Family::IPv4 => 32,
            Family::IPv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::IPv4 => "IPv4",
            Family::IPv6 => "IPv6",
        })
    }
}

/// A program that the agent runs: only from the directory of its `--allow-exec`, as a user of its own, without capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgramCall {
    /// Base name of the program, in the directory given to the agent by `--allow-exec`. It is run without a shell.
    #[schemars(with = "shape::FileName")]
    pub program: String,
    /// Its arguments, handed over as they are: at most 8 of 128 characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Argument>", length(max = 8))]
    pub args: Vec<String>,
}

/// A secret kept in the cluster or in a file of the director.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [exactly_one(&["secretRef", "file"])]))]
pub struct SecretSource {
    /// A key of a Secret in the release's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Absolute path of a file on the director. A file that others can read is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::AbsolutePath>")]
    pub file: Option<String>,
}

/// One key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(with = "shape::LongName")]
    pub name: String,
    /// Key in its data.
    #[schemars(with = "shape::SecretKey")]
    pub key: String,
}

/// Who else may use this object, and for what. Without an entry, VirtualServices of any namespace may use the addresses that
/// a group's instances have, and nothing else is allowed. A directory of files is one trust domain: there all is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allow {
    /// Namespaces that this entry is for, at most 32; `*` is every namespace.
    #[schemars(with = "Vec<shape::NamespaceOrAll>", length(min = 1, max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Vec<String>,
    /// Kinds that this entry is for.
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub kinds: Vec<AllowedKind>,
    /// Networks whose addresses they may use, at most 32, such as `192.0.2.0/24`. Absent: no address beyond those of the
    /// group's instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Network>", length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<AddressPrefix>,
    /// Whether their checks and hooks may run programs. Default: false.
    #[serde(default)]
    pub exec: bool,
}

/// A kind that can be allowed to use a director or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AllowedKind {
    /// VirtualService.
    VirtualService,
    /// HealthCheck.
    HealthCheck,
    /// NatRule.
    NatRule,
}

/// Serde's default for fields that are true unless told.
pub(crate) const fn yes() -> bool {
    true
}

/// Schema of `status.conditions`: as everywhere in Kubernetes, bounded so that the object stays small.
pub(crate) fn conditions(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 63, "pattern": "^[A-Za-z]+$", "description": "What the condition is about."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "True, False or Unknown."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "description": "One word for why."},
                "message": {"type": "string", "maxLength": MAX_CONDITION_MESSAGE, "description": "The same for people."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "The generation of the object that this was said of."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When the status last changed."}
            }
        }
    })
}

/// Shapes of strings, for the schema only.
pub mod shape {
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    /// Gateway API durations (GEP-2257).
    pub(crate) const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

    /// What the kernel allows in the name of an interface, without what is written with an escape in JSON: `&`, `<`, `>`.
    const INTERFACE: &str = "^[!-%'-.0-9;=?-~]+$";

    macro_rules! shapes {
        ($($(#[$doc:meta])* $name:ident = $schema:tt;)*) => {$(
            $(#[$doc])*
            #[derive(Debug)]
            pub enum $name {}

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )*};
    }

    const UNICAST: &str = "isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLoopback() || ip(self).isLinkLocalUnicast())";
    // The strings are cut with substring, whose cost is bounded by what it cuts; that of split is not.
    const SYNTAX: &str = "!self.contains('-') ? isIP(self) \
        : isIP(self.substring(0, self.indexOf('-'))) && isIP(self.substring(self.indexOf('-') + 1))";
    // Both ends share all but their last 8 bits, which bounds the range to 256 addresses.
    const ONE_BLOCK: &str = "!self.contains('-') || !isIP(self.substring(0, self.indexOf('-'))) || !isIP(self.substring(self.indexOf('-') + 1)) \
        || cidr(self.substring(0, self.indexOf('-')) + (self.substring(0, self.indexOf('-')).contains(':') ? '/120' : '/24')).containsIP(self.substring(self.indexOf('-') + 1))";
    const CANONICAL: &str = "!self.contains('-') || !isIP(self.substring(0, self.indexOf('-'))) || !isIP(self.substring(self.indexOf('-') + 1)) \
        || (ip.isCanonical(self.substring(0, self.indexOf('-'))) && ip.isCanonical(self.substring(self.indexOf('-') + 1)))";
    // The last group of digits of a canonical address has no leading zeros: of two, the longer one is the greater one, and of
    // two of one length the later one in the alphabet. It is empty for an IPv6 address that ends in zeros.
    const ORDERED: &str = "!self.contains('-') || (self.contains(':') \
        ? self.substring(self.substring(0, self.indexOf('-')).lastIndexOf(':') + 1, self.indexOf('-')).size() < self.substring(self.lastIndexOf(':') + 1).size() \
        || (self.substring(self.substring(0, self.indexOf('-')).lastIndexOf(':') + 1, self.indexOf('-')).size() == self.substring(self.lastIndexOf(':') + 1).size() \
        && self.substring(self.substring(0, self.indexOf('-')).lastIndexOf(':') + 1, self.indexOf('-')) <= self.substring(self.lastIndexOf(':') + 1)) \
        : self.substring(self.substring(0, self.indexOf('-')).lastIndexOf('.') + 1, self.indexOf('-')).size() < self.substring(self.lastIndexOf('.') + 1).size() \
        || (self.substring(self.substring(0, self.indexOf('-')).lastIndexOf('.') + 1, self.indexOf('-')).size() == self.substring(self.lastIndexOf('.') + 1).size() \
        && self.substring(self.substring(0, self.indexOf('-')).lastIndexOf('.') + 1, self.indexOf('-')) <= self.substring(self.lastIndexOf('.') + 1)))";

    shapes! {
        /// Name of a Bascule object: it must also fit into a label.
        Name = {"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"};
        /// Name of an object of Kubernetes.
        LongName = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"};
        /// DNS label: names within an object, namespaces.
        Label = {"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"};
        /// A namespace, or `*`.
        NamespaceOrAll = {"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?|\\*)$"};
        /// Name of a port: an IANA service name (RFC 6335).
        PortName = {"type": "string", "minLength": 1, "maxLength": 15, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"};
        /// Name of a network interface, or an alias of it.
        Interface = {"type": "string", "minLength": 1, "maxLength": 15, "pattern": INTERFACE};
        /// An address of one machine.
        Unicast = {"type": "string", "minLength": 2, "maxLength": 45, "x-kubernetes-validations": [
            {"rule": UNICAST, "message": "must be the IPv4 or IPv6 address of a machine: not unspecified, multicast or broadcast"}]};
        /// An address or a range.
        AddressOrRange = {"type": "string", "minLength": 2, "maxLength": 91, "x-kubernetes-validations": [
            {"rule": SYNTAX, "message": "must be an address, or a range A-B of addresses"},
            {"rule": ONE_BLOCK, "message": "a range must lie within one /24 (IPv4) or /120 (IPv6): write several"},
            {"rule": CANONICAL, "message": "the ends of a range must be written in their shortest form (RFC 5952)"},
            {"rule": ORDERED, "message": "a range goes from the lower address to the higher"}]};
        /// An address that the agent reports; it comes from a spec that was judged.
        ReportedAddress = {"type": "string", "minLength": 2, "maxLength": 45};
        /// A network.
        Network = {"type": "string", "minLength": 4, "maxLength": 49, "x-kubernetes-validations": [
            {"rule": "isCIDR(self)", "message": "must be a network such as 192.0.2.0/24 or 2001:db8::/64"}]};
        /// An address, with or without the length of its prefix.
        InterfaceAddress = {"type": "string", "minLength": 2, "maxLength": 49, "x-kubernetes-validations": [
            {"rule": "isCIDR(self) || isIP(self)", "message": "must be an address such as 192.0.2.1/24 or 2001:db8::1"}]};
        /// A host name for a request.
        HostName = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[A-Za-z0-9_]([-A-Za-z0-9_.]*[A-Za-z0-9_])?(:[0-9]{1,5})?$"};
        /// Base name of a file: nothing that leads out of its directory.
        FileName = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"};
        /// Absolute path.
        AbsolutePath = {"type": "string", "minLength": 2, "maxLength": 255, "pattern": "^/[A-Za-z0-9 ._/@+,:=-]+$"};
        /// Argument of a program.
        Argument = {"type": "string", "maxLength": 128, "pattern": "^[^\\x00-\\x1f\\x7f]*$"};
        /// Key in a Secret.
        SecretKey = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$"};
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": 28,
            "pattern": shape::DURATION,
            "x-kubernetes-validations": between("0s", "8760h"),
        })
    }
}
