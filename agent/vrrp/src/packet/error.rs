//! Why bytes are no advertisement, with where the RFCs say so.

use std::net::IpAddr;

use super::{ChecksumForm, Family};

/// Why bytes are no valid advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than an IPv4 header, or than that header says.
    #[error("{length} bytes are no complete IPv4 packet")]
    IpHeader {
        /// Bytes received.
        length: usize,
    },
    /// Not protocol 112.
    #[error("IP protocol {protocol} is not VRRP")]
    Protocol {
        /// The protocol.
        protocol: u8,
    },
    /// A fragment: the rest of the message is not here.
    #[error("a fragment")]
    Fragment,
    /// Not even the fixed fields.
    #[error("{length} bytes are less than the fixed fields")]
    Truncated {
        /// Bytes received.
        length: usize,
    },
    /// Neither version 2 nor 3, or version 2 over IPv6.
    #[error("version {version} over {family}")]
    Version {
        /// The version.
        version: u8,
        /// What it came over.
        family: Family,
    },
    /// Not an ADVERTISEMENT.
    #[error("type {kind} is not ADVERTISEMENT")]
    Type {
        /// The type.
        kind: u8,
    },
    /// VRID 0.
    #[error("virtual router id 0")]
    Vrid,
    /// No address.
    #[error("no address in it")]
    NoAddress,
    /// Fewer bytes than its count of addresses asks for.
    #[error("{count} addresses need {needed} bytes, {length} came")]
    Incomplete {
        /// Count of addresses.
        count: u8,
        /// Bytes that they need, with all headers.
        needed: usize,
        /// Bytes received.
        length: usize,
    },
    /// Bytes after the message that are no trailer.
    #[error("{extra} bytes after the message are no authentication trailer")]
    Extra {
        /// How many.
        extra: usize,
    },
    /// Wrong by every form.
    #[error("checksum {found:#06x} is wrong: {expected:#06x} would be right")]
    Checksum {
        /// What is in the message.
        found: u16,
        /// What should be, in the form that is sent here.
        expected: u16,
    },
    /// Right, but of the form that is not accepted.
    #[error("the checksum is of the form {}, which is not accepted here: set the same form on all members", form_name(*.found))]
    ChecksumForm {
        /// The form.
        found: ChecksumForm,
    },
    /// Interval 0.
    #[error("advertisement interval 0")]
    Interval,
    /// Neither none nor simple.
    #[error("authentication type {kind} is not supported")]
    AuthenticationType {
        /// The type; 2 is the IP Authentication Header.
        kind: u8,
    },
    /// The IP header's addresses are of two families.
    #[error("{source_address} and {destination} are of two families")]
    MixedFamilies {
        /// Where it came from.
        source_address: IpAddr,
        /// Where it went.
        destination: IpAddr,
    },
}

fn form_name(form: ChecksumForm) -> &'static str {
    match form {
        ChecksumForm::PseudoHeader => "with pseudo-header (RFC 5798)",
        ChecksumForm::MessageOnly => "without pseudo-header (RFC 9568)",
    }
}

impl DecodeError {
    /// The section that it violates.
    pub const fn section(&self) -> &'static str {
        match self {
            Self::IpHeader { .. } | Self::Fragment => "RFC 791 section 3.1",
            Self::Protocol { .. } => "RFC 9568 section 5.1.1.4",
            Self::Truncated { .. } | Self::Incomplete { .. } => "RFC 9568 section 7.1",
            Self::Version { .. } => "RFC 9568 section 5.2.1",
            Self::Type { .. } => "RFC 9568 section 5.2.2",
            Self::Vrid => "RFC 9568 section 5.2.3",
            Self::NoAddress => "RFC 9568 section 5.2.5 (erratum 8299)",
            Self::Extra { .. } => "draft-cassen-vrrp-auth-hmac",
            Self::Checksum { .. } | Self::ChecksumForm { .. } => "RFC 9568 section 5.2.8",
            Self::Interval => "RFC 9568 section 5.2.7",
            Self::AuthenticationType { .. } => "RFC 3768 section 5.3.6",
            Self::MixedFamilies { .. } => "RFC 9568 section 5.2.9",
        }
    }
}

/// What cannot be said in an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// VRID 0.
    #[error("a virtual router id is 1 to 255")]
    Vrid,
    /// No address, or more than fit.
    #[error("{count} addresses: an advertisement has 1 to {most}")]
    Count {
        /// How many.
        count: usize,
        /// The most.
        most: usize,
    },
    /// An address, or source or destination, of another family.
    #[error("{address} is not of the family of {source_address}")]
    Family {
        /// The address.
        address: IpAddr,
        /// Where it is to be sent from.
        source_address: IpAddr,
    },
    /// Version 2 over IPv6.
    #[error("version 2 is for IPv4 only")]
    Version2Ipv6,
    /// An interval that the version cannot say.
    #[error("the version cannot say an interval of {centiseconds} hundredths of a second")]
    Interval {
        /// It.
        centiseconds: u16,
    },
    /// A password in version 3.
    #[error("version 3 has no simple authentication")]
    SimpleInV3,
}
