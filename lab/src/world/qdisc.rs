//! netem, the queue that loses, delays and doubles frames, over rtnetlink (`linux/pkt_sched.h`).

use std::io;
use std::os::fd::BorrowedFd;

use super::error::{Doing, Error, Result};
use super::netlink::{Body, Message, Netlink, attributes, errno, word};
use crate::scenario::fault::Impair;
use crate::scenario::value::Percent;

/// `TC_H_ROOT`: the queue of the interface itself.
const ROOT: u32 = 0xffff_ffff;
/// As many frames wait in it, as with tc(8).
const LIMIT: u32 = 1000;
/// Attributes of a queue: `TCA_KIND`, `TCA_OPTIONS`, `TCA_STATS2`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const STATISTICS: u16 = 7;
/// `TCA_STATS_BASIC` and `TCA_STATS_QUEUE` of `linux/gen_stats.h`.
const BASIC: u16 = 1;
const QUEUE: u16 = 3;
/// Attributes of netem: `TCA_NETEM_REORDER`, `_RATE`, `_LATENCY64`, `_JITTER64`.
const REORDER: u16 = 3;
const RATE: u16 = 6;
const LATENCY: u16 = 10;
const JITTER: u16 = 11;
/// Bytes of `struct tc_netem_qopt`, behind which the attributes are.
const FIXED: usize = 24;

/// What netem does with frames, in the kernel's units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Netem {
    /// Chances, of `u32::MAX`.
    loss: u32,
    duplicate: u32,
    reorder: u32,
    /// Nanoseconds.
    delay: i64,
    jitter: i64,
    /// Bytes a second; 0: as fast as can be.
    rate: u32,
}

/// What a queue has done since it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Frames that went on.
    pub(crate) passed: u64,
    /// Frames that did not.
    pub(crate) dropped: u64,
}

impl Netem {
    /// What a fault asks for.
    pub(crate) fn of(fault: &Impair) -> Self {
        let chance = |part: Option<Percent>| {
            let part = part.map_or(0, |part| u64::from(part.0));
            u32::try_from(part * u64::from(u32::MAX) / u64::from(Percent::ALL.0)).unwrap_or(u32::MAX)
        };
        let nanoseconds = |span: Option<crate::scenario::Span>| {
            span.map_or(0, |span| i64::try_from(span.get().as_nanos()).unwrap_or(i64::MAX))
        };
        Self {
            loss: chance(fault.loss),
            duplicate: chance(fault.duplicate),
            reorder: chance(fault.reorder),
            delay: nanoseconds(fault.delay),
            jitter: nanoseconds(fault.jitter),
            rate: fault.rate.map_or(0, |rate| u32::try_from(rate.0 / 8).unwrap_or(u32::MAX)),
        }
    }

    fn options(&self) -> Body {
        // `struct tc_netem_qopt`: latency, limit, loss, gap, duplicate, jitter. Latency and jitter are in attributes of their own, in
        // nanoseconds; a gap of 1 makes every frame one that may overtake.
        let gap = u32::from(self.reorder > 0);
        let mut fixed = Vec::with_capacity(FIXED);
        for number in [0, LIMIT, self.loss, gap, self.duplicate, 0] {
            fixed.extend(number.to_ne_bytes());
        }
        let mut options = Body::new(&fixed)
            .with(LATENCY, &self.delay.to_ne_bytes())
            .with(JITTER, &self.jitter.to_ne_bytes());
        if self.reorder > 0 {
            // `struct tc_netem_reorder`: probability, correlation.
            options = options.with(REORDER, &[self.reorder.to_ne_bytes(), [0; 4]].concat());
        }
        if self.rate > 0 {
            // `struct tc_netem_rate`: rate, overhead of a packet, cell size, overhead of a cell.
            options = options.with(RATE, &[&self.rate.to_ne_bytes()[..], &[0; 12]].concat());
        }
        options
    }

    fn read(options: &[u8]) -> io::Result<Self> {
        let mut netem = Self {
            loss: word(options, 8)?,
            duplicate: word(options, 16)?,
            reorder: 0,
            delay: 0,
            jitter: 0,
            rate: 0,
        };
        let long = |value: &[u8]| -> io::Result<i64> {
            let eight = value.try_into().map_err(|_| io::Error::other("a time of netem is cut short"))?;
            Ok(i64::from_ne_bytes(eight))
        };
        for (kind, value) in attributes(options.get(FIXED..).unwrap_or_default()) {
            match kind {
                REORDER => netem.reorder = word(value, 0)?,
                RATE => netem.rate = word(value, 0)?,
                LATENCY => netem.delay = long(value)?,
                JITTER => netem.jitter = long(value)?,
                _ => {}
            }
        }
        Ok(netem)
    }
}

/// `struct tcmsg`: family and padding, interface, handle, parent, information.
fn header(index: u32, parent: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for number in [index, 0, parent, 0] {
        header.extend(number.to_ne_bytes());
    }
    header
}

/// The queues of one namespace.
pub(crate) struct Queues(Netlink);

