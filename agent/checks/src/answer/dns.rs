//! DNS messages (RFC 1035, section 4.1), as much of them as a check needs: a question, and the head of an answer.

use crate::Invalid;

/// Bytes of a query at most: a header, a name of 255 and its type and class.
pub const QUERY_MAX: usize = 12 + 255 + 4;
/// Bytes of an answer at most: what a message may have over TCP.
pub const ANSWER_MAX: usize = 65_535;

/// Bytes of a header.
const HEADER: usize = 12;
/// Class IN.
const IN: u16 = 1;

/// A name in a query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueryName {
    /// As on the wire: labels with their lengths, the last one empty.
    wire: Box<[u8]>,
}

impl Default for QueryName {
    /// The root.
    fn default() -> Self {
        Self { wire: [0].into() }
    }
}

impl QueryName {
    /// From a name such as `www.example`, with or without the dot at its end; `.` is the root.
    ///
    /// # Errors
    ///
    /// A label is empty or longer than 63 bytes, or the name longer than 255 on the wire.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new("dns.name", "must be a domain name");
        if name == "." {
            return Ok(Self::default());
        }
        let mut wire = Vec::with_capacity(name.len() + 2);
        for label in name.strip_suffix('.').unwrap_or(name).split('.') {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
            wire.push(length.ok_or_else(invalid)?);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        if wire.len() > 255 { Err(invalid()) } else { Ok(Self { wire: wire.into() }) }
    }
}

impl std::fmt::Display for QueryName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = &*self.wire;
        let mut first = true;
        while let Some((length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
            let Some((label, next)) = after.split_at_checked(usize::from(*length)) else { break };
            write!(f, "{}{}", if first { "" } else { "." }, String::from_utf8_lossy(label))?;
            (rest, first) = (next, false);
        }
        if first { f.write_str(".") } else { Ok(()) }
    }
}

/// Type of a record (RFC 1035, section 3.2.2; RFC 3596; RFC 4034).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the DNS")]
#[repr(u16)]
pub enum RecordType {
    A = 1,
    Ns = 2,
    Cname = 5,
    #[default]
    Soa = 6,
    Mx = 15,
    Txt = 16,
    Aaaa = 28,
    Rrsig = 46,
    Dnskey = 48,
}

impl RecordType {
    /// As in a zone file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Ns => "NS",
            Self::Cname => "CNAME",
            Self::Soa => "SOA",
            Self::Mx => "MX",
            Self::Txt => "TXT",
            Self::Aaaa => "AAAA",
            Self::Rrsig => "RRSIG",
            Self::Dnskey => "DNSKEY",
        }
    }
}

/// A query, with recursion desired.
pub fn query(id: u16, name: &QueryName, record_type: RecordType) -> Vec<u8> {
    let mut message = Vec::with_capacity(QUERY_MAX);
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message.extend_from_slice(&name.wire);
    message.extend_from_slice(&(record_type as u16).to_be_bytes());
    message.extend_from_slice(&IN.to_be_bytes());
    message
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response code; 0 is `NOERROR`.
    pub code: u8,
}

impl Answer {
    /// The response code's name (RFC 6895, section 2.3).
    pub fn name(self) -> String {
        let name = match self.code {
            0 => "NOERROR",
            1 => "FORMERR",
            2 => "SERVFAIL",
            3 => "NXDOMAIN",
            4 => "NOTIMP",
            5 => "REFUSED",
            code => return format!("RCODE {code}"),
        };
        name.into()
    }
}

/// Why a message is not the answer to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTheAnswer {
    /// Shorter than a header.
    #[error("something that is not DNS")]
    NotDns,
    /// Another id.
    #[error("an answer to another query (id)")]
    OtherId,
    /// It is a query itself.
    #[error("a query instead of an answer")]
    Query,
    /// Another question.
    #[error("an answer to another question")]
    OtherQuestion,
}

/// Reads a message as the answer to a query that [`query`] made.
///
/// A failing server may leave the question out (RFC 2136, section 2.2, allows it for errors).
///
/// # Errors
///
/// It is none.
pub fn answer(query: &[u8], message: &[u8]) -> Result<Answer, NotTheAnswer> {
    let (header, rest) = message.split_at_checked(HEADER).ok_or(NotTheAnswer::NotDns)?;
    if query.get(..2) != header.get(..2) {
        return Err(NotTheAnswer::OtherId);
    }
    if header[2] & 0x80 == 0 {
        return Err(NotTheAnswer::Query);
    }
    let answer = Answer { code: header[3] & 0x0f };
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let question = query.get(HEADER..).unwrap_or_default();
    let same = rest.get(..question.len()).is_some_and(|theirs| theirs.eq_ignore_ascii_case(question));
    if (questions == 1 && same) || (questions == 0 && answer.code != 0) {
        Ok(answer)
    } else {
        Err(NotTheAnswer::OtherQuestion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, wire) in [(".", &b"\0"[..]), ("a.bc", b"\x01a\x02bc\0"), ("a.bc.", b"\x01a\x02bc\0")] {
            assert_eq!(&*QueryName::parse(text).unwrap().wire, wire);
        }
        assert_eq!(QueryName::parse("a.bc.").unwrap().to_string(), "a.bc");
        assert_eq!(QueryName::default().to_string(), ".");
        for bad in ["", "..", "a..b", ".a", &"a".repeat(64), &"a.".repeat(128)] {
            assert!(QueryName::parse(bad).is_err(), "{bad}");
        }
        assert!(QueryName::parse(&"a.".repeat(127)).is_ok());
    }

    #[test]
    fn the_query_is_as_keepalived_asks() {
        let query = query(0x1234, &QueryName::default(), RecordType::Soa);
        assert_eq!(query, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\0\0\x06\0\x01");
    }

    #[test]
    fn answers() {
        let query = query(0x1234, &QueryName::parse("a.bc").unwrap(), RecordType::A);
        let mut message = query.clone();
        assert_eq!(answer(&query, &message), Err(NotTheAnswer::Query));
        message[2] |= 0x80;
        assert_eq!(answer(&query, &message), Ok(Answer { code: 0 }));
        message[13] = b'A';
        assert_eq!(answer(&query, &message), Ok(Answer { code: 0 }), "names have no case");
        message[3] = 0x83;
        assert_eq!(answer(&query, &message).unwrap().name(), "NXDOMAIN");
        message[13] = b'b';
        assert_eq!(answer(&query, &message), Err(NotTheAnswer::OtherQuestion));
        message[5] = 0;
        assert_eq!(answer(&query, &message[..12]), Ok(Answer { code: 3 }));
        message[3] = 0;
        assert_eq!(answer(&query, &message[..12]), Err(NotTheAnswer::OtherQuestion));
        message[0] = 0;
        assert_eq!(answer(&query, &message), Err(NotTheAnswer::OtherId));
        assert_eq!(answer(&query, &message[..11]), Err(NotTheAnswer::NotDns));
    }
}
