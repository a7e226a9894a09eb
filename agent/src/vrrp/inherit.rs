//! A planned upgrade: the running process gives sockets and states to the one that follows it, and no group changes its state.
//!
//! Over the control socket (`RUN_DIR/agent.sock`), each step bounded in time:
//!
//! 1. The new process asks. The old one ends everything but VRRP, gives up the run directory's lock, answers.
//! 2. The new one starts all that, reads its manifests, and once it has a configuration says `state`.
//! 3. The old one holds still and sends its groups' states with its sockets (SCM_RIGHTS): what comes in from now on waits in
//!    these, and is neither lost nor heard twice. It holds still for half of what is left until peers would take over at most.
//! 4. The new one looks whether it can go on from there, says `taken`, and waits.
//! 5. The old one says `yours` and ends; the new one goes on.
//!
//! Until it has said `yours` the old one goes on as if nothing had been when anything goes wrong or takes too long, and closes the
//! connection: the new one, which finds it closed, has never spoken, and ends. So there is no moment at which both would speak.
//! Only when the old one has died meanwhile the new one begins anew.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_vrrp::group::{Restored, Snapshot};
use bascule_vrrp::packet::Family;
use bascule_vrrp::{BootTime, Group, Input};
use nix::{
    cmsg_space,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg, sockopt},
};
use serde::{Deserialize, Serialize};

use super::clock;
use super::config::{GroupPlan, SERVICES};
use super::driver::Driver;
use super::handle::Handle;
use super::voice::{Remark, Transition};
use super::wire::{Place, Wire};

/// The form of what is handed over; another release may have another one.
const FORMAT: u32 = 2;
/// Most sockets: SCM_MAX_FD is 253 (include/net/scm.h); a director has at most 64.
const MOST: usize = 128;
/// Largest states: 8 groups of bounded size.
const MAX_BYTES: usize = 4 << 20;
/// How long the new process may take until it has a configuration: it may have ten thousand files to read.
const PREPARE: Duration = Duration::from_secs(300);
/// Either side may take so long to send or take what is ready; the old one only half of what the peers' patience leaves
/// ([`Driver::patience_left`]), for they are waiting meanwhile.
const PROMPT: Duration = Duration::from_secs(2);
/// So long the new process waits for the last word: longer than the old one waits for the word before it.
const LAST_WORD: Duration = Duration::from_secs(10);
/// So long a process that ends may take to be gone after its sockets are.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// How long services that failed under the former process stay failed: as long as they would at the first failure.
const FAILED_FOR: Duration = crate::services::group::HOLD;

/// What the new process says.
const STATE: &str = "state";
const TAKEN: &str = "taken";
/// What the old one answers.
const YOURS: &str = "yours";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    /// When the process held still.
    still_since: BootTime,
    groups: Vec<Snapshot>,
    wires: Vec<WireHeader>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireHeader {
    index: u32,
    interface: String,
    family: Family,
    joined: bool,
}

