//! What can be known of the synchronisation. The kernel's daemons count nothing, so a second socket listens in the multicast
//! group beside the backup daemon, and /proc tells of datagrams that found no room and of connections that came from elsewhere.
//!
//! It is read once a second, never woken by a datagram: that costs as much with ten thousand connections a second as with none.
//! What did not fit into the socket meanwhile is not counted, so that datagrams are those counted at least.

mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    time::{Duration, Instant, SystemTime},
};

use bascule_ipvs::DaemonRole;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tracing::warn;

use super::{
    Observed, Wanted,
    header::{self, LONGEST},
};

/// Senders that are told apart; of more the one that was silent longest is forgotten.
const MAX_PEERS: usize = 64;
/// Datagrams that are read at a time.
const MAX_DATAGRAMS: usize = 4_096;
/// A sender that was silent so long is no longer shown.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// A sender that was heard within this time is there now.
const PRESENT: Duration = Duration::from_secs(60);
/// Room for what comes in a second.
const BUFFER: usize = 1 << 20;
/// How often the connections are counted, at most: a file of all of them.
const COUNT: Duration = Duration::from_secs(30);
/// Counting takes at most this part of the time.
const SHARE: u32 = 200;

/// What is known of the synchronisation of a director.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyncState {
    /// The interface of the multicast.
    pub interface: String,
    /// The director's.
    pub sync_id: u8,
    /// The kernel's master daemon runs.
    pub master: bool,
    /// The kernel's backup daemon runs.
    pub backup: bool,
    /// Who was heard, in order of syncId and address; at most 64.
    pub peers: Vec<PeerState>,
    /// Why nobody can be heard, if so. It does not hinder the daemons.
    pub deaf: Option<String>,
    /// Datagrams that found no room in the sockets of the backup daemon, since it was started; none while it does not run.
    pub receive_drops: Option<u64>,
    /// Connections that came from another director; at least so many if `synchronised_at_least`. None before the first count.
    pub synchronised: Option<u64>,
    /// There are more than were counted.
    pub synchronised_at_least: bool,
    /// Segments that the guard dropped since its table was made; none without a guard.
    pub guard_dropped: Option<u64>,
    /// What looks wrong.
    pub warnings: Vec<String>,
}

/// Somebody who sends connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Its syncId.
    pub sync_id: u8,
    /// Its address.
    pub address: IpAddr,
    /// When it was last heard.
    pub last: SystemTime,
    /// Datagrams heard, at least.
    pub datagrams: u64,
    /// Connections in them; one that is sent again counts again.
    pub connections: u64,
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    last: SystemTime,
    datagrams: u64,
    connections: u64,
}

/// Listens and reads.
#[derive(Default)]
pub(crate) struct Monitor {
    ear: Option<Ear>,
    deaf: Option<String>,
    heard: BTreeMap<(u8, IpAddr), Heard>,
    count: Option<Instant>,
    synchronised: Option<files::Count>,
    said: BTreeSet<u8>,
}

/// The socket, and what it was opened for.
struct Ear {
    socket: Socket,
    wanted: Wanted,
    link: u32,
}

