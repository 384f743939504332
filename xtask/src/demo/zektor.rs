//! The `zektor` command on the demo's own stack.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::stage::Stage;
use crate::say::say;
use crate::workspace;

/// The command, in the demo's home.
pub(super) struct Zektor {
    program: PathBuf,
    home: PathBuf,
}

impl Zektor {
    /// Starts the stack.
    pub(super) fn up(stage: &Stage) -> Result<Self> {
        let program = workspace::root()?.join("target/debug/zektor");
        let zektor = Zektor {
            program,
            home: stage.directory().join("home"),
        };
        let mut down = zektor.command(&["down"]);
        let _ = down.stdin(Stdio::null());
        stage.ends_with(down);
        zektor.run(&["up"])?;
        Ok(zektor)
    }

    /// Runs a command whose words are for people, and shows it.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<()> {
        say(&format!("   $ zektor {}", arguments.join(" ")));
        let status = self
            .command(arguments)
            .status()
            .context("zektor cannot be run")?;
        if !status.success() {
            bail!("zektor {} failed", arguments.join(" "));
        }
        Ok(())
    }

    /// Runs a command and reads its document; its progress goes to the terminal.
    pub(super) fn json(&self, arguments: &[&str]) -> Result<Value> {
        say(&format!("   $ zektor --output json {}", conceal(arguments)));
        let mut command = self.command(&["--output", "json"]);
        let _ = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let output = command.output().context("zektor cannot be run")?;
        if !output.status.success() {
            bail!(
                "zektor {} failed: {}",
                conceal(arguments),
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The demo's moment is seconds old, so the rule of two minutes is set aside, here and nowhere else.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let _ = command
            .args(arguments)
            .env("ZEKTOR_HOME", &self.home)
            .env("ZEKTOR_RESTORE_MIN_TARGET_AGE", "0s")
            .env_remove("ZEKTOR_NATS_URL");
        command
    }
}

/// The command line without the password of a URI.
fn conceal(arguments: &[&str]) -> String {
    let words = arguments
        .iter()
        .map(|word| match (word.find("://"), word.find('@')) {
            (Some(scheme), Some(at)) if scheme < at => {
                format!("{}://...{}", &word[..scheme], &word[at..])
            }
            _ if word.contains(' ') => format!("'{word}'"),
            _ => (*word).to_owned(),
        });
    words.collect::<Vec<_>>().join(" ")
}
