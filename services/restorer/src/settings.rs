//! The text of a branch's configuration files. Pure.
//!
//! A branch never runs with the source's `postgresql.conf`: what archives, replicates, schedules or preloads
//! there must not happen twice. A whitelist is carried over ([`carried`]). While the branch is locked it
//! listens on a Unix socket only, in a directory that nobody else may enter.

pub mod carried;

use std::fmt::Write as _;
use std::path::Path;

use events::ClusterSize;
use pg_format::TimelineId;

use crate::control::Minimums;
use crate::fetch::restore_command;
use crate::plan::Stop;
use crate::site::Site;

/// Nobody but whoever may enter the socket's directory.
pub const LOCKED_HBA: &str = "local all all trust\n";

/// Passwords only, and from this machine only.
const FROM_HERE: &str = "\
local all         all              scram-sha-256
host  all         all 127.0.0.1/32 scram-sha-256
host  all         all ::1/128      scram-sha-256
host  replication all 127.0.0.1/32 scram-sha-256
host  replication all ::1/128      scram-sha-256
";

/// Passwords only, from anywhere that the server listens to.
const FROM_ANYWHERE: &str = "\
local all         all     scram-sha-256
host  all         all all scram-sha-256
host  replication all all scram-sha-256
";

/// The `pg_hba.conf` of an open branch.
#[must_use]
pub fn open_hba(listen: &str) -> &'static str {
    let own = |address: &str| matches!(address, "localhost" | "::1") || address.starts_with("127.");
    if listen.split(',').map(str::trim).all(own) {
        FROM_HERE
    } else {
        FROM_ANYWHERE
    }
}

/// `max_wal_senders` of an open branch.
const OPEN_WAL_SENDERS: u32 = 10;

/// The server a configuration is for.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Its places.
    pub site: &'a Site,
    /// Its major version.
    pub major: u32,
    /// Its port, which is also in the name of its socket.
    pub port: u16,
    /// What the source's settings demand.
    pub minimums: &'a Minimums,
    /// What is carried over from the source: names and values.
    pub carried: &'a [(String, String)],
    /// The compute tier.
    pub size: ClusterSize,
    /// Where it listens once it is open.
    pub listen: &'a str,
    /// Locks that prepared transactions hold; they must fit whatever the tier.
    pub prepared_locks: u64,
}

/// What a compute tier means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// `max_connections`.
    pub max_connections: u32,
    /// `shared_buffers`, MiB.
    pub shared_buffers_mib: u32,
    /// `work_mem`, MiB.
    pub work_mem_mib: u32,
    /// `maintenance_work_mem`, MiB.
    pub maintenance_work_mem_mib: u32,
    /// `max_worker_processes` and what follows from it.
    pub workers: u32,
}

/// The settings of a tier.
#[must_use]
pub fn tier(size: ClusterSize) -> Tier {
    let tier = |connections, buffers, work_mem, maintenance, workers| Tier {
        max_connections: connections,
        shared_buffers_mib: buffers,
        work_mem_mib: work_mem,
        maintenance_work_mem_mib: maintenance,
        workers,
    };
    match size {
        ClusterSize::Dev => tier(30, 64, 4, 32, 4),
        ClusterSize::Small => tier(100, 128, 4, 64, 8),
        ClusterSize::Medium => tier(200, 256, 8, 128, 8),
        ClusterSize::Large => tier(400, 512, 16, 256, 16),
    }
}

/// The configuration of a server that recovers: nobody is let in from outside.
///
/// `stop` is `None` for a restart without a target, when the archive is proven to end before it.
#[must_use]
pub fn recovering(server: &Server<'_>, timeline: TimelineId, stop: Option<&Stop>) -> String {
    let mut conf = locked(server);
    conf.set(
        "restore_command",
        &restore_command(&server.site.fetch_script()),
    );
    conf.set("hot_standby", "on");
    conf.set("recovery_target_timeline", &timeline.to_string());
    conf.set("recovery_target_action", "pause");
    match stop {
        None | Some(Stop::EndOfWal) => {}
        Some(Stop::Lsn(lsn)) => conf.set("recovery_target_lsn", &lsn.to_string()),
    }
    conf.0
}

/// The configuration of an open branch, at its tier.
#[must_use]
pub fn open(server: &Server<'_>) -> String {
    let tier = tier(server.size);
    let mut conf = common(server);
    conf.set("listen_addresses", server.listen);
    conf.set("max_connections", &tier.max_connections.to_string());
    conf.set("max_worker_processes", &tier.workers.to_string());
    conf.set("work_mem", &format!("{}MB", tier.work_mem_mib));
    conf.set(
        "maintenance_work_mem",
        &format!("{}MB", tier.maintenance_work_mem_mib),
    );
    let cache = tier.shared_buffers_mib * 3;
    conf.set("effective_cache_size", &format!("{cache}MB"));
    conf.set("max_wal_senders", &OPEN_WAL_SENDERS.to_string());
    conf.set(
        "max_locks_per_transaction",
        &locks_per_transaction(server, tier).to_string(),
    );
    conf.set("wal_keep_size", "512MB");
    if server.major >= 17 {
        conf.set("summarize_wal", "on");
    }
    conf.set("logging_collector", "on");
    conf.set("log_directory", &text_of(&server.site.log()));
    conf.set("log_filename", "postgresql-%a.log");
    conf.set("log_rotation_age", "1d");
    conf.set("log_truncate_on_rotation", "on");
    conf.0
}

