//! The `zektor` command, run as a process.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What a command answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its exit code.
    pub code: i32,
    /// The one document on stdout.
    pub json: Value,
    /// What it said on stderr.
    pub stderr: String,
}

impl Answer {
    /// The document, if the command succeeded.
    ///
    /// # Errors
    /// When it did not; the error holds what it said.
    pub fn success(self, arguments: &[&str]) -> Result<Value> {
        ensure!(
            self.code == 0,
            "zektor {} ended with {}: {} {}",
            arguments.join(" "),
            self.code,
            self.stderr,
            self.json
        );
        Ok(self.json)
    }
}

pub(crate) async fn run(environment: &[(String, String)], arguments: &[&str]) -> Result<Answer> {
    let program = testkit::process::program("zektor")?;
    let output = tokio::process::Command::new(program)
        .args(["--output", "json"])
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("zektor cannot be run")?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8(output.stdout)?;
    let json = serde_json::from_str(&stdout)
        .with_context(|| format!("zektor {arguments:?} printed {stdout:?}, {stderr}"))?;
    let code = output.status.code().context("zektor was killed")?;
    Ok(Answer { code, json, stderr })
}
