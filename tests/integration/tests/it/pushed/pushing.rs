//! A database that pushes its WAL, the stack that it pushes to, and the commands as PostgreSQL calls them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use events::{BranchName, InstanceName};
use integration::{DIGEST, Ledger, PATIENCE, Stack, Store};
use pg_format::{SegmentName, WalSegmentSize};
use repository::{BranchReader, WalObject};
use testkit::postgres::{PgVersion, Postgres};
use testkit::s3::{BUCKET, S3Server};
use testkit::wait_until;
use tokio::process::Command;

use crate::exactness::text;

pub(super) const SEGMENT_MIB: u32 = 1;

/// What it is registered with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Superuser,
    Backup,
}

/// A database that pushes, and the stack that it pushes to.
pub(super) struct Pushing {
    pub(super) postgres: Postgres,
    pub(super) stack: Stack,
    pub(super) environment: Vec<(String, String)>,
    pub(super) ledger: Ledger,
}

impl Pushing {
    pub(super) async fn start(version: PgVersion) -> Result<Pushing> {
        Self::start_with(version, Role::Superuser, &[]).await
    }

    pub(super) async fn start_with(
        version: PgVersion,
        role: Role,
        settings: &[(&str, &str)],
    ) -> Result<Pushing> {
        let store = S3Server::start().await?;
        let mut environment = store.env();
        environment.push(("ZEKTOR_REPOSITORY_URL".to_owned(), store.url(BUCKET)));
        environment.push(("ZEKTOR_INSTANCE".to_owned(), "shop".to_owned()));
        let push = shell(&environment, "wal push %p")?;
        let postgres = Postgres::builder()
            .version(version)
            .wal_segment_size_mib(SEGMENT_MIB)
            .setting("track_commit_timestamp", "on")
            .setting("archive_mode", "on")
            .setting("archive_command", &push)
            .start()
            .await?;
        let mut builder = Stack::builder().store(Store::S3(store));
        for (name, value) in settings {
            builder = builder.env(name, *value);
        }
        let stack = builder.start().await?;
        let mut ledger = Ledger::create(&postgres).await?;
        ledger.write(20).await?;
        // A role that may back up and look at what everybody may look at.
        let _made = postgres
            .psql("CREATE ROLE backup LOGIN REPLICATION PASSWORD 'backup'")
            .await?;
        let dsn = match role {
            Role::Superuser => postgres.dsn(),
            Role::Backup => postgres.dsn_for("backup", "backup", "postgres"),
        };
        let add = [
            "instance",
            "add",
            "shop",
            "--dsn",
            &dsn,
            "--archive-mode",
            "command",
        ];
        let _added = stack.zektor_ok(&add).await?;
        Ok(Pushing {
            postgres,
            stack,
            environment,
            ledger,
        })
    }

    pub(super) fn reader(&self) -> Result<BranchReader> {
        let instance = InstanceName::new("shop")?;
        Ok(self
            .stack
            .repository()?
            .reader(&instance, &BranchName::main()))
    }

    /// `zektor` as PostgreSQL calls it: its exit code and what it said.
    pub(super) async fn zektor(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = Command::new(testkit::process::program("zektor")?)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true)
            .output()
            .await?;
        let code = output.status.code().context("zektor was killed")?;
        Ok((code, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    pub(super) async fn push(&self, file: &Path) -> Result<(i32, String)> {
        self.zektor(&["wal", "push", &file.display().to_string()])
            .await
    }

    pub(super) async fn fetch(&self, name: &str, destination: &Path) -> Result<(i32, String)> {
        let destination = destination.display().to_string();
        self.zektor(&["wal", "fetch", name, &destination, "--patience", "1"])
            .await
    }

    /// Writes until the open segment is another one; the name of the one that is complete now.
    pub(super) async fn fill_segment(&mut self) -> Result<String> {
        self.ledger.write(2).await?;
        let open = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
        let name = self.postgres.psql(open).await?;
        let _lsn = self.postgres.psql("SELECT pg_switch_wal()").await?;
        Ok(name)
    }

    pub(super) async fn archived(&self, name: &str) -> Result<()> {
        let reader = self.reader()?;
        let segment = segment(name)?;
        wait_until(name, PATIENCE, async || {
            reader.get_segment(segment).await.is_ok()
        })
        .await
    }

    pub(super) async fn restored(&self, branch: &str, target: &[&str], digest: &str) -> Result<()> {
        let mut arguments = vec!["restore", "shop", "--as", branch, "--wait"];
        arguments.extend(target);
        let restored = self.stack.zektor_ok(&arguments).await?;
        let uri = text(&restored, "connection_uri")?;
        let found = self.postgres.psql_as(&uri, DIGEST).await?;
        ensure!(found == digest, "{branch}: {found} instead of {digest}");
        Ok(())
    }

    pub(super) fn pg_wal(&self, name: &str) -> PathBuf {
        self.postgres.data_directory().join("pg_wal").join(name)
    }

    pub(super) async fn status(&self) -> Result<serde_json::Value> {
        self.stack.zektor_ok(&["wal", "status", "shop"]).await
    }
}

/// A command line for PostgreSQL's shell, with what it needs in front.
pub(super) fn shell(environment: &[(String, String)], command: &str) -> Result<String> {
    let variables: Vec<String> = environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let program = testkit::process::program("zektor")?;
    let variables = variables.join(" ");
    Ok(format!("{variables} {} {command}", program.display()))
}

pub(super) fn size() -> Result<WalSegmentSize> {
    Ok(WalSegmentSize::new(u64::from(SEGMENT_MIB) << 20)?)
}

pub(super) fn segment(name: &str) -> Result<SegmentName> {
    Ok(SegmentName::parse(name, size()?)?)
}

pub(super) async fn listed(reader: &BranchReader) -> Result<Vec<WalObject>> {
    Ok(reader.list_wal(size()?).await?)
}