/// What a question may sort and hash on disk when nobody says: as much as a restore may want beside its files, or a
/// quarter of what is free behind them. Little room is no reason to forbid what every question may need.
#[must_use]
pub fn temp_bytes(room: u64, free: Option<u64>) -> u64 {
    const LEAST: u64 = 64 << 20;
    room.max(free.unwrap_or(0) / 4).max(LEAST)
}

/// The configuration of a server that is looked at and thrown away: that of an open branch, without what only a
/// server that lives needs. What is asked there may write `temp_bytes` to temporary files, and not fill the disk that
/// it shares with branches; the limit is a process's, so there is only one for each question.
#[must_use]
pub fn sandbox(server: &Server<'_>, temp_bytes: u64) -> String {
    let mut conf = Conf(open(server));
    let limit = (temp_bytes >> 10).min(u64::from(i32::MAX.unsigned_abs()));
    conf.set("temp_file_limit", &format!("{limit}kB"));
    conf.set("max_parallel_workers_per_gather", "0");
    conf.set("autovacuum", "off");
    conf.set("wal_keep_size", "0");
    if server.major >= 17 {
        conf.set("summarize_wal", "off");
        // A login trigger of the source must not keep the checks out.
        conf.set("event_triggers", "off");
    }
    conf.0
}

/// The source's, and room for what its prepared transactions hold: the lock table has that many places for each
/// connection, and the tier may have fewer of them than the source. Too small a table keeps the server from
/// starting (`lock_twophase_recover`, PostgreSQL `src/backend/storage/lmgr/lock.c`).
fn locks_per_transaction(server: &Server<'_>, tier: Tier) -> u64 {
    let minimums = server.minimums;
    let holders =
        tier.max_connections + tier.workers + OPEN_WAL_SENDERS + minimums.max_prepared_transactions;
    let room = server.prepared_locks.div_ceil(u64::from(holders.max(1)));
    u64::from(minimums.max_locks_per_transaction) + room
}

fn locked(server: &Server<'_>) -> Conf {
    let minimums = server.minimums;
    let mut conf = common(server);
    conf.set("listen_addresses", "");
    conf.set("max_connections", &minimums.max_connections.to_string());
    conf.set(
        "max_worker_processes",
        &minimums.max_worker_processes.to_string(),
    );
    conf.set("max_wal_senders", &minimums.max_wal_senders.to_string());
    conf.set("logging_collector", "off");
    conf.set("log_timezone", "UTC");
    conf.set("autovacuum", "off");
    if server.major >= 17 {
        // A login trigger of the source must not keep us out.
        conf.set("event_triggers", "off");
    }
    conf
}

fn common(server: &Server<'_>) -> Conf {
    let Server { site, minimums, .. } = server;
    let mut conf = Conf(String::from(
        "# Written by Zektor; a change made here is lost. Use ALTER SYSTEM.\n",
    ));
    for (name, value) in server.carried {
        conf.set(name, value);
    }
    conf.set("hba_file", &text_of(&site.hba_file()));
    conf.set("ident_file", &text_of(&site.ident_file()));
    conf.set("port", &server.port.to_string());
    conf.set("unix_socket_directories", &socket_directory(site.run()));
    conf.set("unix_socket_permissions", "0700");
    conf.set("password_encryption", "scram-sha-256");
    conf.set(
        "shared_buffers",
        &format!("{}MB", tier(server.size).shared_buffers_mib),
    );
    conf.set("dynamic_shared_memory_type", "posix");
    // Prepared transactions and locks that the data holds must fit, whatever the tier.
    conf.set(
        "max_prepared_transactions",
        &minimums.max_prepared_transactions.to_string(),
    );
    conf.set(
        "max_locks_per_transaction",
        &minimums.max_locks_per_transaction.to_string(),
    );
    let track = if minimums.track_commit_timestamp {
        "on"
    } else {
        "off"
    };
    conf.set("track_commit_timestamp", track);
    conf.set("wal_level", "replica");
    conf.set("max_replication_slots", "20");
    conf.set("archive_mode", "off");
    conf.set("synchronous_standby_names", "");
    // Subscriptions of the source would take its changes away from it.
    conf.set("max_logical_replication_workers", "0");
    // Its messages are read by the restorer.
    conf.set("lc_messages", "C");
    conf.set("log_destination", "stderr");
    conf.set("log_line_prefix", "%m [%p] ");
    conf
}

/// What is given on the command line, so that no file can change it.
#[must_use]
pub fn command_line(site: &Site, port: u16) -> Vec<String> {
    vec![
        "-D".to_owned(),
        text_of(&site.data()),
        "-c".to_owned(),
        format!("config_file={}", text_of(&site.config_file())),
        "-c".to_owned(),
        format!("port={port}"),
        "-c".to_owned(),
        format!("unix_socket_directories={}", socket_directory(site.run())),
    ]
}

/// The setting is a list: a name in double quotes may hold anything.
fn socket_directory(run: &Path) -> String {
    format!("\"{}\"", text_of(run).replace('"', "\"\""))
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A word for `/bin/sh`.
#[must_use]
pub fn shell_quoted(path: &Path) -> String {
    format!("'{}'", text_of(path).replace('\'', r"'\''"))
}

struct Conf(String);

impl Conf {
    fn set(&mut self, name: &str, value: &str) {
        let value = value
            .replace('\\', r"\\")
            .replace('\'', "''")
            .replace(['\n', '\r'], " ");
        let _infallible = writeln!(self.0, "{name} = '{value}'");
    }
}

#[cfg(test)]
mod tests;
