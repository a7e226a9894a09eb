//! A planned upgrade: the running process gives sockets and states to the one that follows it, and no group changes its state.
//!
//! Over the control socket (`RUN_DIR/agent.sock`), each step bounded in time:
//!
//! 1. The new process asks. The old one ends everything but VRRP, gives up the run directory's lock, answers.
//! 2. The new one starts all that, reads its manifests, and once it has a configuration says `state`.
//! 3. The old one holds still and sends its groups' states with its sockets (SCM_RIGHTS): what comes in from now on waits in
//!    these, and is neither lost nor heard twice.
//! 4. The new one goes on, says `taken`, and the old one ends.
//!
//! When the new one goes away before that, the old one goes on as if nothing had been.

use std::{
    io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use bascule_vrrp::Group;
use bascule_vrrp::group::Snapshot;
use bascule_vrrp::packet::Family;
use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use serde::{Deserialize, Serialize};

use super::config::GroupPlan;
use super::driver::Driver;
use super::handle::Handle;
use super::voice::{Remark, Transition};
use super::wire::{Place, Wire};

/// The form of what is handed over; another release may have another one.
const FORMAT: u32 = 1;
/// Most sockets: SCM_MAX_FD is 253 (include/net/scm.h); a director has at most 64.
const MOST: usize = 128;
/// Largest states: 8 groups of bounded size.
const MAX_BYTES: usize = 4 << 20;
/// How long the new process may take until it has a configuration: it may have ten thousand files to read.
const PREPARE: Duration = Duration::from_secs(300);
/// Either side may take so long to send or take what is ready. Peers are waiting meanwhile.
const PROMPT: Duration = Duration::from_secs(2);

/// What the new process says.
const STATE: &str = "state";
const TAKEN: &str = "taken";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
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
pub(super) struct Package {
    header: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Driver {
    /// States and sockets for another process. This one must not go on unless the other one does not take them.
    pub(super) fn pack(&self) -> io::Result<Package> {
        let mut header = Header { format: FORMAT, groups: Vec::new(), wires: Vec::new() };
        let mut descriptors = Vec::new();
        header.groups.extend(self.members.values().map(|member| member.group.snapshot()));
        for (place, interface, joined, descriptor) in self.wires.all().take(MOST) {
            let Place { index, family } = *place;
            header.wires.push(WireHeader { index, interface: interface.to_string(), family, joined });
            descriptors.push(descriptor.try_clone_to_owned()?);
        }
        Ok(Package { header: serde_json::to_vec(&header)?, descriptors })
    }
}

/// Gives everything away to the process at the other end. On an error this process has it still, and goes on.
pub async fn give(handle: &Handle, stream: UnixStream) -> io::Result<()> {
    let stream = blocking(move || expect(stream, STATE, PREPARE)).await?;
    let package = handle.freeze().await?;
    let sent = blocking(move || {
        stream.set_write_timeout(Some(PROMPT))?;
        send(&stream, &package)?;
        expect(stream, TAKEN, PROMPT).map(drop)
    });
    match sent.await {
        Ok(()) => {
            handle.leave().await;
            Ok(())
        }
        Err(error) => {
            handle.thaw();
            Err(error)
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Reads a line that must be this word.
fn expect(stream: UnixStream, word: &str, patience: Duration) -> io::Result<UnixStream> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    let mut line = String::new();
    BufReader::new((&stream).take(64)).read_line(&mut line)?;
    if line.trim_end() == word {
        return Ok(stream);
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it went away before it said {word:?}")))
}

fn send(stream: &UnixStream, package: &Package) -> io::Result<()> {
    let length = u32::try_from(package.header.len()).map_err(io::Error::other)?.to_be_bytes();
    let descriptors: Vec<RawFd> = package.descriptors.iter().map(|one| one.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&length)], control, MsgFlags::empty(), None)?;
    let mut stream = stream;
    stream.write_all(&package.header)
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

/// Takes everything from the process at the other end. What was not handed over, and a group that cannot go on from the state that
/// it was in, is left for [`Driver::configure`] to begin.
pub(super) fn receive(driver: &mut Driver, stream: UnixStream, plans: &[GroupPlan]) {
    let (header, descriptors) = match take(&stream) {
        Ok(taken) => taken,
        Err(error) => {
            driver
                .voice
                .warn(format!("nothing was taken over from the former process: {error}; beginning anew"));
            return;
        }
    };
    for (wire, descriptor) in header.wires.into_iter().zip(descriptors) {
        let interface: Arc<str> = wire.interface.into();
        let place = Place { index: wire.index, family: wire.family };
        driver.wires.adopt(place, Wire::adopt(descriptor, &interface, wire.joined));
    }
    let mut snapshots = header.groups;
    for plan in plans {
        let at = snapshots.iter().position(|snapshot| *snapshot.group() == *plan.config.name);
        let Some(at) = at else { continue };
        let name = plan.config.name.clone();
        match Group::restore(plan.config.clone(), snapshots.swap_remove(at)) {
            Ok(group) => {
                let (state, priority) = (group.state(), group.priority());
                driver.add_restored(plan.clone(), group);
                let reason = "taken over from the former process".to_owned();
                driver.voice.say(Remark::Transition(Transition {
                    group: name,
                    from: state,
                    to: state,
                    reason,
                    priority,
                }));
            }
            Err(error) => {
                driver.voice.warn(format!("{name}: {error}; it begins anew"));
            }
        }
    }
    let mut answer = &stream;
    if let Err(error) = answer.write_all(format!("{TAKEN}\n").as_bytes()) {
        driver.voice.warn(format!("the former process does not hear that it is relieved: {error}"));
    }
}
