//! What /proc tells.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Wanted, read_bounded};

/// Some twenty thousand connections, some hundred bytes each.
const CONNECTIONS: u64 = 4 << 20;
/// Some ten thousand sockets.
const SOCKETS: u64 = 2 << 20;

/// Connections that came from another director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) connections: u64,
    /// The file is longer than what was read of it.
    pub(super) at_least: bool,
}

/// Counts /proc/net/ip_vs_conn_sync of this thread's network namespace; none where there is no such file.
pub(super) fn synchronised() -> Option<Count> {
    let (text, cut) = read_bounded("/proc/thread-self/net/ip_vs_conn_sync", CONNECTIONS).ok()?;
    Some(count(&text, cut))
}

/// `Pro FromIP FPrt ToIP TPrt DestIP DPrt State Origin Expires`.
fn count(text: &str, cut: bool) -> Count {
    let synchronised = |line: &&str| line.split_whitespace().nth(8) == Some("SYNC");
    Count {
        connections: u64::try_from(text.lines().filter(synchronised).count()).unwrap_or(u64::MAX),
        at_least: cut,
    }
}

/// Datagrams that found no room in the sockets of the group, but for the socket with this inode.
pub(super) fn drops(wanted: &Wanted, but: u64) -> Option<u64> {
    let path =
        if wanted.group.is_ipv4() { "/proc/thread-self/net/udp" } else { "/proc/thread-self/net/udp6" };
    let (text, _) = read_bounded(path, SOCKETS).ok()?;
    Some(sum(&text, wanted, but))
}

/// `sl local rem st tx:rx tr:when retrnsmt uid timeout inode ref pointer drops`.
fn sum(text: &str, wanted: &Wanted, but: u64) -> u64 {
    let dropped = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let here = u16::from_str_radix(port, 16).ok()? == wanted.port && parse(address)? == wanted.group;
        let inode: u64 = fields.get(9)?.parse().ok()?;
        (here && inode != but).then(|| fields.get(12)?.parse::<u64>().ok()).flatten()
    });
    dropped.fold(0, u64::saturating_add)
}

/// Words of four bytes, each in the order of the machine.
fn parse(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (index, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(index * 8)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(group: &str) -> Wanted {
        Wanted {
            interface: "eth1".into(),
            sync_id: 1,
            group: group.parse().unwrap(),
            port: 8848,
            ttl: 1,
            max_length: None,
        }
    }

    #[test]
    fn connections_from_elsewhere_are_counted() {
        let text = "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires
TCP 0A000064 D431 0A00001E 0050 0A00000A 0050 ESTABLISHED SYNC       893
TCP 0A000064 D432 0A00001E 0050 0A00000A 0050 ESTABLISHED LOCAL      893
TCP 0A000064 D433 0A00001E 0050 0A00000A 0050 CLOSE       SYNC         3
TCP 0A0000";
        assert_eq!(count(text, false), Count { connections: 2, at_least: false });
        assert_eq!(count("", true), Count { connections: 0, at_least: true });
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn drops_are_those_of_the_group_but_not_our_own() {
        let text = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  811: 510000E0:2290 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 13415 2 0000000012345678 5
  812: 510000E0:2290 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 13416 2 0000000012345678 7
  813: 00000000:2290 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 13417 2 0000000012345678 9
  814: garbage";
        assert_eq!(sum(text, &wanted("224.0.0.81"), 13416), 5);
        assert_eq!(sum(text, &wanted("224.0.0.81"), 0), 12);
        assert_eq!(sum(text, &wanted("224.0.0.82"), 0), 0);
        assert_eq!(
            parse("000002FF000000000000000051000000"),
            Some("ff02::51".parse().unwrap()),
            "a word at a time"
        );
    }
}
