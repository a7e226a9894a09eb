//! Reads what `ipvsadm -Ln` prints.

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `TCP 192.16.193.30:80`, `FWM 1`, `FWM 1 IPv6`.
    pub service: String,
    /// `rr`.
    pub scheduler: String,
    /// The other words of its line: `ops`, `persistent 360`.
    pub flags: String,
    /// Its real servers.
    pub destinations: Vec<Destination>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// `172.16.193.10:80`.
    pub server: String,
    /// `Masq`, `Route`, `Tunnel`, `Local`.
    pub forward: String,
    /// Its weight.
    pub weight: u32,
    /// Active connections.
    pub active: u64,
    /// Inactive connections.
    pub inactive: u64,
}

impl Destination {
    /// As it is printed, spaces in a row as one.
    pub fn line(&self) -> String {
        format!("-> {} {} {} {} {}", self.server, self.forward, self.weight, self.active, self.inactive)
    }
}

impl Service {
    /// As it is printed.
    pub fn line(&self) -> String {
        let mut line = format!("{} {}", self.service, self.scheduler);
        if !self.flags.is_empty() {
            line.push(' ');
            line.push_str(&self.flags);
        }
        line
    }
}

/// Reads all of it.
///
/// # Errors
/// The line that is not as `ipvsadm` prints.
pub fn parse(text: &str) -> Result<Vec<Service>, String> {
    let mut services: Vec<Service> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let wrong = || format!("`{}` is no line of `ipvsadm -Ln`", line.trim());
        match words.as_slice() {
            [] | ["IP", "Virtual", "Server", ..] | ["Prot", ..] | ["->", "RemoteAddress:Port", ..] => {}
            ["->", server, forward, weight, active, inactive] => {
                let service = services.last_mut().ok_or_else(wrong)?;
                service.destinations.push(Destination {
                    server: (*server).to_owned(),
                    forward: (*forward).to_owned(),
                    weight: weight.parse().map_err(|_| wrong())?,
                    active: active.parse().map_err(|_| wrong())?,
                    inactive: inactive.parse().map_err(|_| wrong())?,
                });
            }
            [protocol @ ("TCP" | "UDP" | "SCTP"), address, scheduler, flags @ ..] => services.push(Service {
                service: format!("{protocol} {address}"),
                scheduler: (*scheduler).to_owned(),
                flags: flags.join(" "),
                destinations: Vec::new(),
            }),
            ["FWM", mark, "IPv6", scheduler, flags @ ..] => services.push(Service {
                service: format!("FWM {mark} IPv6"),
                scheduler: (*scheduler).to_owned(),
                flags: flags.join(" "),
                destinations: Vec::new(),
            }),
            ["FWM", mark, scheduler, flags @ ..] => services.push(Service {
                service: format!("FWM {mark}"),
                scheduler: (*scheduler).to_owned(),
                flags: flags.join(" "),
                destinations: Vec::new(),
            }),
            _ => return Err(wrong()),
        }
    }
    Ok(services)
}

#[cfg(test)]
pub(crate) const TP: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.16.193.30:80 rr
  -> 172.16.193.10:80             Masq    1      0          3         
  -> 172.16.193.40:80             Masq    1      2          1         
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tp() {
        let services = parse(TP).unwrap();
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].line(), "TCP 192.16.193.30:80 rr");
        assert_eq!(services[0].destinations[1].line(), "-> 172.16.193.40:80 Masq 1 2 1");
    }

    #[test]
    fn every_kind_of_service() {
        let text = "\
UDP  [2001:db8::30]:53 wrr ops
FWM  1 rr persistent 360
  -> 172.16.193.10:0              Route   1      0          0
FWM  2 IPv6 wlc
SCTP 10.0.0.1:9 mh (flag-1)
";
        let services = parse(text).unwrap();
        let lines: Vec<String> = services.iter().map(Service::line).collect();
        assert_eq!(
            lines,
            [
                "UDP [2001:db8::30]:53 wrr ops",
                "FWM 1 rr persistent 360",
                "FWM 2 IPv6 wlc",
                "SCTP 10.0.0.1:9 mh (flag-1)"
            ]
        );
        assert!(parse("  -> 1.2.3.4:80 Masq 1 0 0").is_err(), "a server without a service");
        assert!(parse("Can't initialize ipvs: Protocol not available").is_err());
    }
}
