//! Planned upgrades, and groups that change their names or addresses.

use std::os::unix::net::UnixStream;

use bascule_agent::vrrp::give;
use bascule_crds::director_config::DirectorVrrpGroup;

use crate::net::{Net, Speaker, block, can_run, eventually, group};
use crate::pair::{INSIDE, OUTSIDE, Pair};

impl Pair {
    /// Another process on the first director, with this configuration; the former one gives, if the new one takes.
    fn upgrade(&self, groups: &[DirectorVrrpGroup]) -> (Speaker, std::io::Result<()>) {
        let (old, new) = UnixStream::pair().unwrap();
        let successor = self.dir1.start_with(Some(new));
        let given = std::thread::scope(|scope| {
            let giver = scope.spawn(|| block(give(&self.one.handle, old)));
            successor.handle.configure(groups);
            giver.join().unwrap()
        });
        (successor, given)
    }
}

fn named(name: &str, priority: u8, more: &str) -> DirectorVrrpGroup {
    DirectorVrrpGroup { name: name.to_owned(), ..group(priority, more) }
}

#[test]
fn a_group_with_another_name_begins_when_the_former_one_has_handed_over() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    pair.one.handle.configure(&[named("renamed", 200, "")]);
    pair.one.wait_for("renamed", "Active");
    pair.two.wait_for("front", "Backup");
    pair.one.expect_history(&[
        "Initialize -> Backup",
        "Backup -> Active",
        "Active -> Initialize",
        "Initialize -> Backup",
        "Backup -> Active",
    ]);
    pair.settles(OUTSIDE, true);
    pair.settles(INSIDE, true);
    assert_eq!(pair.one.state("front"), "none");
    assert_eq!(pair.one.status().repaired, 0, "no address was fought over");
    pair.two.expect_history(&["Initialize -> Backup", "Backup -> Active", "Active -> Backup"]);
}

#[test]
fn an_address_that_moves_to_another_group_of_the_director_stays() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let dir1 = net.machine(1);
    let one = dir1.start();
    let instance = |vrid: u8, addresses: &[&str]| {
        serde_json::json!({"instances": [{"name": "outside", "interface": "eth0", "virtualRouterId": vrid,
            "addresses": addresses}]})
        .to_string()
    };
    let (first, second) = ("192.16.193.31/32", "192.16.193.41/32");
    for (a, b) in
        [(vec![first, second], vec!["192.16.193.40/32"]), (vec![first], vec!["192.16.193.40/32", second])]
    {
        // In both orders of names.
        for (from, to) in [("a", "b"), ("b", "a")] {
            one.handle.configure(&[named(from, 200, &instance(30, &a)), named(to, 200, &instance(40, &b))]);
            one.wait_for("a", "Active");
            one.wait_for("b", "Active");
            for address in ["192.16.193.31", "192.16.193.40", "192.16.193.41"] {
                eventually(&format!("{address} is there"), || dir1.has(address).then_some(()));
            }
        }
    }
}

#[test]
fn an_upgrade_to_another_configuration_changes_what_it_changes() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    let more = r#"{"instances": [
        {"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["192.16.193.30/32"]},
        {"name": "other", "interface": "eth1", "virtualRouterId": 32, "addresses": ["172.16.193.254/16"]}]}"#;
    pair.two.handle.configure(&[group(100, more)]);
    let (successor, given) = pair.upgrade(&[group(200, more)]);
    given.unwrap();
    successor.wait_for("front", "Active");
    pair.settles("172.16.193.254", true);
    eventually("what is configured no more is gone", || (!pair.dir1.has(INSIDE)).then_some(()));
    pair.settles(OUTSIDE, true);
    successor.expect_history(&["Active -> Active"]);
    pair.two.expect_history(&["Initialize -> Backup"]);
}

#[test]
fn an_agent_that_cannot_carry_a_group_out_does_not_take_over() {
    if !can_run() {
        return;
    }
    let pair = Pair::alike("");
    let missing =
        r#"{"authentication": {"hmac": {"keys": [{"id": 1, "file": "/nonexistent/key"}], "activeKey": 1}}}"#;
    let (successor, given) = pair.upgrade(&[group(200, missing)]);
    assert!(given.is_err());
    let why = block(successor.handle.declined());
    assert!(why.contains("goes on") && why.contains("front"), "{why}");
    drop(successor);
    let sent = pair.one.status().groups[0].instances[0].sent;
    eventually("the former one goes on speaking", || {
        (pair.one.status().groups[0].instances[0].sent > sent + 5).then_some(())
    });
    pair.one.wait_for("front", "Active");
    pair.settles(OUTSIDE, true);
    pair.two.expect_history(&["Initialize -> Backup"]);
}

