//! Answers about drills and alerts, and series.

use bus::QueryError;
use events::Timestamp;
use events::query::{
    AlertList, Alerts, BackupPoint, BranchShow, DrillList, DrillShow, Drills, NOT_FOUND, Series,
    SeriesView, WalPoint,
};

use super::view::{alert_view, drill_view, duration_ms};
use super::{Answer, cut_page, cut_to_fit, failed};
use crate::projector::Projector;
use crate::store::rows::{WalDayRow, day_of};
use crate::store::{MOST_POINTS, Page};

/// How far back a series goes when nobody says: thirty days, in microseconds.
const USUAL_MICROS: i64 = 30 * 86_400_000_000;

impl Projector {
    pub(super) async fn drill_list(&self, question: DrillList) -> Answer<DrillList> {
        let page = Page::new(question.limit, question.offset);
        let rows = self.store().drills(question.instance.as_ref(), page).await;
        let rows = rows.map_err(failed)?;
        if let (true, Some(instance)) = (rows.is_empty(), &question.instance) {
            self.require_instance(instance).await?;
        }
        let mut drills = rows.into_iter().map(drill_view).collect();
        let next = cut_page(&mut drills, page, question.offset);
        Ok(Drills { drills, next })
    }

    pub(super) async fn drill_show(&self, question: DrillShow) -> Answer<DrillShow> {
        let row = self.store().drill(question.id).await.map_err(failed)?;
        row.map(drill_view).ok_or_else(|| {
            QueryError::new(
                NOT_FOUND,
                format!("there is no drill {}", question.id),
                "zektor drill list INSTANCE shows what there is",
            )
        })
    }

    pub(super) async fn alert_list(&self, question: AlertList) -> Answer<AlertList> {
        let page = Page::new(question.limit, 0);
        let instance = question.instance.as_ref();
        let rows = self.store().alerts(instance, question.resolved, page).await;
        let rows = rows.map_err(failed)?;
        if let (true, Some(instance)) = (rows.is_empty(), instance) {
            self.require_instance(instance).await?;
        }
        let mut alerts: Vec<_> = rows.into_iter().map(alert_view).collect();
        let full = alerts.len() == page.limit();
        let cut = cut_to_fit(&mut alerts);
        Ok(Alerts {
            alerts,
            more: full || cut,
        })
    }

    pub(super) async fn series(&self, question: Series) -> Answer<Series> {
        let to = question.to.unwrap_or_else(|| self.clock().now());
        let from = question.from.unwrap_or_else(|| usual_beginning(to));
        let (instance, branch) = (&question.instance, &question.branch);
        let store = self.store();
        let days = store.wal_days(instance, branch, day_of(from)).await;
        let totals = store.wal_totals(instance, branch).await.map_err(failed)?;
        let wal = wal_points(days.map_err(failed)?, totals.stored_bytes, to);
        let measures = store.backup_measures(instance, branch, (from, to)).await;
        let mut measures = measures.map_err(failed)?;
        let surplus = measures.len().saturating_sub(MOST_POINTS);
        let measures = measures.split_off(surplus);
        let backups: Vec<BackupPoint> = measures
            .into_iter()
            .map(|measure| BackupPoint {
                id: measure.id,
                at: measure.backed_up_at,
                size_bytes: measure.size_bytes,
                logical_bytes: measure.logical_bytes,
                duration_ms: measure
                    .started_at
                    .map_or(0, |from| duration_ms(from, measure.backed_up_at)),
            })
            .collect();
        if wal.is_empty() && backups.is_empty() {
            let (instance, branch) = (question.instance, question.branch);
            let _ = self.branch_show(BranchShow { instance, branch }).await?;
        }
        Ok(SeriesView {
            backups,
            earlier_left_out: surplus > 0,
            wal,
        })
    }
}

fn usual_beginning(to: Timestamp) -> Timestamp {
    let micros = to.timestamp_micros().saturating_sub(USUAL_MICROS);
    Timestamp::from_timestamp_micros(micros).unwrap_or(to)
}

/// The days before `to`, oldest first. What was stored at the end of a day is what is stored now, without what came
/// and with what went after it.
fn wal_points(days: Vec<WalDayRow>, stored_now: u64, to: Timestamp) -> Vec<WalPoint> {
    let mut points = Vec::with_capacity(days.len());
    let mut stored = i128::from(stored_now);
    for day in days.into_iter().rev() {
        let stored_bytes = u64::try_from(stored).unwrap_or(0);
        stored += i128::from(day.pruned_bytes) - i128::from(day.added_bytes);
        if day.day < to {
            points.push(WalPoint {
                day: day.day,
                added_bytes: day.added_bytes,
                pruned_bytes: day.pruned_bytes,
                stored_bytes,
            });
        }
    }
    points.reverse();
    points
}

#[cfg(test)]
mod tests {
    use events::{BranchName, InstanceName, example};

    use super::wal_points;
    use crate::store::rows::WalDayRow;

    #[test]
    fn what_was_stored_is_reckoned_back_from_now() {
        let day = |number: i64, added_bytes, pruned_bytes| WalDayRow {
            added_bytes,
            pruned_bytes,
            ..WalDayRow::empty(
                &InstanceName::new("orders").unwrap(),
                &BranchName::main(),
                example::at(number * 86_400),
            )
        };
        let days = vec![day(0, 100, 0), day(1, 50, 30), day(3, 10, 80)];
        let stored = |to| {
            let points = wal_points(days.clone(), 50, example::at(to));
            let stored = points.iter().map(|point| point.stored_bytes);
            stored.collect::<Vec<_>>()
        };
        assert_eq!(stored(4 * 86_400), [100, 120, 50]);
        assert_eq!(stored(86_400), [100, 120]);
    }
}
