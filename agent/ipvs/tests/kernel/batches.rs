//! Batches, large dumps, full buffers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bascule_ipvs::{
    Client, Command, CommandError, Destination, Errno, Family, Forwarding, Options, Protocol, Service,
    ServiceId,
};

use super::namespace::{in_namespace, ipvsadm};

fn id(number: u16) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: Ipv4Addr::new(192, 0, 2, 1).into(), port: number }
}

fn service(number: u16) -> Service {
    Service::new(id(number), "rr")
}

fn destination(number: u16) -> Destination {
    Destination::new(Ipv4Addr::from(0x0a00_0001 + u32::from(number)).into(), 80, Forwarding::Masquerade)
}

fn errnos(outcomes: &[Result<(), CommandError>]) -> Vec<Option<Errno>> {
    outcomes
        .iter()
        .map(|outcome| outcome.as_ref().err().map(|error| error.errno().expect("an errno")))
        .collect()
}

/// Mostly commands that work, some that fail in every way that depends on those before them.
fn mixed(count: u16) -> Vec<Command> {
    (1..=count)
        .flat_map(|number| {
            // Each that is missing makes the kernel run modprobe.
            let scheduler = if number % 50 == 7 { "nothing" } else { "rr" };
            [
                Command::NewService(Service::new(id(number), scheduler)),
                Command::NewDestination(id(number), destination(number)),
                if number % 3 == 0 {
                    Command::NewDestination(id(number), destination(number))
                } else {
                    Command::SetDestination(id(number), destination(number).weight(5))
                },
                if number % 5 == 0 {
                    Command::SetDestination(id(number), destination(9))
                } else {
                    Command::Zero(Some(id(number)))
                },
            ]
        })
        .collect()
}

fn contents(client: &mut Client) -> BTreeMap<ServiceId, (String, BTreeSet<String>)> {
    // The tests beside this one change the kernel's table, which is one for all namespaces.
    let services = client.services_with((1..=200).map(id)).unwrap();
    services
        .into_iter()
        .map(|entry| {
            let destinations = client.destinations(&entry.service.id).unwrap();
            let destinations = destinations.iter().map(|entry| format!("{:?}", entry.destination)).collect();
            (entry.service.id, (entry.service.scheduler, destinations))
        })
        .collect()
}

#[test]
fn a_batch_gives_what_the_same_commands_give_one_by_one() {
    in_namespace(|client| {
        let commands = mixed(120);
        let single: Vec<Option<Errno>> = commands
            .iter()
            .map(|command| match client.execute(command) {
                Ok(()) => None,
                Err(bascule_ipvs::Error::Command { source, .. }) => source.errno(),
                Err(error) => panic!("{error}"),
            })
            .collect();
        let expected = contents(client);
        for batch in [None, Some(1), Some(7), Some(479), Some(480)] {
            client.execute(&Command::Flush).unwrap();
            let mut other = Client::connect_with(Options { batch, ..Options::default() }).unwrap();
            assert_eq!(errnos(&other.execute_all(&commands).unwrap()), single, "{batch:?}");
            assert_eq!(contents(client), expected, "{batch:?}");
        }
    });
}

#[test]
fn ten_thousand_destinations_are_dumped_whole() {
    in_namespace(|client| {
        let mut commands = vec![Command::NewService(service(1))];
        commands.extend((0..10_000).map(|number| Command::NewDestination(id(1), destination(number))));
        assert!(client.execute_all(&commands).unwrap().iter().all(Result::is_ok));
        let all: BTreeSet<_> =
            client.destinations(&id(1)).unwrap().iter().map(|entry| entry.destination.id).collect();
        let wanted: BTreeSet<_> = (0..10_000).map(|number| destination(number).id).collect();
        assert_eq!(all, wanted);
        assert_eq!(ipvsadm("-Sn").lines().count(), 10_001);

        // And of many services with few, which is another dump each.
        client.execute(&Command::Flush).unwrap();
        let mut commands = Vec::new();
        for number in 1..=2_500 {
            commands.push(Command::NewService(service(number)));
            commands.extend((0..4).map(|real| Command::NewDestination(id(number), destination(real))));
        }
        assert!(client.execute_all(&commands).unwrap().iter().all(Result::is_ok));
        let services = client.services_with((1..=2_500).map(id)).unwrap();
        assert_eq!(services.len(), 2_500);
        for entry in services {
            assert_eq!(client.destinations(&entry.service.id).unwrap().len(), 4);
        }
    });
}

