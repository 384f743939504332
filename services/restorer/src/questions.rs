//! The questions that a restorer answers: what would be restored, what can be, what happened. Each is told with all that
//! the repository has, and nothing of it is kept on the bus.

use std::sync::Arc;

use bus::{BusError, QueryError};
use events::moments::{MomentsAnswer, MomentsQuestion};
use events::plan::{RestoreAnswer, RestoreQuestion};
use events::subject;
use events::window::{WindowAnswer, WindowQuestion};
use tokio_util::sync::CancellationToken;

use crate::restorer::Restorer;

/// Answers what would be restored, what can be, and what happened, until `shutdown`.
///
/// # Errors
/// As [`bus::Bus::serve`].
pub async fn serve(restorer: &Arc<Restorer>, shutdown: &CancellationToken) -> Result<(), BusError> {
    const GROUP: &str = "restorer";
    let bus = &restorer.bus;
    let asked = Arc::clone(restorer);
    let plan = move |_, question: RestoreQuestion| {
        let restorer = Arc::clone(&asked);
        async move { Ok::<RestoreAnswer, QueryError>(restorer.answer(question).await) }
    };
    let asked = Arc::clone(restorer);
    let window = move |_, question: WindowQuestion| {
        let restorer = Arc::clone(&asked);
        async move { Ok::<WindowAnswer, QueryError>(restorer.answer_window(question).await) }
    };
    let asked = Arc::clone(restorer);
    let moments = move |_, question: MomentsQuestion| {
        let restorer = Arc::clone(&asked);
        async move { Ok::<MomentsAnswer, QueryError>(restorer.answer_moments(question).await) }
    };
    let (plans, windows) = (subject::restorer_plan(), subject::restorer_window());
    let found = subject::restorer_moments();
    let ((), (), ()) = tokio::try_join!(
        bus.serve(&plans, GROUP, plan, shutdown.clone()),
        bus.serve(&windows, GROUP, window, shutdown.clone()),
        bus.serve(&found, GROUP, moments, shutdown.clone()),
    )?;
    Ok(())
}
