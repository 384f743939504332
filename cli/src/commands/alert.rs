//! `zektor alert list|test`.

use std::time::Duration;

use events::notifications::{NotifyTestAnswer, NotifyTestQuestion};
use events::query::{self, AlertView};
use events::subject;

use crate::arguments::AlertList;
use crate::failure::{Ending, Failure, word};
use crate::output::{Reply, moment, or_dash, table};
use crate::session::Session;

/// Each channel has less; all are tried at the same time.
const TESTED_WITHIN: Duration = Duration::from_secs(60);

/// Lists alerts.
pub(crate) async fn list(session: &Session, which: AlertList) -> Result<Reply, Failure> {
    let question = query::AlertList {
        instance: which.instance,
        resolved: which.all,
        ..query::AlertList::default()
    };
    let answer = session.ask(&question).await?;
    let text = match answer.alerts.is_empty() {
        true => "Nothing needs attention.".to_owned(),
        false => table_of(&answer.alerts),
    };
    Reply::new(&answer, text)
}

fn table_of(alerts: &[AlertView]) -> String {
    let row = |alert: &AlertView| {
        let mut what = alert.message.clone();
        if alert.resolved_at.is_none() && !alert.hint.is_empty() {
            what.push('\n');
            what.push_str(&alert.hint);
        }
        vec![
            word(alert.severity),
            format!("{}/{}", alert.instance, alert.branch),
            alert.rule.to_string(),
            moment(alert.since),
            or_dash(alert.resolved_at.map(moment)),
            what,
        ]
    };
    let header = ["SEVERITY", "BRANCH", "RULE", "SINCE", "RESOLVED", "WHAT"];
    table(&header, alerts.iter().map(row).collect())
}

/// Sends a test message through every channel.
pub(crate) async fn test(session: &Session) -> Result<Reply, Failure> {
    let (subject, question) = (
        subject::scheduler_notify_test(),
        NotifyTestQuestion::default(),
    );
    let answer: NotifyTestAnswer = session.request(&subject, &question, TESTED_WITHIN).await?;
    tested(&answer)
}

/// What became of the test message.
fn tested(answer: &NotifyTestAnswer) -> Result<Reply, Failure> {
    if answer.channels.is_empty() {
        return Err(Failure::not_found(
            "no channel is configured",
            "give the scheduler ZEKTOR_NOTIFY_WEBHOOK_URL, ZEKTOR_NOTIFY_SLACK_URL, or \
             ZEKTOR_NOTIFY_EMAIL_TO with ZEKTOR_NOTIFY_EMAIL_FROM and ZEKTOR_SMTP_URL",
        ));
    }
    let rows = answer.channels.iter().map(|channel| {
        let outcome = channel.error.clone().unwrap_or_else(|| "sent".to_owned());
        vec![channel.channel.clone(), channel.target.clone(), outcome]
    });
    let text = table(&["CHANNEL", "TO", "OUTCOME"], rows.collect());
    let broken: Vec<&str> = answer
        .channels
        .iter()
        .filter(|c| c.error.is_some())
        .map(|c| c.channel.as_str())
        .collect();
    let failure = (!broken.is_empty()).then(|| {
        Failure::new(
            Ending::Failed,
            "not_delivered",
            format!(
                "the test message did not get through by {}",
                broken.join(", ")
            ),
            "correct the settings of the scheduler, and try again",
        )
    });
    Ok(Reply {
        failure,
        ..Reply::new(answer, text)?
    })
}

#[cfg(test)]
mod tests {
    use events::notifications::{ChannelTest, NotifyTestAnswer};

    use super::tested;
    use crate::failure::Ending;

    #[test]
    fn a_channel_that_is_broken_is_an_answer_with_an_error_in_it() {
        let channel = |name: &str, error: Option<&str>| ChannelTest {
            channel: name.to_owned(),
            target: "somewhere".to_owned(),
            error: error.map(str::to_owned),
        };
        let answer = NotifyTestAnswer {
            channels: vec![
                channel("slack", None),
                channel("webhook", Some("it said 500")),
            ],
        };
        let reply = tested(&answer).unwrap();
        let document: serde_json::Value = serde_json::from_str(&reply.json()).unwrap();
        assert_eq!(document["channels"][1]["error"], "it said 500");
        assert_eq!(document["error"]["code"], "not_delivered");
        assert_eq!(reply.failure.unwrap().ending, Ending::Failed);
    }
}
