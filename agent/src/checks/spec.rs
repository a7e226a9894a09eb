//! From a HealthCheck and a real server to a probe, its target and its timings.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bascule_checks::{
    Digest, Dns, Http, Invalid, Method, Pattern, Ping, Probe, QueryName, RecordType, Smtp, StatusCodes,
    Target, Tls, Transport, Udp, Verify, Version,
};
use bascule_checks_core::{Thresholds, Timings};
use bascule_crds::HealthCheckSpec;
use bascule_crds::health_check::{
    self as crd, DigestAlgorithm, DnsTransport, DnsType, HttpMethod, HttpProbe, HttpScheme, HttpVersion,
    TlsVerify,
};

// What is accepted can be run.
const _: () = assert!(bascule_checks::PATTERN_MAX == bascule_compile::MAX_PATTERN);
const _: () = assert!(bascule_checks::AUTHORITIES_MAX == bascule_compile::MAX_AUTHORITIES);

/// What is done to find out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// Something is sent.
    Net(Probe),
    /// A program is run.
    Exec {
        /// Base name of the program.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// Whether its exit status is a weight.
        dynamic: bool,
    },
    /// A file is watched.
    File {
        /// Its base name.
        name: String,
    },
}

/// What is found out, and of whom: of one subject there is one verdict, however many services want to know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) what: What,
    pub(super) target: Target,
}

/// A subject, and how often one looks at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) subject: Arc<Subject>,
    /// None: it is watched.
    pub(super) timings: Option<Timings>,
}

/// Whom a check is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whom<'a> {
    /// The real server's address.
    pub(super) address: IpAddr,
    /// The port of its that the service forwards to, of several the first; none where there is none.
    pub(super) port: Option<u16>,
    /// HTTP host of all checks of the service.
    pub(super) check_host: Option<&'a str>,
}

/// The probe of a real server by a HealthCheck, or why there can be none.
pub(super) fn key(spec: &HealthCheckSpec, whom: &Whom<'_>) -> Result<Key, String> {
    let what = what(spec, whom).map_err(|invalid| invalid.to_string())?;
    if let What::File { .. } = what {
        // The same for all real servers.
        let target = Target { address: Ipv4Addr::UNSPECIFIED.into(), port: 0, source: None, mark: None };
        return Ok(Key { subject: Arc::new(Subject { what, target }), timings: None });
    }
    let port = match (spec.port.or(whom.port), &what) {
        (_, What::Net(Probe::Ping(_))) => 0,
        (Some(port), _) => port,
        (None, What::Exec { .. }) => 0,
        (None, _) => {
            return Err("the real server has no port of its own: set `port` in the HealthCheck".into());
        }
    };
    let address = spec.address.unwrap_or(whom.address);
    let target = Target { address, port, source: spec.source_address, mark: spec.mark };
    let timings = timings(spec);
    timings.check().map_err(|error| error.to_string())?;
    Ok(Key { subject: Arc::new(Subject { what, target }), timings: Some(timings) })
}

/// Default timeout of a probe that silence passes. The kernel says that a neighbour is unreachable when it has asked for its address
/// three times, a second apart (`mcast_solicit`, `retrans_time_ms`): a probe that ends before would never hear of it.
const UNREACHABLE: Duration = Duration::from_secs(4);

/// Timings with the defaults that depend on each other.
fn timings(spec: &HealthCheckSpec) -> Timings {
    let interval = spec.interval.as_std();
    let silence_passes = spec.udp.as_ref().is_some_and(|udp| !udp.require_reply);
    let timeout = if silence_passes {
        let retry = spec.retry_interval.map_or(interval, |retry| retry.as_std());
        UNREACHABLE.min(interval).min(retry)
    } else {
        Timings::every(interval).timeout
    };
    Timings {
        timeout: spec.timeout.map_or(timeout, |timeout| timeout.as_std()),
        retry_interval: spec.retry_interval.map(|retry| retry.as_std()),
        initial_delay: spec.initial_delay.map(|delay| delay.as_std()),
        thresholds: Thresholds { rise: spec.rise, fall: spec.fall },
        ..Timings::every(interval)
    }
}

