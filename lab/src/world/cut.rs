//! Frames that vanish between a node and the switch, without anybody losing a carrier.
//!
//! The switch has an nftables table of the bridge family with three sets of port names, made once by `nft`. Cutting is adding an
//! element to a set over netlink: it takes effect at once for all frames, as one transaction, in well under a millisecond, and
//! each element counts what it swallowed, which is the proof.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::process::{Command, Stdio};

use super::error::{Doing, Error, Result};
use super::netlink::{Body, Netlink, attributes, in_netns};

/// The table. In the bridge family `prerouting` sees what enters by a port, also what is not forwarded; `postrouting` what leaves by one.
const RULES: &str = "table bridge bascule {
  set from { type ifname; counter; }
  set to { type ifname; counter; }
  set apart { type ifname . ifname; counter; }
  chain entering { type filter hook prerouting priority -300; policy accept; iifname @from drop; }
  chain between { type filter hook forward priority -300; policy accept; iifname . oifname @apart drop; }
  chain leaving { type filter hook postrouting priority -300; policy accept; oifname @to drop; }
}
";
const TABLE: &str = "bascule";

/// Numbers of `linux/netfilter/nf_tables.h` and `linux/netfilter.h`.
const SUBSYSTEM: u16 = 10;
const FAMILY_BRIDGE: u8 = 7;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_EXPRESSIONS: u16 = 11;
const DATA_VALUE: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;

/// What is cut, by ports of the switch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cut {
    /// Frames that a node sends into this port.
    From(String),
    /// Frames that would leave this port to its node.
    To(String),
    /// Frames that would go from the first port to the second.
    Apart(String, String),
}

impl Cut {
    fn set(&self) -> &'static str {
        match self {
            Self::From(_) => "from",
            Self::To(_) => "to",
            Self::Apart(..) => "apart",
        }
    }

    /// Names as the kernel keeps them in a set: 16 bytes each, filled with zeroes.
    fn key(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |name: &str| {
            let mut field = [0; libc::IFNAMSIZ];
            let length = name.len().min(libc::IFNAMSIZ - 1);
            field[..length].copy_from_slice(&name.as_bytes()[..length]);
            bytes.extend(field);
        };
        match self {
            Self::From(port) | Self::To(port) => add(port),
            Self::Apart(from, to) => {
                add(from);
                add(to);
            }
        }
        bytes
    }
}

/// The table, and why each of its elements is there.
pub(crate) struct Cuts {
    netlink: Netlink,
    reasons: BTreeMap<Cut, BTreeSet<String>>,
}

