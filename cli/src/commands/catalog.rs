//! `zektor catalog rebuild`.

use std::time::Duration;

use events::query::{Rebuild, RebuildSource, Status};
use serde_json::json;

use crate::failure::{Ending, Failure, word};
use crate::outcome::unless_interrupted;
use crate::output::Reply;
use crate::progress::Progress;
use crate::session::Session;

const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Asks for the rows to be built anew; with `--wait`, until they are.
pub(crate) async fn rebuild(session: &Session, from: RebuildSource) -> Result<Reply, Failure> {
    let before = session.ask(&Status {}).await?.rebuilt_at;
    let _accepted = session.ask(&Rebuild { from }).await?;
    let from = word(from);
    if !session.setting.wait {
        let text = format!("The catalog is being rebuilt from the {from}; see `zektor status`.");
        return Reply::new(&json!({ "status": "requested", "from": from }), text);
    }
    let mut progress = Progress::start(&format!("rebuilding the catalog from the {from}"));
    let done = async {
        loop {
            let status = session.ask(&Status {}).await?;
            if let Some(error) = status.rebuild_error {
                let hint = "it is tried again; see the catalog's log";
                return Err(Failure::new(Ending::Failed, "rebuild", error, hint));
            }
            if status.rebuilding.is_none() && status.rebuilt_at != before {
                return Ok(());
            }
            progress.enter(&format!("rebuilding the catalog from the {from}"));
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    unless_interrupted(done, "the rebuild", "zektor status").await?;
    let text = format!("The catalog is rebuilt from the {from}.");
    Reply::new(&json!({ "status": "completed", "from": from }), text)
}
