//! HealthChecks: what can be said of one alone, and whether a real server can be checked by it.

use std::net::IpAddr;

use bascule_crds::common::Family;
use bascule_crds::health_check::{BodyMatch, HealthCheckSpec, HttpProbe, HttpScheme};
use regex::bytes::RegexBuilder;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use webpki::anchor_from_trusted_cert;

use crate::problem::Problems;
use crate::service::not_of_a_machine;
use crate::types::Problem;

/// Bytes that a regular expression may take once it is compiled, at most. Whoever runs it allows as many: the time of a match grows
/// with this, whatever the body is.
pub const MAX_PATTERN: usize = 256 * 1024;
/// Certificates in one bundle at most. Whoever verifies by it allows as many.
pub const MAX_AUTHORITIES: usize = 256;

/// What a service has to know of a HealthCheck that it names. What is not in it can change without anybody being looked at anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traits {
    /// It needs the port of what it probes, and says none itself.
    pub(crate) needs_port: bool,
    /// It probes this address instead of the real server's.
    pub(crate) address: Option<IpAddr>,
    /// Family of the address that it probes from.
    pub(crate) source: Option<Family>,
    /// It runs a program.
    pub(crate) exec: bool,
    /// It may say what a real server weighs.
    pub(crate) weighs: bool,
}

impl Traits {
    pub(crate) fn of(spec: &HealthCheckSpec) -> Traits {
        let portless = spec.ping.is_some() || spec.exec.is_some() || spec.file.is_some();
        Traits {
            needs_port: !portless && spec.port.is_none(),
            address: spec.address,
            source: spec.source_address.map(Family::of),
            exec: spec.exec.is_some(),
            weighs: spec.file.is_some() || spec.exec.as_ref().is_some_and(|exec| exec.dynamic_weight),
        }
    }
}

/// Everything in which the spec contradicts itself and that its schema cannot see.
pub(crate) fn problems(spec: &HealthCheckSpec) -> Vec<Problem> {
    let mut problems = Problems::default();
    for (field, address) in [("spec.address", spec.address), ("spec.sourceAddress", spec.source_address)] {
        if let Some((address, what)) = address.and_then(|one| Some((one, not_of_a_machine(one)?))) {
            problems.invalid(field, format!("{address} is {what}, which no machine can have"));
        } else if let Some(IpAddr::V6(address)) = address
            && address.is_unicast_link_local()
        {
            // Two links can have the same one, and nothing here says which is meant: the kernel refuses it.
            problems
                .invalid(field, format!("{address} is link-local: without an interface it leads nowhere"));
        }
    }
    if let Some(http) = &spec.http {
        http_problems(http, &mut problems);
    }
    problems.0
}

fn http_problems(http: &HttpProbe, problems: &mut Problems) {
    let BodyMatch { matches, not_matches } = http.body.clone().unwrap_or_default();
    for (field, pattern) in [("matches", matches), ("notMatches", not_matches)] {
        if let Some(why) = pattern.as_deref().and_then(not_a_pattern) {
            problems.invalid(format!("spec.http.body.{field}"), why);
        }
    }
    if http.scheme != HttpScheme::Https {
        return;
    }
    let tls = http.tls.clone().unwrap_or_default();
    if let Some(why) = tls.ca_bundle.as_deref().and_then(not_authorities) {
        problems.invalid("spec.http.tls.caBundle", why);
    }
    let (field, name) = match (&tls.server_name, &http.host) {
        (Some(name), _) => ("spec.http.tls.serverName", &**name),
        (None, Some(host)) => ("spec.http.host", without_port(host)),
        (None, None) => return,
    };
    if ServerName::try_from(name).is_err() {
        let what = if tls.server_name.is_some() { "" } else { ", which TLS asks for: set tls.serverName" };
        problems.invalid(field, format!("{name} is not the name of a server{what}"));
    }
}

