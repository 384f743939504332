//! What `/metrics` shows of every branch: its backups, its WAL, its drills, its alerts.
//!
//! Read from the rows once a minute and shown until the next time; with the rows out of reach nothing is shown, rather
//! than what was true once. Every catalog shows all of it: take one of them, or the maximum.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use events::{BranchName, InstanceName, Timestamp};
use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry::{KeyValue, global};
use service::Clock;

use crate::store::column::{Present, SqlValue};
use crate::store::{Amount, Gauges, LastBackup, Store};

/// How often the rows are read.
const INTERVAL: Duration = Duration::from_secs(60);

/// What was read last.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Arc<Gauges>>>);

impl Shown {
    fn get(&self) -> Arc<Gauges> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, gauges: Gauges) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(gauges);
    }
}

/// Shows them, and reads them again and again.
pub(crate) async fn show(store: Store, clock: Arc<dyn Clock>) {
    let shown = Shown::default();
    register(&global::meter("zektor-catalog"), &shown, &clock);
    let mut told = false;
    loop {
        match store.gauges().await {
            Ok(gauges) => {
                shown.set(gauges);
                told = false;
            }
            Err(error) => {
                shown.set(Gauges::default());
                if !std::mem::replace(&mut told, true) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "metrics of branches are not shown");
                }
            }
        }
        clock.sleep(INTERVAL).await;
    }
}

fn register(meter: &Meter, shown: &Shown, clock: &Arc<dyn Clock>) {
    backups(meter, shown, clock);
    stored(meter, shown);
    let each = shown.clone();
    let _ = meter
        .f64_observable_gauge("zektor.drill.last_proven")
        .with_unit("s")
        .with_description("When a drill last proved main restorable, in seconds since 1970.")
        .with_callback(move |seen| {
            for proof in &each.get().proofs {
                seen.observe(
                    unix_seconds(proof.ended_at),
                    &[of_instance(&proof.instance)],
                );
            }
        })
        .build();
    let each = shown.clone();
    let _ = meter
        .f64_observable_gauge("zektor.drill.last_restore_duration")
        .with_unit("s")
        .with_description("How long the restore of that drill took.")
        .with_callback(move |seen| {
            for proof in &each.get().proofs {
                if let Some(restore_ms) = proof.restore_ms {
                    seen.observe(restore_ms as f64 / 1000.0, &[of_instance(&proof.instance)]);
                }
            }
        })
        .build();
    let each = shown.clone();
    let _ = meter
        .u64_observable_gauge("zektor.alert.standing")
        .with_description("1 while an alert stands.")
        .with_callback(move |seen| {
            for alert in &each.get().alerts {
                let [instance, branch] = of_branch(&alert.instance, &alert.branch);
                let rule = KeyValue::new("rule", text(&alert.rule));
                let severity = KeyValue::new("severity", text(&alert.severity));
                seen.observe(1, &[instance, branch, rule, severity]);
            }
        })
        .build();
}

/// Of the newest backup, and how many wait, run or have failed.
fn backups(meter: &Meter, shown: &Shown, clock: &Arc<dyn Clock>) {
    let each = |value: fn(&LastBackup, Timestamp) -> Option<f64>| {
        let (shown, clock) = (shown.clone(), Arc::clone(clock));
        move |seen: &dyn AsyncInstrument<f64>| {
            let now = clock.now();
            for last in &shown.get().last_backups {
                if let Some(value) = value(last, now) {
                    seen.observe(value, &of_branch(&last.instance, &last.branch));
                }
            }
        }
    };
    let _ = meter
        .f64_observable_gauge("zektor.backup.last_completed")
        .with_unit("s")
        .with_description("The moment that the newest backup holds, in seconds since 1970.")
        .with_callback(each(|last, _| Some(unix_seconds(last.backed_up_at))))
        .build();
    let _ = meter
        .f64_observable_gauge("zektor.backup.age")
        .with_unit("s")
        .with_description("The age of the newest backup.")
        .with_callback(each(|last, now| {
            Some((now - last.backed_up_at).as_seconds_f64())
        }))
        .build();
    let _ = meter
        .f64_observable_gauge("zektor.backup.last_duration")
        .with_unit("s")
        .with_description("How long the newest backup took.")
        .with_callback(each(|last, _| {
            Some(
                (last.backed_up_at - last.started_at?)
                    .as_seconds_f64()
                    .max(0.0),
            )
        }))
        .build();
    let _ = meter
        .f64_observable_gauge("zektor.backup.last_stored")
        .with_unit("By")
        .with_description("What the newest backup takes in the repository.")
        .with_callback(each(|last, _| Some(last.stored_bytes? as f64)))
        .build();
    let _ = meter
        .f64_observable_gauge("zektor.backup.last_logical")
        .with_unit("By")
        .with_description("The size of the server's files in the newest backup.")
        .with_callback(each(|last, _| Some(last.logical_bytes? as f64)))
        .build();
    let shown = shown.clone();
    let _ = meter
        .u64_observable_gauge("zektor.backup.count")
        .with_description("Backups by their status; failed ones as long as the catalog knows them.")
        .with_callback(move |seen| {
            let gauges = shown.get();
            for amount in &gauges.backups {
                let [instance, branch] = of_branch(&amount.instance, &amount.branch);
                let status = KeyValue::new("status", "completed");
                seen.observe(amount.count, &[instance, branch, status]);
            }
            for unusual in &gauges.unusual {
                let [instance, branch] = of_branch(&unusual.instance, &unusual.branch);
                let status = KeyValue::new("status", text(&unusual.status));
                seen.observe(unusual.count, &[instance, branch, status]);
            }
        })
        .build();
}

/// What the repository holds.
fn stored(meter: &Meter, shown: &Shown) {
    let each = |of: fn(&Gauges) -> &[Amount], value: fn(&Amount) -> u64| {
        let shown = shown.clone();
        move |seen: &dyn AsyncInstrument<u64>| {
            for amount in of(&shown.get()) {
                seen.observe(value(amount), &of_branch(&amount.instance, &amount.branch));
            }
        }
    };
    let _ = meter
        .u64_observable_gauge("zektor.backup.stored")
        .with_unit("By")
        .with_description("What all backups of the branch take in the repository.")
        .with_callback(each(|gauges| &gauges.backups, |amount| amount.stored_bytes))
        .build();
    let _ = meter
        .u64_observable_gauge("zektor.wal.stored")
        .with_unit("By")
        .with_description("WAL Storage: what the branch's archived WAL takes in the repository.")
        .with_callback(each(|gauges| &gauges.wal, |amount| amount.stored_bytes))
        .build();
    let _ = meter
        .u64_observable_gauge("zektor.wal.stored_segments")
        .with_description("Complete segments in the archive.")
        .with_callback(each(|gauges| &gauges.wal, |amount| amount.count))
        .build();
}

/// The word by which a value stands in the rows.
fn text<T: Present>(value: &T) -> String {
    match value.write() {
        SqlValue::Text(text) => text.unwrap_or_default(),
        SqlValue::Integer(number) => number.unwrap_or_default().to_string(),
    }
}

fn unix_seconds(moment: Timestamp) -> f64 {
    (moment - Timestamp::UNIX_EPOCH).as_seconds_f64()
}

fn of_instance(instance: &InstanceName) -> KeyValue {
    KeyValue::new("instance", instance.to_string())
}

fn of_branch(instance: &InstanceName, branch: &BranchName) -> [KeyValue; 2] {
    [
        of_instance(instance),
        KeyValue::new("branch", branch.to_string()),
    ]
}