fn what(spec: &HealthCheckSpec, whom: &Whom<'_>) -> Result<What, Invalid> {
    let probe = if spec.tcp.is_some() {
        Probe::Tcp
    } else if let Some(probe) = &spec.http {
        Probe::Http(http(probe, whom)?)
    } else if let Some(smtp) = &spec.smtp {
        Probe::Smtp(Smtp { helo: smtp.helo.clone(), start_tls: smtp.start_tls })
    } else if let Some(probe) = &spec.dns {
        Probe::Dns(dns(probe)?)
    } else if let Some(probe) = &spec.udp {
        Probe::Udp(udp(probe)?)
    } else if let Some(ping) = &spec.ping {
        Probe::Ping(Ping { size: ping.size.unwrap_or(Ping::default().size) })
    } else if let Some(exec) = &spec.exec {
        let (program, args) = (exec.program.clone(), exec.args.clone());
        return Ok(What::Exec { program, args, dynamic: exec.dynamic_weight });
    } else if let Some(file) = &spec.file {
        return Ok(What::File { name: file.name.clone() });
    } else {
        // The schema asks for one of them.
        Probe::Tcp
    };
    Ok(What::Net(probe))
}

fn http(probe: &HttpProbe, whom: &Whom<'_>) -> Result<Http, Invalid> {
    let tls = (probe.scheme == HttpScheme::Https).then(|| {
        let tls = probe.tls.clone().unwrap_or_default();
        let verify = match (tls.verify, tls.ca_bundle) {
            (TlsVerify::None, _) => Verify::Nothing,
            (TlsVerify::Full, Some(bundle)) => Verify::Authorities(bundle.into()),
            (TlsVerify::Full, None) => Verify::System,
        };
        Tls { server_name: tls.server_name, verify }
    });
    let digest = match &probe.digest {
        None => None,
        Some(crd::Digest { algorithm: DigestAlgorithm::Md5, value }) => Some(Digest::md5(value)?),
        Some(crd::Digest { algorithm: DigestAlgorithm::Sha256, value }) => Some(Digest::sha256(value)?),
    };
    let body = probe.body.clone().unwrap_or_default();
    Ok(Http {
        tls,
        path: probe.path.clone(),
        host: probe.host.clone().or_else(|| whom.check_host.map(ToOwned::to_owned)),
        method: match probe.method {
            HttpMethod::Get => Method::Get,
            HttpMethod::Head => Method::Head,
        },
        version: match probe.version {
            HttpVersion::V1_0 => Version::V1_0,
            HttpVersion::V1_1 => Version::V1_1,
        },
        headers: probe.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect(),
        status: StatusCodes::parse(&probe.status_codes)?,
        digest,
        matches: body.matches,
        not_matches: body.not_matches,
    })
}

fn dns(probe: &crd::DnsProbe) -> Result<Dns, Invalid> {
    Ok(Dns {
        name: QueryName::parse(&probe.name)?,
        record_type: match probe.type_ {
            DnsType::A => RecordType::A,
            DnsType::Aaaa => RecordType::Aaaa,
            DnsType::Cname => RecordType::Cname,
            DnsType::Dnskey => RecordType::Dnskey,
            DnsType::Mx => RecordType::Mx,
            DnsType::Ns => RecordType::Ns,
            DnsType::Rrsig => RecordType::Rrsig,
            DnsType::Soa => RecordType::Soa,
            DnsType::Txt => RecordType::Txt,
        },
        transport: match probe.transport {
            DnsTransport::Udp => Transport::Udp,
            DnsTransport::Tcp => Transport::Tcp,
        },
    })
}

fn udp(probe: &crd::UdpProbe) -> Result<Udp, Invalid> {
    Ok(Udp {
        payload: probe.payload.as_deref().map(Udp::payload).transpose()?.unwrap_or_default(),
        require_reply: probe.require_reply,
        reply: probe.reply.as_deref().map(Pattern::parse).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_silence_passes_waits_for_the_kernel_to_give_up() {
        for (spec, timeout) in [
            (serde_json::json!({"udp": {}}), 4_000),
            (serde_json::json!({"udp": {}, "interval": "1s"}), 1_000),
            (serde_json::json!({"udp": {}, "retryInterval": "3s500ms"}), 3_500),
            (serde_json::json!({"udp": {}, "timeout": "2s"}), 2_000),
            (serde_json::json!({"udp": {"requireReply": true}}), 3_000),
            (serde_json::json!({"tcp": {}}), 3_000),
        ] {
            let timings = timings(&serde_json::from_value(spec.clone()).unwrap());
            assert_eq!(timings.timeout, Duration::from_millis(timeout), "{spec}");
            timings.check().unwrap();
        }
    }
}