/// States and sockets.
#[derive(Debug)]
struct Package {
    header: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Driver {
    /// States and sockets for another process. This one must not go on unless the other one does not take them.
    fn pack(&self) -> io::Result<Package> {
        let still_since = clock::now().boot;
        let mut header = Header { format: FORMAT, still_since, groups: Vec::new(), wires: Vec::new() };
        let mut descriptors = Vec::new();
        header.groups.extend(self.members.values().map(|member| member.group.snapshot()));
        for (place, interface, joined, descriptor) in self.wires.all().take(MOST) {
            let Place { index, family } = *place;
            header.wires.push(WireHeader { index, interface: interface.to_string(), family, joined });
            descriptors.push(descriptor.try_clone_to_owned()?);
        }
        Ok(Package { header: serde_json::to_vec(&header)?, descriptors })
    }

    /// For how long nobody misses anything when no group of this process speaks; `None` if none is active.
    fn patience_left(&self) -> Option<Duration> {
        let now = clock::now().boot;
        let speaking = self.members.values().filter_map(|member| member.group.must_speak_by());
        speaking.min().map(|by| by.since(now))
    }
}

/// Gives everything away to the process at the other end. On an error this process has it still, and goes on.
pub async fn give(handle: &Handle, stream: UnixStream) -> io::Result<()> {
    let asked = tokio::task::spawn_blocking(move || expect(stream, STATE, Instant::now() + PREPARE));
    handle.give(asked.await.map_err(io::Error::other)??).await
}

/// Called on the thread that speaks, which holds still meanwhile: nobody else's turn must come in between. The connection is closed
/// when this fails, so that the other process knows.
pub(super) fn hand_over(driver: &Driver, stream: UnixStream) -> io::Result<()> {
    // The other half is for the one that speaks next: the other process, or this one that goes on before the peers rise.
    let patience = driver.patience_left().map_or(PROMPT, |left| (left / 2).min(PROMPT));
    let until = Instant::now() + patience;
    send(&stream, &driver.pack()?, until)?;
    let stream = expect(stream, TAKEN, until)?;
    (&stream).write_all(format!("{YOURS}\n").as_bytes())
}

/// What is left of the time, as a timeout of a socket.
fn left(until: Instant) -> io::Result<Option<Duration>> {
    let left = until.saturating_duration_since(Instant::now());
    // Zero would be for ever.
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
}

/// Reads a line that must be this word.
fn expect(stream: UnixStream, word: &str, until: Instant) -> io::Result<UnixStream> {
    stream.set_nonblocking(false)?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() <= word.len() {
        stream.set_read_timeout(left(until)?)?;
        let mut byte = [0];
        match (&stream).read(&mut byte) {
            Ok(0) => break,
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What a timeout of a socket says (SO_RCVTIMEO in socket(7)).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("it did not say {word:?} in time"),
                ));
            }
            Err(error) => return Err(error),
        }
    }
    if line.strip_suffix(b"\n") == Some(word.as_bytes()) {
        return Ok(stream);
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it went away before it said {word:?}")))
}

fn send(stream: &UnixStream, package: &Package, until: Instant) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(left(until)?)?;
    let length = u32::try_from(package.header.len()).map_err(io::Error::other)?.to_be_bytes();
    let descriptors: Vec<RawFd> = package.descriptors.iter().map(|one| one.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&length)], control, MsgFlags::empty(), None)?;
    let (mut stream, mut rest) = (stream, &package.header[..]);
    while !rest.is_empty() {
        stream.set_write_timeout(left(until)?)?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn take(stream: &UnixStream) -> io::Result<(Header, Vec<OwnedFd>)> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PROMPT))?;
    stream.set_write_timeout(Some(PROMPT))?;
    let mut reader = stream;
    reader.write_all(format!("{STATE}\n").as_bytes())?;
    let mut length = [0; 4];
    let mut control = cmsg_space!([RawFd; MOST]);
    let mut slices = [IoSliceMut::new(&mut length)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for one in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = one {
            // SAFETY: the kernel made them for this process just now, and nobody else knows of them.
            descriptors.extend(received.into_iter().map(|one| unsafe { OwnedFd::from_raw_fd(one) }));
        }
    }
    if message.bytes != 4 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it sent nothing"));
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("states of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    let header: Header = serde_json::from_slice(&bytes)?;
    if header.format != FORMAT || header.wires.len() != descriptors.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "they are of another release's form"));
    }
    Ok((header, descriptors))
}

/// Why the former process goes on, and this one must not begin.
#[derive(Debug, thiserror::Error)]
#[error("the agent that runs goes on: {0}")]
pub(super) struct Declined(String);

/// Takes everything from the process at the other end. What was not handed over, and a group that cannot go on from the state that
/// it was in, is left for [`Driver::configure`] to begin; everything, if that process has died.
pub(super) fn receive(
    driver: &mut Driver,
    stream: UnixStream,
    plans: &[GroupPlan],
    keep: &BTreeSet<String>,
) -> Result<(), Declined> {
    let former = peer(&stream);
    match agree(driver, stream, plans, keep) {
        Ok(heritage) => {
            heritage.enter(driver);
            Ok(())
        }
        Err(error) if former.is_some_and(is_gone) => {
            driver.voice.warn(format!("the former process has died ({error}): beginning anew"));
            Ok(())
        }
        Err(error) => Err(Declined(error.to_string())),
    }
}

/// What was taken over.
struct Heritage {
    still_since: BootTime,
    wires: Vec<(Place, Wire)>,
    groups: Vec<(GroupPlan, Restored, bool)>,
    refused: Vec<String>,
}

