//! Errors of TLS in words for a person.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::words;

/// Names of a certificate that a message has room for.
const NAMES: usize = 3;

/// An error of a TLS connection.
pub(crate) fn words(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection within TLS".into()
        }
        None => words::io(error),
    }
}

fn tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        ) => "the server sent something that is not TLS".into(),
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::DecryptError
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord => "the server sent broken TLS".into(),
        Error::PeerIncompatible(_) | Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the server and we have no version or cipher of TLS in common (1.2 and 1.3)".into()
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the server does not know the name that it was asked for (SNI)".into()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a certificate of us".into()
        }
        Error::AlertReceived(alert) => format!("the server refused TLS: {alert:?}"),
        Error::NoCertificatesPresented => "the server showed no certificate".into(),
        error => error.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "certificate expired".into(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("certificate expired {} ago", age(time.as_secs().saturating_sub(not_after.as_secs())))
        }
        CertificateError::NotValidYet => "certificate is not valid yet".into(),
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("certificate is valid in {}", age(not_before.as_secs().saturating_sub(time.as_secs())))
        }
        CertificateError::NotValidForName => "certificate is for another name".into(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().take(NAMES).map(|name| bare(name)).collect();
            let theirs = match (names.join(", "), presented.len() > NAMES) {
                (names, _) if names.is_empty() => "no name".into(),
                (names, true) => format!("{names}, …"),
                (names, false) => names,
            };
            format!("certificate is for {theirs}, not {}", expected.to_str())
        }
        CertificateError::UnknownIssuer => "certificate is self-signed or of an unknown authority".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate is not for servers".into()
        }
        CertificateError::BadSignature => "certificate is not signed by the authority that it names".into(),
        CertificateError::BadEncoding => "certificate is broken".into(),
        CertificateError::UnhandledCriticalExtension => {
            "certificate has an unknown critical extension".into()
        }
        error => format!("certificate: {error}"),
    }
}

/// The name in `DnsName("www.example")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')'));
    inner.trim_matches('"')
}

/// Seconds in the largest unit that fits.
fn age(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(age(59), "59 seconds");
        assert_eq!(age(60), "1 minute");
        assert_eq!(age(3 * 86_400 + 5), "3 days");
    }

    #[test]
    fn names_of_certificates() {
        assert_eq!(bare("DnsName(\"www.example\")"), "www.example");
        assert_eq!(bare("IpAddress(::1)"), "::1");
        assert_eq!(bare("www.example"), "www.example");
    }
}
