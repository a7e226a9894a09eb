//! What the running kernel can do, found out by trying it in a network namespace of a thread's own, which ends with the thread.

use std::io;
use std::os::fd::AsRawFd as _;

use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::scenario::Feature;

/// Something a kernel has or lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Ability {
    /// Network namespaces.
    Namespaces,
    /// Bridges.
    Bridge,
    /// Pairs of virtual cables.
    Veth,
    /// nftables.
    Nftables,
    /// IP virtual server.
    Ipvs,
    /// IP in IP tunnels.
    Ipip,
    /// Loss and delay on a link.
    Netem,
    /// Bonded interfaces.
    Bonding,
}

impl Ability {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 8] = [
        Self::Namespaces,
        Self::Bridge,
        Self::Veth,
        Self::Nftables,
        Self::Ipvs,
        Self::Ipip,
        Self::Netem,
        Self::Bonding,
    ];
    /// Those without which no scenario runs.
    pub const ALWAYS: [Self; 3] = [Self::Namespaces, Self::Bridge, Self::Veth];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Bridge => "bridge",
            Self::Veth => "veth",
            Self::Nftables => "nftables",
            Self::Ipvs => "IPVS",
            Self::Ipip => "IPIP tunnels",
            Self::Netem => "netem",
            Self::Bonding => "bonding",
        }
    }
}

impl From<Feature> for Ability {
    fn from(feature: Feature) -> Self {
        match feature {
            Feature::Ipvs => Self::Ipvs,
            Feature::Ipip => Self::Ipip,
            Feature::Nftables => Self::Nftables,
            Feature::Netem => Self::Netem,
            Feature::Bonding => Self::Bonding,
        }
    }
}

/// What was found out about one ability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Of what.
    pub ability: Ability,
    /// Why it is lacking; `None`: it is there.
    pub lacking: Option<String>,
}

/// Tries everything. Needs root; without it, everything is lacking for that reason.
pub fn probe() -> Vec<Finding> {
    let findings = std::thread::Builder::new()
        .name("probe".into())
        .spawn(|| {
            let namespace = unshare(CloneFlags::CLONE_NEWNET).map_err(|error| match error {
                nix::errno::Errno::EPERM => "needs root".to_owned(),
                other => other.desc().to_owned(),
            });
            Ability::ALL
                .into_iter()
                .map(|ability| {
                    let result =
                        namespace.clone().and_then(|()| try_out(ability).map_err(|error| say(&error)));
                    Finding { ability, lacking: result.err() }
                })
                .collect::<Vec<_>>()
        })
        .map(std::thread::JoinHandle::join);
    match findings {
        Ok(Ok(findings)) => findings,
        Ok(Err(_)) | Err(_) => Ability::ALL
            .into_iter()
            .map(|ability| Finding { ability, lacking: Some("could not be tried".to_owned()) })
            .collect(),
    }
}

/// Which of `needed` the running kernel lacks, and why.
pub fn lacking(needed: &[Ability]) -> Vec<Finding> {
    probe()
        .into_iter()
        .filter(|finding| needed.contains(&finding.ability) && finding.lacking.is_some())
        .collect()
}

fn say(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EINVAL) => {
            "not in this kernel, and no module for it".to_owned()
        }
        _ => error.to_string(),
    }
}

fn try_out(ability: Ability) -> io::Result<()> {
    match ability {
        Ability::Namespaces => Ok(()),
        Ability::Bridge => new_link("probe-bridge", "bridge"),
        Ability::Veth => new_link("probe-veth", "veth"),
        // Where the module is loaded each namespace has tunl0 already, which is the tunnel that was asked for.
        Ability::Ipip => match new_link("probe-ipip", "ipip") {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        },
        Ability::Bonding => new_link("probe-bond", "bond"),
        Ability::Ipvs => family("IPVS"),
        // NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN; family unspecified, version 0, resource 0.
        Ability::Nftables => ask(NETLINK_NETFILTER, (10 << 8) | 16, 0, &[0, 0, 0, 0]).map(drop),
        Ability::Netem => netem(),
    }
}

