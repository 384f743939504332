//! Puts a base backup and WAL of a real server into a repository, by other means than Zektor's own: with
//! `pg_basebackup`, and from the server's own files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use events::event::BackupSummary;
use events::{BackupId, BackupType, Timestamp, Trigger};
use pg_format::{BackupLabel, Lsn, SegmentName, TimelineId, WalSegmentSize};
use repository::{
    BackupOptions, BackupWriter, BranchWriter, EntryKind, EntryPath, FileHeader, WalPosition,
};
use testkit::postgres::Postgres;
use uuid::Uuid;

const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

/// Takes a backup; the tablespace in the directory `space` of the source, if any, is part of it.
pub(crate) async fn back_up(source: &Postgres, writer: &BranchWriter) -> Result<BackupSummary> {
    let id = BackupId(Uuid::now_v7());
    let copy = source.directory(&format!("copy-{id}"))?;
    let space = source
        .data_directory()
        .parent()
        .context("no parent")?
        .join("space");
    let moved = source.directory(&format!("space-{id}"))?;
    let mut command = source.command("pg_basebackup")?;
    let _ = command
        .args([
            "--wal-method",
            "fetch",
            "--checkpoint",
            "fast",
            "--no-sync",
            "--no-verify-checksums",
            "--verbose",
        ])
        .args(["--format", "plain", "--dbname", &source.dsn(), "--pgdata"])
        .arg(&copy);
    if space.exists() {
        let mapping = format!("{}={}", space.display(), moved.display());
        let _ = command.args(["--tablespace-mapping", &mapping]);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{said}");
    let (_, stop) = said
        .split_once("write-ahead log end point: ")
        .context("no end point")?;
    let stop_lsn: Lsn = stop
        .lines()
        .next()
        .context("no end point")?
        .trim()
        .parse()?;
    let backed_up_at = clock(source).await?;
    let label = BackupLabel::parse(&fs::read(copy.join("backup_label"))?)?;

    let attempt = "a";
    let mut files = writer.begin_backup(id, attempt, BackupOptions::default())?;
    // As a base backup's stream has them: the links come first.
    let mut links = Vec::new();
    for entry in fs::read_dir(copy.join("pg_tblspc"))? {
        let oid: u32 = entry?.file_name().to_string_lossy().parse()?;
        let target = space.display().to_string();
        let header = header(
            EntryPath::data(format!("pg_tblspc/{oid}")),
            EntryKind::Symlink { target },
        );
        files.begin_file(header).await?;
        links.push(oid);
    }
    for oid in links {
        let directory = copy.join(format!("pg_tblspc/{oid}"));
        add(&mut files, &directory, "", Some(oid)).await?;
    }
    add(&mut files, &copy, "", None).await?;
    let stored = files.finish().await?;
    let (instance, branch) = (writer.instance().clone(), writer.branch().clone());
    let identifier = source
        .psql("SELECT system_identifier FROM pg_control_system()")
        .await?;
    let summary = BackupSummary {
        backup_id: id,
        instance,
        branch,
        name: "test".to_owned(),
        backup_type: BackupType::Full,
        trigger: Trigger::Manual,
        schedule_id: None,
        requested_at: backed_up_at,
        started_at: backed_up_at,
        backed_up_at,
        ended_at: None,
        expires_at: None,
        wal_until: None,
        start_lsn: label.start_lsn,
        stop_lsn,
        timeline: label.start_timeline,
        system_identifier: identifier.parse()?,
        server_version: source.psql("SHOW server_version_num").await?.parse()?,
        wal_segment_size: SIZE,
        logical_bytes: stored.totals.logical_bytes,
        stored_bytes: stored.totals.stored_bytes,
        files: stored.totals.files,
        attempt: attempt.to_owned(),
        damaged_pages: Vec::new(),
    };
    let _ = stored.commit(summary.clone()).await?;
    Ok(summary)
}

/// Archives everything up to now, and says so in the position.
pub(crate) async fn archive(source: &Postgres, writer: &BranchWriter) -> Result<WalPosition> {
    archive_without(source, writer, None).await
}

/// The same, with a hole.
pub(crate) async fn archive_without(
    source: &Postgres,
    writer: &BranchWriter,
    hole: Option<&str>,
) -> Result<WalPosition> {
    let timeline = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int";
    let timeline = TimelineId(source.psql(timeline).await?.parse()?);
    let proven_at = clock(source).await?;
    let end: Lsn = source
        .psql("SELECT pg_current_wal_flush_lsn()")
        .await?
        .parse()?;
    let last = SIZE.segment_ending_at(end);
    let directory = source.data_directory().join("pg_wal");
    let mut first = None;
    for entry in fs::read_dir(&directory)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        if let Some(timeline) = file.strip_suffix(".history") {
            let text = Bytes::from(fs::read(directory.join(&file))?);
            let _ = writer
                .put_history(TimelineId::from_hex(timeline)?, text)
                .await?;
        }
        let Ok(name) = SegmentName::parse(&file, SIZE) else {
            continue;
        };
        if hole == Some(file.as_str()) {
            continue;
        }
        let number = name.number(SIZE);
        // What lies beyond is recycled; an older timeline's last segment is left as it was archived.
        if number > last || (name.timeline != timeline && has_newer(&directory, name)?) {
            continue;
        }
        first = first.map_or(Some(name), |first: SegmentName| Some(first.min(name)));
        let raw = Bytes::from(fs::read(directory.join(name.to_string()))?);
        if number < last || name.end(SIZE) == end {
            let _ = writer.put_segment(name, raw).await?;
            writer.delete_partial(name).await?;
        } else {
            let bytes = usize::try_from(SIZE.offset_in_segment(end))?;
            let _ = writer.put_partial(name, raw.slice(..bytes)).await?;
        }
    }
    let position = WalPosition {
        timeline,
        lsn: end,
        proven_at,
        first_segment: first.context("no wal")?.to_string(),
        updated: proven_at,
    };
    writer.put_wal_position(&position).await?;
    Ok(position)
}

