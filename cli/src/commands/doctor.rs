//! `zektor doctor`: everything that protection needs, looked at one by one, each with what to do.
//!
//! A check that cannot be made because an earlier one failed is left out: it would only say the same again. Nothing is
//! waited for longer than a few seconds: what hangs is a finding.

mod instances;
mod pools;
mod storage;

use std::time::Duration;

use events::query;
use serde::Serialize;

use super::status::lag;
use crate::failure::{Ending, Failure};
use crate::output::{Reply, table};
use crate::session::{Session, Setting};
use crate::stack::{StackState, look_at};

/// What does not answer by then is said not to.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A catalog that is further behind shows old news.
const CATALOG_LAG: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum CheckState {
    Ok,
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: String,
    state: CheckState,
    detail: String,
    /// What to do; empty when there is nothing to do.
    hint: String,
}

impl Check {
    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Check {
        Check::new(name, CheckState::Ok, detail, "")
    }

    fn warning(
        name: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Check {
        Check::new(name, CheckState::Warning, detail, hint)
    }

    fn failed(
        name: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Check {
        Check::new(name, CheckState::Failed, detail, hint)
    }

    fn of_failure(name: impl Into<String>, failure: Failure) -> Check {
        Check::failed(name, failure.message, failure.hint)
    }

    fn new(
        name: impl Into<String>,
        state: CheckState,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Check {
        Check {
            name: name.into(),
            state,
            detail: detail.into(),
            hint: hint.into(),
        }
    }
}

/// What was found.
#[derive(Debug, Serialize)]
struct Findings<'a> {
    ok: bool,
    checks: &'a [Check],
}

/// Looks at everything; ends with 1 if something must be done.
pub(crate) async fn doctor(setting: &Setting) -> Result<Reply, Failure> {
    let stack = setting.stack()?;
    if stack.is_none() && setting.nats.is_none() {
        return Err(setting.not_running());
    }
    let mut checks = Vec::new();
    if let Some(stack) = &stack {
        checks.extend(processes(setting, stack).await);
    }
    match tokio::time::timeout(2 * ANSWER_WITHIN, setting.connect()).await {
        Err(_elapsed) => checks.push(no_answer("bus")),
        Ok(Err(failure)) => checks.push(Check::of_failure("bus", failure)),
        Ok(Ok(session)) => {
            checks.push(Check::ok("bus", "connected; its version is 2.12 or newer"));
            checks.push(master_key(&session));
            let (storage, catalog, pools, instances) = tokio::join!(
                in_time("repository", storage::check(&session)),
                in_time("catalog", catalog(&session)),
                pools::check(&session),
                instances::check(&session),
            );
            checks.extend([storage, catalog]);
            checks.extend(pools);
            checks.extend(instances);
        }
    }
    reply(&checks)
}

/// A check, or that what it asked does not answer.
async fn in_time(name: impl Into<String>, check: impl Future<Output = Check>) -> Check {
    match tokio::time::timeout(ANSWER_WITHIN, check).await {
        Ok(check) => check,
        Err(_elapsed) => no_answer(name),
    }
}

fn no_answer(name: impl Into<String>) -> Check {
    let seconds = ANSWER_WITHIN.as_secs();
    let detail = format!("no answer within {seconds} s; what it asks hangs or is very slow");
    Check::failed(name, detail, "see `zektor status` and the services' logs")
}

fn reply(checks: &[Check]) -> Result<Reply, Failure> {
    let failed = checks
        .iter()
        .filter(|check| check.state == CheckState::Failed)
        .count();
    let failure = (failed > 0).then(|| {
        let message = format!("{failed} of {} checks failed", checks.len());
        Failure::new(
            Ending::Failed,
            "unhealthy",
            message,
            "do what stands beside them",
        )
    });
    let document = Findings {
        ok: failure.is_none(),
        checks,
    };
    let mut reply = Reply::new(&document, text(checks))?;
    reply.failure = failure;
    Ok(reply)
}

fn text(checks: &[Check]) -> String {
    let rows = checks.iter().map(|check| {
        let state = match check.state {
            CheckState::Ok => "ok",
            CheckState::Warning => "warning",
            CheckState::Failed => "FAILED",
        };
        let detail = match check.hint.as_str() {
            "" => check.detail.clone(),
            hint => format!("{}\n  → {hint}", check.detail),
        };
        vec![state.to_owned(), check.name.clone(), detail]
    });
    table(&["state", "check", "detail"], rows.collect())
}

async fn processes(setting: &Setting, stack: &StackState) -> Vec<Check> {
    let client = reqwest::Client::new();
    let looks = stack.processes.iter().map(|name| {
        let client = &client;
        async move {
            let check = format!("process {name}");
            let log = setting.home.log_of(name);
            let look = look_at(&setting.home, client, name);
            match tokio::time::timeout(ANSWER_WITHIN, look).await {
                Err(_elapsed) => no_answer(check),
                Ok(process) => match process.reason {
                    None => Check::ok(check, "ready"),
                    Some(reason) => Check::failed(check, reason, format!("see {}", log.display())),
                },
            }
        }
    });
    futures::future::join_all(looks).await
}

fn master_key(session: &Session) -> Check {
    match session.master_key() {
        Ok(key) => Check::ok(
            "master key",
            format!("key {}, readable by its owner only", key.id()),
        ),
        Err(failure) => Check::of_failure("master key", failure),
    }
}

async fn catalog(session: &Session) -> Check {
    let status = match session.ask(&query::Status {}).await {
        Ok(status) => status,
        Err(failure) => return Check::of_failure("catalog", failure),
    };
    if let Some(error) = &status.rebuild_error {
        let hint = "it is tried again; see the catalog's log";
        return Check::failed("catalog", format!("its rebuild failed: {error}"), hint);
    }
    match (status.rebuilding, lag(&status)) {
        (Some(_), _) => Check::warning(
            "catalog",
            "it is being rebuilt",
            "until then answers are old",
        ),
        (None, Some(lag)) if lag > CATALOG_LAG => {
            let hint = "answers are old; see the catalog's log";
            Check::warning("catalog", format!("{lag} events behind"), hint)
        }
        (None, Some(lag)) => Check::ok(
            "catalog",
            format!("{}, {lag} events behind", status.backend),
        ),
        (None, None) => {
            let hint = "see the catalog's log";
            Check::warning("catalog", "it does not know how far behind it is", hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Check, CheckState, in_time, reply};
    use crate::failure::Ending;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_a_finding() {
        let check = in_time("orders/main wal", std::future::pending()).await;
        assert_eq!(check.state, CheckState::Failed);
        assert_eq!(check.name, "orders/main wal");
        assert!(check.detail.contains("no answer within 5 s"), "{check:?}");
    }

    #[test]
    fn what_failed_decides_and_says_what_to_do() {
        let ok = Check::ok("bus", "connected");
        let old = Check::warning("orders last backup", "2026-03-01 10:00:00 UTC", "take one");
        let reply_ok = reply(&[ok.clone(), old.clone()]).unwrap();
        assert_eq!(reply_ok.failure, None);
        assert!(reply_ok.document.contains(r#""ok": true"#));
        let broken = Check::failed("repository", "no such bucket", "make it");
        let reply = reply(&[ok, old, broken]).unwrap();
        let document: serde_json::Value = serde_json::from_str(&reply.json()).unwrap();
        assert_eq!(document["error"]["code"], "unhealthy");
        assert_eq!(document["checks"][2]["state"], "failed");
        assert_eq!(reply.failure.unwrap().ending, Ending::Failed);
        insta::assert_snapshot!(reply.text, @r#"
        STATE    CHECK               DETAIL
        ok       bus                 connected
        warning  orders last backup  2026-03-01 10:00:00 UTC
                                       → take one
        FAILED   repository          no such bucket
                                       → make it
        "#);
    }
}
