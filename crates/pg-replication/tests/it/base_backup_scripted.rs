//! Base backups against a scripted server: above all the error that comes after everything.

use pg_format::{Lsn, TimelineId};
use pg_replication::{
    BackupMessage, BaseBackupOptions, BaseBackupStream, PgError, ReplicationConnection, Tablespace,
};
use tokio::task::JoinHandle;

use crate::script::{Peer, complete, copy, error, frame, message, ready, replication, rows, serve};

pub(crate) fn positions(lsn: &str) -> Vec<u8> {
    [
        rows(&["recptr", "tli"], &[&[Some(lsn), Some("5")]]),
        complete("SELECT"),
    ]
    .concat()
}

fn opening() -> Vec<u8> {
    [opening_rows(), copy(b'H')].concat()
}

/// What comes before any copy.
pub(crate) fn opening_rows() -> Vec<u8> {
    let tablespaces = rows(
        &["spcoid", "spclocation", "size"],
        &[
            &[Some("16384"), Some("/space"), Some("3")],
            &[None, None, Some("40")],
        ],
    );
    [positions("0/2000028"), tablespaces, complete("SELECT")].concat()
}

fn archives() -> Vec<u8> {
    let progress = [&b"p"[..], &77_u64.to_be_bytes()].concat();
    [
        frame(b'd', b"n16384.tar\0/space\0"),
        frame(b'd', b"dspace bytes"),
        frame(b'd', b"nbase.tar\0\0"),
        frame(b'd', b"dbase bytes"),
        frame(b'd', &progress),
        message(
            b'N',
            "WARNING",
            "01000",
            "checksum verification failed in file \"base/1/2\"",
        ),
        frame(b'd', b"m"),
        frame(b'd', b"d{}"),
        frame(b'c', b""),
    ]
    .concat()
}

async fn begin(bytes: Vec<u8>) -> (Result<BaseBackupStream, PgError>, JoinHandle<()>) {
    let (connection, server) = replication(async move |mut peer: Peer| {
        assert_eq!(
            peer.query().await,
            "BASE_BACKUP (LABEL 'it''s', TARGET 'client', PROGRESS, TABLESPACE_MAP, \
             CHECKPOINT 'fast', WAIT false, WAL false, VERIFY_CHECKSUMS true, MANIFEST 'yes', \
             MANIFEST_CHECKSUMS 'CRC32C', MAX_RATE 32)"
        );
        peer.send(&bytes).await;
        peer.drained().await;
    })
    .await;
    let options = BaseBackupOptions {
        max_rate_kib: Some(32),
        ..BaseBackupOptions::new("it's")
    };
    (connection.base_backup(options).await, server)
}

/// Every message up to the end or the failure.
pub(crate) async fn all(stream: &mut BaseBackupStream) -> (Vec<BackupMessage>, Option<PgError>) {
    let mut seen = Vec::new();
    loop {
        match stream.next().await {
            Ok(end @ BackupMessage::End(_)) => {
                seen.push(end);
                return (seen, None);
            }
            Ok(message) => seen.push(message),
            Err(failure) => return (seen, Some(failure)),
        }
    }
}

#[tokio::test]
async fn every_message_in_its_order() {
    let ending = [positions("0/2000130"), complete("BASE_BACKUP"), ready()].concat();
    let (stream, server) = begin([opening(), archives(), ending].concat()).await;
    let mut stream = stream.unwrap();
    assert_eq!(stream.start().start_lsn, Lsn(0x0200_0028));
    assert_eq!(stream.start().timeline, TimelineId(5));
    assert_eq!(
        stream.start().tablespaces,
        [
            Tablespace {
                oid: Some(16384),
                location: Some("/space".into()),
                size_bytes: Some(3072)
            },
            Tablespace {
                oid: None,
                location: None,
                size_bytes: Some(40960)
            },
        ]
    );
    let (seen, failure) = all(&mut stream).await;
    assert!(failure.is_none());
    let archive = |name: &str, location: &str| BackupMessage::Archive {
        name: name.into(),
        location: location.into(),
    };
    let bytes = |text: &'static str| BackupMessage::Data(text.into());
    assert_eq!(
        seen[..5],
        [
            archive("16384.tar", "/space"),
            bytes("space bytes"),
            archive("base.tar", ""),
            bytes("base bytes"),
            BackupMessage::Progress(77),
        ]
    );
    assert!(matches!(&seen[5], BackupMessage::Warning(text) if text.sqlstate == "01000"));
    assert_eq!(seen[6..8], [BackupMessage::Manifest, bytes("{}")]);
    let BackupMessage::End(end) = &seen[8] else {
        panic!("{seen:?}")
    };
    assert_eq!(
        (end.stop_lsn, end.timeline, &end.damage),
        (Lsn(0x0200_0130), TimelineId(5), &None)
    );
    let connection: ReplicationConnection = stream.into_connection().unwrap();
    drop(connection);
    server.await.unwrap();
}

