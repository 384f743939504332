//! What the WAL that the slot holds back means for the source's disk: measured, told when it changes, and, only where
//! the branch's policy allows it, ended by releasing the slot before the disk is full.
//!
//! What must stay true:
//!
//! - It works with the repository and the bus away: that is when it is needed.
//! - A slot is released only because of a disk of known size that its own WAL fills. The server's own limit
//!   (`max_slot_wal_keep_size`) needs no help of ours, and WAL that others hold too would not go away.
//! - A released slot is made again only when the repository answers: until then the source holds nothing back for us.
//!   That loses nothing, for without a new base backup no WAL behind the first missing byte is of use.

mod level;
mod measure;
mod metrics;
mod release;
mod release_desk;

use events::DiskRiskPolicy;
use events::event::{SlotRiskChanged, SlotRiskLevel};
use tokio_util::sync::CancellationToken;

use crate::session::{BranchContext, connection_settings};
pub(crate) use level::SlotSeen;
use level::{Limit, Percents, Risk};
use measure::{MeasureError, Meter};
pub(crate) use metrics::observe;
pub(crate) use release::release;
pub(crate) use release_desk::ReleaseDesk;

/// Measures until it is cancelled.
pub(crate) async fn keep(branch: BranchContext, cancel: CancellationToken) {
    if branch.branch.archive_mode != events::ArchiveMode::Stream {
        return;
    }
    let interval = branch.config.slot_risk_interval;
    let mut watch = Watch {
        meter: Meter::default(),
        level: None,
        branch,
    };
    let watching = async {
        loop {
            if let Err(error) = watch.look().await {
                let error = service::run::chain(&error);
                tracing::debug!(error, "what the slot holds back cannot be measured now");
            }
            tokio::time::sleep(interval).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = watching => {}
    }
}

struct Watch {
    branch: BranchContext,
    meter: Meter,
    /// As it was told last.
    level: Option<SlotRiskLevel>,
}

impl Watch {
    async fn look(&mut self) -> Result<(), MeasureError> {
        let settings = connection_settings(&self.branch);
        let settings = settings.map_err(|error| MeasureError::Settings(Box::new(error)))?;
        let slot = events::document::slot_name(&self.branch.key.instance, &self.branch.key.branch);
        let measured = self.meter.measure(&settings, &slot).await?;
        let config = &self.branch.config;
        let percents = Percents {
            warning: config.slot_risk_warning_percent,
            alert: config.slot_risk_alert_percent,
            release: config.slot_release_percent,
        };
        let risk = Risk::of(&measured, config.slot_disk_bytes);
        let desk = &self.branch.status.release_desk;
        let level = if desk.is_released() && !self.branch.status.observed().streaming {
            SlotRiskLevel::Released
        } else {
            desk.forget();
            risk.level(self.level, percents)
        };
        let seen = SlotSeen {
            held_bytes: risk.held_bytes,
            limit_bytes: risk.limit.map(Limit::bytes),
            level,
        };
        self.branch.status.update(|status| status.slot = Some(seen));
        if self.level != Some(level) {
            self.tell(&risk, seen);
            self.level = Some(level);
        }
        let allowed = self.branch.branch.disk_risk == DiskRiskPolicy::Release;
        if allowed && risk.must_release(percents) && desk.want() {
            tracing::error!(
                held_bytes = risk.held_bytes,
                limit_bytes = risk.limit.map(Limit::bytes),
                "the source's disk is about to be filled by wal that is held for the archive; the slot is released"
            );
        }
        Ok(())
    }

    fn tell(&self, risk: &Risk, seen: SlotSeen) {
        let in_the_way = self.branch.status.observed().error;
        let released = self.branch.branch.disk_risk == DiskRiskPolicy::Release;
        let message = risk.message(seen.level, in_the_way.as_deref(), released);
        match seen.level {
            SlotRiskLevel::Low => tracing::info!("{message}"),
            SlotRiskLevel::Warning => tracing::warn!("{message}"),
            _ => tracing::error!("{message}"),
        }
        let key = &self.branch.key;
        let changed = SlotRiskChanged {
            instance: key.instance.clone(),
            branch: key.branch.clone(),
            level: seen.level,
            held_bytes: seen.held_bytes,
            limit_bytes: seen.limit_bytes,
            message,
            changed_at: self.branch.clock.now(),
        };
        self.branch.announcer.announce_slot_risk(key, changed);
    }
}