/// The new one has everything and says so, but the old one does not hear it: only the old one speaks.
#[test]
fn who_does_not_hear_the_last_word_does_not_begin() {
    if !can_run() {
        return;
    }
    // Peers wait a second and a half: what is too long for them is over before.
    let pair = Pair::alike(r#"{"advertisementInterval": "500ms"}"#);
    // Between the two somebody who swallows the new one's second word.
    let (old, middle_old) = UnixStream::pair().unwrap();
    let (middle_new, new) = UnixStream::pair().unwrap();
    let successor = pair.dir1.start_with(Some(new));
    std::thread::scope(|scope| {
        let giver = scope.spawn(|| block(give(&pair.one.handle, old)));
        scope.spawn(|| {
            use std::io::{Read as _, Write as _};
            let (mut from_new, mut to_old) = (&middle_new, &middle_old);
            let mut word = [0; 6];
            from_new.read_exact(&mut word).unwrap();
            to_old.write_all(&word).unwrap();
            let _ = pass_package(&middle_old, &middle_new);
            from_new.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"taken\n");
            // The old one closes when it has waited long enough.
            let mut rest = Vec::new();
            let _ = (&middle_old).read_to_end(&mut rest);
            assert!(rest.is_empty(), "{rest:?}");
            drop((middle_old, middle_new));
        });
        successor.handle.configure(&[group(200, r#"{"advertisementInterval": "500ms"}"#)]);
        assert!(giver.join().unwrap().is_err());
    });
    let why = block(successor.handle.declined());
    assert!(why.contains("goes on"), "{why}");
    let sent = pair.one.status().groups[0].instances[0].sent;
    eventually("the former one goes on speaking", || {
        (pair.one.status().groups[0].instances[0].sent > sent + 2).then_some(())
    });
    // It was never late, and nobody took over.
    pair.one.expect_history(&["Initialize -> Backup", "Backup -> Active"]);
    pair.two.expect_history(&["Initialize -> Backup"]);
    assert_eq!(successor.history(), [""; 0]);
}

/// Hands what the old process sends to the new one, descriptors and all.
fn pass_package(from: &UnixStream, to: &UnixStream) -> nix::Result<()> {
    use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
    use std::io::{IoSlice, IoSliceMut};
    use std::os::fd::AsRawFd as _;
    let (mut bytes, mut control) = (vec![0_u8; 65_536], nix::cmsg_space!([i32; 128]));
    let mut total = None;
    let mut passed = 0;
    while total.is_none_or(|total| passed < total) {
        let (count, descriptors) = {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let message =
                recvmsg::<()>(from.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
            let mut descriptors = Vec::new();
            for one in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(received) = one {
                    descriptors.extend(received);
                }
            }
            (message.bytes, descriptors)
        };
        if passed == 0 {
            total = Some(4 + u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize);
        }
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(&bytes[..count])], control, MsgFlags::empty(), None)?;
        for descriptor in descriptors {
            let _ = nix::unistd::close(descriptor);
        }
        passed += count;
    }
    Ok(())
}

#[test]
fn services_that_failed_are_still_failed_after_an_upgrade_until_they_are_said_to_run() {
    if !can_run() {
        return;
    }
    let services = r#"{"services": [{"systemd": "apache2.service"}]}"#;
    let pair = Pair::alike(services);
    pair.one.handle.tracked("front", "services", true);
    pair.one.wait_for("front", "Fault");
    pair.two.wait_for("front", "Active");
    let (successor, given) = pair.upgrade(&[group(200, services)]);
    given.unwrap();
    successor.wait_for("front", "Fault");
    successor.handle.tracked("front", "services", false);
    successor.wait_for("front", "Active");
    pair.settles(OUTSIDE, true);
}

#[test]
fn to_the_multicast_group_of_ipv6_a_member_speaks_from_its_link_local_address() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(|host| {
        serde_json::json!({
            "instances": [{"name": "outside", "interface": "eth0", "virtualRouterId": 30, "addresses": ["2001:db8::30/64"]}],
            "ownAddresses": {"outside": format!("2001:db8::{host}")},
        })
        .to_string()
    });
    eventually("its advertisements are accepted", || {
        (pair.two.status().groups[0].instances[0].accepted > 3).then_some(())
    });
    let instance = pair.two.status().groups[0].instances[0].clone();
    assert!(instance.rejected.is_empty(), "{instance:?}");
    assert!(instance.active.is_some_and(|active| active.starts_with("fe80")));
}
