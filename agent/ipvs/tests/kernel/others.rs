//! Sync daemons, timeouts, version.

use bascule_ipvs::{Command, Daemon, DaemonRole, Timeouts};

use super::namespace::{in_namespace, ip, ipvsadm, run};

fn interface() {
    run("ip", &["link", "add", "sync0", "type", "dummy"]);
    run("ip", &["address", "add", "203.0.113.1/24", "dev", "sync0"]);
    run("ip", &["link", "set", "sync0", "up"]);
}

#[test]
fn daemons_both_ways() {
    in_namespace(|client| {
        interface();
        assert!(client.daemons().unwrap().is_empty());
        let master = Daemon {
            max_length: Some(1400),
            group: Some(ip("224.0.0.90")),
            port: Some(8900),
            ttl: Some(3),
            ..Daemon::new(DaemonRole::Master, "sync0", 255)
        };
        let backup = Daemon {
            max_length: Some(1200),
            group: Some(ip("ff02::81")),
            port: Some(8901),
            ttl: Some(1),
            ..Daemon::new(DaemonRole::Backup, "sync0", 12)
        };
        let rules = [
            "--start-daemon master --mcast-interface sync0 --syncid 255 --sync-maxlen 1400 --mcast-group 224.0.0.90 --mcast-port 8900 --mcast-ttl 3",
            "--start-daemon backup --mcast-interface sync0 --syncid 12 --sync-maxlen 1200 --mcast-group ff02::81 --mcast-port 8901",
        ];
        let lines = [
            "master sync daemon (mcast=sync0, syncid=255, maxlen=1400, group=224.0.0.90, port=8900, ttl=3)\n",
            "backup sync daemon (mcast=sync0, syncid=12, maxlen=1200, group=ff02::81, port=8901, ttl=1)\n",
        ];
        for ((daemon, rule), line) in [master.clone(), backup.clone()].into_iter().zip(rules).zip(lines) {
            client.execute(&Command::NewDaemon(daemon.clone())).unwrap();
            assert_eq!(ipvsadm("-L --daemon"), line);
            assert_eq!(client.daemons().unwrap(), std::slice::from_ref(&daemon));
            client.execute(&Command::DelDaemon(daemon.role)).unwrap();
            assert_eq!(ipvsadm("-L --daemon"), "");

            ipvsadm(rule);
            assert_eq!(client.daemons().unwrap(), std::slice::from_ref(&daemon));
            ipvsadm(&format!("--stop-daemon {}", daemon.role));
            assert!(client.daemons().unwrap().is_empty());
        }
        for daemon in [&master, &backup] {
            client.execute(&Command::NewDaemon(daemon.clone())).unwrap();
        }
        assert_eq!(client.daemons().unwrap(), [master, backup], "both run side by side");
    });
}

#[test]
fn the_defaults_of_a_daemon_are_the_kernels() {
    in_namespace(|client| {
        interface();
        client.execute(&Command::NewDaemon(Daemon::new(DaemonRole::Master, "sync0", 1))).unwrap();
        let expected = Daemon {
            max_length: Some(1472),
            group: Some(ip("224.0.0.81")),
            port: Some(8848),
            ttl: Some(1),
            ..Daemon::new(DaemonRole::Master, "sync0", 1)
        };
        assert_eq!(client.daemons().unwrap(), [expected]);
    });
}

#[test]
fn timeouts_both_ways() {
    in_namespace(|client| {
        let first = Timeouts { tcp: 1234, tcp_fin: 56, udp: 78 };
        client.execute(&Command::SetConfig(first)).unwrap();
        assert_eq!(ipvsadm("-L --timeout"), "Timeout (tcp tcpfin udp): 1234 56 78\n");
        assert_eq!(client.timeouts().unwrap(), first);
        ipvsadm("--set 900 120 300");
        assert_eq!(client.timeouts().unwrap(), Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
        client.execute(&Command::SetConfig(Timeouts { udp: 301, ..Timeouts::default() })).unwrap();
        assert_eq!(
            client.timeouts().unwrap(),
            Timeouts { tcp: 900, tcp_fin: 120, udp: 301 },
            "0 leaves as is"
        );
    });
}

#[test]
fn the_version_is_what_ipvsadm_prints() {
    in_namespace(|client| {
        let info = client.info().unwrap();
        let (major, minor, patch) = info.version;
        let line = format!(
            "IP Virtual Server version {major}.{minor}.{patch} (size={})",
            info.connection_table_size
        );
        assert_eq!(ipvsadm("-Ln").lines().next(), Some(line.as_str()));
    });
}
