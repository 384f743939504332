//! What every store must do, run on each of them.

use std::collections::BTreeMap;
use std::fs;

use chrono::DateTime;
use events::{BranchName, InstanceDocument};
use futures::{StreamExt, TryStreamExt};
use pg_format::{Lsn, SystemIdentifier, TimelineHistory, TimelineId};

use super::{
    back_up, backup_id, header, in_memory, instance, main_of, record, restore, retry, sample,
    segment, segment_size, store, summary, wal,
};
use crate::{
    BackupOptions, BranchWriter, ClaimOutcome, CommitOutcome, EntryKind, EntryPath, ErrorClass,
    PutOutcome, Repository, RepositoryError, Target, WalCoverage, WalGap, WalObjectKind,
    WalPosition,
};

#[tokio::test]
async fn in_memory_store() {
    conformance(&in_memory()).await;
}

#[tokio::test]
async fn local_directory() {
    let place = tempfile::tempdir().unwrap();
    let url = format!("file://{}/a/b", place.path().display());
    conformance(&Repository::open(&url, retry()).unwrap()).await;
}

/// SeaweedFS, also while it is down and after it came back.
#[tokio::test]
async fn s3_server() {
    let mut server = testkit::s3::S3Server::start().await.unwrap();
    let url = server.url(testkit::s3::BUCKET);
    let repository = Repository::open_with(&format!("{url}/a/b"), retry(), &server.env()).unwrap();
    conformance(&repository).await;

    let nowhere = Repository::open_with("s3://no-such-bucket/a", retry(), &server.env()).unwrap();
    let error = main_of(&nowhere).record().await.unwrap_err();
    assert_ne!(error.class(), ErrorClass::Absent, "{error}");
    let mut wrong = server.env();
    wrong.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned()));
    let denied = Repository::open_with(&url, retry(), &wrong).unwrap();
    for error in [
        main_of(&denied).record().await.map(drop),
        denied.list_branches().await.map(drop),
    ] {
        assert_eq!(error.unwrap_err().class(), ErrorClass::Denied);
    }

    let branch = main_of(&repository);
    server.kill().await.unwrap();
    let error = branch.get_segment(segment(2)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    let error = branch.put_segment(segment(4), wal(4)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    server.start_again().await.unwrap();
    assert_eq!(branch.get_segment(segment(2)).await.unwrap(), wal(1));
    let _ = branch.put_segment(segment(4), wal(4)).await.unwrap();
    assert_eq!(branch.get_segment(segment(4)).await.unwrap(), wal(4));
}

async fn conformance(repository: &Repository) {
    branches(repository).await;
    instances(repository).await;
    wal_objects(repository).await;
    long_listing(repository).await;
    backups(repository).await;
    purge(repository).await;
    race_for_the_manifest(repository).await;
    tablespace_links(repository).await;
}

async fn branches(repository: &Repository) {
    let branch = main_of(repository);
    assert!(branch.record().await.unwrap_err().is_absent());
    assert!(repository.list_branches().await.unwrap().is_empty());
    assert_eq!(
        branch.claim_branch(&record(7)).await.unwrap(),
        ClaimOutcome::Claimed
    );
    assert_eq!(
        branch.claim_branch(&record(7)).await.unwrap(),
        ClaimOutcome::AlreadyOurs
    );
    let error = branch.claim_branch(&record(8)).await.unwrap_err();
    assert!(matches!(error, RepositoryError::BranchTaken { existing } if *existing == record(7)));
    assert_eq!(branch.record().await.unwrap(), record(7));
    let branches = repository.list_branches().await.unwrap();
    assert_eq!(branches, [(instance(), BranchName::main())]);
    let racers = (0..16).map(|n| {
        let branch = repository.writer(&instance(), &BranchName::new("raced").unwrap());
        let mut record = record(100 + n);
        record.branch = branch.branch().clone();
        async move { branch.claim_branch(&record).await }
    });
    let results = futures::future::join_all(racers).await;
    assert_eq!(
        results.iter().filter(|result| result.is_ok()).count(),
        1,
        "{results:?}"
    );
}

async fn instances(repository: &Repository) {
    let registration = events::CommandId(uuid::Uuid::from_u128(1));
    let document = InstanceDocument::new(instance(), registration, DateTime::UNIX_EPOCH);
    assert!(
        repository
            .instance(&instance())
            .await
            .unwrap_err()
            .is_absent()
    );
    repository.put_instance(&document).await.unwrap();
    let changed = InstanceDocument {
        removing: true,
        ..document
    };
    repository.put_instance(&changed).await.unwrap();
    assert_eq!(repository.instance(&instance()).await.unwrap(), changed);
    assert_eq!(repository.instances().await.unwrap(), [changed]);
    repository.delete_instance(&instance()).await.unwrap();
    repository.delete_instance(&instance()).await.unwrap();
    assert!(repository.instances().await.unwrap().is_empty());
}

async fn wal_objects(repository: &Repository) {
    let branch = main_of(repository);
    let (first, second) = (segment(2), segment(3));
    assert!(branch.get_segment(first).await.unwrap_err().is_absent());
    let stored = branch.put_segment(first, wal(1)).await.unwrap();
    let stored_bytes = stored.stored_bytes();
    assert_eq!(stored, PutOutcome::Stored { stored_bytes });
    let again = branch.put_segment(first, wal(1)).await.unwrap();
    assert_eq!(again, PutOutcome::AlreadyStored { stored_bytes });
    let error = branch.put_segment(first, wal(2)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict, "{error}");
    assert_eq!(branch.get_segment(first).await.unwrap(), wal(1));
    assert!(branch.put_segment(second, wal(1).slice(1..)).await.is_err());

    assert!(branch.get_partial(second).await.unwrap_err().is_absent());
    for length in [1000, 70_000] {
        let partial = wal(3).slice(..length);
        let _ = branch.put_partial(second, partial.clone()).await.unwrap();
        assert_eq!(branch.get_partial(second).await.unwrap(), partial);
        assert_eq!(
            branch.open_segment(second).await.unwrap().raw_bytes,
            length as u64
        );
    }
    check_partial(&branch).await;
    let history = branch
        .put_history(TimelineId(2), "1\t0/300\tx\n".into())
        .await
        .unwrap();
    assert!(matches!(history, PutOutcome::Stored { .. }));
    assert_eq!(
        branch.get_history(TimelineId(2)).await.unwrap(),
        "1\t0/300\tx\n"
    );

    let position = WalPosition {
        timeline: TimelineId(1),
        lsn: Lsn(0x0300_0000),
        proven_at: DateTime::UNIX_EPOCH,
        first_segment: first.to_string(),
        updated: DateTime::UNIX_EPOCH,
    };
    assert!(branch.wal_position().await.unwrap_err().is_absent());
    branch.put_wal_position(&position).await.unwrap();
    branch.put_wal_position(&position).await.unwrap();
    assert_eq!(branch.wal_position().await.unwrap(), position);
    check_gaps(&branch).await;

    let covered = async |to: u64| {
        let history = TimelineHistory::root(TimelineId(1));
        let (size, from) = (segment_size(), Lsn((2 << 20) + 40));
        branch
            .wal_coverage(&history, size, from, Lsn(to))
            .await
            .unwrap()
    };
    assert_eq!(covered((3 << 20) + 70_000).await, WalCoverage::Complete);
    let missing = WalCoverage::Missing { first: second };
    assert_eq!(covered((3 << 20) + 70_001).await, missing);

    let kinds = || async {
        let listed = branch.list_wal(segment_size()).await.unwrap();
        listed
            .iter()
            .map(|object| (object.timeline.0, object.kind))
            .collect::<Vec<_>>()
    };
    let (whole, open) = (
        WalObjectKind::Segment(first),
        WalObjectKind::Partial(second),
    );
    assert_eq!(
        kinds().await,
        [(1, whole), (1, open), (2, WalObjectKind::History)]
    );
    let after = |timeline, kind| {
        let listed = branch.list_wal_after(segment_size(), TimelineId(timeline), kind);
        async {
            listed
                .await
                .unwrap()
                .iter()
                .map(|o| (o.timeline.0, o.kind))
                .collect::<Vec<_>>()
        }
    };
    let history = (2, WalObjectKind::History);
    assert_eq!(after(1, whole).await, [(1, open), history]);
    assert_eq!(after(1, open).await, [history]);
    assert!(after(2, WalObjectKind::History).await.is_empty());
    branch.delete_partial(second).await.unwrap();
    branch.delete_partial(second).await.unwrap();
    assert_eq!(kinds().await, [(1, whole), (2, WalObjectKind::History)]);
}

/// What is stored of an open segment never becomes less, whoever comes late.
async fn check_partial(branch: &BranchWriter) {
    let open = segment(9);
    let longest = wal(9).slice(..90_000);
    let _ = branch.put_partial(open, longest.clone()).await.unwrap();
    let stored = branch
        .put_partial(open, longest.slice(..500))
        .await
        .unwrap();
    assert_eq!(branch.get_partial(open).await.unwrap(), longest);
    let again = branch.put_partial(open, longest.clone()).await.unwrap();
    assert_eq!(stored, again);
    let other = branch.put_partial(open, wal(8).slice(..500)).await;
    assert_eq!(other.unwrap_err().class(), ErrorClass::Conflict);
    let longer = wal(8).slice(..90_001);
    let _ = branch.put_partial(open, longer.clone()).await.unwrap();
    assert_eq!(branch.get_partial(open).await.unwrap(), longer);
    branch.delete_partial(open).await.unwrap();

    let racers = (1..=12_usize).rev().map(|n| {
        let branch = branch.clone();
        let raw = wal(9).slice(..n * 5000);
        async move { branch.put_partial(open, raw).await.unwrap() }
    });
    let _ = futures::future::join_all(racers).await;
    assert_eq!(branch.get_partial(open).await.unwrap().len(), 60_000);
    branch.delete_partial(open).await.unwrap();
}

async fn purge(repository: &Repository) {
    let name = BranchName::new("purged").unwrap();
    let branch = repository.writer(&instance(), &name);
    let fill = async |system: u64| {
        let mut claim = record(system);
        claim.branch = name.clone();
        let _ = branch.claim_branch(&claim).await.unwrap();
        let _ = back_up(&branch, backup_id(5), &sample()).await;
        let _ = branch.put_segment(segment(2), wal(1)).await.unwrap();
        let _ = branch
            .put_partial(segment(3), wal(1).slice(..99))
            .await
            .unwrap();
        let map = wal_index::RelationMap::default();
        assert!(branch.put_relation_map(TimelineId(1), &map).await.unwrap());
    };
    fill(55).await;
    let beside = repository.writer(&instance(), &BranchName::new("purged-not").unwrap());
    let _ = beside.put_segment(segment(2), wal(1)).await.unwrap();
    assert!(repository.delete_branch(&instance(), &name).await.unwrap() > 6);
    assert!(branch.record().await.unwrap_err().is_absent());
    assert!(branch.list_wal(segment_size()).await.unwrap().is_empty());
    // (SeaweedFS lists the empty prefix for a while.)
    let left = branch.store.list(&branch.layout.root()).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(
        repository.delete_branch(&instance(), &name).await.unwrap(),
        0
    );
    // The name is free again.
    fill(56).await;
    assert!(repository.delete_branch(&instance(), &name).await.unwrap() > 6);
    assert_eq!(beside.get_segment(segment(2)).await.unwrap(), wal(1));
    let refused = repository
        .delete_branch(&instance(), &BranchName::main())
        .await;
    assert!(matches!(refused, Err(RepositoryError::Refused { .. })));
    assert_eq!(
        main_of(repository).get_segment(segment(2)).await.unwrap(),
        wal(1)
    );
}

/// Longer than one page of S3's answer.
async fn long_listing(repository: &Repository) {
    let branch = repository.writer(&instance(), &BranchName::new("long").unwrap());
    let puts = (0..1050).map(|n| branch.put_partial(segment(n), wal(1).slice(..9)));
    let stored: Vec<u64> = futures::stream::iter(puts)
        .buffer_unordered(32)
        .try_collect()
        .await
        .unwrap();
    let listed = branch.list_wal(segment_size()).await.unwrap();
    assert_eq!(listed.len(), 1050);
    let rest = branch
        .list_wal_after(segment_size(), listed[9].timeline, listed[9].kind)
        .await;
    assert_eq!(rest.unwrap(), listed[10..]);
    assert!(listed.iter().enumerate().all(|(n, object)| {
        object.kind == WalObjectKind::Partial(segment(n as u64)) && object.stored_bytes == stored[0]
    }));
    let stretch = events::document::WalStretch {
        timeline: TimelineId(1),
        from_lsn: segment(0).start(segment_size()),
        to_lsn: segment(1040).start(segment_size()),
    };
    let pruned = branch.prune_wal(&[stretch], segment_size(), &|| {}).await;
    assert_eq!(pruned.unwrap()[0].objects, 1040);
    let left = branch.list_wal(segment_size()).await.unwrap();
    assert_eq!(left, listed[1040..]);
}

async fn backups(repository: &Repository) {
    let branch = main_of(repository);
    let id = backup_id(1);
    assert!(branch.manifest(id).await.unwrap_err().is_absent());
    assert!(branch.list_backups().await.unwrap().is_empty());
    let orphan = store(&branch, id, "killed", &sample(), 777).await.unwrap();
    assert!(
        branch.list_backups().await.unwrap().is_empty(),
        "no manifest, no backup"
    );

    let manifest = back_up(&branch, id, &sample()).await;
    assert!(
        manifest.packs.len() > 2 && manifest.index.len() > 2,
        "{manifest:?}"
    );
    assert_eq!(branch.manifest(id).await.unwrap(), manifest);
    assert_eq!(branch.list_backups().await.unwrap(), [id]);
    assert_eq!(
        branch.manifests().await.unwrap(),
        std::slice::from_ref(&manifest)
    );
    assert_eq!(
        branch.summaries().await.unwrap(),
        std::slice::from_ref(&manifest.summary)
    );

    let place = tempfile::tempdir().unwrap();
    assert_eq!(
        restore(&branch, &manifest, place.path()).await.unwrap(),
        sample()
    );
    let again = restore(&branch, &manifest, place.path()).await.unwrap_err();
    assert!(again.to_string().contains("not empty"), "{again}");

    assert!(branch.delete_attempts_except(id, "killed").await.is_err());
    let deleted = branch
        .delete_attempts_except(id, "attempt-1")
        .await
        .unwrap();
    assert_eq!(deleted, (orphan.packs.len() + orphan.index.len()) as u64);
    let report = branch.verify(&manifest, &|_| {}).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.segments, 1);
}