impl Queues {
    /// Opens them.
    pub(crate) fn open(namespace: BorrowedFd<'_>) -> Result<Self> {
        Netlink::open(namespace, libc::NETLINK_ROUTE, &[]).map(Self).doing(|| "opening rtnetlink".into())
    }

    /// Makes netem the queue of an interface that has none.
    pub(crate) fn add(&mut self, index: u32, netem: &Netem) -> Result<()> {
        let body = Body::new(&header(index, ROOT)).text(KIND, "netem").with(OPTIONS, netem.options().bytes());
        match self.0.request(libc::RTM_NEWQDISC, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body.bytes()) {
            Ok(_) => Ok(()),
            Err(error) if errno(&error) == Some(libc::ENOENT) => {
                Err(Error::wrong("this kernel has no netem (sch_netem), and no module for it"))
            }
            Err(error) if errno(&error) == Some(libc::EEXIST) => {
                Err(Error::wrong("the interface has a queue of somebody else's already (`tc qdisc show`)"))
            }
            Err(error) => Err(error).doing(|| "making netem its queue".into()),
        }
    }

    /// Gives an interface back its own queue.
    pub(crate) fn remove(&mut self, index: u32) -> Result<()> {
        self.0
            .request(libc::RTM_DELQDISC, 0, &header(index, ROOT))
            .map(drop)
            .doing(|| "removing netem".into())
    }

    /// What the kernel says of an interface's netem; `None`: its queue is another one.
    pub(crate) fn read(&mut self, index: u32) -> Result<Option<(Netem, Counters)>> {
        let answers = self
            .0
            .request(libc::RTM_GETQDISC, libc::NLM_F_DUMP, &header(index, 0))
            .doing(|| "listing queues".into())?;
        for answer in &answers {
            // A dump may be of all interfaces.
            let (of, parent) = (word(&answer.body, 4), word(&answer.body, 12));
            if of.is_ok_and(|of| of == index) && parent.is_ok_and(|parent| parent == ROOT) {
                return read(answer).doing(|| "reading netem".into());
            }
        }
        Ok(None)
    }
}

/// Reads an `RTM_NEWQDISC`.
fn read(message: &Message) -> io::Result<Option<(Netem, Counters)>> {
    let (mut netem, mut counters, mut is_netem) = (None, Counters::default(), false);
    for (kind, value) in attributes(message.body.get(20..).unwrap_or_default()) {
        match kind {
            KIND => is_netem = value == b"netem\0",
            OPTIONS if is_netem => netem = Some(Netem::read(value)?),
            STATISTICS => {
                for (kind, value) in attributes(value) {
                    match kind {
                        // `struct gnet_stats_basic`: 8 bytes of bytes, packets.
                        BASIC => counters.passed = word(value, 8)?.into(),
                        // `struct gnet_stats_queue`: length, backlog, drops.
                        QUEUE => counters.dropped = word(value, 8)?.into(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(netem.map(|netem| (netem, counters)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netem(yaml: &str) -> Netem {
        let fault = crate::scenario::read_fault(bascule_crds::manifest::parse(yaml).unwrap().remove(0).value);
        match fault.unwrap() {
            crate::scenario::Fault::Impair(fault) => Netem::of(&fault),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_asked_for_is_read_back() {
        let all = netem(
            "impair: {node: a, interface: b, loss: 50%, delay: 100ms, jitter: 20ms, duplicate: 1%, reorder: 25%, rate: 10mbit}",
        );
        assert_eq!((all.delay, all.jitter, all.rate), (100_000_000, 20_000_000, 1_250_000));
        assert_eq!(all.loss, u32::MAX / 2);
        assert_eq!(Netem::read(all.options().bytes()).unwrap(), all);
        let lost = netem("impair: {node: a, interface: b, loss: 100%}");
        assert_eq!(lost.loss, u32::MAX, "all of them");
        assert_eq!(Netem::read(lost.options().bytes()).unwrap(), lost);
        assert!(Netem::read(&[0; 7]).is_err());
    }

    #[test]
    fn a_message_of_the_kernel_is_read_with_its_counters() {
        let netem = netem("impair: {node: a, interface: b, delay: 5ms}");
        let statistics = Body::default()
            .with(BASIC, &[&[0; 8][..], &7_u32.to_ne_bytes(), &[0; 4]].concat())
            .with(QUEUE, &[&[0; 8][..], &3_u32.to_ne_bytes(), &[0; 8]].concat());
        let body = Body::new(&header(4, ROOT))
            .text(KIND, "netem")
            .with(OPTIONS, netem.options().bytes())
            .nest(STATISTICS, statistics);
        let message = Message { kind: libc::RTM_NEWQDISC, body: body.bytes().to_vec() };
        assert_eq!(read(&message).unwrap(), Some((netem, Counters { passed: 7, dropped: 3 })));
        let other = Body::new(&header(4, ROOT)).text(KIND, "noqueue").with(OPTIONS, &[]);
        let message = Message { kind: libc::RTM_NEWQDISC, body: other.bytes().to_vec() };
        assert_eq!(read(&message).unwrap(), None);
    }
}
