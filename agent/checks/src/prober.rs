//! Makes probes ready, and runs them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::course::Course;
use crate::{
    FetchError, Http, Invalid, Outcome, Page, PrepareError, Probe, Target, dns, http, ping, smtp, tcp, tls,
    udp,
};

/// What all probes of a director have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name given in HELO unless told: the director's.
    pub helo: String,
}

/// Makes probes ready. What many probes have in common, such as TLS settings and regular expressions, exists once.
#[derive(Debug)]
pub struct Prober {
    settings: Settings,
    tls: tls::Configs,
    patterns: http::Patterns,
}

impl Prober {
    /// A prober. It opens nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, tls: tls::Configs::new(), patterns: http::Patterns::default() }
    }

    /// Makes a probe of a target ready.
    ///
    /// # Errors
    ///
    /// A setting is wrong, or HTTPS is to be verified against the system's authorities and there are none.
    pub fn prepare(&self, probe: &Probe, target: &Target) -> Result<Prepared, PrepareError> {
        check(probe, target)?;
        let kind = match probe {
            Probe::Tcp => Kind::Tcp,
            Probe::Http(http) => {
                Kind::Http(Box::new(http::Request::new(http, target, &self.tls, &self.patterns)?))
            }
            Probe::Smtp(smtp) => {
                Kind::Smtp(smtp::Conversation::new(smtp, &self.settings.helo, target, &self.tls)?)
            }
            Probe::Dns(dns) => Kind::Dns(dns::Question::new(dns)),
            Probe::Udp(udp) => Kind::Udp(udp::Datagram::new(udp)?),
            Probe::Ping(ping) => Kind::Ping(ping::Echo::new(*ping)?),
        };
        Ok(Prepared(Arc::new(Ready { target: target.clone(), kind })))
    }

    /// Fetches a page as [`Probe::Http`] does, whatever its status code, and says what its digests are.
    ///
    /// # Errors
    ///
    /// A setting is wrong, the page does not come within `timeout`, or it is longer than
    /// [`BODY_MAX`](crate::answer::http::BODY_MAX).
    pub async fn fetch(&self, http: &Http, target: &Target, timeout: Duration) -> Result<Page, FetchError> {
        check(&Probe::Http(http.clone()), target).map_err(PrepareError::from)?;
        let request = http::Request::new(http, target, &self.tls, &self.patterns)?;
        request.fetch(target, &Course::new(timeout)).await.map_err(FetchError::Failed)
    }
}

/// Whether a target can be probed at all.
fn check(probe: &Probe, target: &Target) -> Result<(), Invalid> {
    if target.port == 0 && !matches!(probe, Probe::Ping(_)) {
        return Err(Invalid::new("port", "0 cannot be probed: set the port of the check"));
    }
    if target.address.is_unspecified() || target.address.is_multicast() {
        return Err(Invalid::new("address", format!("{} is not an address of one machine", target.address)));
    }
    match target.source {
        Some(source) if source.to_canonical().is_ipv4() != target.address.to_canonical().is_ipv4() => {
            Err(Invalid::new("sourceAddress", format!("{source} is not of the family of {}", target.address)))
        }
        _ => Ok(()),
    }
}

/// A probe that is ready to be run, as often as wanted, several runs at once if need be. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Prepared(Arc<Ready>);

#[derive(Debug)]
struct Ready {
    target: Target,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp,
    Http(Box<http::Request>),
    Smtp(smtp::Conversation),
    Dns(dns::Question),
    Udp(udp::Datagram),
    Ping(ping::Echo),
}

impl Prepared {
    /// Probes once. It ends within `timeout`, or within twice that where it waits for the matches of others; dropping it gives the probe up and closes its sockets. Where this machine lacks
    /// what it takes to ask, such as descriptors, memory, ports or the source address, the outcome is
    /// [undecided](Outcome::undecided).
    pub fn run(&self, timeout: Duration) -> impl Future<Output = Outcome> + Send + 'static + use<> {
        let ready = Arc::clone(&self.0);
        async move {
            let course = Course::new(timeout);
            let outcome = match &ready.kind {
                Kind::Tcp => tcp::run(&ready.target, &course).await,
                Kind::Http(request) => request.run(&ready.target, &course).await,
                Kind::Smtp(conversation) => conversation.run(&ready.target, &course).await,
                Kind::Dns(question) => question.run(&ready.target, &course).await,
                Kind::Udp(datagram) => datagram.run(&ready.target, &course).await,
                Kind::Ping(echo) => echo.run(&ready.target, &course).await,
            };
            if course.was_short() && !outcome.is_passed() {
                Outcome::undecided(outcome.message())
            } else {
                outcome
            }
        }
    }
}
