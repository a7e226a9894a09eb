use std::net::Ipv4Addr;

use super::{
    Options,
    connection::Connection,
    fake::{FakeKernel, Incoming, answer, connected, done, message, told_service},
};
use crate::{
    Command, CommandError, Destination, DestinationId, Errno, Error, Forwarding, InvalidCommand, Protocol,
    Service, ServiceId,
};

fn id(last: u8) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: Ipv4Addr::new(10, 0, 0, last).into(), port: 80 }
}

fn service(last: u8) -> Service {
    Service::new(id(last), "rr")
}

fn destination(last: u8) -> Destination {
    Destination::new(Ipv4Addr::new(10, 1, 0, last).into(), 80, Forwarding::Masquerade)
}

fn kernel_error(outcome: &Result<(), CommandError>) -> Option<Errno> {
    outcome.as_ref().err().and_then(CommandError::errno)
}

fn datagrams<const N: usize>(all: [Vec<u8>; N]) -> Vec<Incoming> {
    all.into_iter().map(Incoming::Datagram).collect()
}

#[test]
fn missing_family_says_what_to_do() {
    let mut connection = Connection::new(FakeKernel::default(), Options::default());
    let Err(Error::Missing { advice }) = connection.resolve() else { panic!() };
    assert!(advice.contains("ip_vs"), "{advice}");
}

#[test]
fn a_batch_is_acknowledged_once_and_failures_are_told_by_command() {
    let mut connection = connected(Options::default());
    let commands = [
        Command::NewService(service(1)),
        Command::NewDestination(id(1), destination(1)),
        Command::NewService(service(1)),
        Command::NewService(Service::new(id(2), "missing")),
        Command::NewDestination(id(2), destination(1)),
        Command::NewDestination(id(1), destination(2)),
    ];
    let before = connection.link.sends.len();
    let outcomes = connection.execute_all(&commands).unwrap();
    assert_eq!(connection.link.sends.len() - before, 1, "one send");
    assert!(connection.link.queue.is_empty(), "everything was read");
    let errnos: Vec<_> = outcomes.iter().map(kernel_error).collect();
    assert_eq!(errnos, [None, None, Some(Errno::EEXIST), Some(Errno::ENOENT), Some(Errno::ESRCH), None]);
    assert_eq!(connection.link.services[&id(1)].1.len(), 2);
    let text = outcomes[3].as_ref().unwrap_err().to_string();
    assert!(text.contains("no such scheduler"), "{text}");
}

#[test]
fn the_last_of_a_batch_may_fail() {
    let mut connection = connected(Options::default());
    let outcomes =
        connection.execute_all(&[Command::NewService(service(1)), Command::DelService(id(9))]).unwrap();
    assert_eq!(outcomes.iter().map(kernel_error).collect::<Vec<_>>(), [None, Some(Errno::ESRCH)]);
}

#[test]
fn invalid_commands_are_not_sent_and_spare_the_others() {
    let mut connection = connected(Options::default());
    let invalid = Command::NewService(Service::new(id(2), ""));
    let commands = [
        invalid.clone(),
        Command::NewService(service(1)),
        invalid.clone(),
        Command::NewService(service(3)),
        invalid,
    ];
    let outcomes = connection.execute_all(&commands).unwrap();
    for at in [0, 2, 4] {
        assert!(matches!(outcomes[at], Err(CommandError::Invalid(InvalidCommand::Name { .. }))));
    }
    assert_eq!(outcomes[1], Ok(()));
    assert_eq!(outcomes[3], Ok(()));
    assert_eq!(connection.link.services.len(), 2);
    let sends = connection.link.sends.len();
    assert_eq!(connection.execute_all(&commands[..1]).unwrap().len(), 1);
    assert_eq!(connection.link.sends.len(), sends, "nothing to send");
    assert!(connection.execute_all(&[]).unwrap().is_empty());
}

#[test]
fn batches_are_bounded() {
    let mut connection = connected(Options { batch: Some(3), ..Options::default() });
    let commands: Vec<_> = (0..10).map(|last| Command::NewService(service(last))).collect();
    let before = connection.link.sends.len();
    assert!(connection.execute_all(&commands).unwrap().iter().all(Result::is_ok));
    assert_eq!(connection.link.sends.len() - before, 4);

    let mut connection = connected(Options::default());
    let commands: Vec<_> = std::iter::repeat_n(Command::Flush, 20_000).collect();
    let before = connection.link.sends.len();
    connection.execute_all(&commands).unwrap();
    assert_eq!(connection.link.sends.len() - before, 20);
    assert!(connection.link.sends.iter().all(|&bytes| bytes < 200_000));
}

#[test]
fn a_kernel_that_takes_less_gets_less() {
    let mut connection = connected(Options::default());
    connection.link.largest = Some(500);
    let commands: Vec<_> = (0..50).map(|last| Command::NewService(service(last))).collect();
    assert!(connection.execute_all(&commands).unwrap().iter().all(Result::is_ok));
    assert_eq!(connection.link.services.len(), 50);
    connection.link.largest = Some(10);
    assert!(matches!(connection.execute_all(&commands[..1]), Err(Error::Socket { .. })));
}

