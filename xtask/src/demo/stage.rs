//! What the demo has started, and how it goes away again.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::Result;

use crate::say::{complain, say};

/// The demo's directory and processes.
pub(super) struct Stage {
    directory: PathBuf,
    /// What ends a started thing, in the order of the starts; run backwards.
    endings: RefCell<Vec<Ending>>,
}

enum Ending {
    Run(Command),
    Kill(Child),
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        Ok(Stage {
            directory: super::directory()?,
            endings: RefCell::new(Vec::new()),
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.directory.join("home/logs")
    }

    /// To be run when everything is taken down.
    pub(super) fn ends_with(&self, command: Command) {
        self.endings.borrow_mut().push(Ending::Run(command));
    }

    /// To be killed when everything is taken down.
    pub(super) fn owns(&self, child: Child) {
        self.endings.borrow_mut().push(Ending::Kill(child));
    }

    pub(super) fn take_down(&self, remove: bool) {
        for ending in self.endings.borrow_mut().drain(..).rev() {
            match ending {
                Ending::Kill(mut child) => {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                Ending::Run(mut command) => match command.output() {
                    Ok(output) if output.status.success() => {}
                    Ok(output) => complain(String::from_utf8_lossy(&output.stderr).trim()),
                    Err(error) => complain(&format!("{command:?}: {error}")),
                },
            }
        }
        if remove && let Err(error) = std::fs::remove_dir_all(&self.directory) {
            complain(&format!("{} stays: {error}", self.directory.display()));
        }
    }

    pub(super) fn keep_and_tell(&self) {
        let home = self.directory.join("home");
        say("\nEverything keeps running. Look around with:");
        say(&format!("   export ZEKTOR_HOME={}", home.display()));
        say("   target/debug/zektor status");
        say("   target/debug/zektor backup list shop");
        say("Take it down with:");
        for ending in self.endings.borrow().iter().rev() {
            match ending {
                Ending::Kill(child) => say(&format!("   kill {}", child.id())),
                Ending::Run(command) => {
                    let words: Vec<_> = std::iter::once(command.get_program())
                        .chain(command.get_args())
                        .map(|word| word.to_string_lossy().into_owned())
                        .collect();
                    say(&format!("   {}", words.join(" ")));
                }
            }
        }
        say(&format!("   rm -r {}", self.directory.display()));
    }
}
