//! Frames as they were recorded between two directors, and what is said of them.

use super::note::{CheckFailure, Forwarded, Note, Why};
use super::*;

/// Bytes in hex, spaces ignored.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|digit| u8::try_from(digit).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Recorded of two directors with `tcpdump`: version 3, an advertisement every 100 ms.
const DIR1_200: &str =
    "01005e000012020000000101 0800 45c00020edb24000ff702bd6c010c101e0000012 311ec801000a2405 c010c11e";
const DIR1_0: &str =
    "01005e000012020000000101 0800 45c00020f2ba4000ff7026cec010c101e0000012 311e0001000aec05 c010c11e";
const DIR2_100: &str =
    "01005e000012020000000201 0800 45c0002031b54000ff70e7d2c010c102e0000012 311e6401000a8804 c010c11e";
/// Version 2, an advertisement a second.
const DIR1_V2: &str = "01005e000012020000000101 0800 45c000285def4000ff70bb91c010c101e0000012 211ec801000195af c010c11e 0000000000000000";
const DIR1_CLAIMS: &str =
    "ffffffffffff020000000101 0806 00010800060400010200 00000101c010c11e 000000000000c010c11e";
/// The first of 40 connections of a message, and the header of one.
const SYNC: &str = "01005e000051020000000102 0800 4500004800000000011100 00ac10c101e0000051 e0c2229000340000 001e002c01010000 0006002400000000 0001ea3000500050 0000000000000384 c010c164c010c11eac10c128";
const CLIENT_SYN: &str = "020000000101020000000501 0800 4500003c4e9740004006e980c010c164c010c11e ea300050ab19dda100000000a002faf0c26a0000020405b40402080a43eed0d50000000001030307";
const SERVER_SYN: &str = "020000000401020000000102 0800 4500003c4e9740003f06fe76c010c164ac10c128 ea300050ab19dda100000000a002faf0d6600000020405b40402080a43eed0d50000000001030307";
const SERVER_ANSWER: &str = "020000000102020000000401 0800 4500003c0000400040064c0eac10c128c010c164 0050ea30a753edffab19dda2a012fe880cdd0000020405b40402080a1ed011b743eed0d501030307";
const CLIENT_ANSWER: &str = "020000000501020000000101 0800 4500003c000040003f063918c010c11ec010c164 0050ea30a753edffab19dda2a012fe88f8e60000020405b40402080a1ed011b743eed0d501030307";

const NETWORK: &str = "\
summary: two directors
topology:
  networks: [{name: outside}, {name: inside}]
  nodes:
    - name: dir1
      links: [{network: outside, interface: enp0s3, addresses: [192.16.193.1/24]}, {network: inside, interface: enp0s8, addresses: [172.16.193.1/16]}]
      agent:
        manifests:
          all.yaml: |
            kind: VrrpGroup
            metadata: {name: front}
            spec: {instances: [{name: outside, virtualRouterId: 30, addresses: [192.16.193.30/32]}]}
            ---
            kind: VirtualService
            metadata: {name: web}
            spec: {addresses: [192.16.193.30], realServers: [{address: 172.16.193.40}]}
    - {name: dir2, links: [{network: outside, interface: enp0s3, addresses: [192.16.193.2/24]}], agent: {}}
    - {name: SRV2, links: [{network: inside, interface: enp0s3, addresses: [172.16.193.40/16]}]}
    - {name: ClientA, links: [{network: outside, interface: enp0s3, addresses: [192.16.193.100/24]}]}
steps: [{name: a moment, wait: {for: 1s}}]
";
const ENDS: [&str; 5] = ["dir1/enp0s3", "dir1/enp0s8", "dir2/enp0s3", "SRV2/enp0s3", "ClientA/enp0s3"];

fn known() -> Known {
    let mut known = Known::of(&crate::scenario::load("two", NETWORK).expect("a good scenario"));
    for name in ENDS {
        known.end(name).recorded = vec![(0, 100_000_000_000)];
    }
    known
}

/// A frame at an end: `>` going out, `<` coming in; milliseconds.
fn at(milliseconds: u64, end: &str, frame: &str) -> Packet {
    let (direction, name) = match end.split_at(1) {
        (">", name) => (Direction::Outbound, name),
        ("<", name) => (Direction::Inbound, name),
        _ => panic!("{end}"),
    };
    let interface = ENDS.iter().position(|end| *end == name).expect("an end");
    let data = hex(frame);
    Packet {
        interface: u32::try_from(interface).unwrap(),
        time_ns: 1_000_000_000 + milliseconds * 1_000_000,
        original_length: u32::try_from(data.len()).unwrap(),
        direction,
        data,
        comment: None,
    }
}

