//! Shapes of strings, for the schema only: what a string may look like, with a bound on its length (the cost of a CEL rule is
//! computed from the bounds). They have no values.

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

const UNICAST: &str =
    "isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLoopback() || ip(self).isLinkLocalUnicast())";
// Of an address with or without a prefix. What is neither is told by its own rule.
const UNICAST_OR_PREFIX: &str = "isIP(self) ? ip(self).isGlobalUnicast() || ip(self).isLoopback() || ip(self).isLinkLocalUnicast() \
    : !isCIDR(self) || cidr(self).ip().isGlobalUnicast() || cidr(self).ip().isLoopback() || cidr(self).ip().isLinkLocalUnicast()";
// A network's own address begins with its prefix and has nothing after it; with /31, /32 and in IPv6 it is an address as others.
// IPv4 is written in one way only, so that texts can be compared: their length bounds the cost.
const NO_NETWORK: &str = "!isCIDR(self) || cidr(self).ip().family() == 6 || cidr(self).prefixLength() >= 31 \
    || string(cidr(self).masked()) != self";
// Both ends of a range: all between are of one block. What is no address is told by the rule of the syntax.
const MACHINES: &str = "!self.contains('-') \
    ? !isIP(self) || ip(self).isGlobalUnicast() || ip(self).isLoopback() || ip(self).isLinkLocalUnicast() \
    : !isIP(self.substring(0, self.indexOf('-'))) || !isIP(self.substring(self.indexOf('-') + 1)) \
    || ((ip(self.substring(0, self.indexOf('-'))).isGlobalUnicast() || ip(self.substring(0, self.indexOf('-'))).isLoopback() \
    || ip(self.substring(0, self.indexOf('-'))).isLinkLocalUnicast()) \
    && (ip(self.substring(self.indexOf('-') + 1)).isGlobalUnicast() || ip(self.substring(self.indexOf('-') + 1)).isLoopback() \
    || ip(self.substring(self.indexOf('-') + 1)).isLinkLocalUnicast()))";
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
        {"rule": ORDERED, "message": "a range goes from the lower address to the higher"},
        {"rule": MACHINES, "message": "must be addresses of machines: not unspecified, multicast or broadcast"}]};
    /// An address that the agent reports; it comes from a spec that was judged.
    ReportedAddress = {"type": "string", "minLength": 2, "maxLength": 45};
    /// A network.
    Network = {"type": "string", "minLength": 4, "maxLength": 49, "x-kubernetes-validations": [
        {"rule": "isCIDR(self)", "message": "must be a network such as 192.0.2.0/24 or 2001:db8::/64"}]};
    /// An address, with or without the length of its prefix.
    InterfaceAddress = {"type": "string", "minLength": 2, "maxLength": 49, "x-kubernetes-validations": [
        {"rule": "isCIDR(self) || isIP(self)", "message": "must be an address such as 192.0.2.1/24 or 2001:db8::1"},
        {"rule": UNICAST_OR_PREFIX, "message": "must be the address of a machine: not unspecified, multicast or broadcast"},
        {"rule": NO_NETWORK, "message": "is a network: an address in it is needed, such as 192.0.2.1/24"}]};
    /// The same by its syntax alone: for a hundred thousand of them (32 instances of 4096) the other rules could cost half as much again
    /// as the API server allows.
    ExcludedAddress = {"type": "string", "minLength": 2, "maxLength": 49, "x-kubernetes-validations": [
        {"rule": "isCIDR(self) || isIP(self)", "message": "must be an address such as 192.0.2.1/24 or 2001:db8::1"}]};
    /// The host of a request (RFC 9110, section 7.2): a name, an IPv4 address or an IPv6 address in brackets, and a port if need be.
    HostName = {"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^([A-Za-z0-9_]([-A-Za-z0-9_.]*[A-Za-z0-9_])?|\\[[0-9A-Fa-f:.]{2,45}\\])(:[0-9]{1,5})?$"};
    /// Who greets a mail server (RFC 5321, section 4.1.1.1): a name, or an address in brackets (section 4.1.3).
    HeloName = {"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^([A-Za-z0-9_]([-A-Za-z0-9_.]*[A-Za-z0-9_])?|\\[(IPv6:)?[0-9A-Fa-f:.]{2,45}\\])$"};
    /// Base name of a file: nothing that leads out of its directory.
    FileName = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"};
    /// Absolute path.
    AbsolutePath = {"type": "string", "minLength": 2, "maxLength": 255, "pattern": "^/[A-Za-z0-9 ._/@+,:=-]+$"};
    /// Argument of a program.
    Argument = {"type": "string", "maxLength": 128, "pattern": "^[^\\x00-\\x1f\\x7f]*$"};
    /// Key in a Secret.
    SecretKey = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$"};
}
