//! Answers "from when to when can this branch be restored?", from the repository.

use events::window::{Window, WindowAnswer, WindowQuestion, WindowReport};
use wal_index::IndexSettings;

use crate::error::RestoreError;
use crate::freshness;
use crate::restorer::Restorer;

impl Restorer {
    /// Answers what can be restored of a branch.
    pub async fn answer_window(&self, question: WindowQuestion) -> WindowAnswer {
        match self.window_report(&question).await {
            Ok(report) => WindowAnswer::Known(report),
            Err(error) => {
                let text = service::run::chain(&error);
                tracing::warn!(error = text, "the window cannot be told");
                WindowAnswer::Unknown {
                    message: text,
                    hint: "check the object store, and try again".to_owned(),
                }
            }
        }
    }

    /// What can be restored of a branch, now that its archiver had the chance to prove its archive.
    ///
    /// # Errors
    /// The repository failed.
    pub async fn window(&self, question: &WindowQuestion) -> Result<Window, RestoreError> {
        Ok(self.window_report(question).await?.window)
    }

    /// The same, with what is damaged and how old a moment must be.
    ///
    /// # Errors
    /// The repository failed.
    pub async fn window_report(
        &self,
        question: &WindowQuestion,
    ) -> Result<WindowReport, RestoreError> {
        let WindowQuestion { instance, branch } = question;
        let reader = self.repository.reader(instance, branch);
        freshness::ask_archiver(&self.bus, instance, branch).await;
        let archive = self.kept(instance, branch).await?;
        let settings = IndexSettings::default();
        Ok(WindowReport {
            window: reader.restorable_window(&archive, settings).await?,
            damaged: archive.told_damaged(),
            min_target_age_secs: Some(self.policy.min_target_age.as_secs()),
        })
    }
}
