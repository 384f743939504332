//! What a drill needs, what it refuses, and what its sandbox does to others: nothing.

use restorer::plan::Policy;

use super::*;

#[tokio::test]
async fn what_is_not_wanted_or_cannot_be_is_said() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    // A backup, and none of its WAL.
    let _ = world.back_up().await?;
    let nothing = failed(&world, Vec::new()).await?;
    assert_eq!(
        (nothing.step, nothing.cause),
        (DrillStep::Plan, FailureCause::Wal)
    );
    // The scheduler has given it up meanwhile.
    let _ = world.archive().await?;
    let unwanted = request(&world, Vec::new()).await?;
    scheduler::change(&world.restorer.bus, |document| {
        document.running_drill = None
    })
    .await?;
    assert!(matches!(
        run(&world, &unwanted).await?,
        Event::DrillRefused(_)
    ));
    Ok(())
}

#[tokio::test]
async fn a_disk_without_room_is_told_before_anything_is_written() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let backup = world.back_up().await?;
    let _ = world.archive().await?;
    let asked = request(&world, Vec::new()).await?;
    let restorer = restorer::restorer::Restorer {
        compute: Arc::new(Full(Arc::clone(&world.compute))),
        policy: Policy {
            room_bytes: 1 << 30,
            ..world.restorer.policy
        },
        ..world.another("compute", Vec::new())?
    };
    let drills = Drills {
        restorer: Arc::new(restorer),
        rules: DrillRules::default(),
    };
    let ending = Box::pin(drills.rehearse(&asked, &Progress::default(), false)).await;
    assert_eq!(ending, Ending::Done);
    let Event::DrillFailed(full) = last(&world, &asked).await? else {
        anyhow::bail!("not failed");
    };
    assert_eq!(
        (full.step, full.cause),
        (DrillStep::Plan, FailureCause::Compute)
    );
    assert_eq!(full.backup_id, Some(backup.backup_id));
    assert!(full.message.contains("has 1.0 GiB left"), "{full:?}");
    assert!(full.hint.contains("make room"), "{full:?}");
    nothing_is_left(&world).await
}

#[tokio::test]
async fn a_sandbox_acts_for_nobody() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let _ = world
        .source
        .psql(
            "ALTER SYSTEM SET archive_mode = on; ALTER SYSTEM SET archive_command = 'touch /nowhere/%f';
             ALTER SYSTEM SET shared_preload_libraries = 'pg_cron';
             ALTER SYSTEM SET max_logical_replication_workers = 4;
             CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p
                 WITH (connect = false, slot_name = 'feed_at_home');
             ALTER SUBSCRIPTION feed ENABLE;
             CREATE FUNCTION deny() RETURNS event_trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'not here'; END $$;
             CREATE EVENT TRIGGER deny ON ddl_command_start EXECUTE FUNCTION deny();
             ALTER EVENT TRIGGER deny ENABLE ALWAYS;
             ALTER DATABASE postgres SET statement_timeout = '1ms'",
        )
        .await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let setting = |name: &str, value: &str| {
        let sql = format!("SELECT current_setting('{name}') = '{value}'");
        check(name, &sql)
    };
    let checks = vec![
        setting("archive_mode", "off"),
        setting("shared_preload_libraries", ""),
        setting("max_logical_replication_workers", "0"),
        setting("listen_addresses", ""),
        setting("autovacuum", "off"),
        check("quiet", "SELECT NOT subenabled FROM pg_subscription"),
        check("no slots", "SELECT count(*) = 0 FROM pg_replication_slots"),
        check(
            "nobody from outside",
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE client_addr IS NOT NULL",
        ),
        check(
            "no superuser",
            "SELECT NOT rolsuper FROM pg_roles WHERE rolname = current_user",
        ),
    ];
    let summary = completed(&world, checks).await?;
    assert!(
        summary.checks.iter().all(|check| check.passed),
        "{summary:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_sandbox_server_stands_behind_others() -> Result<()> {
    if !std::path::Path::new("/usr/bin/nice").exists() {
        return Ok(());
    }
    let world = World::without_tablespace(PgVersion::V15).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let asked = request(&world, vec![check("slow", "SELECT true FROM pg_sleep(2)")]).await?;
    let (drills, of_task) = (drills(&world), asked.clone());
    let task = tokio::spawn(async move {
        Box::pin(drills.rehearse(&of_task, &Progress::default(), true)).await
    });
    let site = world
        .compute
        .drill_site(&instance(), &BranchName::main(), asked.drill_id);
    wait_until("a server of the drill", PATIENCE, async || {
        !servers_of(&site).is_empty()
    })
    .await?;
    let pid = servers_of(&site)[0];
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    // `nice` is the 19th field (proc_pid_stat(5)), the 17th behind the name.
    let nice = fields.split_whitespace().nth(16).context("no niceness")?;
    // Beside that of the tests, which are not always run with none.
    assert!(nice.parse::<i32>()? >= 15, "{nice}");
    if may_leave_the_network() {
        let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net"));
        assert_ne!(network(&pid.to_string())?, network("self")?);
    }
    assert_eq!(tokio::time::timeout(PATIENCE, task).await??, Ending::Done);
    assert!(matches!(
        last(&world, &asked).await?,
        Event::DrillCompleted(_)
    ));
    nothing_is_left(&world).await
}

/// As the restorer tries it.
fn may_leave_the_network() -> bool {
    use std::os::unix::process::CommandExt as _;
    let mut command = std::process::Command::new("/usr/bin/unshare");
    let _ = command.args(["--user", "--map-current-user", "--net", "/bin/true"]);
    if let Some(user) = crate::world::server_user() {
        let _ = command.uid(user);
    }
    command.status().is_ok_and(|status| status.success())
}
