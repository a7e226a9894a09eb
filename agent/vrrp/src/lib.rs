//! VRRP without I/O: version 2 (RFC 3768) and version 3 (RFC 9568), IPv4 and IPv6, one virtual router or groups of them that
//! change state together. No sockets, no clock, no threads: what is received and what time it is are handed in, what is to be
//! done comes out.
//!
//! # What there is
//!
//! * [`Group`]: what an agent drives. Addresses of several interfaces and families that are on exactly one of several members;
//!   tracking, preemption, hand-over, authentication, everything that status has to say.
//! * [`router::VirtualRouter`]: one virtual router, the state machine of RFC 9568 section 6.4. Usable on its own.
//! * [`packet`]: advertisements as bytes. [`authentication`]: the HMAC trailer of keepalived 2.4.
//! * [`timers`]: Skew_Time, Active_Down_Interval and the like. [`resume`]: whether to go on as Active after a crash.
//!   [`foreign`]: other virtual routers on our networks.
//!
//! # States
//!
//! A group is in *Initialize* (not started, stopped, or waiting to hear of an interface), *Fault* (something that it tracks has
//! failed; its virtual routers are in Initialize), *Backup* or *Active*. Each virtual router of a Backup group is *Listening* (its
//! Active_Down_Timer runs) or *Ready* (it heard nobody and waits for the others); an Active one is *Holding* or *Releasing* (it
//! says priority 0 and keeps the addresses until a successor is heard). After each call of [`Group::handle`] all virtual routers
//! are in the state that the group's name says, and there is a [reason](group::Status::reason) in words.
//!
//! # Inputs, actions, and the order
//!
//! ```
//! use std::time::Duration;
//! use bascule_vrrp::{Action, BootTime, Group, GroupConfig, GroupState, Input, InstanceConfig, Link, Now, Peers, UnixTime};
//!
//! let outside = InstanceConfig {
//!     name: "outside".into(),
//!     interface: "eth0".into(),
//!     vrid: 30,
//!     addresses: vec!["192.16.193.30".parse()?],
//!     peers: Peers::Multicast,
//! };
//! let mut group = Group::new(GroupConfig::new("front", 200, vec![outside]))?;
//! let router = group.routers().next().unwrap().0.clone();
//! let at = |seconds| Now {
//!     boot: BootTime::from_duration(Duration::from_secs_f64(seconds)), // CLOCK_BOOTTIME
//!     unix: UnixTime(Duration::from_secs_f64(1_700_000_000.0 + seconds)), // CLOCK_REALTIME
//! };
//! group.handle(at(10.0), Input::Link { router, link: Link::Up { source: "192.16.193.1".parse()? } });
//! group.handle(at(10.0), Input::Start { resume: false });
//! assert_eq!(group.state(), GroupState::Backup);
//!
//! // Three intervals of a second and Skew_Time later nobody was heard.
//! assert_eq!(group.next_deadline(), Some(at(13.21875).boot));
//! for action in group.handle(at(13.21875), Input::Timer) {
//!     match action {
//!         Action::Send { source, destination, bytes, .. } => println!("{source} to {destination}: {bytes:02x?}"),
//!         Action::HoldAddresses { router, lifetime } => println!("add the addresses of {router}, valid for {lifetime:?}"),
//!         Action::Announce { router, times } => println!("gratuitous ARP for {router}, {times} times"),
//!         Action::Changed(change) => println!("{:?}: {}", change.to, change.reason),
//!         other => println!("{other:?}"),
//!     }
//! }
//! assert_eq!(group.state(), GroupState::Active);
//! assert_eq!(group.status().reason, "heard nothing for 3.22 intervals (3.22s)");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What an agent must keep to:
//!
//! 1. `now` never runs backwards. It is CLOCK_BOOTTIME, so that a machine that slept knows it.
//! 2. When [`Group::next_deadline`] has come, first hand in everything that the sockets hold, then [`Input::Timer`]. Otherwise a
//!    backup that was not running takes its own deafness for silence (it gives the active one a second chance when it finds its
//!    timer late, but not a third).
//! 3. Carry out the actions in their order, each to its end. From a predecessor that lives, the addresses are taken and announced
//!    before the advertisement that makes it drop them; from one that is dead, the other backups hear first.
//! 4. [`Action::HoldAddresses`] is not the only word on addresses at the start: those of a former process must be gone before
//!    [`Input::Start`], unless [`resume::judge`] says [`resume::Verdict::Resume`].
//! 5. Keep [`Group::record`] in /run after each call that sent something, and [`Action::Remember`] where it survives a restart.
//! 6. What cannot be sent is a fault: report the interface as [`Link::Mute`] when sending keeps failing, and as
//!    [`Link::Deaf`] when there is no socket to hear anybody.
//!
//! # Where it differs from the RFCs
//!
//! * Priority 0 shortens a Backup's wait to Skew_Time but never prolongs it (section 6.4.2 sets the timer): a hand-over repeats it.
//! * Priority 0 is said once more after a tenth of an interval, in a hand-over then every interval.
//! * An Active router answers another one at once (section 6.4.3), but at most four times an interval.
//! * An Active router that was not running for longer than its peers wait gives way before it speaks.
//! * A Backup whose timer comes more than an interval late waits for one more interval and Skew_Time, once.
//! * The Adver_Timer is set an interval after it was due, not after it was served.
//! * In a group, virtual routers wait for each other, and ties are decided on one network.
//! * Advertisements for other addresses are reported and taken, unless told otherwise; an interval of 0 is refused.
//! * VRRPv2 and v3 are not spoken at once (section 8.4), and a group is never the owner of its addresses (priority 255).
#![forbid(unsafe_code)]

pub mod authentication;
pub mod foreign;
pub mod group;
pub mod packet;
pub mod resume;
pub mod router;
pub mod timers;

mod endpoint;
mod time;

pub use endpoint::{AddressCheck, AddressesDiffer, Authentication, Checksum, Heard, Peers, Rejection};
pub use group::{Action, Group, GroupConfig, GroupState, Input, InstanceConfig, Link, RouterId};
pub use time::{BootTime, Now, UnixTime};