/// What the same commands give one by one.
fn one_by_one(commands: &[Command]) -> (Vec<Option<Errno>>, FakeKernel) {
    let mut connection = connected(Options::default());
    let outcomes = commands.iter().map(|c| kernel_error(&connection.execute_single(c).unwrap())).collect();
    (outcomes, connection.link)
}

#[test]
fn lost_answers_are_found_out_by_looking() {
    let mut commands = Vec::new();
    for last in 0..40 {
        let scheduler = if last % 2 == 0 { "rr" } else { "missing" };
        commands.push(Command::NewService(Service::new(id(last), scheduler)));
        commands.push(Command::NewDestination(id(last), destination(1)));
        commands.push(Command::SetDestination(id(last), destination(2)));
        commands.push(Command::DelDestination(id(last), destination(3).id));
    }
    let (expected, reference) = one_by_one(&commands);
    for capacity in [0, 1, 7, 50] {
        let mut connection = connected(Options::default());
        connection.link.capacity = Some(capacity.max(1));
        let outcomes = connection.execute_all(&commands).unwrap();
        // A real server that is not there is told as absent, whichever way: removing it needs no second try.
        for ((outcome, expected), command) in outcomes.iter().zip(&expected).zip(&commands) {
            if matches!(command, Command::DelDestination(..)) && outcome.is_ok() {
                continue;
            }
            assert_eq!(kernel_error(outcome), *expected, "{command}, capacity {capacity}");
        }
        assert_eq!(connection.link.services, reference.services);
    }
}

#[test]
fn a_lost_answer_that_a_later_command_covers_is_unknown_and_not_tried_again() {
    let mut connection = connected(Options::default());
    connection.link.capacity = Some(1);
    let commands = [
        Command::DelService(id(8)),
        Command::DelService(id(9)),
        Command::NewService(service(1)),
        Command::NewDestination(id(1), destination(1)),
        Command::DelService(id(1)),
        Command::NewService(service(1)),
        Command::DelService(id(7)),
    ];
    let outcomes = connection.execute_all(&commands).unwrap();
    assert_eq!(kernel_error(&outcomes[0]), Some(Errno::ESRCH), "its answer came");
    assert_eq!(outcomes[1], Ok(()), "it is not there");
    for covered in &outcomes[2..5] {
        assert_eq!(*covered, Err(CommandError::Unknown));
    }
    assert_eq!(outcomes[5], Ok(()));
    assert_eq!(outcomes[6], Ok(()));
    assert!(connection.link.services[&id(1)].1.is_empty());
}

#[test]
fn dumps_that_were_interrupted_are_repeated_a_bounded_number_of_times() {
    let mut connection = connected(Options::default());
    let commands: Vec<_> = (0..5).map(|last| Command::NewService(service(last))).collect();
    connection.execute_all(&commands).unwrap();
    connection.link.interruptions = 3;
    assert_eq!(connection.services().unwrap().len(), 5);
    assert_eq!(connection.link.interruptions, 0);
    connection.link.interruptions = 100;
    assert!(matches!(connection.services(), Err(Error::Interrupted { attempts: 8, .. })));
}

#[test]
fn a_dump_survives_a_full_buffer_and_signals() {
    let mut connection = connected(Options::default());
    connection.execute_single(&Command::NewService(service(1))).unwrap().unwrap();
    connection.link.instead.push_back(vec![Incoming::Fails(Errno::ENOBUFS)]);
    connection.link.instead.push_back(vec![Incoming::Fails(Errno::EINTR), Incoming::Fails(Errno::ENOBUFS)]);
    assert_eq!(connection.services().unwrap().len(), 1);
    assert_eq!(connection.link.reopened, 2, "what was left of the dumps is gone");
}

#[test]
fn entries_listed_twice_are_given_once_and_answers_to_others_are_skipped() {
    let mut connection = connected(Options::default());
    let sequence = 2;
    connection.link.instead.push_back(datagrams([
        answer(1, 22),
        [told_service(0x21, 2, sequence, &service(1)), told_service(0x21, 2, sequence, &service(2))].concat(),
        told_service(0x21, 2, 1, &service(7)),
        told_service(0x21, 2, sequence, &service(2)),
        done(sequence),
    ]));
    let ids: Vec<_> = connection.services().unwrap().iter().map(|entry| entry.service.id).collect();
    assert_eq!(ids, [id(1), id(2)]);
}

