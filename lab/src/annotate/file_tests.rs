//! Captures of other origin, and what is written of them, read by tshark where it is installed.

use super::super::tests::hex;
use super::*;

/// `tcpdump -w`: little endian, microseconds, one frame of 14 bytes.
const PCAP: &str = "d4c3b2a1 0200 0400 00000000 00000000 00000400 01000000  0a000000 40420f00 0e000000 0e000000 ffffffffffff 020000000101 0806";

#[test]
fn pcap_is_read_in_either_byte_order() {
    let little = read(&hex(PCAP)).unwrap();
    assert_eq!(little.packets.len(), 1);
    assert_eq!(little.packets[0].time_ns, 11_000_000_000);
    assert_eq!(little.links[0].kind, ETHERNET);
    let big = "a1b23c4d 0002 0004 00000000 00000000 00040000 00000001  0000000a 000f4240 0000000e 0000000e ffffffffffff 020000000101 0806";
    let big = read(&hex(big)).unwrap();
    assert_eq!(big.packets[0].time_ns, 10_001_000_000, "nanoseconds");
    assert_eq!(big.packets[0].data, little.packets[0].data);
}

#[test]
fn what_is_cut_off_or_damaged_does_no_harm() {
    let whole = hex(PCAP);
    for end in 0..whole.len() {
        let _ = read(&whole[..end]);
    }
    assert!(read(b"<html>").is_err());
    // A block that is said to be endless.
    assert!(read(&hex("0a0d0d0a ffffff7f 4d3c2b1a 01000000 ffffffffffffffff")).is_err());
}

#[test]
fn cooked_frames_are_looked_at_as_ethernet() {
    let any = hex(
        "d4c3b2a1 0200 0400 00000000 00000000 00000400 71000000  0a000000 00000000 12000000 12000000 0004 0001 0006 0200000001010000 0800 4500",
    );
    let capture = read(&any).unwrap();
    let looked = as_ethernet(&capture);
    assert_eq!(looked[0].direction, Direction::Outbound);
    assert_eq!(looked[0].data, hex("000000000000 020000000101 0800 4500"));
    assert_eq!(capture.packets[0].data.len(), 18, "the frame itself stays as it was");
}

fn written() -> Vec<u8> {
    let mut capture = read(&hex(PCAP)).unwrap();
    capture.links[0].name = "dir1/enp0s3".into();
    capture.links[0].recorded = vec![(9_000_000_000, 10_000_000_000), (10_500_000_000, 12_000_000_000)];
    capture.packets[0].comment = Some("said before".into());
    let mut known = Known::default();
    known.names.insert("192.16.193.30".parse().unwrap(), "web".into());
    known.names.insert("2001:db8::30".parse().unwrap(), "web6".into());
    let mut bytes = Vec::new();
    write(&mut bytes, "a run", &capture, &known, |_| Some("« ARP » <b>".into())).unwrap();
    bytes
}

#[test]
fn what_is_written_reads_back_with_its_times_and_comments() {
    let capture = read(&written()).unwrap();
    assert_eq!(capture.packets[0].comment.as_deref(), Some("said before\n« ARP » <b>"));
    assert_eq!(capture.packets[0].time_ns, 11_000_000_000);
    assert_eq!(
        capture.links[0].recorded,
        [(9_000_000_000, 10_000_000_000), (10_500_000_000, 12_000_000_000)]
    );
}

/// Wireshark's own reader finds the comments, the names and the links.
#[test]
fn tshark_reads_what_is_written() {
    let file = tempfile::Builder::new().suffix(".pcapng").tempfile().unwrap();
    std::fs::write(file.path(), written()).unwrap();
    let fields =
        ["-T", "fields", "-e", "frame.comment", "-e", "frame.interface_name", "-e", "frame.time_epoch"];
    let tshark = std::process::Command::new("tshark").arg("-r").arg(file.path()).args(fields).output();
    let output = match tshark {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            assert!(std::env::var_os("BASCULE_REQUIRE_TSHARK").is_none(), "tshark is not installed");
            eprintln!("not run here: tshark is not installed");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    for wanted in ["said before", "« ARP » <b>", "dir1/enp0s3", "11.000000000"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let hosts = std::process::Command::new("tshark")
        .args(["-q", "-z", "hosts", "-W", "n", "-N", "n", "-r"])
        .arg(file.path())
        .output()
        .unwrap();
    let hosts = String::from_utf8_lossy(&hosts.stdout).into_owned();
    assert!(hosts.contains("web") && hosts.contains("web6"), "{hosts}");
}