/// The comments by the number of their frame; without those on what did not arrive.
fn notes(packets: &[Packet]) -> Vec<(usize, Note)> {
    let annotated = annotate(packets, &mut known());
    let all = annotated.notes.into_iter().enumerate();
    all.flat_map(|(index, notes)| notes.into_iter().map(move |note| (index, note)))
        .filter(|(_, note)| note.kind() != "lost")
        .collect()
}

fn texts(packets: &[Packet]) -> Vec<String> {
    notes(packets).iter().map(|(index, note)| format!("{index}: {}", note.text(Language::En))).collect()
}

fn active(who: &str, why: Why) -> Note {
    Note::Active { who: who.into(), group: "front/outside (VRID 30)".into(), why }
}

#[test]
fn silence_makes_another_one_active() {
    let mut packets = vec![at(0, ">dir1/enp0s3", DIR1_200), at(0, "<dir2/enp0s3", DIR1_200)];
    packets.push(at(100, ">dir1/enp0s3", DIR1_200));
    packets.push(at(101, "<dir2/enp0s3", DIR1_200));
    // The next one is sent and does not arrive.
    packets.push(at(200, ">dir1/enp0s3", DIR1_200));
    packets.push(at(423, ">dir2/enp0s3", DIR2_100));
    assert_eq!(
        texts(&packets),
        [
            "0: VRRP: dir1 is active for front/outside (VRID 30); it is the first that is seen",
            "5: VRRP: dir2 heard nothing for 3.22 intervals (322.0 ms) and becomes active for front/outside (VRID 30)",
        ]
    );
}

#[test]
fn who_releases_is_followed_at_once() {
    let packets =
        [at(0, ">dir1/enp0s3", DIR1_200), at(50, ">dir1/enp0s3", DIR1_0), at(111, ">dir2/enp0s3", DIR2_100)];
    let why = Why::Released { before: "dir1".into(), after: std::time::Duration::from_millis(61) };
    let releases = Note::Releases { who: "dir1".into(), group: "front/outside (VRID 30)".into() };
    assert_eq!(notes(&packets)[1..], [(1, releases), (2, active("dir2", why))]);
}

#[test]
fn a_higher_priority_preempts() {
    let packets = [
        at(0, ">dir2/enp0s3", DIR2_100),
        at(100, ">dir2/enp0s3", DIR2_100),
        at(150, ">dir1/enp0s3", DIR1_200),
    ];
    let why = Why::Preempts { before: "dir2".into(), own: 200, other: 100 };
    assert_eq!(notes(&packets)[1..], [(2, active("dir1", why))]);
}

#[test]
fn two_that_go_on_are_both_active_and_it_is_said_once() {
    let mut packets = Vec::new();
    for round in 0..5 {
        packets.push(at(round * 100, ">dir1/enp0s3", DIR1_200));
        packets.push(at(round * 100 + 30, ">dir2/enp0s3", DIR2_100));
    }
    let both: Vec<Note> = notes(&packets)
        .into_iter()
        .map(|(_, note)| note)
        .filter(|note| matches!(note, Note::TwoActive { .. }))
        .collect();
    // Once of each.
    assert_eq!(both.len(), 2, "{both:?}");
}

#[test]
fn another_priority_is_told_and_a_bad_advertisement_refused() {
    let lower = DIR1_200.replace("311ec801000a2405", "311e9601000a5605");
    let far = DIR1_200.replace("4000ff70", "4000fe70");
    let wrong = DIR1_200.replace("311ec801000a2405", "311ec901000a2405");
    let packets = [
        at(0, ">dir1/enp0s3", DIR1_200),
        at(100, ">dir1/enp0s3", &lower),
        at(110, ">ClientA/enp0s3", &far),
        at(120, ">ClientA/enp0s3", &wrong),
    ];
    assert_eq!(
        texts(&packets)[1..],
        [
            "1: VRRP: the priority of dir1 for front/outside (VRID 30) goes from 200 to 150",
            "2: VRRP: receivers must ignore this advertisement from ClientA: its time to live is 254, not 255",
            "3: VRRP: receivers must ignore this advertisement from ClientA: its checksum is wrong",
        ]
    );
}

#[test]
fn version_2_has_no_pseudo_header() {
    assert_eq!(notes(&[at(0, ">dir1/enp0s3", DIR1_V2)]), [(0, active("dir1", Why::First))]);
}

