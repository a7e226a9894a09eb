//! What loads and recordings a scenario has.

use std::collections::BTreeSet;

use super::expectation::{Expectation, Kind};
use super::step::{Action, Step};
use super::suggest;
use super::topology::Link;
use super::{Record, Scenario};

/// The name of the load that a step begins.
pub(crate) fn load_name(step: &Step) -> Option<&str> {
    let given = match &step.action {
        Action::Requests(requests) => requests.load.as_ref(),
        Action::Hold(hold) => hold.load.as_ref(),
        _ => return None,
    };
    Some(given.map_or(step.name.as_str(), String::as_str))
}

/// Where a load goes, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `http`, `tcp`, `udp` or `ping`.
    pub(crate) scheme: String,
    /// What the load program takes: the whole URL for HTTP, the address for pings, `ADDRESS:PORT` for the others.
    pub(crate) argument: String,
}

impl Target {
    pub(crate) fn parse(target: &str, schemes: &[&str]) -> Result<Self, String> {
        let Some((scheme, rest)) = target.split_once("://") else {
            return Err(format!("`{target}` has no scheme; write `{}://…`", schemes[0]));
        };
        if !schemes.contains(&scheme) {
            return Err(format!("`{scheme}` is not possible here; use {}", suggest::list(schemes)));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if scheme != "http" && rest.contains('/') {
            return Err(format!("`{target}` has a path, which {scheme} does not know"));
        }
        if authority.is_empty() || target.chars().any(char::is_whitespace) || path.len() > 200 {
            return Err(format!("`{target}` is not a target such as `http://192.16.193.30/`"));
        }
        let socket = authority.parse::<std::net::SocketAddr>().is_ok_and(|socket| socket.port() > 0);
        let host = authority == "localhost"
            || authority.parse::<std::net::Ipv4Addr>().is_ok()
            || authority
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        let named = authority
            .strip_prefix("localhost:")
            .is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        match scheme {
            "http" if socket || host || named => {
                Ok(Self { scheme: "http".into(), argument: target.to_owned() })
            }
            "ping" if authority.parse::<std::net::IpAddr>().is_ok() => {
                Ok(Self { scheme: scheme.into(), argument: authority.to_owned() })
            }
            "ping" => Err(format!("`{authority}` is not an address, such as `192.16.193.30`")),
            "tcp" | "udp" if socket => Ok(Self { scheme: scheme.into(), argument: authority.to_owned() }),
            "http" => Err(format!(
                "`{authority}` is neither an address (`192.16.193.30`, `[2001:db8::30]:8080`) nor `localhost`"
            )),
            _ => Err(format!("`{authority}` is not an address with a port, such as `192.16.193.30:53`")),
        }
    }
}

/// The links that are recorded from the start: node and interface.
pub(crate) fn recorded(scenario: &Scenario) -> BTreeSet<(String, String)> {
    let mut links = BTreeSet::new();
    for node in &scenario.topology.nodes {
        if scenario.record == Record::All || (scenario.record == Record::Directors && node.is_director()) {
            let cables = node.links.iter().flat_map(Link::cables);
            links.extend(cables.map(|cable| (node.name.to_string(), cable.to_string())));
        }
    }
    for step in &scenario.steps {
        let expectations: &[Expectation] = match &step.action {
            Action::Expect(expectations) => expectations,
            Action::Wait(wait) => &wait.until,
            _ => &[],
        };
        for expectation in expectations {
            match &expectation.kind {
                Kind::Frames(frames) => {
                    links.insert((frames.node.to_string(), frames.interface.to_string()));
                }
                Kind::Claims(claims) => {
                    links.insert((claims.node.to_string(), claims.interface.to_string()));
                }
                _ => {}
            }
        }
    }
    links
}
