//! The one table from what went wrong to the exit code, the error code for programs, and what to do.

use std::error::Error;

use bus::{BusError, Class, RequestError};
use events::event::{BackupFailed, DrillFailed, FailureCause, RefusalCode, Refused, RestoreFailed};
use events::query;
use events::{BackupId, InstanceName};
use repository::RepositoryError;
use serde_json::{Value, json};
use service::run::chain;
use service::seal::SealError;

use crate::stack::{StateError, SupervisorError};

/// How a command that did not succeed ended: the exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ending {
    Failed = 1,
    Usage = 2,
    Refused = 3,
    NotFound = 4,
    Unreachable = 5,
    /// Of a restore_command that could not find out whether a file exists: PostgreSQL takes codes up to 125 for "no".
    InDoubt = 126,
    /// Ctrl-C while waiting, as a shell says it.
    Interrupted = 130,
}

/// Why a command did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) ending: Ending,
    /// Stable, for programs.
    pub(crate) code: String,
    /// One sentence.
    pub(crate) message: String,
    /// What can be done; may be empty when the message says it.
    pub(crate) hint: String,
}

impl Failure {
    pub(crate) fn new(
        ending: Ending,
        code: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Failure {
            ending,
            code: code.to_owned(),
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure::new(Ending::Usage, "usage", message, hint)
    }

    pub(crate) fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure::new(Ending::NotFound, "not_found", message, hint)
    }

    /// A command of the contract that a later version brings.
    pub(crate) fn not_yet(command: &str) -> Self {
        let message = format!("`zektor {command}` is not in this version yet");
        Failure::new(
            Ending::Usage,
            "not_in_this_version",
            message,
            "see `zektor --help`",
        )
    }

    /// An error of this machine.
    pub(crate) fn local(what: &str, error: &(dyn Error + 'static)) -> Self {
        Failure::new(
            Ending::Failed,
            "local",
            format!("{what}: {}", chain(error)),
            "",
        )
    }

    /// The object that stands beside or instead of the document.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "code": self.code, "message": self.message, "hint": self.hint })
    }

    /// What stands on stderr.
    pub(crate) fn to_text(&self) -> String {
        match self.hint.as_str() {
            "" => format!("error: {}\n", self.message),
            hint => format!("error: {}\n hint: {hint}\n", self.message),
        }
    }
}

const UNREACHABLE_HINT: &str = "see `zektor status`, or give the right address with --nats";

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        let message = chain(&error);
        match (&error, error.class()) {
            (BusError::StreamRecreated { .. } | BusError::Undecodable { .. }, _) => {
                Failure::new(Ending::Failed, "bus", message, "run the command again")
            }
            (
                BusError::Unauthorized { .. }
                | BusError::Configuration { .. }
                | BusError::ServerTooOld { .. },
                _,
            )
            | (_, Class::Transient) => Failure::new(
                Ending::Unreachable,
                "unreachable",
                message,
                UNREACHABLE_HINT,
            ),
            _ => Failure::new(Ending::Failed, "bus", message, "see `zektor doctor`"),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let answered = match error {
            RequestError::Bus(error) => return error.into(),
            RequestError::NoResponder { .. } | RequestError::Timeout { .. } => {
                let hint = "see `zektor status`";
                return Failure::new(Ending::Unreachable, "no_answer", error.to_string(), hint);
            }
            RequestError::Refused(answered) => answered,
        };
        let ending = match answered.code.as_str() {
            query::NOT_FOUND => Ending::NotFound,
            query::INVALID => Ending::Usage,
            _ => Ending::Failed,
        };
        Failure::new(ending, &answered.code, answered.message, answered.hint)
    }
}

/// A rule said no; what is not there is told apart.
pub(crate) fn refusal(code: RefusalCode, message: &str, hint: &str) -> Failure {
    let ending = match code {
        RefusalCode::NotFound => Ending::NotFound,
        // No rule said no: it did not work, and may the next time.
        RefusalCode::SourceUnreachable => Ending::Failed,
        _ => Ending::Refused,
    };
    Failure::new(ending, &word(code), message, hint)
}

impl From<&Refused> for Failure {
    fn from(refused: &Refused) -> Self {
        refusal(refused.code, &refused.message, &refused.hint)
    }
}

/// What can be done about a backup that failed, and the command that takes it again.
pub(crate) fn once_more(hint: &str, instance: &InstanceName, id: BackupId) -> String {
    let again = format!("`zektor backup retry {instance} {id}`");
    match hint.trim_end_matches('.') {
        "" => again,
        hint if hint.to_lowercase().contains("run the backup again") => format!("{hint}: {again}"),
        hint => format!("{hint}; then take it once more: {again}"),
    }
}