/// A request with acknowledgement, to be answered at once. Numbers from linux/netlink.h.
fn ask(protocol: isize, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
    const REQUEST_ACK: u16 = 1 | 4;
    const ERROR: u16 = 2;
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The kernel answers within the call; a bound all the same.
    nix::sys::socket::setsockopt(
        &SocketFd(&socket),
        nix::sys::socket::sockopt::ReceiveTimeout,
        &nix::sys::time::TimeVal::new(5, 0),
    )?;
    let mut message = Vec::new();
    message.extend(u32::try_from(16 + payload.len()).unwrap_or(16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST_ACK | flags).to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(payload);
    socket.send(&message, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while rest.len() >= 20 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if u16::from_ne_bytes([rest[4], rest[5]]) == ERROR {
                let code = i32::from_ne_bytes([rest[16], rest[17], rest[18], rest[19]]);
                return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            let Some(next) = rest.get(length.max(16).next_multiple_of(4)..) else { break };
            rest = next;
        }
    }
}

struct SocketFd<'a>(&'a Socket);

impl std::os::fd::AsFd for SocketFd<'_> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the socket is open as long as it is borrowed.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut out = Vec::with_capacity(length.next_multiple_of(4));
    out.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(length.next_multiple_of(4), 0);
    out
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// RTM_NEWLINK: creates an interface of that kind in the thread's namespace.
fn new_link(name: &str, kind: &str) -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const CREATE_EXCLUSIVE: u16 = 0x400 | 0x200;
    const NAME: u16 = 3;
    const LINK_INFO: u16 = 18;
    const INFO_KIND: u16 = 1;
    let header = [0; 16]; // struct ifinfomsg
    let payload = [header.to_vec(), text(NAME, name), attribute(LINK_INFO, &text(INFO_KIND, kind))].concat();
    ask(NETLINK_ROUTE, NEW_LINK, CREATE_EXCLUSIVE, &payload)
}

/// CTRL_CMD_GETFAMILY: asking for a family makes the kernel load its module.
fn family(name: &str) -> io::Result<()> {
    const CONTROL: u16 = 16;
    const FAMILY_NAME: u16 = 2;
    let payload = [vec![3, 1, 0, 0], text(FAMILY_NAME, name)].concat();
    ask(NETLINK_GENERIC, CONTROL, 0, &payload)
}

/// RTM_NEWQDISC: netem without loss or delay as the root of the loopback interface.
fn netem() -> io::Result<()> {
    const NEW_QDISC: u16 = 36;
    const CREATE_REPLACE: u16 = 0x400 | 0x100;
    const KIND: u16 = 1;
    const OPTIONS: u16 = 2;
    const ROOT: u32 = 0xffff_ffff;
    let mut header = vec![0; 4]; // struct tcmsg: family and padding
    header.extend(1_u32.to_ne_bytes()); // interface 1: lo
    header.extend(0_u32.to_ne_bytes());
    header.extend(ROOT.to_ne_bytes());
    header.extend(0_u32.to_ne_bytes());
    let mut options = vec![0_u8; 24]; // struct tc_netem_qopt
    options[4..8].copy_from_slice(&1000_u32.to_ne_bytes()); // limit in packets
    let payload = [header, text(KIND, "netem"), attribute(OPTIONS, &options)].concat();
    ask(NETLINK_ROUTE, NEW_QDISC, CREATE_REPLACE, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ability_is_tried_and_nothing_is_left_behind() {
        let before = links();
        let findings = probe();
        assert_eq!(findings.iter().map(|finding| finding.ability).collect::<Vec<_>>(), Ability::ALL);
        assert_eq!(links(), before);
        if nix::unistd::geteuid().is_root() {
            // Where the kernel has it, `ip` can do it, too: one ability is checked against another witness.
            let bridge = findings.iter().find(|finding| finding.ability == Ability::Bridge).expect("listed");
            let witness = std::process::Command::new("unshare")
                .args(["--net", "ip", "link", "add", "witness", "type", "bridge"])
                .output()
                .expect("unshare and ip are there");
            assert_eq!(bridge.lacking.is_none(), witness.status.success(), "{bridge:?} {witness:?}");
        } else {
            assert!(findings.iter().all(|finding| finding.lacking.as_deref() == Some("needs root")));
        }
    }

    #[test]
    fn what_no_kernel_has_is_lacking() {
        let result = std::thread::spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() {
                return None;
            }
            Some((family("NO-SUCH-FAMILY"), new_link("probe-none", "no-such-kind")))
        })
        .join()
        .expect("no panic");
        if let Some((family, link)) = result {
            for error in [family.expect_err("no family"), link.expect_err("no kind")] {
                assert_eq!(say(&error), "not in this kernel, and no module for it", "{error}");
            }
        }
    }

    fn links() -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir("/sys/class/net")
            .expect("sysfs")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}
