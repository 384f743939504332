//! Base backups in the layout of PostgreSQL 14, against a scripted server.

use pg_format::{Lsn, TimelineId};
use pg_replication::{BackupMessage, BaseBackupOptions, PgError, ReplicationConnection};

use crate::base_backup_scripted::{all, opening_rows, positions};
use crate::script::{Peer, complete, copy, error, frame, message, ready, serve};

fn part(contents: &[&[u8]]) -> Vec<u8> {
    let contents: Vec<_> = contents
        .iter()
        .flat_map(|bytes| frame(b'd', bytes))
        .collect();
    [copy(b'H'), contents, frame(b'c', b"")].concat()
}

fn ending() -> Vec<u8> {
    [positions("0/2000130"), complete("BASE_BACKUP"), ready()].concat()
}

/// What a client makes of these bytes as the answer to `command`.
async fn taken(
    options: BaseBackupOptions,
    command: &'static str,
    bytes: Vec<u8>,
) -> (Vec<BackupMessage>, Option<PgError>, bool) {
    let (settings, server) = serve(async move |mut peer: Peer| {
        let _ = peer.welcome("14.23").await;
        assert_eq!(peer.query().await, command);
        peer.send(&bytes).await;
        peer.drained().await;
    })
    .await;
    let connection = ReplicationConnection::connect(&settings).await.unwrap();
    let mut stream = connection.base_backup(options).await.unwrap();
    assert_eq!(stream.start().start_lsn, Lsn(0x0200_0028));
    let (seen, failure) = all(&mut stream).await;
    let reusable = stream.into_connection().is_ok();
    server.await.unwrap();
    (seen, failure, reusable)
}

const PLAIN: &str = "BASE_BACKUP LABEL 'x' PROGRESS TABLESPACE_MAP FAST NOWAIT \
                     MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'";

#[tokio::test]
async fn it_looks_as_from_a_newer_server() {
    let options = BaseBackupOptions {
        max_rate_kib: Some(32),
        include_wal: true,
        verify_checksums: false,
        ..BaseBackupOptions::new("it's")
    };
    let command = "BASE_BACKUP LABEL 'it''s' PROGRESS TABLESPACE_MAP FAST NOWAIT WAL \
                   NOVERIFY_CHECKSUMS MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C' MAX_RATE 32";
    let large = vec![b'x'; 1 << 20];
    let warning = message(b'N', "WARNING", "01000", "checksum verification failed");
    let bytes = [
        opening_rows(),
        part(&[b"space ", b"bytes"]),
        warning,
        part(&[&large, b"more"]),
        part(&[b"{", b"}"]),
        ending(),
    ];
    let (seen, failure, reusable) = taken(options, command, bytes.concat()).await;
    assert!(failure.is_none() && reusable, "{failure:?}");
    let archive = |name: &str, location: &str| BackupMessage::Archive {
        name: name.into(),
        location: location.into(),
    };
    let bytes = |text: &'static str| BackupMessage::Data(text.into());
    let end_of_archive = BackupMessage::Data(vec![0; 1024].into());
    assert_eq!(
        seen[..5],
        [
            archive("16384.tar", "/space"),
            bytes("space "),
            bytes("bytes"),
            end_of_archive.clone(),
            BackupMessage::Progress(11),
        ]
    );
    assert!(matches!(&seen[5], BackupMessage::Warning(text) if text.sqlstate == "01000"));
    let whole = (1 << 20) + 11;
    assert_eq!(
        seen[6..14],
        [
            archive("base.tar", ""),
            BackupMessage::Data(large.into()),
            BackupMessage::Progress(whole),
            bytes("more"),
            end_of_archive,
            BackupMessage::Progress(whole + 4),
            BackupMessage::Manifest,
            bytes("{"),
        ]
    );
    let [BackupMessage::Data(last), BackupMessage::End(end)] = &seen[14..] else {
        panic!("{:?}", &seen[14..])
    };
    assert_eq!(&last[..], b"}");
    assert_eq!(
        (end.stop_lsn, end.timeline, &end.damage),
        (Lsn(0x0200_0130), TimelineId(5), &None)
    );
}

#[tokio::test]
async fn damaged_pages_and_other_errors_are_told_apart_here_too() {
    let whole = || [opening_rows(), part(&[b"a"]), part(&[b"b"]), part(&[b"{}"])].concat();
    let damage = || error("XX001", "checksum verification failure during base backup");
    let late = [whole(), positions("0/2000130"), damage(), ready()].concat();
    let (seen, failure, reusable) = taken(BaseBackupOptions::new("x"), PLAIN, late).await;
    let Some(BackupMessage::End(end)) = seen.last() else {
        panic!("{seen:?} {failure:?}")
    };
    assert_eq!(end.damage.as_ref().unwrap().sqlstate, "XX001");
    assert!(!reusable);

    let disk = error("58030", "could not read file");
    for bytes in [
        [opening_rows(), part(&[b"a"]), damage(), ready()].concat(),
        [whole(), damage(), ready()].concat(),
        [opening_rows(), part(&[b"a"]), disk, ready()].concat(),
    ] {
        let (seen, failure, _) = taken(BaseBackupOptions::new("x"), PLAIN, bytes).await;
        assert!(matches!(failure, Some(PgError::Server(_))), "{seen:?}");
    }
}

#[tokio::test]
async fn fewer_or_more_copies_than_announced_are_no_backup() {
    let parts = |count: usize| vec![part(&[b"x"]); count].concat();
    for count in [0, 1, 2, 4] {
        let bytes = [opening_rows(), parts(count), ending()].concat();
        let (seen, failure, _) = taken(BaseBackupOptions::new("x"), PLAIN, bytes).await;
        assert!(
            matches!(failure, Some(PgError::Protocol(_))),
            "{count}: {seen:?}"
        );
    }
    let options = BaseBackupOptions {
        manifest: false,
        fast_checkpoint: false,
        wait_for_wal: true,
        ..BaseBackupOptions::new("x")
    };
    let command = "BASE_BACKUP LABEL 'x' PROGRESS TABLESPACE_MAP";
    let bytes = [opening_rows(), parts(2), ending()].concat();
    let (seen, failure, _) = taken(options, command, bytes).await;
    assert!(failure.is_none(), "{failure:?}");
    assert!(!seen.contains(&BackupMessage::Manifest));
}