#[test]
fn claims_say_where_the_address_was() {
    let dir2 = DIR1_CLAIMS.replace("0101", "0201");
    let packets = [
        at(0, ">dir1/enp0s3", DIR1_CLAIMS),
        at(1, "<ClientA/enp0s3", DIR1_CLAIMS),
        at(2, ">dir1/enp0s3", DIR1_CLAIMS),
        at(9, ">dir2/enp0s3", &dir2),
    ];
    assert_eq!(
        texts(&packets),
        [
            "0: gratuitous ARP: dir1 claims 192.16.193.30",
            "2: gratuitous ARP: dir1 claims 192.16.193.30, for the 2nd time in a row",
            "3: gratuitous ARP: dir2 claims 192.16.193.30, which was at dir1",
        ]
    );
}

#[test]
fn messages_of_connection_sync_name_connections() {
    let text = &texts(&[at(0, ">dir1/enp0s8", SYNC)])[0];
    assert_eq!(
        text,
        "0: connection sync 30: dir1 tells of 1 connection: 192.16.193.100:59952 → SRV2 (172.16.193.40:80)"
    );
}

#[test]
fn the_first_syn_has_the_server_that_was_chosen_and_the_answer_its_rewriting() {
    let packets = [
        at(0, ">ClientA/enp0s3", CLIENT_SYN),
        at(1, "<dir1/enp0s3", CLIENT_SYN),
        at(2, ">dir1/enp0s8", SERVER_SYN),
        at(3, "<SRV2/enp0s3", SERVER_SYN),
        at(4, ">SRV2/enp0s3", SERVER_ANSWER),
        at(5, "<dir1/enp0s8", SERVER_ANSWER),
        at(6, ">dir1/enp0s3", CLIENT_ANSWER),
        at(7, "<ClientA/enp0s3", CLIENT_ANSWER),
    ];
    let found = notes(&packets);
    let chosen = Note::Chosen {
        client: "ClientA (192.16.193.100:59952)".into(),
        service: "web (192.16.193.30:80)".into(),
        server: "SRV2 (172.16.193.40:80)".into(),
        by: "dir1".into(),
        how: Forwarded::Masquerade,
        other: "#3, dir1/enp0s8".into(),
    };
    assert_eq!(found[0], (0, chosen));
    let texts = texts(&packets);
    assert_eq!(
        texts[1..],
        [
            "2: address translation on dir1: destination web (192.16.193.30:80) becomes SRV2 (172.16.193.40:80) (see #2, dir1/enp0s3)",
            "4: address translation on dir1: source SRV2 (172.16.193.40:80) becomes web (192.16.193.30:80) (see #7, dir1/enp0s3)",
            "6: address translation on dir1: source SRV2 (172.16.193.40:80) becomes web (192.16.193.30:80) (see #6, dir1/enp0s8)",
        ]
    );
    // A second SYN of the same connection says nothing new.
    let mut again = packets.to_vec();
    again.extend([at(1000, ">ClientA/enp0s3", CLIENT_SYN), at(1001, "<dir1/enp0s3", CLIENT_SYN)]);
    again.push(at(1002, ">dir1/enp0s8", SERVER_SYN));
    assert_eq!(notes(&again).len(), found.len());
}

/// As `tcpdump -i any` on the director has it: one place, no names.
#[test]
fn one_machine_without_a_name_hands_on() {
    let mut known = Known::of(&crate::scenario::load("two", NETWORK).expect("a good scenario"));
    known.end("");
    let mut packets = [at(1, "<dir1/enp0s3", CLIENT_SYN), at(2, ">dir1/enp0s3", SERVER_SYN)];
    packets.iter_mut().for_each(|packet| packet.interface = 0);
    let annotated = annotate(&packets, &mut known);
    assert_eq!(
        annotated.text(0, Language::En).as_deref(),
        Some(
            "IPVS on 192.16.193.30 chose SRV2 (172.16.193.40:80) for ClientA (192.16.193.100:59952), which asks for web (192.16.193.30:80) (masquerading: the destination is rewritten; see #2)"
        )
    );
}

/// Two pings with the same number and data, of ClientA to dir1 and of dir1 to ClientA.
#[test]
fn what_a_machine_sends_itself_is_not_handed_on() {
    let ping = |to: &str, from: &str, ttl: &str, addresses: &str| {
        format!(
            "02000000{to}02000000{from} 0800 4500002000004000{ttl}010000 {addresses} 0800000000060000 61626364"
        )
    };
    let packets = [
        at(0, "<dir1/enp0s3", &ping("0101", "0501", "3f", "c010c164c010c101")),
        at(10, ">dir1/enp0s3", &ping("0501", "0101", "40", "c010c101c010c164")),
    ];
    assert_eq!(notes(&packets), []);
}