impl Ear {
    fn open(wanted: &Wanted, link: u32) -> io::Result<Self> {
        let domain = if wanted.group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        // As the kernel's: several may have the port, and each gets every multicast datagram.
        socket.set_reuse_address(true)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(true)?;
        }
        // As far as the machine's limit lets it.
        let _ = socket.set_recv_buffer_size(BUFFER);
        socket.bind_device(Some(wanted.interface.as_bytes()))?;
        let mut at = SocketAddr::new(wanted.group, wanted.port);
        if let SocketAddr::V6(at) = &mut at {
            at.set_scope_id(link);
        }
        socket.bind(&at.into())?;
        match wanted.group {
            IpAddr::V4(group) => {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(link))?;
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, link)?,
        }
        Ok(Self { socket, wanted: wanted.clone(), link })
    }

    /// Our inode: what does not fit into this socket is not what the daemons lose.
    fn inode(&self) -> u64 {
        nix::sys::stat::fstat(self.socket.as_fd()).map_or(0, |stat| stat.st_ino)
    }

    fn hear(&mut self, mut each: impl FnMut(header::Header, IpAddr)) -> io::Result<()> {
        // A datagram's length is its own, however little of it fits.
        let mut buffer = [0; LONGEST];
        for _ in 0..MAX_DATAGRAMS {
            match receive(&self.socket, &mut buffer) {
                Ok((length, from)) => {
                    let bytes = &buffer[..length.min(LONGEST)];
                    if let (Some(header), Some(from)) = (header::decode(bytes, length), from) {
                        each(header, from);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The first bytes of a datagram, its length and its sender.
fn receive(socket: &Socket, buffer: &mut [u8; LONGEST]) -> io::Result<(usize, Option<IpAddr>)> {
    use std::mem::MaybeUninit;
    let mut room = [MaybeUninit::<u8>::uninit(); LONGEST];
    let (length, from) = socket.recv_from_with_flags(&mut room, libc::MSG_TRUNC)?;
    for (byte, read) in buffer.iter_mut().zip(&room[..length.min(LONGEST)]) {
        // SAFETY: the kernel wrote so many bytes of the datagram as it had and as there was room for.
        *byte = unsafe { read.assume_init() };
    }
    Ok((length, from.as_socket().map(|from| from.ip())))
}

impl Monitor {
    /// Looks around; none without connectionSync.
    pub(crate) fn look(
        &mut self,
        wanted: Option<&Wanted>,
        observed: &Observed,
        guard_dropped: Option<u64>,
        now: Instant,
    ) -> Option<SyncState> {
        let Some(wanted) = wanted else {
            *self = Self::default();
            return None;
        };
        self.listen(wanted, observed.link);
        self.forget(now);
        let backup = observed.daemon(DaemonRole::Backup);
        if self.count.is_none_or(|at| at <= now) {
            let started = Instant::now();
            self.synchronised = files::synchronised();
            self.count = Some(now + COUNT.max(started.elapsed() * SHARE));
        }
        let mut state = SyncState {
            interface: wanted.interface.clone(),
            sync_id: wanted.sync_id,
            master: observed.daemon(DaemonRole::Master).is_some(),
            backup: backup.is_some(),
            peers: self.peers(),
            deaf: self.deaf.clone(),
            receive_drops: backup.and_then(|_| files::drops(wanted, self.ear.as_ref().map_or(0, Ear::inode))),
            synchronised: self.synchronised.map(|count| count.connections),
            synchronised_at_least: self.synchronised.is_some_and(|count| count.at_least),
            guard_dropped,
            warnings: Vec::new(),
        };
        state.warnings = self.warnings(wanted, now);
        Some(state)
    }

    fn listen(&mut self, wanted: &Wanted, link: Option<u32>) {
        if self.ear.as_ref().is_some_and(|ear| ear.wanted != *wanted || Some(ear.link) != link) {
            if self.ear.as_ref().is_some_and(|ear| ear.wanted != *wanted) {
                self.heard.clear();
                self.said.clear();
            }
            self.ear = None;
        }
        let (None, Some(link)) = (&self.ear, link) else {
            return self.hear(wanted);
        };
        match Ear::open(wanted, link) {
            Ok(ear) => {
                self.ear = Some(ear);
                self.deaf = None;
            }
            Err(error) => {
                let text = format!(
                    "cannot listen in the group {} port {} on {}: {error}",
                    wanted.group, wanted.port, wanted.interface
                );
                if self.deaf.as_ref() != Some(&text) {
                    warn!(plane = "connection-sync", "{text}");
                }
                self.deaf = Some(text);
            }
        }
    }

    fn hear(&mut self, wanted: &Wanted) {
        let Some(ear) = &mut self.ear else { return };
        let (at, last) = (Instant::now(), SystemTime::now());
        let heard = &mut self.heard;
        let result = ear.hear(|header, from| {
            note(heard, (header.sync_id, from), header.connections, at, last);
        });
        for (sync_id, from) in self.heard.keys() {
            if *sync_id != wanted.sync_id && self.said.insert(*sync_id) {
                warn!(plane = "connection-sync", "{}", foreign(*sync_id, [*from], wanted));
            }
        }
        if let Err(error) = result {
            // Opened anew at the next look.
            self.deaf = Some(format!("cannot hear on {}: {error}", wanted.interface));
            self.ear = None;
        }
    }

    fn forget(&mut self, now: Instant) {
        self.heard.retain(|_, heard| now.saturating_duration_since(heard.at) < FORGOTTEN);
    }

    fn peers(&self) -> Vec<PeerState> {
        let peers = self.heard.iter().map(|((sync_id, address), heard)| PeerState {
            sync_id: *sync_id,
            address: *address,
            last: heard.last,
            datagrams: heard.datagrams,
            connections: heard.connections,
        });
        peers.collect()
    }

    /// Directors with another syncId share the group: no harm is done, but it may be a mistake.
    fn warnings(&self, wanted: &Wanted, now: Instant) -> Vec<String> {
        let mut others: BTreeMap<u8, Vec<IpAddr>> = BTreeMap::new();
        for ((sync_id, address), heard) in &self.heard {
            if *sync_id != wanted.sync_id && now.saturating_duration_since(heard.at) < PRESENT {
                others.entry(*sync_id).or_default().push(*address);
            }
        }
        others.into_iter().take(8).map(|(sync_id, from)| foreign(sync_id, from, wanted)).collect()
    }
}

fn note(
    heard: &mut BTreeMap<(u8, IpAddr), Heard>,
    who: (u8, IpAddr),
    connections: u8,
    at: Instant,
    last: SystemTime,
) {
    if heard.len() >= MAX_PEERS && !heard.contains_key(&who) {
        let oldest = heard.iter().min_by_key(|(_, heard)| heard.at).map(|(who, _)| *who);
        oldest.and_then(|oldest| heard.remove(&oldest));
    }
    let entry = heard.entry(who).or_insert(Heard { at, last, datagrams: 0, connections: 0 });
    (entry.at, entry.last) = (at, last);
    entry.datagrams += 1;
    entry.connections += u64::from(connections);
}

fn foreign(sync_id: u8, from: impl IntoIterator<Item = IpAddr>, wanted: &Wanted) -> String {
    let from: Vec<_> = from.into_iter().take(4).map(|address| address.to_string()).collect();
    format!(
        "datagrams of syncId {sync_id} come from {} on {}, this director has syncId {}: not heeded; directors that shall \
         synchronise need one syncId, others better another group or port",
        from.join(", "),
        wanted.interface,
        wanted.sync_id
    )
}

/// Reads a file of /proc up to a bound; true when there was more.
fn read_bounded(path: &str, bytes: u64) -> io::Result<(String, bool)> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(bytes).read_to_end(&mut text)?;
    let cut = u64::try_from(text.len()).unwrap_or(u64::MAX) >= bytes;
    Ok((String::from_utf8_lossy(&text).into_owned(), cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn of_too_many_senders_the_most_silent_is_forgotten() {
        let (start, last) = (Instant::now(), SystemTime::now());
        let mut heard = BTreeMap::new();
        for number in 0..1000u32 {
            let when = start + Duration::from_millis(number.into());
            note(&mut heard, (1, at(number % 900)), 2, when, last);
        }
        assert_eq!(heard.len(), MAX_PEERS);
        assert!(heard.contains_key(&(1, at(99))) && !heard.contains_key(&(1, at(500))));
        note(&mut heard, (1, at(99)), 3, start, last);
        assert_eq!((heard[&(1, at(99))].datagrams, heard[&(1, at(99))].connections), (2, 5));
    }

    #[test]
    fn a_foreign_id_is_a_warning_while_it_is_there() {
        let wanted = Wanted {
            interface: "eth1".into(),
            sync_id: 7,
            group: at(0xe000_0051),
            port: 8848,
            ttl: 1,
            max_length: None,
        };
        let (now, last) = (Instant::now(), SystemTime::now());
        let mut monitor = Monitor::default();
        note(&mut monitor.heard, (7, at(1)), 1, now, last);
        assert_eq!(monitor.warnings(&wanted, now), Vec::<String>::new());
        note(&mut monitor.heard, (9, at(2)), 1, now, last);
        let warnings = monitor.warnings(&wanted, now);
        assert!(warnings[0].contains("syncId 9") && warnings[0].contains("0.0.0.2"), "{warnings:?}");
        assert_eq!(monitor.warnings(&wanted, now + PRESENT), Vec::<String>::new());
        assert_eq!(monitor.peers().len(), 2, "but still shown");
        monitor.forget(now + FORGOTTEN);
        assert!(monitor.peers().is_empty());
    }
}
