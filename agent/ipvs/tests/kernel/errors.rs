//! What the kernel refuses, in words.

use std::{os::unix::process::CommandExt, process::Command as Process};

use bascule_ipvs::{
    Client, Command, CommandError, Daemon, DaemonRole, Destination, Errno, Error, Family, Forwarding,
    Protocol, Service, ServiceId, Tunnel,
};

use super::namespace::{in_namespace, ip};

#[test]
fn a_scheduler_is_loaded_without_any_other_effect() {
    in_namespace(|client| {
        let web = ServiceId::Address { protocol: Protocol::Tcp, address: ip("192.0.2.1"), port: 80 };
        client.execute(&Command::NewService(Service::new(web, "rr"))).unwrap();
        let before = client.dump().unwrap();
        for name in ["fo", "nothing", "", "a name that is far too long"] {
            client.load_scheduler(name).unwrap();
        }
        // A scheduler that is part of the kernel itself has no module, and neither has IPVS then.
        if std::path::Path::new("/sys/module/ip_vs_rr").exists() {
            assert!(std::path::Path::new("/sys/module/ip_vs_fo").exists());
        }
        assert_eq!(client.dump().unwrap(), before);
        client.execute(&Command::SetService(Service::new(web, "fo"))).unwrap();
    });
}

#[test]
fn each_refusal_says_what_it_means() {
    in_namespace(|client| {
        let web = ServiceId::Address { protocol: Protocol::Tcp, address: ip("192.0.2.1"), port: 80 };
        let absent = ServiceId::Fwmark { mark: 9, family: Family::Ipv6 };
        let real = Destination::new(ip("198.51.100.10"), 80, Forwarding::Masquerade);
        let other = Destination::new(ip("198.51.100.11"), 80, Forwarding::Masquerade);
        client.execute(&Command::NewService(Service::new(web, "rr"))).unwrap();
        client.execute(&Command::NewDestination(web, real)).unwrap();
        let engine = Service { pe_name: Some("nothing".into()), ..Service::new(absent, "rr") };
        let gue = Destination { forwarding: Forwarding::Tunnel(Tunnel::gue(0)), ..other };
        let group = Daemon { group: Some(ip("192.0.2.1")), ..Daemon::new(DaemonRole::Master, "lo", 1) };
        let table = [
            (Command::NewService(Service::new(web, "rr")), Errno::EEXIST, "exists already"),
            (Command::NewService(Service::new(absent, "nothing")), Errno::ENOENT, "no such scheduler"),
            (Command::NewService(engine), Errno::ENOENT, "persistence engine"),
            (Command::SetService(Service::new(web, "nothing")), Errno::ENOENT, "no such scheduler"),
            (Command::SetService(Service::new(absent, "rr")), Errno::ESRCH, "no such service"),
            (Command::DelService(absent), Errno::ESRCH, "no such service"),
            (Command::Zero(Some(absent)), Errno::ESRCH, "no such service"),
            (Command::NewDestination(absent, real), Errno::ESRCH, "no such service"),
            (Command::NewDestination(web, real), Errno::EEXIST, "real server exists"),
            (Command::SetDestination(web, other), Errno::ENOENT, "no such real server"),
            (Command::DelDestination(web, other.id), Errno::ENOENT, "no such real server"),
            (
                Command::NewDestination(web, Destination { lower_threshold: 2, ..other }),
                Errno::ERANGE,
                "lower limit is above",
            ),
            (Command::NewDestination(web, gue), Errno::EINVAL, "GUE without port"),
            (
                Command::NewDestination(web, Destination::new(ip("224.0.0.1"), 80, Forwarding::Masquerade)),
                Errno::EINVAL,
                "unicast",
            ),
            (Command::NewDaemon(Daemon::new(DaemonRole::Master, "absent0", 1)), Errno::ENODEV, "interface"),
            (Command::NewDaemon(group), Errno::EINVAL, "multicast"),
            (Command::DelDaemon(DaemonRole::Backup), Errno::ESRCH, "no sync daemon"),
        ];
        for (command, errno, words) in table {
            let Err(Error::Command { source, .. }) = client.execute(&command) else {
                panic!("{command} worked")
            };
            assert_eq!(source.errno(), Some(errno), "{command}: {source}");
            assert!(source.to_string().contains(words), "{command}: {source}");
        }
        let Err(error) = client.execute(&Command::DelService(absent)) else { panic!() };
        assert_eq!(error.to_string(), "cannot remove service FWM 9 IPv6: there is no such service (ESRCH)");
        assert_eq!(client.dump().unwrap().len(), 1, "nothing of it had an effect");
    });
}

#[test]
fn a_service_that_is_not_there_has_no_destinations() {
    in_namespace(|client| {
        let absent = ServiceId::Fwmark { mark: 9, family: Family::Ipv4 };
        assert!(client.destinations(&absent).unwrap().is_empty());
        assert_eq!(client.service(&absent).unwrap(), None);
    });
}

/// Runs this test again as nobody, for rights cannot be taken from one thread only.
#[test]
fn without_rights_the_error_says_so() {
    const CHILD: &str = "BASCULE_IPVS_WITHOUT_RIGHTS";
    if std::env::var_os(CHILD).is_some() {
        let refused =
            |result: Result<(), Error>| assert!(matches!(result, Err(Error::Permission)), "{result:?}");
        let mut client = Client::connect().unwrap();
        refused(client.execute(&Command::Flush));
        refused(client.execute_all(&[Command::Flush, Command::Zero(None)]).map(drop));
        refused(client.services().map(drop));
        refused(client.info().map(drop));
        return;
    }
    in_namespace(|_| {
        let output = Process::new("/proc/self/exe")
            .args(["--exact", "errors::without_rights_the_error_says_so", "--nocapture"])
            .env(CHILD, "1")
            .current_dir("/")
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
}

#[test]
fn an_invalid_command_is_an_error_of_its_own() {
    in_namespace(|client| {
        let mark = ServiceId::Fwmark { mark: 0, family: Family::Ipv4 };
        let error = client.execute(&Command::NewService(Service::new(mark, "rr"))).unwrap_err();
        assert!(matches!(error, Error::Command { source: CommandError::Invalid(_), .. }), "{error}");
        assert!(client.services().unwrap().is_empty());
    });
}
