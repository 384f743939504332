//! How a command ends: with an event, with a refusal that is an event too, or not yet.

use bus::{BusError, FenceError, Outcome, UpdateError};
use events::event::{RefusalCode, Refused};
use events::{BranchName, CommandId, InstanceName};
use repository::RepositoryError;

/// A rule forbids what was asked; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: RefusalCode,
    message: String,
    hint: String,
}

impl Refusal {
    pub(crate) fn new(
        code: RefusalCode,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Refusal {
            code,
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn no_such_instance(instance: &InstanceName) -> Self {
        Refusal::new(
            RefusalCode::NotFound,
            format!("there is no instance {instance}"),
            "See `zektor instance list`.",
        )
    }

    pub(crate) fn no_such_branch(instance: &InstanceName, branch: &BranchName) -> Self {
        Refusal::new(
            RefusalCode::NotFound,
            format!("instance {instance} has no branch {branch} that can be used"),
            format!("See `zektor branch list {instance}`."),
        )
    }

    pub(crate) fn into_event(
        self,
        instance: InstanceName,
        branch: BranchName,
        command_id: CommandId,
    ) -> Refused {
        let Refusal {
            code,
            message,
            hint,
        } = self;
        Refused {
            instance,
            branch,
            command_id,
            code,
            message,
            hint,
        }
    }
}

/// Why a command has no outcome yet, or is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfinished {
    /// By a rule.
    #[error("refused: {}", .0.message)]
    Refused(Refusal),
    /// The bus did not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The repository did not answer.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Others change the instance document all the time.
    #[error(transparent)]
    Contended(#[from] UpdateError),
    /// Something else must happen first.
    #[error("{0}")]
    NotYet(String),
}

impl From<Refusal> for Unfinished {
    fn from(refusal: Refusal) -> Self {
        Unfinished::Refused(refusal)
    }
}

/// A request that is on its fence already was published by this command's first delivery, or by another
/// replica: either way the wish is fulfilled.
pub(crate) fn published_once<T>(result: Result<T, FenceError>) -> Result<(), BusError> {
    match result {
        Ok(_) | Err(FenceError::Lost { .. }) => Ok(()),
        Err(FenceError::Bus(error)) => Err(error),
    }
}

/// The one place where an error becomes a decision about the message.
pub(crate) fn outcome_of(error: &Unfinished, attempt: u64) -> Outcome {
    let after = std::time::Duration::from_secs(1 << attempt.min(4));
    tracing::warn!(error = %error, attempt, "command has no outcome yet");
    Outcome::Retry {
        after,
        reason: error.to_string(),
    }
}
