//! A branch after its restore: stopped, started, brought back, removed.

use anyhow::Result;
use bus::Progress;
use events::command::{BranchStart, BranchStop};
use events::event::{BranchDeletionRequested, Event};
use events::plan::{RestoreAnswer, RestoreQuestion};
use events::{BranchName, ClusterSize, MessageId, RestoreId, RestoreTarget};
use pg_format::{SystemIdentifier, WalSegmentSize};
use repository::BranchRecord;
use restorer::branches::Given;
use restorer::compute::{Compute as _, ServerState, Stopping};
use service::{Clock as _, SystemClock};
use testkit::postgres::PgVersion;
use testkit::wait_until;
use uuid::Uuid;

use crate::world::{PATIENCE, World, instance};

pub(crate) fn given() -> Given {
    Given {
        id: MessageId::new(Uuid::now_v7().to_string()),
        at: SystemClock.now(),
    }
}

#[tokio::test]
async fn stop_start_reconcile_delete() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Latest).await?;
    let (site, branch) = (world.site("b"), BranchName::new("b")?);
    let restorer = &world.restorer;
    let last = async |name: &str| -> Result<Event> {
        let filter = format!("zektor.branch.{name}.>");
        Ok(restorer
            .bus
            .last_on(&filter)
            .await?
            .unwrap()
            .envelope
            .message)
    };

    // The next start of the restorer brings it back: after a hard stop, and after a crash.
    world.compute.stop(&site, Stopping::Immediate).await?;
    restorer.reconcile().await?;
    assert_eq!(world.count(&finished).await?, 10);
    let server = world.postmaster("b").unwrap().to_string();
    let _ = std::process::Command::new("/bin/sh")
        .args(["-c", "kill -9 $0", &server])
        .status()?;
    wait_until("the server to be gone", PATIENCE, async || {
        world
            .compute
            .state(&site)
            .await
            .is_ok_and(|state| state == ServerState::Down)
    })
    .await?;
    restorer.reconcile().await?;
    assert_eq!(world.count(&finished).await?, 10);

    let stop = BranchStop {
        instance: instance(),
        branch: branch.clone(),
    };
    restorer.stop(&stop, &given()).await?;
    assert!(matches!(last("stopped").await?, Event::BranchStopped(_)));
    restorer.reconcile().await?;
    assert_eq!(
        world.compute.state(&site).await?,
        ServerState::Down,
        "it is to stay stopped"
    );

    let start = BranchStart {
        instance: instance(),
        branch: branch.clone(),
    };
    restorer.start(&start, &given()).await?;
    assert!(matches!(last("started").await?, Event::BranchStarted(_)));
    assert_eq!(world.count(&finished).await?, 10);

    let main = BranchStop {
        instance: instance(),
        branch: BranchName::main(),
    };
    restorer.stop(&main, &given()).await?;
    assert!(matches!(last("refused").await?, Event::BranchRefused(_)));

    let deletion = BranchDeletionRequested {
        instance: instance(),
        branch: branch.clone(),
        purge: false,
        restore_id: None,
    };
    // An order that is older than the branch's name.
    restorer
        .delete(&deletion, &given(), &Progress::default())
        .await?;
    assert!(world.root_of("b").exists());
    crate::scheduler::mark_deleting(&restorer.bus, &branch).await?;
    for _ in 0..2 {
        restorer
            .delete(&deletion, &given(), &Progress::default())
            .await?;
        assert!(matches!(last("deleted").await?, Event::BranchDeleted(_)));
        assert!(!world.root_of("b").exists());
    }
    Ok(())
}

#[tokio::test]
async fn a_dry_run_starts_nothing() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let question = RestoreQuestion {
        instance: instance(),
        source_branch: BranchName::main(),
        branch: Some(BranchName::new("b")?),
        target: RestoreTarget::Latest,
        size: ClusterSize::Small,
    };
    let answer = world.restorer.answer(question.clone()).await;
    assert!(matches!(answer, RestoreAnswer::Refused(_)), "{answer:?}");
    let backup = world.back_up().await?;
    world.rows(11..=12).await?;
    let position = world.archive().await?;
    match world.restorer.answer(question.clone()).await {
        RestoreAnswer::Possible(preview) => {
            assert_eq!(preview.plan.backup_id, backup.backup_id);
            let (plan, last) = (&preview.plan, preview.plan.last_commit.unwrap());
            assert!(last.lsn > backup.stop_lsn && last.lsn <= plan.stop_lsn.unwrap());
            assert!(plan.end_lsn > last.lsn && plan.end_lsn <= position.lsn);
            assert_eq!(preview.latest, Some(position.proven_at));
            let names: Vec<&str> = preview
                .checks
                .iter()
                .map(|check| check.name.as_str())
                .collect();
            assert_eq!(
                names,
                [
                    "base_backup",
                    "wal",
                    "timeline",
                    "target",
                    "programs",
                    "disk",
                    "history_files",
                    "hot_standby_settings",
                    "preload_libraries",
                    "branch_name"
                ]
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(!world.root_of("b").exists());
    names_that_are_taken(&world, question).await
}

/// In the words of the scheduler, which refuses the restore itself.
async fn names_that_are_taken(world: &World, question: RestoreQuestion) -> Result<()> {
    let refused = async |branch: &BranchName| {
        let branch = Some(branch.clone());
        let question = RestoreQuestion {
            branch,
            ..question.clone()
        };
        match world.restorer.answer(question).await {
            RestoreAnswer::Refused(refusal) => (refusal.message, refusal.hint),
            other => panic!("{other:?}"),
        }
    };
    let (message, _) = refused(&BranchName::main()).await;
    assert!(message.contains("the database of"), "{message}");
    let (bus, left) = (&world.restorer.bus, BranchName::new("left")?);
    let record = BranchRecord {
        instance: instance(),
        branch: left.clone(),
        system_identifier: SystemIdentifier(7),
        server_version: 180_000,
        wal_segment_size: WalSegmentSize::DEFAULT,
        parent: None,
        created_at: SystemClock.now(),
    };
    let writer = world.restorer.repository.writer(&instance(), &left);
    let _ = writer.claim_branch(&record).await?;
    let (message, hint) = refused(&left).await;
    assert!(message.contains("that was deleted"), "{message}");
    assert!(hint.contains("--purge`"), "{hint}");
    crate::scheduler::claim(bus, &left, RestoreId(Uuid::now_v7())).await?;
    let (message, _) = refused(&left).await;
    assert!(message.contains("is being restored"), "{message}");
    Ok(())
}
