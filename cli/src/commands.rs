//! What each command does: ask or send, then say what came of it.

mod alert;
mod backup;
mod branch;
mod catalog;
mod doctor;
mod drill;
mod events;
mod extensions;
mod instance;
mod moments;
mod named;
mod pool;
mod restore;
mod retention;
mod schedule;
mod series;
mod stack;
mod status;
mod wal;
mod window;

pub(crate) use wal::in_doubt;

use crate::arguments::{
    AlertCommand, BackupCommand, BranchCommand, CatalogCommand, Command, DrillCommand,
    ExtensionsCommand, InstanceCommand, RetentionCommand, ScheduleCommand, WalCommand,
};
use crate::failure::Failure;
use crate::output::Reply;
use crate::session::{Session, Setting};

/// Runs a command.
pub(crate) async fn run(setting: Setting, command: Command) -> Result<Reply, Failure> {
    if let Some(later) = command.later() {
        return Err(Failure::not_yet(later));
    }
    // Those that run without a bus, and those whose arguments are looked at before one is needed.
    match &command {
        Command::Up(up) => return stack::up(&setting, up).await,
        Command::Down => return stack::down(&setting).await,
        Command::Status => return status::status(&setting).await,
        Command::Doctor => return doctor::doctor(&setting).await,
        Command::Instance(InstanceCommand::Add(add)) => return instance::add(&setting, add).await,
        Command::Restore(given) => return restore::restore(&setting, given).await,
        Command::Schedule(ScheduleCommand::Preview(given)) => {
            return schedule::preview(setting.clock.now(), given);
        }
        Command::Events(which) => return events::events(&setting, which).await,
        _ => {}
    }
    // Called by PostgreSQL: the repository is all that they need.
    let command = match command {
        Command::Wal(WalCommand::Push(given)) => return wal::push(&setting, given).await,
        Command::Wal(WalCommand::Fetch(given)) => return wal::fetch(&setting, given).await,
        command => command,
    };
    // The window can be read without a bus, and what was asked of the finder is checked before one is needed.
    let command = match command {
        Command::Window(of) => return window::window(&setting, of).await,
        Command::Moments(which) => {
            let question = which.question()?;
            return moments::moments(&setting.connect().await?, question).await;
        }
        Command::Retention(RetentionCommand::Explain(given)) => {
            let at = given.moment()?;
            return retention::explain(&setting.connect().await?, given, at).await;
        }
        command => command,
    };
    let session = setting.connect().await?;
    match command {
        Command::Instance(InstanceCommand::List) => instance::list(&session).await,
        Command::Instance(InstanceCommand::Show(of)) => instance::show(&session, of).await,
        Command::Instance(InstanceCommand::Remove(of)) => instance::remove(&session, of).await,
        Command::Instance(InstanceCommand::Update(update)) => {
            instance::update(&session, update).await
        }
        Command::Schedule(command) => of_schedule(&session, command).await,
        Command::Backup(command) => of_backup(&session, command).await,
        Command::Drill(command) => of_drill(&session, command).await,
        Command::Branch(BranchCommand::List(of)) => branch::list(&session, of).await,
        Command::Branch(BranchCommand::Show(of)) => branch::show(&session, of).await,
        Command::Branch(BranchCommand::Credentials(of)) => branch::credentials(&session, of).await,
        Command::Branch(BranchCommand::Stop(of)) => branch::stop(&session, of).await,
        Command::Branch(BranchCommand::Start(of)) => branch::start(&session, of).await,
        Command::Branch(BranchCommand::Delete(of)) => branch::delete(&session, of).await,
        Command::Extensions(ExtensionsCommand::Check(of)) => extensions::check(&session, of).await,
        Command::Extensions(ExtensionsCommand::Reinstall(of)) => {
            extensions::reinstall(&session, of).await
        }
        Command::Wal(WalCommand::Status(of)) => wal::status(&session, of).await,
        Command::Series(given) => series::series(&session, given).await,
        Command::Alert(AlertCommand::List(which)) => alert::list(&session, which).await,
        Command::Alert(AlertCommand::Test) => alert::test(&session).await,
        Command::Catalog(CatalogCommand::Rebuild(rebuild)) => {
            catalog::rebuild(&session, rebuild.from).await
        }
        other => Err(Failure::not_yet(&format!("{other:?}"))),
    }
}

async fn of_schedule(session: &Session, command: ScheduleCommand) -> Result<Reply, Failure> {
    match command {
        ScheduleCommand::Create(create) => schedule::create(session, create).await,
        ScheduleCommand::List(of) => schedule::list(session, of).await,
        ScheduleCommand::Update(update) => schedule::update(session, update).await,
        ScheduleCommand::Pause(of) => schedule::set_paused(session, of, true).await,
        ScheduleCommand::Resume(of) => schedule::set_paused(session, of, false).await,
        ScheduleCommand::Delete(of) => schedule::delete(session, of).await,
        ScheduleCommand::Preview(given) => schedule::preview(session.setting.clock.now(), &given),
    }
}

async fn of_backup(session: &Session, command: BackupCommand) -> Result<Reply, Failure> {
    match command {
        BackupCommand::Create(create) => backup::create(session, create).await,
        BackupCommand::List(list) => backup::list(session, list).await,
        BackupCommand::Show(of) => backup::show(session, of).await,
        BackupCommand::Verify(of) => backup::verify(session, of).await,
        BackupCommand::Rename(given) => backup::rename(session, given).await,
        BackupCommand::Keep(given) => backup::keep(session, given).await,
        BackupCommand::Hold(given) => backup::hold(session, given).await,
        BackupCommand::Release(of) => backup::release(session, of).await,
        BackupCommand::Delete(of) => backup::delete(session, of).await,
        BackupCommand::Undelete(given) => backup::undelete(session, given).await,
        BackupCommand::Retry(of) => backup::retry(session, of).await,
    }
}

async fn of_drill(session: &Session, command: DrillCommand) -> Result<Reply, Failure> {
    match command {
        DrillCommand::Run(run) => drill::run(session, run).await,
        DrillCommand::List(of) => drill::list(session, of).await,
        DrillCommand::Show(of) => drill::show(session, of).await,
        DrillCommand::Schedule(given) => drill::schedule(session, given).await,
    }
}