/// Nothing is this process's until this has returned.
fn agree(
    driver: &Driver,
    stream: UnixStream,
    plans: &[GroupPlan],
    keep: &BTreeSet<String>,
) -> io::Result<Heritage> {
    let (header, descriptors) = take(&stream)?;
    if let Some(group) = header.groups.iter().map(Snapshot::group).find(|group| keep.contains(*group)) {
        // Better the old process with its old configuration than nobody.
        return Err(io::Error::other(format!(
            "group {group}, which it runs, cannot be carried out by this one"
        )));
    }
    let still_since = header.still_since;
    let mut heritage = Heritage { still_since, wires: Vec::new(), groups: Vec::new(), refused: Vec::new() };
    for (wire, descriptor) in header.wires.into_iter().zip(descriptors) {
        let interface: Arc<str> = wire.interface.into();
        let place = Place { index: wire.index, family: wire.family };
        heritage.wires.push((place, Wire::adopt(descriptor, &interface, wire.joined)));
    }
    let floating: BTreeSet<_> =
        plans.iter().flat_map(|plan| plan.places().map(|(_, place)| place.address)).collect();
    let mut snapshots = header.groups;
    for plan in plans {
        let at = snapshots.iter().position(|snapshot| *snapshot.group() == *plan.config.name);
        let Some(snapshot) = at.map(|at| snapshots.swap_remove(at)) else { continue };
        let failed = snapshot.is_failing(SERVICES);
        // Sockets for what is new are opened once it has begun.
        let links = plan.routers.iter().map(|(id, router)| {
            (id.clone(), driver.network.link_of(router, id.family, |address| floating.contains(&address)))
        });
        let links: Vec<_> = links.collect();
        match Group::restore(plan.config.clone(), snapshot, &links) {
            Ok(restored) => heritage.groups.push((plan.clone(), restored, failed)),
            Err(error) => {
                heritage.refused.push(format!("{}: {error}; it begins anew", plan.config.name));
            }
        }
    }
    (&stream).write_all(format!("{TAKEN}\n").as_bytes())?;
    expect(stream, YOURS, Instant::now() + LAST_WORD)?;
    Ok(heritage)
}

impl Heritage {
    fn enter(self, driver: &mut Driver) {
        for (place, wire) in self.wires {
            driver.wires.adopt(place, wire);
        }
        for text in self.refused {
            driver.voice.warn(text);
        }
        for (plan, Restored { group, whole }, failed) in self.groups {
            let (name, state, priority) = (plan.config.name.clone(), group.state(), group.priority());
            let config = Box::new(plan.config.clone());
            driver.add_restored(plan, group);
            if failed && let Some(member) = driver.members.get_mut(&name) {
                member.inherited_fault = Some(clock::now().boot + FAILED_FOR);
            }
            let still = clock::now().boot.since(self.still_since).as_secs_f64() * 1000.0;
            let reason = format!("taken over from the former process, which held still for {still:.1} ms");
            driver.voice.say(Remark::Transition(Transition {
                group: name.clone(),
                from: state,
                to: state,
                reason,
                priority,
                holds: state == bascule_vrrp::GroupState::Active,
            }));
            if !whole {
                driver.open_wires();
                driver.handle(&name, Input::Configure { config, links: Vec::new() });
            }
        }
    }
}

/// The process at the other end, as this one sees it.
fn peer(stream: &UnixStream) -> Option<i32> {
    let credentials = getsockopt(stream, sockopt::PeerCredentials).ok()?;
    // 0: it is in a PID namespace of which nothing is seen here.
    Some(credentials.pid()).filter(|pid| *pid > 0)
}

/// Whether a process has ended, or does within a moment.
fn is_gone(pid: i32) -> bool {
    // SAFETY: takes and gives integers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(descriptor) = RawFd::try_from(descriptor) else { return false };
    if descriptor < 0 {
        return io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
    }
    // SAFETY: the kernel made it for this process just now, and nobody else knows of it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // Readable once the process has ended (pidfd_open(2)).
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let time = PollTimeout::try_from(GONE_WITHIN).unwrap_or(PollTimeout::ZERO);
    poll(&mut polled, time).is_ok_and(|ready| ready > 0)
}