async fn race_for_the_manifest(repository: &Repository) {
    let branch = repository.writer(&instance(), &BranchName::new("race").unwrap());
    let id = backup_id(2);
    let mut racers = Vec::new();
    for n in 0..8 {
        let attempt = format!("attempt-{n}");
        let stored = store(&branch, id, &attempt, &sample(), 5000).await.unwrap();
        let summary = summary(&branch, id, &attempt, &stored);
        racers.push(async move { stored.commit(summary).await.unwrap() });
    }
    let outcomes = futures::future::join_all(racers).await;
    let won: Vec<_> = outcomes
        .iter()
        .filter(|one| matches!(one, CommitOutcome::Committed(_)))
        .collect();
    assert_eq!(won.len(), 1);
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.manifest() == won[0].manifest())
    );
    assert_eq!(branch.manifest(id).await.unwrap(), *won[0].manifest());
}

async fn tablespace_links(repository: &Repository) {
    let branch = repository.writer(&instance(), &BranchName::new("links").unwrap());
    let mut writer = branch
        .begin_backup(backup_id(3), "one", BackupOptions::default())
        .unwrap();
    let link = EntryKind::Symlink {
        target: "/somewhere/else".to_owned(),
    };
    let path = EntryPath::data("pg_tblspc/16384");
    writer
        .begin_file(header(&path, 0o777, link.clone(), 0))
        .await
        .unwrap();
    let outside = EntryPath::data("pg_wal");
    assert!(
        writer
            .begin_file(header(&outside, 0o777, link, 0))
            .await
            .is_err()
    );
    let stored = writer.finish().await.unwrap();
    let summary = summary(&branch, backup_id(3), "one", &stored);
    let mut wrong = summary.clone();
    wrong.system_identifier = SystemIdentifier(9);
    wrong.files += 1;
    assert!(stored.commit(wrong).await.is_err());
    let outcome = stored.commit(summary).await.unwrap();

    let place = tempfile::tempdir().unwrap();
    let (data_directory, space) = (place.path().join("data"), place.path().join("space"));
    let mut target = Target {
        data_directory: data_directory.clone(),
        tablespaces: BTreeMap::new(),
        other_tablespaces: None,
        owner: None,
    };
    let error = branch
        .materialise(outcome.manifest(), &target, 1, &|_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("tablespace 16384"), "{error}");
    fs::remove_dir_all(&data_directory).unwrap();
    target.other_tablespaces = Some(place.path().join("spaces"));
    let _ = branch
        .materialise(outcome.manifest(), &target, 1, &|_| {})
        .await
        .unwrap();
    let link = fs::read_link(data_directory.join("pg_tblspc/16384")).unwrap();
    assert_eq!(link, place.path().join("spaces/16384"));
    fs::remove_dir_all(&data_directory).unwrap();
    target.other_tablespaces = None;
    let _ = target.tablespaces.insert(16384, space.clone());
    let _ = branch
        .materialise(outcome.manifest(), &target, 1, &|_| {})
        .await
        .unwrap();
    assert_eq!(
        fs::read_link(data_directory.join("pg_tblspc/16384")).unwrap(),
        space
    );
}

async fn check_gaps(branch: &BranchWriter) {
    let objects = branch.list_wal(segment_size()).await.unwrap();
    assert!(branch.wal_gaps().await.unwrap().is_empty());
    let gap = |from: u64, second: i64| WalGap {
        timeline: TimelineId(1),
        from_lsn: Lsn(from),
        to_lsn: Lsn(9 << 20),
        cause: events::event::GapCause::SlotLost,
        detected_at: DateTime::from_timestamp_secs(second).unwrap(),
        proven: None,
    };
    for written in [gap(5, 2), gap(6, 1), gap(5, 3)] {
        branch.put_wal_gap(&written).await.unwrap();
    }
    assert_eq!(branch.wal_gaps().await.unwrap(), [gap(6, 1), gap(5, 3)]);
    assert_eq!(branch.list_wal(segment_size()).await.unwrap(), objects);
}
