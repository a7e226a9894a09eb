//! Who holds which address since when: the kernel's own notifications, from every node, with the time of the clock that all
//! nodes share.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use super::error::{Doing, Result};
use super::links::{Address, read_address, read_interface};
use super::netlink::{Message, Netlink};

/// How many events wait for their reader; more are counted and said as [`Event::Lost`].
const QUEUE: usize = 65_536;

/// CLOCK_MONOTONIC in nanoseconds: the time base of everything that is recorded.
pub fn now() -> u64 {
    // The clock is always there.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}

/// Something that happened in a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// CLOCK_MONOTONIC, nanoseconds, when the lab read the kernel's message; for what went with its node, when its frames were cut.
    pub at: u64,
    /// The node.
    pub node: String,
    /// What.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An address came.
    AddressAdded {
        /// On this interface.
        interface: String,
        /// The address.
        address: IpAddr,
        /// The length of its prefix.
        prefix: u8,
        /// Its label, for IPv4.
        label: Option<String>,
        /// Whether it was there before the watch began.
        initial: bool,
    },
    /// An address went.
    AddressRemoved {
        /// From this interface.
        interface: String,
        /// The address.
        address: IpAddr,
        /// The length of its prefix.
        prefix: u8,
        /// Whether it went with its node (a crash).
        gone: bool,
    },
    /// An interface came or changed.
    Link {
        /// Its name.
        interface: String,
        /// Whether the administrator took it up.
        up: bool,
        /// Whether it has a carrier.
        carrier: bool,
    },
    /// An interface went.
    LinkGone {
        /// Its name.
        interface: String,
    },
    /// So many events were lost before this one.
    Lost {
        /// How many.
        count: u64,
    },
}

/// Where events go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sink {
    sender: Sender<Watched>,
    lost: Arc<AtomicU64>,
}

impl Sink {
    /// A sink and the queue behind it.
    pub(super) fn new() -> (Self, Receiver<Watched>) {
        let (sender, receiver) = channel(QUEUE);
        (Self { sender, lost: Arc::default() }, receiver)
    }