impl From<&BackupFailed> for Failure {
    fn from(failed: &BackupFailed) -> Self {
        let hint = once_more(&failed.hint, &failed.instance, failed.backup_id);
        given_up(failed.cause, &failed.message, &hint)
    }
}

impl From<&RestoreFailed> for Failure {
    fn from(failed: &RestoreFailed) -> Self {
        given_up(failed.cause, &failed.message, &failed.hint)
    }
}

impl From<&DrillFailed> for Failure {
    fn from(failed: &DrillFailed) -> Self {
        given_up(failed.cause, &failed.message, &failed.hint)
    }
}

fn given_up(cause: FailureCause, message: &str, hint: &str) -> Failure {
    Failure::new(Ending::Failed, &word(cause), message, hint)
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        Failure::new(Ending::Failed, "master_key", chain(&error), "")
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        Failure::new(
            Ending::Failed,
            "storage",
            chain(&error),
            "see `zektor doctor`",
        )
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Failure::new(Ending::Unreachable, "stack_state", chain(&error), "")
    }
}

impl From<SupervisorError> for Failure {
    fn from(error: SupervisorError) -> Self {
        let message = chain(&error);
        match error {
            SupervisorError::AlreadyRunning(_) => {
                Failure::new(Ending::Refused, "already_running", message, "")
            }
            SupervisorError::Misconfigured { .. } => {
                Failure::new(Ending::Usage, "usage", message, "")
            }
            _ => Failure::new(Ending::Failed, "stack", message, ""),
        }
    }
}

/// How serde writes an enum without data.
pub(crate) fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bus::{BusError, QueryError, RequestError};
    use events::event::RefusalCode;

    use super::{Ending, Failure, once_more, refusal};

    #[test]
    fn the_exit_codes_of_the_contract() {
        let check = |failure: Failure, ending, code: &str| {
            assert_eq!((failure.ending, failure.code.as_str()), (ending, code));
        };
        let code = |code| refusal(code, "no", "do");
        check(code(RefusalCode::Limit), Ending::Refused, "limit");
        check(
            code(RefusalCode::OutsideWindow),
            Ending::Refused,
            "outside_window",
        );
        check(code(RefusalCode::NameTaken), Ending::Refused, "name_taken");
        check(code(RefusalCode::NotFound), Ending::NotFound, "not_found");
        let unreachable = code(RefusalCode::SourceUnreachable);
        check(unreachable, Ending::Failed, "source_unreachable");
        check(
            BusError::Disconnected.into(),
            Ending::Unreachable,
            "unreachable",
        );
        let url = "nats://127.0.0.1:1".to_owned();
        check(
            BusError::NeverConnected { url }.into(),
            Ending::Unreachable,
            "unreachable",
        );
        let key = "..".to_owned();
        check(BusError::InvalidKey { key }.into(), Ending::Failed, "bus");
        let answered = |code| RequestError::Refused(QueryError::new(code, "m", "h"));
        check(answered("not_found").into(), Ending::NotFound, "not_found");
        check(answered("invalid").into(), Ending::Usage, "invalid");
        check(answered("failed").into(), Ending::Failed, "failed");
        let subject = "zektor.query.catalog.status".to_owned();
        let after = Duration::from_secs(1);
        let timeout = RequestError::Timeout { subject, after };
        check(timeout.into(), Ending::Unreachable, "no_answer");
        check(
            Failure::not_yet("drill run"),
            Ending::Usage,
            "not_in_this_version",
        );
        assert_eq!(Ending::Interrupted as u8, 130);
    }

    #[test]
    fn it_is_said_once_that_a_backup_is_taken_again() {
        let instance = "orders".parse().unwrap();
        let id = events::BackupId(uuid::Uuid::nil());
        let told = |hint: &str| {
            let told = once_more(hint, &instance, id);
            told.replace(&format!("`zektor backup retry orders {id}`"), "AGAIN")
        };
        assert_eq!(told(""), "AGAIN");
        assert_eq!(told("Mend it."), "Mend it; then take it once more: AGAIN");
        let known = "See its message, then run the backup again.";
        assert_eq!(
            told(known),
            "See its message, then run the backup again: AGAIN"
        );
        assert_eq!(told("Run the backup again."), "Run the backup again: AGAIN");
    }

    #[test]
    fn an_error_is_a_sentence_and_what_to_do() {
        let failure = Failure::not_found("there is no instance a", "see `zektor instance list`");
        insta::assert_snapshot!(failure.to_text(), @r"
        error: there is no instance a
         hint: see `zektor instance list`
        ");
        insta::assert_snapshot!(failure.to_json(), @r#"{"code":"not_found","hint":"see `zektor instance list`","message":"there is no instance a"}"#);
    }
}