/// Whether the place of a segment was taken over by another timeline.
fn has_newer(directory: &Path, name: SegmentName) -> Result<bool> {
    let number = name.number(SIZE);
    let mut newer = false;
    for entry in fs::read_dir(directory)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        newer |= SegmentName::parse(&file, SIZE)
            .is_ok_and(|other| other.timeline > name.timeline && other.number(SIZE) <= number);
    }
    Ok(newer)
}

/// The server's clock.
pub(crate) async fn clock(source: &Postgres) -> Result<Timestamp> {
    let epoch = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let micros: i64 = source.psql(epoch).await?.parse()?;
    chrono::DateTime::from_timestamp_micros(micros).context("a time that is none")
}

async fn add(
    files: &mut BackupWriter,
    root: &Path,
    below: &str,
    tablespace: Option<u32>,
) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root.join(below))?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        let place = EntryPath {
            tablespace,
            path: path.clone(),
        };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files
                .begin_file(header(place, EntryKind::Directory))
                .await?;
            Box::pin(add(files, root, &path, tablespace)).await?;
        } else if kind.is_file() && path != "tablespace_map" && !path.starts_with("pg_wal/") {
            let mut header = header(place, EntryKind::File);
            let content = Bytes::from(fs::read(entry.path())?);
            header.size = content.len() as u64;
            header.mode = entry.metadata()?.permissions().mode() & 0o7777;
            files.begin_file(header).await?;
            files.write(content).await?;
            files.end_file().await?;
        }
    }
    Ok(())
}

fn header(path: EntryPath, kind: EntryKind) -> FileHeader {
    let mode = 0o700;
    FileHeader {
        path,
        kind,
        mode,
        size: 0,
        modified_unix_secs: 0,
    }
}
