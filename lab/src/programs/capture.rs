//! `capture`: every frame of a link into a pcapng file, bounded, with the losses counted.

use std::{fs::File, io::BufWriter, os::fd::AsFd as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use serde::Serialize;

use super::{
    clock::realtime_ns,
    packet_socket::{dropped, open, receive},
    pcapng::{Packet, Writer},
};

const SNAP_LENGTH: u32 = 65_535;

/// A capture of one link, which runs inside a node.
#[derive(Debug, Clone, clap::Args)]
pub struct CaptureArgs {
    /// The link.
    #[arg(long)]
    pub interface: String,
    /// Its name in the file; the link's own unless told.
    #[arg(long)]
    pub label: Option<String>,
    /// The pcapng file.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Frames beyond this size of the file are counted, not written.
    #[arg(long, default_value_t = 256 << 20, value_name = "BYTES")]
    pub limit_bytes: u64,
    /// Only frames of these kinds (may be repeated); all unless told.
    #[arg(long, value_enum)]
    pub filter: Vec<Filter>,
}

/// A kind of frame, by its Ethernet type and IP protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Filter {
    /// ARP.
    Arp,
    /// ICMP and ICMPv6, neighbour discovery included.
    Icmp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// VRRP (IP protocol 112).
    Vrrp,
    /// IP in IP, and GRE.
    Tunnel,
}

impl Filter {
    /// Whether `frame` is of this kind.
    pub fn matches(self, frame: &[u8]) -> bool {
        let Some((ethertype, rest)) = ethertype(frame) else { return false };
        let protocol = match ethertype {
            0x0800 => rest.get(9),
            0x86DD => rest.get(6),
            _ => None,
        };
        matches!(
            (self, ethertype, protocol),
            (Self::Arp, 0x0806, _)
                | (Self::Icmp, _, Some(1 | 58))
                | (Self::Tcp, _, Some(6))
                | (Self::Udp, _, Some(17))
                | (Self::Vrrp, _, Some(112))
                | (Self::Tunnel, _, Some(4 | 41 | 47))
        )
    }
}

/// The Ethernet type behind at most one VLAN tag, and what follows it.
fn ethertype(frame: &[u8]) -> Option<(u16, &[u8])> {
    let kind = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    match kind(12)? {
        0x8100 => Some((kind(16)?, frame.get(18..)?)),
        other => Some((other, frame.get(14..)?)),
    }
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    written: u64,
    dropped: u64,
    over_limit: u64,
}

/// Runs until SIGTERM or SIGINT. At SIGUSR1 it writes down what it has, and the totals so far as a block of statistics.
///
/// # Errors
/// When the link does not exist, the socket is not allowed, or the file cannot be written.
pub fn run(args: CaptureArgs) -> anyhow::Result<ExitCode> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGUSR1);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

    let file = File::create(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let mut writer = Writer::new(BufWriter::new(file), None)?;
    let label = args.label.as_deref().unwrap_or(&args.interface);
    let interface = writer.interface(label, SNAP_LENGTH)?;
    let socket = open(&args.interface).with_context(|| format!("cannot capture on {}", args.interface))?;
    println!("ready");

    let mut totals = Totals::default();
    let mut buffer = vec![0; SNAP_LENGTH as usize];
    loop {
        let mut ready =
            [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        // Between bursts what was written goes to the file, so that a killed capture loses little.
        let waited = poll(&mut ready, PollTimeout::from(500u16));
        if matches!(waited, Ok(0)) {
            writer.flush()?;
            continue;
        }
        if let Err(error) = waited
            && error != nix::errno::Errno::EINTR
        {
            return Err(error.into());
        }
        // Asked before the frames are read: those that came before the signal are then in the file.
        let (mut ended, mut asked) = (false, false);
        while let Some(signal) = signals.read_signal()? {
            if signal.ssi_signo == Signal::SIGUSR1 as u32 {
                asked = true;
            } else {
                ended = true;
            }
        }
        while let Some(frame) = receive(&socket, &mut buffer)? {
            let data = &buffer[..frame.length];
            if !args.filter.is_empty() && !args.filter.iter().any(|filter| filter.matches(data)) {
                continue;
            }
            if writer.written() >= args.limit_bytes {
                totals.over_limit += 1;
                continue;
            }
            writer.packet(&Packet {
                interface,
                time_ns: frame.time_ns,
                original_length: frame.original_length,
                direction: frame.direction,
                data: data.to_vec(),
                comment: None,
            })?;
            totals.written += 1;
        }
        if ended || asked {
            // The kernel counts from one reading to the next.
            totals.dropped += dropped(&socket)?;
            let lost = totals.dropped + totals.over_limit;
            writer.statistics(interface, realtime_ns(), totals.written + lost, lost)?;
            writer.flush()?;
        }
        if ended {
            break;
        }
    }
    writer.finish()?;
    println!("{}", serde_json::to_string(&totals)?);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: u16, protocol_at: usize, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame[14 + protocol_at] = protocol;
        frame
    }

    #[test]
    fn filters_know_their_frames() {
        assert!(Filter::Arp.matches(&frame(0x0806, 0, 0)));
        assert!(Filter::Vrrp.matches(&frame(0x0800, 9, 112)));
        assert!(Filter::Icmp.matches(&frame(0x86DD, 6, 58)));
        assert!(!Filter::Tcp.matches(&frame(0x0800, 9, 17)));
        assert!(!Filter::Tcp.matches(&[0; 5]));
    }
}