#[test]
fn a_list_is_read_a_piece_at_a_time_and_then_anew() {
    let mut connection = connected(Options::default());
    assert!(connection.services_page().unwrap().last, "there are none");
    let sequence = 3;
    connection.link.instead.push_back(datagrams([
        [told_service(0x21, 2, sequence, &service(1)), told_service(0x21, 2, sequence, &service(2))].concat(),
        told_service(0x21, 2, sequence - 1, &service(7)),
        told_service(0x21, 2, sequence, &service(3)),
        done(sequence),
    ]));
    let mut pages = Vec::new();
    for left in [3, 1, 0] {
        let page = connection.services_page().unwrap();
        assert_eq!(connection.link.queue.len(), left, "no more is read than is given");
        pages.push((page.services.iter().map(|entry| entry.service.id).collect::<Vec<_>>(), page.last));
    }
    assert_eq!(pages, [(vec![id(1), id(2)], false), (vec![id(3)], false), (vec![], true)]);
    connection.execute_single(&Command::NewService(service(5))).unwrap().unwrap();
    assert_eq!(connection.services_page().unwrap().services[0].service.id, id(5));
}

#[test]
fn a_list_that_breaks_off_is_an_error_and_begins_anew() {
    let sequence = 3;
    for (what, end) in [
        ("refused", Incoming::Datagram(answer(sequence, Errno::EPERM as i32))),
        ("silent", Incoming::Fails(Errno::EAGAIN)),
        ("rubbish", Incoming::Datagram(vec![1, 2, 3])),
        ("overrun", Incoming::Datagram(message(4, 2, sequence, &[]))),
    ] {
        let mut connection = connected(Options::default());
        connection.execute_single(&Command::NewService(service(1))).unwrap().unwrap();
        let first = Incoming::Datagram(told_service(0x21, 2, sequence, &service(2)));
        connection.link.instead.push_back(vec![first, end]);
        assert!(!connection.services_page().unwrap().last, "{what}");
        assert!(connection.services_page().is_err(), "{what}");
        let page = connection.services_page().unwrap();
        assert_eq!(page.services[0].service.id, id(1), "{what}: begins anew");
        assert_eq!(connection.link.reopened, 1, "{what}");
    }
}

#[test]
fn silence_ends_with_a_timeout_and_the_next_call_starts_afresh() {
    let mut connection = connected(Options::default());
    connection.link.instead.push_back(vec![]);
    assert!(matches!(connection.services(), Err(Error::Timeout { .. })));
    connection.link.instead.push_back(vec![]);
    assert!(matches!(connection.execute_all(&[Command::Flush]), Err(Error::Timeout { .. })));
    assert_eq!(connection.link.reopened, 1);
    assert!(connection.services().unwrap().is_empty());
    assert_eq!(connection.link.reopened, 2);
}

#[test]
fn rubbish_is_an_error_and_the_next_call_starts_afresh() {
    let mut connection = connected(Options::default());
    for rubbish in [vec![1, 2, 3], message(0x21, 2, 2, &[1]), message(0x21, 2, 2, &[99, 1, 0, 0])] {
        let mut rubbish = rubbish;
        if rubbish.len() > 16 {
            // The sequence number of the next request.
            let next = connection.next_sequence() + 1;
            rubbish[8..12].copy_from_slice(&next.to_ne_bytes());
        }
        connection.link.instead.push_back(vec![Incoming::Datagram(rubbish)]);
        assert!(matches!(connection.services(), Err(Error::Decode(_))));
        assert!(connection.services().unwrap().is_empty());
    }
}

#[test]
fn no_rights_is_one_error() {
    let mut connection = connected(Options::default());
    connection.link.refuses = Some(Errno::EPERM);
    assert!(matches!(connection.execute_all(&[Command::Flush, Command::Flush]), Err(Error::Permission)));
    assert!(matches!(connection.execute_single(&Command::Flush), Err(Error::Permission)));
    assert!(matches!(connection.services(), Err(Error::Permission)));
    assert!(matches!(connection.service(&id(1)), Err(Error::Permission)));
}

#[test]
fn a_family_that_came_back_with_another_id_is_asked_for_again() {
    let mut connection = connected(Options::default());
    connection.link.family = 0x22;
    assert!(connection.services().unwrap().is_empty());
    connection.link.family = 0x23;
    let commands = [Command::NewService(service(1)), Command::NewDestination(id(1), destination(1))];
    assert_eq!(connection.execute_all(&commands).unwrap(), [Ok(()), Ok(())]);
    connection.link.family = 0x24;
    connection.execute_single(&Command::NewService(service(2))).unwrap().unwrap();
    connection.link.family = 0x25;
    assert!(connection.service(&id(2)).unwrap().is_some());
    connection.link.family = 0;
    assert!(matches!(connection.services(), Err(Error::Missing { .. })));
}

#[test]
fn a_service_is_there_or_not() {
    let mut connection = connected(Options::default());
    assert_eq!(connection.service(&id(1)).unwrap(), None);
    connection.execute_single(&Command::NewService(service(1))).unwrap().unwrap();
    assert_eq!(connection.service(&id(1)).unwrap().unwrap().service, service(1));
    let impossible = ServiceId::Fwmark { mark: 0, family: crate::Family::Ipv4 };
    assert_eq!(connection.service(&impossible).unwrap(), None);
    let absent = DestinationId { address: Ipv4Addr::LOCALHOST.into(), port: 1 };
    let outcome = connection.execute_single(&Command::DelDestination(id(1), absent)).unwrap();
    assert_eq!(kernel_error(&outcome), Some(Errno::ENOENT));
}