/// The director's own connection to a server: 172.16.193.1:40000 to 172.16.193.40:80.
fn check(flags: u8) -> String {
    format!(
        "020000000401020000000102 0800 4500002800004000400600 00ac10c101ac10c128 9c400050000000010000000050{flags:02x}ffff00000000"
    )
}

fn answer(flags: u8, data: &str) -> String {
    let length = 40 + data.len();
    let data: String = data.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "020000000102020000000401 0800 4500{length:04x}00004000400600 00ac10c128ac10c101 00509c40000000010000000250{flags:02x}ffff00000000{data}"
    )
}

#[test]
fn checks_that_fail_say_why() {
    let fails = |packets: &[Packet]| -> Vec<(usize, CheckFailure)> {
        let why = |(index, note)| match note {
            Note::CheckFails { by, server, why } => {
                assert_eq!((by.as_str(), server.as_str()), ("dir1", "SRV2 (172.16.193.40:80)"));
                Some((index, why))
            }
            _ => None,
        };
        notes(packets).into_iter().filter_map(why).collect()
    };
    let asks = at(0, ">dir1/enp0s8", &check(0x02));
    let says = |flags, data: &str| at(2, "<dir1/enp0s8", &answer(flags, data));
    assert_eq!(fails(&[asks.clone(), says(0x14, "")]), [(1, CheckFailure::Refused)]);
    assert_eq!(fails(std::slice::from_ref(&asks)), [(0, CheckFailure::NoAnswer)]);
    assert_eq!(fails(&[asks.clone(), says(0x12, "")]), []);
    let well = [asks.clone(), says(0x12, ""), says(0x18, "HTTP/1.1 200 OK\r\n")];
    assert_eq!(fails(&well), []);
    let ill = [asks, says(0x12, ""), says(0x18, "HTTP/1.1 503 Service Unavailable\r\n")];
    assert_eq!(fails(&ill), [(2, CheckFailure::Status(503))]);
}

/// Where each frame did not arrive.
fn lost(packets: &[Packet], known: &mut Known) -> Vec<(usize, Vec<String>)> {
    let annotated = annotate(packets, known);
    let at = |note: Note| match note {
        Note::Lost { at, .. } => Some(at),
        _ => None,
    };
    let all = annotated.notes.into_iter().enumerate();
    all.flat_map(|(index, notes)| notes.into_iter().filter_map(at).map(move |at| (index, at))).collect()
}

#[test]
fn what_never_arrived_is_said_where_it_was_sent() {
    let packets = [
        at(0, ">dir1/enp0s3", DIR1_200),
        at(1, "<ClientA/enp0s3", DIR1_200),
        at(2, "<dir2/enp0s3", DIR1_200),
        at(3, ">dir2/enp0s3", DIR2_100),
        // The same bytes once more: this time they do not reach dir2.
        at(100, ">dir1/enp0s3", DIR1_200),
        at(101, "<ClientA/enp0s3", DIR1_200),
        at(200, ">ClientA/enp0s3", CLIENT_SYN),
    ];
    let found = lost(&packets, &mut known());
    let wanted = [
        (3, vec!["dir1".to_owned(), "ClientA".to_owned()]),
        (4, vec!["dir2".to_owned()]),
        // For one machine only.
        (6, vec!["dir1".to_owned()]),
    ];
    assert_eq!(found, wanted);

    // Nothing is said where a capture has lost frames, did not run, or where nobody knows what hangs together.
    let mut known_ = known();
    known_.ends.iter_mut().for_each(|end| end.dropped = 1);
    assert_eq!(lost(&packets, &mut known_), []);
    let mut known_ = known();
    known_
        .ends
        .iter_mut()
        .for_each(|end| end.recorded = vec![(0, 1_050_000_000), (1_150_000_000, 1_500_000_000)]);
    assert_eq!(lost(&packets, &mut known_), []);
    let mut known_ = known();
    known_.ends.iter_mut().for_each(|end| end.network = None);
    assert_eq!(lost(&packets, &mut known_), []);
}

#[test]
fn every_comment_is_there_in_french() {
    let packets = [
        at(0, ">dir1/enp0s3", DIR1_200),
        at(50, ">dir1/enp0s3", DIR1_0),
        at(60, ">dir1/enp0s3", DIR1_CLAIMS),
        at(70, ">dir1/enp0s8", SYNC),
    ];
    let annotated = annotate(&packets, &mut known());
    for index in 0..packets.len() {
        let text = |language| annotated.text(index, language).expect("a comment");
        assert_ne!(text(Language::En), text(Language::Fr));
    }
    assert!(annotated.text(2, Language::Fr).unwrap().contains("réclame 192.16.193.30"));
}
