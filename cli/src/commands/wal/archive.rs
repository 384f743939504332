//! The archive that `wal push` and `wal fetch` work on: the repository alone, without a bus and without secrets.

use std::time::Duration;

use pg_format::{SegmentName, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize};
use repository::{ErrorClass, Repository, RepositoryError, RetryPolicy};
use service::run::chain;

use crate::failure::{Ending, Failure};
use crate::session::Setting;

/// PostgreSQL calls again by itself; a command that hangs says nothing in the server's log.
fn retry_policy() -> RetryPolicy {
    RetryPolicy {
        attempts: 4,
        call_timeout: Duration::from_secs(30),
        ..RetryPolicy::default()
    }
}

/// The repository: as the environment names it, or that of the stack in `ZEKTOR_HOME`.
pub(super) fn repository(setting: &Setting) -> Result<Repository, Failure> {
    let named = setting.environment.get("ZEKTOR_REPOSITORY_URL");
    let url = match named.filter(|url| !url.is_empty()) {
        Some(url) => url.to_owned(),
        None => url_of_home(setting)?,
    };
    Ok(Repository::open(&url, retry_policy())?)
}

fn url_of_home(setting: &Setting) -> Result<String, Failure> {
    // What `zektor up` settled on; it stays while the stack is stopped.
    let file = setting.home.directory().join("repository.url");
    let url = std::fs::read_to_string(&file).map_err(|error| {
        Failure::usage(
            format!(
                "the repository is not known: set ZEKTOR_REPOSITORY_URL, or ZEKTOR_HOME to the directory of `zektor up`, \
                 readable for this user ({}: {error})",
                file.display()
            ),
            "",
        )
    })?;
    Ok(url.trim().to_owned())
}

/// A failure of the store in one line, with what can be done.
pub(super) fn store_failure(what: &str, error: &RepositoryError) -> Failure {
    let (ending, code, advice) = match error.class() {
        ErrorClass::Transient => (
            Ending::Unreachable,
            "unreachable",
            "PostgreSQL asks again; is the store up?",
        ),
        ErrorClass::Denied => (
            Ending::Unreachable,
            "denied",
            "does the server's environment have the store's credentials?",
        ),
        ErrorClass::Conflict => (
            Ending::Refused,
            "conflict",
            "nothing was changed; another cluster, or one that was set back, may be pushing under this name",
        ),
        ErrorClass::Corrupt => (Ending::Failed, "damaged", "see `zektor doctor`"),
        ErrorClass::Absent | ErrorClass::Permanent => {
            (Ending::Failed, "storage", "see `zektor doctor`")
        }
    };
    Failure::new(
        ending,
        code,
        format!("{what}: {}; {advice}", chain(error)),
        "",
    )
}

/// The timeline under which recovery looks for segment `number`: the newest that has begun by its end
/// (`XLogFileReadAnyTLI`, PostgreSQL `src/backend/access/transam/xlogrecovery.c`).
pub(super) fn archived_under(
    history: &TimelineHistory,
    number: SegmentNumber,
    size: WalSegmentSize,
) -> SegmentName {
    let path = history.path();
    let begun = path
        .iter()
        .rev()
        .find(|range| size.segment_of(range.start) <= number);
    let timeline: TimelineId = begun.map_or(history.timeline(), |range| range.timeline);
    SegmentName::new(timeline, number, size)
}