/// A list that is read a piece at a time, with other questions and changes in between.
#[test]
fn pages_of_a_list_stand_what_comes_between() {
    in_namespace(|client| {
        let commands: Vec<_> = (1..=1_000).map(|number| Command::NewService(service(number))).collect();
        client.execute_all(&commands).unwrap();
        for _ in 0..2 {
            let (mut ids, mut pages) = (BTreeSet::new(), 0);
            loop {
                let page = client.services_page().unwrap();
                ids.extend(page.services.iter().map(|entry| entry.service.id));
                pages += 1;
                if page.last {
                    break;
                }
                assert!(page.services.len() < 500, "a piece, not all: {}", page.services.len());
                // In place, so that none moves in the kernel's table.
                let changed = Command::SetService(Service::new(id(7), "lc"));
                assert_eq!(client.execute_all(&[changed]).unwrap(), [Ok(())]);
                assert!(client.service(&id(1_000)).unwrap().is_some());
            }
            assert!(pages > 2, "{pages}");
            assert_eq!(ids, (1..=1_000).map(id).collect());
        }
    });
}

/// With the smallest receive buffer that the kernel gives, most answers are lost: ENOBUFS.
#[test]
fn lost_answers_are_found_out() {
    in_namespace(|client| {
        let commands = mixed(200);
        let expected = errnos(&client.execute_all(&commands).unwrap());
        let wanted = contents(client);
        client.execute(&Command::Flush).unwrap();

        let narrow = Options { receive_buffer: 1, batch: Some(2000), ..Options::default() };
        let mut narrow = Client::connect_with(narrow).unwrap();
        let outcomes = narrow.execute_all(&commands).unwrap();
        assert_eq!(contents(client), wanted);
        let mut unknown = 0;
        for ((outcome, expected), command) in outcomes.iter().zip(expected).zip(&commands) {
            match outcome {
                // A later command on the same real server hides what became of the first; it must be such a pair.
                Err(CommandError::Unknown) => {
                    assert!(matches!(command, Command::NewDestination(..)), "{command}");
                    unknown += 1;
                }
                // A real server that is there twice asked for is there: which of the two it was does not matter.
                Ok(()) if expected == Some(Errno::EEXIST) => {}
                outcome => {
                    assert_eq!(outcome.as_ref().err().and_then(CommandError::errno), expected, "{command}");
                }
            }
        }
        assert!(unknown > 0, "no answer was lost, the test is in vain");
        // Nothing of it is left over for later questions.
        assert_eq!(contents(&mut narrow), wanted);
        assert_eq!(narrow.execute_all(&[Command::Flush]).unwrap(), [Ok(())]);
    });
}

/// With the default buffer, not even a batch in which all fail loses an answer.
#[test]
fn a_batch_in_which_all_fail_fits() {
    in_namespace(|client| {
        let commands: Vec<_> = (1..=5_000).map(|number| Command::DelService(id(number))).collect();
        let outcomes = client.execute_all(&commands).unwrap();
        assert!(errnos(&outcomes).iter().all(|errno| *errno == Some(Errno::ESRCH)));
    });
}

/// The kernel does not say that a dump was disturbed: entries may lack, and those expected are asked for.
#[test]
fn dumps_stand_changes() {
    in_namespace(|client| {
        let commands: Vec<_> = (1..=2_000).map(|number| Command::NewService(service(number))).collect();
        client.execute_all(&commands).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        // A thread inherits the namespace.
        let changes = std::thread::spawn(move || {
            let mut client = Client::connect().unwrap();
            let mark = ServiceId::Fwmark { mark: 1, family: Family::Ipv4 };
            let mut rounds = 0;
            while !told.load(Ordering::Relaxed) {
                client.execute(&Command::NewService(Service::new(mark, "rr"))).unwrap();
                client.execute(&Command::NewService(service(3_000))).unwrap();
                client.execute(&Command::DelService(mark)).unwrap();
                client.execute(&Command::DelService(id(3_000))).unwrap();
                rounds += 1;
            }
            rounds
        });
        for _ in 0..8 {
            let entries = client.services().unwrap();
            let ids: BTreeSet<_> = entries.iter().map(|entry| entry.service.id).collect();
            assert_eq!(ids.len(), entries.len(), "none twice");

            let entries = client.services_with((1..=2_000).map(id)).unwrap();
            let ids: BTreeSet<_> = entries.iter().map(|entry| entry.service.id).collect();
            assert_eq!(ids.len(), entries.len(), "none twice");
            assert!((1..=2_000).all(|number| ids.contains(&id(number))));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(changes.join().unwrap() > 0);
    });
}