    fn put(&self, watched: Watched) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let note = Watched { event: Event::Lost { count: lost }, ..watched.clone() };
            if matches!(self.sender.try_send(note), Err(TrySendError::Full(_))) {
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                return;
            }
        }
        // A reader that is gone wants nothing.
        if matches!(self.sender.try_send(watched), Err(TrySendError::Full(_))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a watch knows of its node.
#[derive(Default)]
struct Known {
    links: BTreeMap<u32, (String, bool, bool)>,
    addresses: BTreeMap<(u32, IpAddr, u8), Address>,
}

/// The watch over one node, from boot to end.
pub(super) struct Watch {
    stop: OwnedFd,
    thread: Option<JoinHandle<Known>>,
    node: String,
    sink: Sink,
}

impl Watch {
    /// Begins to watch a namespace. What is there already is told first.
    pub(super) fn start(node: &str, namespace: std::os::fd::BorrowedFd<'_>, sink: Sink) -> Result<Self> {
        let what = || format!("watching {node}");
        // RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR of `linux/rtnetlink.h`.
        let events = Netlink::open(namespace, libc::NETLINK_ROUTE, &[1, 5, 9]).doing(what)?;
        let mut questions = Netlink::open(namespace, libc::NETLINK_ROUTE, &[]).doing(what)?;
        let (stopped, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).doing(what)?;
        let mut teller = Teller { node: node.to_owned(), sink: sink.clone(), known: Known::default() };
        teller.look(&mut questions, true).doing(what)?;
        let thread = std::thread::Builder::new()
            .name(format!("watch {node}"))
            .spawn(move || teller.run(events, questions, &stopped))
            .doing(what)?;
        Ok(Self { stop, thread: Some(thread), node: node.to_owned(), sink })
    }

    /// Ends it; what was there went with the node at `at`.
    pub(super) fn end(mut self, at: u64) {
        let Some(known) = self.finish() else { return };
        for address in known.addresses.into_values() {
            let interface = known.links.get(&address.index).map(|link| link.0.clone()).unwrap_or_default();
            let event = Event::AddressRemoved {
                interface,
                address: address.address,
                prefix: address.prefix,
                gone: true,
            };
            self.sink.put(Watched { at, node: self.node.clone(), event });
        }
    }

    fn finish(&mut self) -> Option<Known> {
        // The thread waits for it; if it has ended already there is nobody to tell.
        let _ = nix::unistd::write(&self.stop, b"x");
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Teller {
    node: String,
    sink: Sink,
    known: Known,
}

impl Teller {
    fn run(mut self, mut events: Netlink, mut questions: Netlink, stopped: &OwnedFd) -> Known {
        loop {
            let mut fds = [
                PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                PollFd::new(events.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::Error::EINTR) => continue,
                Err(_) => return self.known,
            }
            let stop = fds[0].revents().is_some_and(|events| !events.is_empty());
            if fds[1].revents().is_some_and(|events| !events.is_empty()) {
                match events.events() {
                    Ok(messages) => {
                        let at = now();
                        for message in &messages {
                            self.read(at, message, false);
                        }
                    }
                    // The kernel had to drop some: what is there now is the truth.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        self.tell(now(), Event::Lost { count: 1 });
                        if self.look(&mut questions, false).is_err() {
                            return self.known;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return self.known,
                }
            } else if stop {
                return self.known;
            }
        }
    }

    /// Compares what is there with what is known.
    fn look(&mut self, questions: &mut Netlink, initial: bool) -> io::Result<()> {
        let before: Vec<_> = self.known.addresses.keys().copied().collect();
        let links = questions.request(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16])?;
        let addresses = questions.request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; 8])?;
        let at = now();
        let there: Vec<_> = addresses.iter().filter_map(read_address).map(key).collect();
        for gone in before.into_iter().filter(|key| !there.contains(key)) {
            self.remove(at, gone);
        }
        for message in links.iter().chain(&addresses) {
            self.read(at, message, initial);
        }
        Ok(())
    }

    fn read(&mut self, at: u64, message: &Message, initial: bool) {
        match message.kind {
            libc::RTM_NEWLINK => {
                let Some(link) = read_interface(message) else { return };
                let state = (link.name, link.up, link.carrier);
                if self.known.links.get(&link.index) != Some(&state) {
                    let (interface, up, carrier) = state.clone();
                    self.known.links.insert(link.index, state);
                    self.tell(at, Event::Link { interface, up, carrier });
                }
            }
            libc::RTM_DELLINK => {
                let Some(link) = read_interface(message) else { return };
                if self.known.links.remove(&link.index).is_some() {
                    self.tell(at, Event::LinkGone { interface: link.name });
                }
            }
            libc::RTM_NEWADDR => {
                let Some(address) = read_address(message) else { return };
                let key = key(address.clone());
                // Renewing a lifetime is told by the kernel too; it is not news.
                if self.known.addresses.insert(key, address.clone()).is_none() {
                    let interface = self.name(address.index);
                    let Address { address, prefix, label, .. } = address;
                    self.tell(at, Event::AddressAdded { interface, address, prefix, label, initial });
                }
            }
            libc::RTM_DELADDR => {
                let Some(address) = read_address(message) else { return };
                self.remove(at, key(address));
            }
            _ => {}
        }
    }

    fn remove(&mut self, at: u64, key: (u32, IpAddr, u8)) {
        if let Some(address) = self.known.addresses.remove(&key) {
            let interface = self.name(address.index);
            let Address { address, prefix, .. } = address;
            self.tell(at, Event::AddressRemoved { interface, address, prefix, gone: false });
        }
    }

    fn name(&self, index: u32) -> String {
        self.known.links.get(&index).map(|link| link.0.clone()).unwrap_or_default()
    }

    fn tell(&self, at: u64, event: Event) {
        self.sink.put(Watched { at, node: self.node.clone(), event });
    }
}

fn key(address: Address) -> (u32, IpAddr, u8) {
    (address.index, address.address, address.prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_counted_and_said() {
        let (sink, mut receiver) = Sink::new();
        let event = |at| Watched { at, node: "n".into(), event: Event::LinkGone { interface: "x".into() } };
        for at in 0..QUEUE as u64 + 3 {
            sink.put(event(at));
        }
        for at in 0..10 {
            assert_eq!(receiver.try_recv().unwrap().at, at);
        }
        sink.put(event(1_000_000));
        let mut rest = Vec::new();
        while let Ok(one) = receiver.try_recv() {
            rest.push(one);
        }
        assert_eq!(rest[rest.len() - 2].event, Event::Lost { count: 3 });
        assert_eq!(rest[rest.len() - 1].at, 1_000_000);
    }

    #[test]
    fn the_clock_runs() {
        let before = now();
        assert!(before > 0 && now() >= before);
    }
}