#[tokio::test]
async fn damaged_pages_are_an_end_and_not_a_failure() {
    let late = error("XX001", "checksum verification failure during base backup");
    let bytes = [opening(), archives(), positions("0/2000130"), late, ready()].concat();
    let (stream, server) = begin(bytes).await;
    let mut stream = stream.unwrap();
    let (seen, failure) = all(&mut stream).await;
    assert!(failure.is_none());
    let Some(BackupMessage::End(end)) = seen.last() else {
        panic!("{seen:?}")
    };
    assert_eq!(end.damage.as_ref().unwrap().sqlstate, "XX001");
    assert_eq!(end.stop_lsn, Lsn(0x0200_0130));
    drop(stream);
    server.await.unwrap();
}

#[tokio::test]
async fn every_other_error_is_a_failure() {
    let damage = || error("XX001", "invalid page");
    let shutdown = || message(b'E', "FATAL", "57P01", "terminating");
    let disk = || error("58030", "could not read file");
    for (bytes, sqlstate) in [
        // Damaged, but the end was not sent: not a whole backup.
        ([opening(), damage(), ready()].concat(), "XX001"),
        ([opening(), archives(), damage(), ready()].concat(), "XX001"),
        ([opening(), disk(), ready()].concat(), "58030"),
        (
            [opening(), archives(), positions("0/2"), disk(), ready()].concat(),
            "58030",
        ),
        (
            [opening(), archives(), positions("0/2"), shutdown()].concat(),
            "57P01",
        ),
    ] {
        let (stream, server) = begin(bytes).await;
        let mut stream = stream.unwrap();
        let (_, failure) = all(&mut stream).await;
        assert_eq!(failure.unwrap().sqlstate(), Some(sqlstate));
        assert!(stream.into_connection().is_err());
        server.await.unwrap();
    }
    let (stream, server) = begin([error("42501", "not allowed"), ready()].concat()).await;
    assert_eq!(stream.err().unwrap().sqlstate(), Some("42501"));
    server.await.unwrap();
}

#[tokio::test]
async fn nothing_short_of_the_whole_answer_is_an_end() {
    let end = |parts: &[Vec<u8>]| [opening(), archives(), parts.concat()].concat();
    for bytes in [
        // The command ends without a position, or before its archives.
        end(&[complete("BASE_BACKUP"), ready()]),
        end(&[ready()]),
        [opening(), positions("0/2000130"), ready()].concat(),
        [opening(), frame(b'd', b"nbase.tar\0")].concat(),
        [opening(), frame(b'd', b"x")].concat(),
        [opening(), frame(b'd', b"n\xff\0\0")].concat(),
    ] {
        let (stream, server) = begin(bytes).await;
        let mut stream = stream.unwrap();
        let (seen, failure) = all(&mut stream).await;
        let failure = failure.unwrap();
        assert!(matches!(failure, PgError::Protocol(_)), "{failure}");
        assert!(
            !seen
                .iter()
                .any(|message| matches!(message, BackupMessage::End(_)))
        );
        drop(stream);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn old_servers_are_told_apart() {
    let (settings, server) = serve(async |mut peer: Peer| {
        let _ = peer.welcome("13.23").await;
        peer.drained().await;
    })
    .await;
    let mut connection = ReplicationConnection::connect(&settings).await.unwrap();
    let failure = connection.read_slot("s").await.unwrap_err();
    assert!(
        matches!(failure, PgError::Unsupported { needs: 14, .. }),
        "{failure}"
    );
    let failure = connection
        .base_backup(BaseBackupOptions::new("x"))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(failure, PgError::Unsupported { needs: 14, .. }),
        "{failure}"
    );
    server.await.unwrap();
}
