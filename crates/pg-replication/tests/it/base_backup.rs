//! Base backups of real servers, checked by PostgreSQL's own programs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pg_format::TimelineId;
use pg_replication::{
    BackupEnd, BackupMessage, BackupStart, BaseBackupOptions, BaseBackupStream, ServerMessage,
};
use tempfile::TempDir;
use testkit::postgres::{PgVersion, Postgres};

use crate::real::{connect, server};

struct Taken {
    start: BackupStart,
    end: BackupEnd,
    warnings: Vec<ServerMessage>,
    last_progress: u64,
    directory: TempDir,
}

impl Taken {
    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

/// Writes every archive into a file and unpacks it to where it belongs.
async fn take(mut stream: BaseBackupStream) -> Taken {
    let directory = testkit::temporary_directory().unwrap();
    let place = directory.path().join("data");
    fs::create_dir(&place).unwrap();
    let mut archives: Vec<(String, String)> = Vec::new();
    let (mut file, mut warnings, mut last_progress) = (None, Vec::new(), 0);
    let end = loop {
        match stream.next().await.unwrap() {
            BackupMessage::Archive { name, location } => {
                file = Some(File::create(directory.path().join(&name)).unwrap());
                archives.push((name, location));
            }
            BackupMessage::Manifest => {
                file = Some(File::create(place.join("backup_manifest")).unwrap());
            }
            BackupMessage::Data(bytes) => file.as_mut().unwrap().write_all(&bytes).unwrap(),
            BackupMessage::Progress(bytes) => last_progress = bytes,
            BackupMessage::Warning(message) => warnings.push(message),
            BackupMessage::End(end) => break end,
        }
    };
    drop(file);
    for (name, location) in archives {
        let target = match name.strip_suffix(".tar") {
            Some("base") => place.clone(),
            Some(oid) => place.join("pg_tblspc").join(oid),
            None => panic!("{name}"),
        };
        assert_eq!(location.is_empty(), name == "base.tar");
        fs::create_dir_all(&target).unwrap();
        run(Command::new("tar")
            .arg("-xf")
            .arg(directory.path().join(&name))
            .arg("-C")
            .arg(target));
    }
    let start = stream.start().clone();
    if end.damage.is_none() {
        let mut connection = stream.into_connection().unwrap();
        assert!(connection.identify_system().await.unwrap().flush_lsn >= end.stop_lsn);
    }
    Taken {
        start,
        end,
        warnings,
        last_progress,
        directory,
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// With its WAL only by the version's own programs: it is `pg_waldump` that reads the WAL.
fn verify(server: &Postgres, data: &Path, arguments: &[&str]) {
    run(Command::new(server.bin("pg_verifybackup").unwrap())
        .args(arguments)
        .arg(data));
}

async fn with_tablespace(version: PgVersion) -> Postgres {
    let server = server(version).await;
    let space = server.directory("space").unwrap();
    let sql = format!(
        "CREATE TABLESPACE space LOCATION '{}'; \
         CREATE TABLE apart TABLESPACE space AS SELECT n FROM generate_series(1, 5000) n; \
         CREATE TABLE here AS SELECT n FROM generate_series(1, 50000) n; \
         CHECKPOINT",
        space.display()
    );
    let _ = server.psql(&sql).await.unwrap();
    server
}

#[tokio::test]
async fn a_cluster_with_a_tablespace() {
    for version in PgVersion::ALL {
        let server = with_tablespace(version).await;
        let options = BaseBackupOptions {
            max_rate_kib: Some(1 << 20),
            ..BaseBackupOptions::new(r"it's \ mine")
        };
        let taken = take(connect(&server).await.base_backup(options).await.unwrap()).await;
        let Taken {
            start,
            end,
            warnings,
            ..
        } = &taken;
        assert!(
            warnings.is_empty() && end.damage.is_none(),
            "{warnings:?} {end:?}"
        );
        assert_eq!(
            (start.timeline, end.timeline),
            (TimelineId(1), TimelineId(1))
        );
        assert!(start.start_lsn.is_valid() && end.stop_lsn > start.start_lsn);
        let [apart, base] = start.tablespaces.as_slice() else {
            panic!("{start:?}")
        };
        let space = server.directory("other").unwrap().with_file_name("space");
        assert_eq!(apart.location.as_deref(), space.to_str());
        assert!(apart.oid.is_some() && apart.size_bytes.unwrap() > 100_000);
        assert_eq!((base.oid, base.location.as_deref()), (None, None));
        assert!(base.size_bytes.unwrap() > 1_000_000 && taken.last_progress > 1_000_000);

        verify(&server, &taken.data(), &["--no-parse-wal"]);
        let label = fs::read_to_string(taken.data().join("backup_label")).unwrap();
        assert!(label.contains(r"LABEL: it's \ mine"), "{label}");
        assert!(
            label.contains(&format!("START WAL LOCATION: {}", start.start_lsn)),
            "{label}"
        );
        let map = fs::read_to_string(taken.data().join("tablespace_map")).unwrap();
        assert_eq!(map, format!("{} {}\n", apart.oid.unwrap(), space.display()));
    }
}

#[tokio::test]
async fn with_its_wal_it_is_complete_in_itself() {
    for version in PgVersion::ALL {
        let server = with_tablespace(version).await;
        let options = BaseBackupOptions {
            include_wal: true,
            ..BaseBackupOptions::new("whole")
        };
        let taken = take(connect(&server).await.base_backup(options).await.unwrap()).await;
        if server.has("pg_waldump") {
            verify(&server, &taken.data(), &[]);
        } else {
            verify(&server, &taken.data(), &["--no-parse-wal"]);
            assert!(fs::read_dir(taken.data().join("pg_wal")).unwrap().count() > 1);
        }
    }
}

#[tokio::test]
async fn without_a_manifest() {
    for version in [PgVersion::V14, PgVersion::V15] {
        let server = server(version).await;
        let options = BaseBackupOptions {
            manifest: false,
            ..BaseBackupOptions::new("bare")
        };
        let taken = take(connect(&server).await.base_backup(options).await.unwrap()).await;
        assert!(!taken.data().join("backup_manifest").exists());
        assert!(taken.data().join("global/pg_control").exists());
    }
}

#[tokio::test]
async fn a_damaged_page_is_flagged_and_the_rest_is_there() {
    for version in PgVersion::ALL {
        let server = with_tablespace(version).await;
        let path = server
            .psql("SELECT pg_relation_filepath('here')")
            .await
            .unwrap();
        let file = File::options()
            .write(true)
            .open(server.data_directory().join(&path))
            .unwrap();
        // Bytes in the middle of the second page, behind its header.
        file.write_all_at(b"not what was here", 8192 + 4000)
            .unwrap();
        drop(file);
        let options = BaseBackupOptions::new("damaged");
        let taken = take(connect(&server).await.base_backup(options).await.unwrap()).await;
        let damage = taken.end.damage.as_ref().unwrap();
        assert_eq!(damage.sqlstate, "XX001", "{damage}");
        assert!(
            taken
                .warnings
                .iter()
                .any(|warning| warning.message.contains(&path))
        );
        verify(&server, &taken.data(), &["--no-parse-wal"]);

        let unchecked = BaseBackupOptions {
            verify_checksums: false,
            ..BaseBackupOptions::new("unchecked")
        };
        let taken = take(connect(&server).await.base_backup(unchecked).await.unwrap()).await;
        assert_eq!(taken.end.damage, None);
    }
}

#[tokio::test]
async fn a_refused_option_is_the_servers_error() {
    let server = server(PgVersion::V18).await;
    let options = BaseBackupOptions {
        max_rate_kib: Some(1),
        ..BaseBackupOptions::new("slow")
    };
    let failure = connect(&server)
        .await
        .base_backup(options)
        .await
        .err()
        .unwrap();
    assert_eq!(failure.sqlstate(), Some("22003"), "{failure}");
}
