use std::path::Path;

use events::{BranchName, ClusterSize, InstanceName};
use pg_format::{Lsn, TimelineId};

use super::{Server, carried, command_line, open, open_hba, recovering, temp_bytes};
use crate::control::Minimums;
use crate::plan::Stop;
use crate::site::Site;

fn site() -> Site {
    let (instance, branch) = (
        InstanceName::new("orders").unwrap(),
        BranchName::new("b").unwrap(),
    );
    Site::new(Path::new("/it's 100%/c"), &instance, &branch)
}

fn conf(stop: Option<Stop>, opened: bool) -> Vec<(String, String)> {
    let (site, minimums) = (
        site(),
        Minimums {
            max_connections: 900,
            ..Minimums::default()
        },
    );
    let carried = [("timezone".to_owned(), "Europe/Berlin".to_owned())];
    let server = Server {
        site: &site,
        major: 18,
        port: 30_001,
        minimums: &minimums,
        carried: &carried,
        size: ClusterSize::Small,
        listen: "127.0.0.1",
        prepared_locks: 11_900,
    };
    carried::parse(&if opened {
        open(&server)
    } else {
        recovering(&server, TimelineId(3), stop.as_ref())
    })
}

fn value(conf: &[(String, String)], name: &str) -> Option<String> {
    conf.iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.clone())
}

#[test]
fn a_recovering_server_is_locked_and_has_the_sources_limits() {
    let conf = conf(Some(Stop::Lsn(Lsn(0x500_0000))), false);
    let check = |name: &str, expected: &str| {
        assert_eq!(value(&conf, name).as_deref(), Some(expected), "{name}");
    };
    check("listen_addresses", "");
    check("max_connections", "900");
    check("recovery_target_timeline", "3");
    check("recovery_target_lsn", "0/5000000");
    check("recovery_target_action", "pause");
    check(
        "restore_command",
        r"/bin/sh '/it'\''s 100%%/c/orders/b/conf/fetch_wal.sh' %f %p; case $? in 0) ;; 44) exit 1;; *) exit 255;; esac",
    );
    check("unix_socket_directories", "\"/it's 100%/c/orders/b/run\"");
    check("timezone", "Europe/Berlin");
    check("archive_mode", "off");
    check("max_logical_replication_workers", "0");
    assert!(value(&conf, "recovery_target_time").is_none());
}

#[test]
fn recovery_is_told_a_position_or_nothing() {
    let set = |stop| value(&conf(stop, false), "recovery_target_lsn");
    let position = set(Some(Stop::Lsn(Lsn(0x16_B374_D848))));
    assert_eq!(position.as_deref(), Some("16/B374D848"));
    assert_eq!(set(Some(Stop::EndOfWal)), None);
    assert_eq!(set(None), None);
}

#[test]
fn an_open_server_has_its_tiers_limits_and_no_recovery() {
    let conf = conf(None, true);
    assert_eq!(value(&conf, "max_connections").unwrap(), "100");
    assert_eq!(value(&conf, "listen_addresses").unwrap(), "127.0.0.1");
    // 100 connections, 8 workers, 10 senders: 118 holders, 11900 / 118 is a bit more than 100.
    assert_eq!(value(&conf, "max_locks_per_transaction").unwrap(), "165");
    assert_eq!(value(&conf, "wal_keep_size").unwrap(), "512MB");
    assert_eq!(value(&conf, "summarize_wal").unwrap(), "on");
    assert!(
        !conf
            .iter()
            .any(|(name, _)| name.starts_with("recovery") || name == "restore_command")
    );
}

#[test]
fn what_must_not_change_is_on_the_command_line() {
    let arguments = command_line(&site(), 30_001);
    assert!(arguments.contains(&"port=30001".to_owned()));
    assert!(
        arguments.contains(&"config_file=/it's 100%/c/orders/b/conf/postgresql.conf".to_owned())
    );
}

#[test]
fn who_may_come_follows_from_where_it_listens() {
    for listen in ["127.0.0.1", "localhost", "127.0.0.5, ::1"] {
        assert!(open_hba(listen).contains("127.0.0.1/32"), "{listen}");
    }
    for listen in ["*", "0.0.0.0", "127.0.0.1,10.0.0.7"] {
        let hba = open_hba(listen);
        assert!(hba.contains("all all scram-sha-256"), "{listen}");
        assert!(!hba.contains("trust"));
    }
}

#[test]
fn little_room_forbids_no_question_to_sort() {
    const GIB: u64 = 1 << 30;
    assert_eq!(temp_bytes(GIB, None), GIB);
    assert_eq!(temp_bytes(GIB, Some(2 * GIB)), GIB);
    assert_eq!(temp_bytes(64 << 20, Some(100 * GIB)), 25 * GIB);
    assert_eq!(temp_bytes(0, Some(0)), 64 << 20);
}