impl Cuts {
    /// Makes the table in the switch's namespace.
    pub(crate) fn new(namespace: BorrowedFd<'_>) -> Result<Self> {
        let output = in_netns(namespace, || {
            let mut child = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(RULES.as_bytes())?;
            }
            child.wait_with_output()
        })
        .and_then(|result| result)
        .doing(|| "running nft (install the package nftables)".into())?;
        if !output.status.success() {
            return Err(Error::wrong(format!(
                "nft cannot make a table of the bridge family (the kernel needs CONFIG_NF_TABLES_BRIDGE): {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        let netlink = Netlink::open(namespace, libc::NETLINK_NETFILTER, &[])
            .doing(|| "opening netfilter's netlink".into())?;
        Ok(Self { netlink, reasons: BTreeMap::new() })
    }

    /// Cuts, for a reason. What another reason has cut already stays cut until both are over.
    pub(crate) fn add(&mut self, reason: &str, cuts: &[Cut]) -> Result<()> {
        let new: Vec<_> = cuts.iter().filter(|cut| !self.reasons.contains_key(cut)).cloned().collect();
        self.change(NEW_ELEMENT, libc::NLM_F_CREATE, &new)
            .map_err(|error| Error::wrong(format!("cutting frames for {reason}: {error}")))?;
        for cut in cuts {
            self.reasons.entry(cut.clone()).or_default().insert(reason.to_owned());
        }
        Ok(())
    }

    /// Lets frames pass again that were cut for that reason only. Returns how many elements went.
    pub(crate) fn remove(&mut self, reason: &str) -> Result<usize> {
        let gone: Vec<_> = self
            .reasons
            .iter()
            .filter(|(_, reasons)| reasons.len() == 1 && reasons.contains(reason))
            .map(|(cut, _)| cut.clone())
            .collect();
        self.change(DELETE_ELEMENT, 0, &gone)
            .map_err(|error| Error::wrong(format!("letting frames pass again after {reason}: {error}")))?;
        self.reasons.retain(|_, reasons| {
            reasons.remove(reason);
            !reasons.is_empty()
        });
        Ok(gone.len())
    }

    /// Whether something is cut for that reason.
    pub(crate) fn has(&self, reason: &str) -> bool {
        self.reasons.values().any(|reasons| reasons.contains(reason))
    }

    /// Whether this is cut, for any reason.
    pub(crate) fn holds(&self, cut: &Cut) -> bool {
        self.reasons.contains_key(cut)
    }

    /// How many frames an element has swallowed since it was added; `None` if the kernel does not hold it.
    pub(crate) fn swallowed(&mut self, cut: &Cut) -> Result<Option<u64>> {
        let body = Body::new(&[FAMILY_BRIDGE, 0, 0, 0]).text(LIST_TABLE, TABLE).text(LIST_SET, cut.set());
        let answers = self
            .netlink
            .request(SUBSYSTEM << 8 | GET_ELEMENT, libc::NLM_F_DUMP, body.bytes())
            .doing(|| "reading what was cut".into())?;
        let wanted = cut.key();
        for answer in answers {
            for (_, list) in attributes(answer.body.get(4..).unwrap_or_default())
                .into_iter()
                .filter(|(kind, _)| *kind == LIST_ELEMENTS)
            {
                for (_, element) in attributes(list) {
                    if let Some((key, packets)) = read_element(element)
                        && key == wanted
                    {
                        return Ok(Some(packets));
                    }
                }
            }
        }
        Ok(None)
    }

    fn change(&mut self, kind: u16, flags: i32, cuts: &[Cut]) -> std::io::Result<()> {
        if cuts.is_empty() {
            return Ok(());
        }
        let messages: Vec<_> = cuts
            .iter()
            .map(|cut| {
                let key = Body::default().nest(ELEMENT_KEY, Body::default().with(DATA_VALUE, &cut.key()));
                let body = Body::new(&[FAMILY_BRIDGE, 0, 0, 0])
                    .text(LIST_TABLE, TABLE)
                    .text(LIST_SET, cut.set())
                    .nest(LIST_ELEMENTS, Body::default().nest(LIST_ELEMENT, key));
                (kind, flags, body.bytes().to_vec())
            })
            .collect();
        self.netlink.batch(SUBSYSTEM, &messages)
    }
}

/// The key of an element and the packets of its counter.
fn read_element(bytes: &[u8]) -> Option<(Vec<u8>, u64)> {
    let (mut key, mut packets) = (None, None);
    for (kind, value) in attributes(bytes) {
        match kind {
            ELEMENT_KEY => {
                key = attributes(value)
                    .into_iter()
                    .find(|(kind, _)| *kind == DATA_VALUE)
                    .map(|(_, key)| key.to_vec());
            }
            ELEMENT_EXPRESSION => packets = read_counter(value),
            ELEMENT_EXPRESSIONS => {
                packets = attributes(value).into_iter().find_map(|(_, expression)| read_counter(expression));
            }
            _ => {}
        }
    }
    Some((key?, packets?))
}

fn read_counter(expression: &[u8]) -> Option<u64> {
    let (_, data) = attributes(expression).into_iter().find(|(kind, _)| *kind == EXPRESSION_DATA)?;
    let (_, packets) = attributes(data).into_iter().find(|(kind, _)| *kind == COUNTER_PACKETS)?;
    Some(u64::from_be_bytes(packets.try_into().ok()?))
}