/// A host without its port and without the brackets of an IPv6 address.
fn without_port(host: &str) -> &str {
    if let Some((inside, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside;
    }
    match host.split_once(':') {
        // More colons than one are an IPv6 address.
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

/// Why a text is no regular expression that can be run, if so. The syntax is that of RE2 and of Go: no look-around and no
/// back-references, so that a match takes time in proportion to the body.
fn not_a_pattern(text: &str) -> Option<String> {
    match RegexBuilder::new(text).size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN).build() {
        Ok(_) => None,
        Err(regex::Error::CompiledTooBig(_)) => Some(format!(
            "takes more than {} KiB once its repetitions are written out; make them smaller",
            MAX_PATTERN / 1024
        )),
        Err(error) => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Some(format!("is not a regular expression (RE2): {last}"))
        }
    }
}

/// Why a text does not hold certificates of authorities, if so.
fn not_authorities(text: &str) -> Option<String> {
    if let Some(why) = not_certificates(text) {
        return Some(why.into());
    }
    for (index, certificate) in CertificateDer::pem_slice_iter(text.as_bytes()).enumerate() {
        if index == MAX_AUTHORITIES {
            return Some(format!("has more than {MAX_AUTHORITIES} certificates"));
        }
        let is_one = certificate.is_ok_and(|der| anchor_from_trusted_cert(&der).is_ok());
        if !is_one {
            return Some(format!("certificate {} is broken, or cannot be that of an authority", index + 1));
        }
    }
    None
}

/// Why a text is not a row of certificates in PEM (RFC 7468), if so.
fn not_certificates(text: &str) -> Option<&'static str> {
    let mut inside = false;
    let mut digits = 0;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match (line, inside) {
            ("-----BEGIN CERTIFICATE-----", false) => (inside, digits) = (true, 0),
            ("-----END CERTIFICATE-----", true) if digits > 0 && digits % 4 == 0 => inside = false,
            ("-----END CERTIFICATE-----", true) => {
                return Some("has a certificate whose base64 is cut off");
            }
            (line, _) if line.starts_with("-----") => {
                return Some(
                    "must hold certificates in PEM and nothing else, each from BEGIN to END CERTIFICATE",
                );
            }
            (line, true)
                if line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)) =>
            {
                digits += line.len();
            }
            (_, true) => return Some("has a certificate that is not base64"),
            // Explanations between certificates are usual.
            (_, false) => {}
        }
    }
    inside.then_some("has a certificate without its end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_explodes_is_no_pattern() {
        for good in [
            "^ok$",
            "a|b",
            "(a|b){1500}",
            r"\w+@\w+\.\w+",
            r"\d{3}",
            "(?i)it works",
            "[[:alpha:]]+",
            "(a*)*b",
            r"\x00\xff",
        ] {
            assert_eq!(not_a_pattern(good), None, "{good}");
        }
        for (bad, words) in [
            ("(", "unclosed group"),
            ("(?=a)", "look-around"),
            (r"(a)\1", "backreferences"),
            ("[z-a]", "invalid character class range"),
            ("((a{100}){100}){100}", "more than 256 KiB"),
            // Of some 45 KiB each.
            (r"\w{6}", "more than 256 KiB"),
        ] {
            let why = not_a_pattern(bad).unwrap_or_default();
            assert!(why.contains(words), "{bad}: {why}");
        }
    }

    #[test]
    fn certificates_are_whole() {
        let one = "-----BEGIN CERTIFICATE-----\nMIIB\nAA==\n-----END CERTIFICATE-----\n";
        assert_eq!(not_certificates(one), None);
        assert_eq!(not_certificates(&format!("# ours\n{one}\nanother one:\r\n{one}")), None);
        for (bad, words) in [
            (one.replace("AA==", "AA="), "cut off"),
            (one.replace("MIIB\nAA==\n", ""), "cut off"),
            (one.replace("AA==", "A,=="), "not base64"),
            (one.replace("-----END CERTIFICATE-----", ""), "without its end"),
            (format!("{one}-----BEGIN PRIVATE KEY-----"), "nothing else"),
            (one.replace("END", "BEGIN"), "nothing else"),
        ] {
            assert!(not_certificates(&bad).is_some_and(|why| why.contains(words)), "{bad}");
        }
    }

    /// Of an authority, from `openssl req -x509`.
    const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBcTCCARegAwIBAgIUVdudIvEiyvljUASOkb99x6ovUTcwCgYIKoZIzj0EAwIw\n\
DTELMAkGA1UEAwwCY2EwIBcNMjYxMTI3MjE1NzAwWhgPMjEyNjExMDMyMTU3MDBa\n\
MA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEX62sQLo5\n\
q8cHTTnG7IBVdwlBjZU3HcoZcjG4XBtl+RsareTOZqrE/dVgS8YC68PLHvH/yeHk\n\
CmDT9SuTujLxOaNTMFEwHQYDVR0OBBYEFNccc4+WOh8Hs6bVDlimhDKIHpuMMB8G\n\
A1UdIwQYMBaAFNccc4+WOh8Hs6bVDlimhDKIHpuMMA8GA1UdEwEB/wQFMAMBAf8w\n\
CgYIKoZIzj0EAwIDSAAwRQIhAOMpr6EVjBB9U2NbM2Lab/av3qela9hlmerN1BSP\n\
9R1uAiBiCBphkyao/OrAgGVmOhm2lUqInG/1AFG04PwUF9GVfA==\n\
-----END CERTIFICATE-----\n\
";

    #[test]
    fn a_bundle_holds_authorities() {
        assert_eq!(not_authorities(AUTHORITY), None);
        assert_eq!(not_authorities(&format!("ours:\n{AUTHORITY}\n{AUTHORITY}")), None);
        let broken = AUTHORITY.replacen("MII", "MIA", 1);
        let none = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        for (bad, words) in [
            (none.to_owned(), "certificate 1 is broken"),
            (format!("{AUTHORITY}{none}"), "certificate 2 is broken"),
            (broken, "certificate 1 is broken"),
            (AUTHORITY.repeat(MAX_AUTHORITIES + 1), "more than 256 certificates"),
        ] {
            assert!(not_authorities(&bad).is_some_and(|why| why.contains(words)), "{bad}");
        }
    }
}
