//! SQL through `psql`, independent of any client code of ours.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::Postgres;
use super::cluster::as_account;

impl Postgres {
    /// Runs statements as the superuser on the database `postgres`; see [`Self::psql_as`].
    ///
    /// # Errors
    /// See [`Self::psql_as`].
    pub async fn psql(&self, sql: &str) -> Result<String> {
        self.psql_as(&self.dsn(), sql).await
    }

    /// Runs statements, each in its own transaction unless they say otherwise, and returns the rows: one a
    /// line, columns divided by `|`, without a last line end.
    ///
    /// # Errors
    /// When a statement fails; the ones after it are not run.
    pub async fn psql_as(&self, dsn: &str, sql: &str) -> Result<String> {
        let mut command = as_account(&self.bin("psql")?, self.account);
        let _ = command
            .args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet"])
            .args(["--set", "ON_ERROR_STOP=1", "--dbname", dsn, "--file", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let statements = sql.to_owned();
        let output = tokio::task::spawn_blocking(move || -> Result<_> {
            let mut child = command.spawn().context("cannot start psql")?;
            let mut stdin = child.stdin.take().context("psql has no stdin")?;
            // From a thread of its own: psql may print more than a pipe holds before it has read all.
            let writer = std::thread::spawn(move || stdin.write_all(statements.as_bytes()));
            let output = child.wait_with_output()?;
            // A psql that stopped at an error closes its end; its own words say more.
            let _ = writer.join();
            Ok(output)
        })
        .await??;
        if !output.status.success() {
            bail!(
                "psql failed: {}\nin: {sql}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?
            .trim_end_matches('\n')
            .to_owned())
    }
}
