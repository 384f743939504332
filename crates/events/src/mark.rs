//! What is wanted of a stored backup, as far as it may change after the backup was made.
//!
//! It rests beside the manifest in the repository, which is the truth; events only tell of it. The scheduler
//! alone writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CommandId, Timestamp};

/// What was changed since the backup was made. What is absent stands as the manifest has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackupMark {
    /// Another name.
    #[serde(default)]
    pub name: Option<String>,
    /// Another end.
    #[serde(default)]
    pub expiry: Option<Expiry>,
    /// It stays whatever its retention says.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// It is to go.
    #[serde(default)]
    pub deletion: Option<Deletion>,
    /// What reading it whole has shown, the last time; told by `backup.verified`.
    #[serde(default)]
    pub verified: Option<Verification>,
    /// The commands that changed it last, newest last, at most [`BackupMark::MOST_COMMANDS`]: one that is delivered
    /// again must not undo what was decided after it.
    #[serde(default)]
    pub commands: Vec<CommandId>,
}

impl BackupMark {
    /// So many commands are remembered.
    pub const MOST_COMMANDS: usize = 8;

    /// Whether it was found damaged in the repository, and not found sound since.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.verified.is_some_and(|verified| !verified.sound)
    }

    /// The mark, changed by a command.
    #[must_use]
    pub fn changed_by(mut self, command: CommandId) -> Self {
        let too_many = (self.commands.len() + 1).saturating_sub(Self::MOST_COMMANDS);
        drop(self.commands.drain(..too_many.min(self.commands.len())));
        self.commands.push(command);
        self
    }
}

/// What a stored backup was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// It can be restored, with the WAL that makes it consistent.
    pub sound: bool,
    /// When that was found.
    pub at: Timestamp,
}

/// When a backup expires, decided after it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Expiry {
    /// Then; never when absent.
    pub expires_at: Option<Timestamp>,
}

/// Why a backup stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hold {
    /// In the words of whoever held it.
    pub reason: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

/// A backup is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deletion {
    /// Who wants it.
    pub by: DeletedBy,
    /// Since when.
    pub asked_at: Timestamp,
    /// Until then it can be kept after all.
    pub delete_after: Timestamp,
}

/// Who lets a backup go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeletedBy {
    /// Its retention has ended.
    Retention,
    /// Somebody said so.
    User,
}
